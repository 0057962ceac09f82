"""Yield a table with types in blocks, and make columns of them as text of a CSV would be made.

What has types is not inferred: integers, floats and decimals are numbers; text, categories and booleans are
text, in the spelling of a CSV, unless all of it is numbers in a dress (units, separators). Only a text column
whose cells had several types, as a spreadsheet's may, is looked at as a CSV's column is.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.table.columns.arrow import TEXT, Columns, iso_spellings, numbers, spellings
from dnnflow.table.columns.times import SPAN, TimeStyle
from dnnflow.table.text.column_faults import all_faults
from dnnflow.table.text.inference import BlockFacts, ColumnFacts, ParsePlan, described, numbers_of_text
from dnnflow.table.text.source_text import new_hash

VALUE_BYTES = 8
_MIXED, _NOMINAL = {b"dnnflow": b"mixed"}, {b"dnnflow": b"nominal"}
_FOREIGN = b"foreign "
_DIGEST_ROWS = 1 << 16
_MOST_ROWS = 1 << 20
_AHEAD = 3


class TypedSource(Protocol):
    """A table with types that can be read several times, in blocks."""

    @property
    def schema(self) -> pa.Schema:
        """Names and types of all columns."""
        ...

    @property
    def rows(self) -> int: ...

    @property
    def digest(self) -> str:
        """BLAKE3 of its file, or of its content."""
        ...

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the named columns in order, in batches of at most `rows` rows."""
        ...

    def check_unchanged(self) -> None:
        """Refuse a file that was written to since it was opened."""
        ...


def told_of(source: TypedSource) -> tuple[str, ...]:
    """Return what a person should know of how a source's file was read: sheets and rows that are left out."""
    told: tuple[str, ...] = getattr(source, "told", ())
    return told


class TypeKind(StrEnum):
    """Which kind of value a type holds."""

    NUMBER = "number"
    TEXT = "text"
    MIXED = "mixed"
    """Text whose cells had several types: whether it stands for numbers is for its values to say."""
    TIME = "time"
    """Dates and times."""
    SPAN = "span"
    """Durations and times of day."""
    NOTHING = "nothing"
    """No value in any row."""
    OTHER = "other"


def kind_of(field: pa.Field) -> TypeKind:
    """Return which kind of value a column holds, by its type."""
    kind, types = field.type, pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
        if _is_number(kind):
            return TypeKind.TEXT
    if _is_number(kind):
        return TypeKind.NUMBER
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return TypeKind.MIXED if (field.metadata or {}).items() >= _MIXED.items() else TypeKind.TEXT
    if types.is_boolean(kind):
        return TypeKind.TEXT
    if types.is_null(kind):
        return TypeKind.NOTHING
    if types.is_duration(kind) or types.is_time(kind):
        return TypeKind.SPAN
    return TypeKind.TIME if types.is_date(kind) or types.is_timestamp(kind) else TypeKind.OTHER


def time_style(field: pa.Field) -> TimeStyle | None:
    """Return how the values of a column of instants or durations are spelled; None of another."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    found = kind_of(field)
    if found not in (TypeKind.TIME, TypeKind.SPAN):
        return None
    has_zone = pa.types.is_timestamp(kind) and kind.tz is not None
    return TimeStyle("ymd" if found is TypeKind.TIME else SPAN, has_zone, is_asked=True)


def mixed(name: str) -> pa.Field:
    """Return the field of a column of text whose cells had several types."""
    return pa.field(name, pa.string(), metadata=_MIXED)


def nominal(name: str) -> pa.Field:
    """Return the field of a column of text whose values are names, whatever they look like."""
    return pa.field(name, pa.string(), metadata=_NOMINAL)


def foreign(name: str, kind: str) -> pa.Field:
    """Return the field of a column with values of a Python type that no table has."""
    return pa.field(name, pa.binary(), metadata={b"dnnflow": _FOREIGN + kind.encode()})


def is_nominal(field: pa.Field) -> bool:
    """Say whether a column's values are names by its file's word."""
    return bool((field.metadata or {}).items() >= _NOMINAL.items())


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def check_features(schema: pa.Schema, names: Sequence[str]) -> None:
    """Refuse features and labels of a type that becomes no number, text or time; all at once.

    Raises
    ------
    DataError
    """
    if reasons := type_faults(schema, names):
        raise DataError(all_faults(reasons))


def type_faults(schema: pa.Schema, names: Sequence[str]) -> dict[str, str]:
    """Say of each named column whose type becomes no number, text or time, what is wrong with it."""
    return {
        name: f"a column must hold numbers, text, booleans, dates or durations, but column {name!r} is "
              f"{type_in_words(schema.field(name))}; drop it, or convert it first"
        for name in names if kind_of(schema.field(name)) is TypeKind.OTHER
    }  # fmt: skip


def check_marks(schema: pa.Schema, names: Sequence[str]) -> None:
    """Refuse a column that divides or weighs rows and has no text.

    Raises
    ------
    DataError
    """
    for name in names:
        if kind_of(schema.field(name)) is TypeKind.OTHER:
            kind = type_in_words(schema.field(name))
            raise DataError(
                f"a column that divides or weighs rows must hold numbers, text, dates or times, but column "
                f"{name!r} is {kind}; convert it first"
            )


def type_in_words(field: pa.Field) -> str:
    """Return a column's type, shortened, or of what its values are where no table has such."""
    said: bytes = (field.metadata or {}).get(b"dnnflow", b"")
    text = f"of {said.removeprefix(_FOREIGN).decode()}" if said.startswith(_FOREIGN) else str(field.type)
    return text if len(text) <= 60 else f"{text[:60]}..."


def batch_rows(columns: int, block_bytes: int) -> int:
    """Return how many rows of a number of columns are half as many bytes as a block of text."""
    return max(1, min(_MOST_ROWS, block_bytes // (2 * VALUE_BYTES * max(1, columns))))


@dataclass(frozen=True)
class TypedBlock:
    """A run of rows of a typed table, in memory or in a file of its own."""

    index: int
    rows: int
    held: pa.RecordBatch | None
    path: Path | None = None

    def read(self) -> pa.RecordBatch:
        """Return its columns."""
        if self.held is not None:
            return self.held
        with pa.OSFile(str(self.path), "rb") as file:
            return pa.ipc.open_file(file).get_batch(0)

    def written(self, path: Path) -> "TypedBlock":
        """Return the same block in a file, for a task of another process."""
        batch = self.read()
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        return TypedBlock(self.index, self.rows, None, path)


def parse_typed(block: TypedBlock, plan: ParsePlan, spill: Path | None) -> BlockFacts:
    """Make columns of one block, keep them in the file `spill` if there is one, and say what they are."""
    batch = block.read()
    facts: dict[str, ColumnFacts] = {}
    gone = set[str]()
    names = plan.numbers
    values = np.empty((len(names), batch.num_rows), dtype=np.float64)
    for place, name in enumerate(names):
        column = batch.column(name)
        if is_number_array(column):
            _write_numbers(column, values[place])
            continue
        found, values[place] = numbers_of_text(text_of(column), plan, name, block.index)
        gone |= {marker for marker in plan.markers.own if marker in found.gone}
        if found.first_text is not None:
            facts[name] = found
    spellers = dict.fromkeys(plan.labels, iso_spellings)
    found_texts = {name: text_of(batch.column(name), spellers.get(name, spellings)) for name in plan.texts}
    texts = pa.table(found_texts) if plan.texts else None
    if texts is None:
        texts = pa.table({"": pa.nulls(batch.num_rows)}).select([])
    columns = Columns({name: i for i, name in enumerate(names)}, values, texts)
    return described(columns, facts, plan, block.index, spill, gone)


def is_number_array(array: pa.Array) -> bool:
    """Say whether an array is of numbers, which are not codes of something else."""
    return _is_number(array.type)


def _write_numbers(array: pa.Array, out: NDArray[np.float64]) -> None:
    """Write numbers, NaN where missing."""
    if array.type != pa.float64():
        array = pc.cast(array, pa.float64(), safe=False)
    out[:] = numbers(array)


def text_of(array: pa.Array, spell: Callable[[Any], Any] = spellings) -> pa.DictionaryArray:
    """Return a column as text of a CSV: codes and distinct spellings, NaN as missing."""
    if not pa.types.is_dictionary(array.type):
        array = _plain(array).dictionary_encode()
    elif array.dictionary.null_count or array.dictionary.type == pa.null():
        array = _plain(pc.dictionary_decode(array)).dictionary_encode()
    spelled = spell(array.dictionary)
    if spelled.null_count:  # not where there are none: pyarrow's scalars import pandas, 0.5 to 2 s
        spelled = spelled.fill_null("")
    coded = pa.DictionaryArray.from_arrays(pc.cast(array.indices, pa.int32()), spelled)
    if len(pc.unique(coded.dictionary)) < len(coded.dictionary):  # two values that are spelled alike
        coded = pc.dictionary_decode(coded).dictionary_encode()
    return coded.cast(TEXT)


def _plain(array: pa.Array) -> pa.Array:
    """Return an array of a type of which distinct values can be told."""
    if pa.types.is_string_view(array.type) or pa.types.is_null(array.type):
        return pc.cast(array, pa.string())
    return array


def content_digest(source: Any) -> str:
    """Return the hash of a typed table's names, types and values, however it is divided into batches."""
    schema: pa.Schema = source.schema
    hashes = [(new_hash(), new_hash(), new_hash()) for _ in schema]
    row = 0
    for batch in source.batches(schema.names, _DIGEST_ROWS):
        for (values, lengths, missing), column in zip(hashes, batch.columns, strict=True):
            if column.null_count:
                missing.update((np.flatnonzero(_nulls(column)) + row).tobytes())
            _feed(column, values, lengths)
        row += batch.num_rows
    total = new_hash()
    for field, parts in zip(schema, hashes, strict=True):
        total.update(f"{field.name}\0{_named(field.type)}\0".encode())
        total.update((field.metadata or {}).get(b"dnnflow", b""))  # cells of several types are read otherwise
        for part in parts:
            total.update(part.digest())
    return str(total.hexdigest())


def _named(kind: pa.DataType) -> str:
    """Return a type's name: text is text, and a time a time, in whatever layout a library keeps it."""
    types = pa.types
    if types.is_dictionary(kind):
        return f"categories of {kind.value_type}" if _is_number(kind.value_type) else _named(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    return f"timestamp[us, {kind.tz}]" if types.is_timestamp(kind) else str(kind)


def _nulls(array: pa.Array) -> NDArray[np.bool_]:
    mask = pc.cast(pc.is_null(array), pa.uint8())
    return np.frombuffer(mask.buffers()[1], np.uint8, len(mask), mask.offset).astype(np.bool_)


def _feed(array: pa.Array, values: Any, lengths: Any) -> None:
    types = pa.types
    if types.is_dictionary(array.type):
        array = pc.dictionary_decode(array)
    kind = array.type
    if types.is_boolean(kind):
        array, kind = pc.cast(array, pa.uint8()), pa.uint8()
    if types.is_float16(kind):
        array, kind = pc.cast(array, pa.float32()), pa.float32()
    if (types.is_integer(kind) or types.is_floating(kind)) and kind.bit_width % 8 == 0:
        filled = array.fill_null(0) if array.null_count else array
        width, start = kind.bit_width // 8, filled.offset
        values.update(filled.buffers()[1][start * width : (start + len(filled)) * width])
        return
    if types.is_null(kind):
        return
    if types.is_timestamp(kind):
        array = spellings(pc.cast(array, pa.timestamp("us", kind.tz), safe=False))
    elif not (types.is_string(kind) or types.is_large_string(kind)):
        array = _described_values(array)
    filled = array.fill_null("") if array.null_count else array
    width = np.dtype(np.int64 if types.is_large_string(filled.type) else np.int32)
    _, ends, data = filled.buffers()
    offsets = np.frombuffer(ends, width, len(filled) + 1, filled.offset * width.itemsize)
    if data is not None:
        values.update(data[int(offsets[0]) : int(offsets[-1])])
    lengths.update(np.diff(offsets).astype(np.int32).tobytes())


def _described_values(array: pa.Array) -> pa.Array:
    try:
        return pc.cast(array, pa.string(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([None if v is None else repr(v) for v in array.to_pylist()], pa.string())


def blocks_of(source: TypedSource, names: Sequence[str], block_bytes: int) -> Iterator[TypedBlock]:
    """Yield a table's blocks; a thread reads some of them ahead.

    Raises
    ------
    DataError
        If the table cannot be read to its end.
    """
    batches = source.batches(names, batch_rows(len(names), block_bytes))
    pool = ThreadPoolExecutor(1, thread_name_prefix="dnnflow-read")
    coming = deque(pool.submit(next, batches, None) for _ in range(_AHEAD))
    try:
        index = 0
        while (batch := coming.popleft().result()) is not None:
            coming.append(pool.submit(next, batches, None))
            yield TypedBlock(index, batch.num_rows, batch)
            index += 1
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"a table must be readable to its end, but {reason}; write the file anew") from error
    finally:
        pool.shutdown(cancel_futures=True)


def no_rows() -> DataError:
    """Return the error of a table without rows."""
    return DataError("a table needs rows, got none; give a table with data")
