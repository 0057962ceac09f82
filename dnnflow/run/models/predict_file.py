"""Predict the rows of a file block by block, into another file: memory stays that of a few blocks."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from dnnflow.errors import DataError
from dnnflow.paths import file_aside, try_file
from dnnflow.run.models.saved_model import NOTE, SavedModel
from dnnflow.table.formats.typed_source import no_rows

if TYPE_CHECKING:
    import pandas as pd


def predict_file(
    model: SavedModel, blocks: Iterable["pd.DataFrame"], out: Path, keep: Sequence[str] = ()
) -> int:
    """Write what `SavedModel.predict_beside` gives of blocks of rows to a CSV or a Parquet file.

    Nothing is written unless all rows were predicted.

    Returns
    -------
    int
        How many rows there are.

    Raises
    ------
    DataError
        If the rows cannot be read or predicted, or there are none.
    OutputError
        If the file cannot be written, before a row is predicted as far as that can be known.
    """
    try_file(out)
    with tempfile.TemporaryDirectory(prefix="dnnflow-predict-") as scratch:
        pieces, rows = list[Path](), 0
        schemas: list[pa.Schema] = []
        for block in blocks:
            table = pa.Table.from_pandas(
                model.predict_beside(block, keep, first_row=rows), preserve_index=False
            ).replace_schema_metadata(None)
            rows += table.num_rows
            pieces.append(Path(scratch) / f"{len(pieces)}.arrow")
            with pa.OSFile(str(pieces[-1]), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            schemas.append(table.schema)
        if not rows:
            raise no_rows()
        _write(out, _of_all(schemas), pieces)
    return rows


def _of_all(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return the schema of all blocks; notes, which some have, are the last column."""
    try:
        schema = pa.unify_schemas(list(schemas), promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"a column to keep must be of one type in all rows, but {error}; leave it out, or convert it"
        ) from None
    place = schema.get_field_index(NOTE)
    return schema if place < 0 else schema.remove(place).append(schema.field(place))


def _write(out: Path, schema: pa.Schema, pieces: Sequence[Path]) -> None:
    with file_aside(out) as file:
        if out.suffix.lower() == ".parquet":
            with pq.ParquetWriter(file, schema) as writer:
                for table in _tables(schema, pieces):
                    writer.write_table(table)
            return
        for number, table in enumerate(_tables(schema, pieces)):
            frame = table.to_pandas(integer_object_nulls=True)
            file.write(frame.to_csv(index=False, header=number == 0).encode())


def _tables(schema: pa.Schema, pieces: Sequence[Path]) -> Iterator[pa.Table]:
    for path in pieces:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        names = table.column_names
        blank = pa.array([""] * table.num_rows, pa.string()) if NOTE in schema.names else None
        columns = [table.column(name) if name in names else blank for name in schema.names]
        yield pa.table(columns, names=schema.names).cast(schema)
