"""Read files of columns: Parquet, Arrow and Feather, ORC."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import blake3
import pyarrow as pa

from dnnflow.errors import DataError
from dnnflow.table.formats.typed_source import content_digest


@dataclass(frozen=True)
class OpenedFile:
    """A local file, its hash, and its state when it was opened."""

    path: Path
    digest: str
    stamp: tuple[int, int]
    """Size and modification time (ns)."""

    @classmethod
    def of(cls, path: Path, also: str = "") -> "OpenedFile":
        """Hash a file, and what else says how it is read."""
        stamp = _stamp(path)
        digest = blake3.blake3(max_threads=blake3.blake3.AUTO).update_mmap(path)
        if also:
            digest.update(b"\0" + also.encode())
        return cls(path, digest.hexdigest(), stamp)

    def check(self) -> None:
        """Refuse a file that was written to since.

        Raises
        ------
        DataError
        """
        if _stamp(self.path) != self.stamp:
            raise DataError(
                f"a table must not change while it is read, but {self.path.name} did; start again"
            )


def _stamp(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


class ParquetTable:
    """A Parquet file, read row group by row group: that much memory, decoded, is needed."""

    def __init__(self, file: OpenedFile) -> None:
        import pyarrow.parquet as pq

        self._file = file
        self._opened = pq.ParquetFile(file.path, pre_buffer=False)
        schema = self._opened.schema_arrow
        index = {f"__index_level_{i}__" for i in range(10)}  # row labels of pandas, that no CSV would have
        self.schema: pa.Schema = pa.schema([field for field in schema if field.name not in index])
        self.rows: int = self._opened.metadata.num_rows
        self.digest = file.digest

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the named columns in order, in batches of at most `rows` rows."""
        import pyarrow.parquet as pq

        texts = [name for name in names if _is_text(self.schema.field(name).type)]
        with pq.ParquetFile(self._file.path, pre_buffer=False, read_dictionary=texts) as opened:
            # One row group at a time: of several Arrow would read all ahead
            for group in range(opened.num_row_groups):
                for batch in opened.iter_batches(rows, row_groups=[group], columns=list(names)):
                    if batch.num_rows:
                        yield batch.select(list(names))

    def check_unchanged(self) -> None:
        """Refuse a file that was written to since it was opened."""
        self._file.check()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class OrcTable:
    """An ORC file, read stripe by stripe."""

    def __init__(self, file: OpenedFile) -> None:
        from pyarrow import orc

        self._file = file
        opened = orc.ORCFile(file.path)
        self.schema: pa.Schema = opened.schema
        self.rows: int = opened.nrows
        self.digest = file.digest

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the named columns in order, in batches of at most `rows` rows."""
        from pyarrow import orc

        opened = orc.ORCFile(self._file.path)
        for stripe in range(opened.nstripes):
            batch = opened.read_stripe(stripe, columns=list(names)).select(list(names))
            yield from _pieces(batch, rows)

    def check_unchanged(self) -> None:
        """Refuse a file that was written to since it was opened."""
        self._file.check()


class ArrowTable:
    """An Arrow or Feather file, mapped into memory: blocks are read where they are used."""

    def __init__(self, file: OpenedFile) -> None:
        self._file = file
        with pa.memory_map(str(file.path)) as mapped, pa.ipc.open_file(mapped) as opened:
            self.schema: pa.Schema = opened.schema
            # Of batches that are not compressed this reads no rows
            self.rows: int = sum(opened.get_batch(i).num_rows for i in range(opened.num_record_batches))
        self.digest = file.digest

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the named columns in order, in batches of at most `rows` rows."""
        places = [self.schema.get_field_index(name) for name in names]
        options = pa.ipc.IpcReadOptions(included_fields=places)
        with (
            pa.memory_map(str(self._file.path)) as mapped,
            pa.ipc.open_file(mapped, options=options) as opened,
        ):
            for index in range(opened.num_record_batches):
                yield from _pieces(opened.get_batch(index).select(list(names)), rows)

    def check_unchanged(self) -> None:
        """Refuse a file that was written to since it was opened."""
        self._file.check()


class HeldTable:
    """A table in memory."""

    def __init__(self, table: pa.Table, file: OpenedFile | None = None, told: Sequence[str] = ()) -> None:
        self._table, self._file = table, file
        self.told = tuple(told)
        """What a person should know of how its file was read."""
        self.schema: pa.Schema = table.schema
        self.rows: int = table.num_rows

    @cached_property
    def digest(self) -> str:
        """BLAKE3 of its file, or of its content."""
        return self._file.digest if self._file is not None else content_digest(self)

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the named columns in order, in batches of at most `rows` rows."""
        if self.rows:
            whole = pa.table([_one_dictionary(self._table.column(name)) for name in names], names=list(names))
            yield from whole.to_batches(max_chunksize=rows)

    def check_unchanged(self) -> None:
        """Refuse a file that was written to since it was opened."""
        if self._file is not None:
            self._file.check()


def _one_dictionary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column


def _pieces(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def open_arrow(file: OpenedFile, head: bytes) -> Any:
    """Open an Arrow file, an Arrow stream or a Feather file of the first version."""
    if head.startswith(b"ARROW1"):
        return ArrowTable(file)
    if head.startswith(b"FEA1"):
        from pyarrow import feather

        return HeldTable(feather.read_table(file.path), file)
    with pa.memory_map(str(file.path)) as mapped, pa.ipc.open_stream(mapped) as opened:
        return HeldTable(opened.read_all(), file)
