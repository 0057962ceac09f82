"""Check and profile a text with delimiters, while it is received: in one pass, as a rule."""

import csv
import io
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from dnnflow.errors import DataError, LimitError
from dnnflow.table.columns.kinds import STANDARD_LABEL_MARKERS, Markers, check_columns
from dnnflow.table.text.blanks import BLANK, FIXED_BYTES
from dnnflow.table.text.csv_reader import Block, Dialect, RowError, line_in, read_dialect
from dnnflow.table.text.encodings import legacy_encoding
from dnnflow.table.text.inference import BadValue, ParsePlan, first_plan
from dnnflow.table.text.source_text import (
    RECORD_BYTES,
    Cutter,
    Text,
    TextSource,
    check_head,
    check_text,
    decoded,
    encoding_of,
    readable,
    rewritten,
    unpacked,
)
from dnnflow.web.contract.web_config import UploadLimits
from dnnflow.web.uploads.profile import ColumnProfile, Profile
from dnnflow.web.uploads.table_counts import TableCounts

BLOCK_BYTES = 4 << 20
"""Text that is parsed at a time: what may be left to do when the last byte is there."""

HEAD_BYTES = 1 << 20
"""Text by which delimiter and columns are found; more of it where the first record is longer."""

_COLUMN_BYTES = 8 << 10
_WIDE_BLOCK_BYTES = 32 << 20
_SAMPLE_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20
_EXPANSION_BYTES = 10 << 20
_FIRST_ROWS = 10
_SHOWN = 1000


class SentSource(NamedTuple):
    """How an upload is written: the fields of a `Source`, without the time that pydantic takes to load."""

    url: str
    delimiter: str | None
    quote: str
    encoding: str | None
    header: bool
    storage_options: Mapping[str, Any]
    format: str | None = None
    sheet: str | None = None
    query: str | None = None
    missing_values: tuple[str, ...] = ()


class GrowingFile(io.RawIOBase):
    """Reads a file while another process writes it: a read waits until the bytes are there, or the end.

    Safe for one thread that reads and one that calls `grow` and `finish`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        self._news = threading.Condition()
        self._size, self._whole = 0, False
        self._position = 0

    def grow(self, size: int) -> None:
        """Say that so many bytes are in the file."""
        with self._news:
            self._size = size
            self._news.notify_all()

    def finish(self) -> None:
        """Say that no more bytes will come."""
        with self._news:
            self._whole = True
            self._news.notify_all()

    def readable(self) -> bool:
        """Return True."""
        return True

    seekable = readable

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place counted from the beginning."""
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("the end of a growing file is not known")
        self._position = self._file.seek(offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, as many as were asked for unless the file ends."""
        pieces = []
        while size > 0 and (piece := self._next(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _next(self, size: int) -> bytes:
        with self._news:
            self._news.wait_for(lambda: self._whole or self._position < self._size)
            size = min(size, self._size - self._position)
        piece = self._file.read(size) if size > 0 else b""
        self._position += len(piece)
        return piece

    def close(self) -> None:
        """Do nothing: a decompressor closes what it reads, but the text may be read again."""

    def __del__(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass(frozen=True)
class Head(Text):
    """The beginning of a text, in memory."""

    data: bytes = b""

    def read(self, start: int, end: int) -> bytes:
        """Return a range of the text."""
        return self.data[start - self.start : end - self.start]


class TextReader:
    """Reads the text of a table once, from the beginning.

    Parameters
    ----------
    file
        What was or is being sent.
    source
        What is known of it; its `url` is for messages only.
    limits
        More is refused.
    """

    def __init__(self, file: GrowingFile, source: TextSource, limits: UploadLimits) -> None:
        self._file, self._source, self._limits = file, source, limits
        self._stack = ExitStack()
        self.text_bytes = 0
        self.encoding = ""
        self.start = 0
        """Offset of the first character, behind a byte order mark that stays in the text."""
        self._pieces: Iterator[bytes] = iter(())
        self._head: list[bytes] = []
        self._ended = False

    def open(self, encoding: str | None = None) -> tuple[Dialect, int]:
        """Find encoding, delimiter and columns; return the dialect and the offset of the first data row.

        Raises
        ------
        UnicodeDecodeError
            If the text is not of its encoding.
        DataError
            If it is no table.
        LimitError
        """
        file, source = self._file, self._source
        file.seek(0)
        with readable(source):
            stream, compressed = self._stack.enter_context(unpacked(file))
            first = bytes(stream.read(_PIECE_BYTES))
        check_head(first)
        self.encoding = encoding or encoding_of(first, source)
        plain = not compressed and self.encoding in ("utf-8", "utf-8-sig")
        self.start = 3 if plain and first.startswith(b"\xef\xbb\xbf") else 0
        with_first = chain([first[self.start :]], read_on(stream, source))
        raw = within_limits(with_first, self.start, file, self._limits)
        pieces = decoded(raw, "utf-8" if self.start else self.encoding)
        if source.delimiter == BLANK:
            pieces = rewritten(_held(pieces) if _is_fixed(source) else pieces, source)
        self._pieces = self._checked(pieces)
        return self._dialect()

    def blocks(self, start: int, block_bytes: int) -> Iterator[Block]:
        """Yield the records from offset `start` on, each block with its text.

        Raises
        ------
        UnicodeDecodeError
            If a byte is none of its encoding.
        DataError
            If a block is no text, or a quote stays open.
        LimitError
            If it is larger than allowed.
        """
        cutter = Cutter(self._source.quote.encode(), start, block_bytes)
        held = bytearray()
        index, begin = 0, start
        for piece in self._rest(start):
            held += piece
            cutter.feed(piece)
            for end in cutter.cuts:
                data = bytes(held[: end - begin])
                del held[: end - begin]
                yield Block(index, Path(self._source.url), begin, end, data)
                index, begin = index + 1, end
            cutter.cuts.clear()
        if cutter.finish():
            yield Block(index, Path(self._source.url), begin, begin + len(held), bytes(held))

    @property
    def is_short(self) -> bool:
        """Whether the head was the whole text."""
        return self._ended

    def lines_before(self, start: int) -> int:
        """Return how many lines end before an offset in the head; to be asked before `blocks`."""
        return b"".join(self._head)[: start - self.start].count(b"\n")

    def close(self) -> None:
        """Let go of the decompressor."""
        self._stack.close()

    def _dialect(self) -> tuple[Dialect, int]:
        wanted = HEAD_BYTES
        while True:
            self._fill(wanted)
            data = b"".join(self._head)
            text = Head(Path(self._source.url), self.start, self.start + len(data), "", (), (0, 0), data=data)
            more = not self._ended and len(data) < RECORD_BYTES
            try:
                dialect, start = read_dialect(text, self._source)
                if start < text.end or not more:
                    return dialect, start
            except DataError:
                if not more:
                    raise
            wanted = 4 * wanted

    def _fill(self, wanted: int) -> None:
        while not self._ended and sum(map(len, self._head)) < wanted:
            piece = next(self._pieces, None)
            if piece is None:
                self._ended = True
            else:
                self._head.append(piece)

    def _rest(self, start: int) -> Iterator[bytes]:
        data = b"".join(self._head)[start - self.start :]
        self._head = []
        yield from (data[at : at + _PIECE_BYTES] for at in range(0, len(data), _PIECE_BYTES))
        del data
        yield from self._pieces

    def _checked(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        any_byte = self.encoding == "latin-1"
        for piece in pieces:
            check_text(piece, any_byte=any_byte)
            self.text_bytes += len(piece)
            yield piece


def read_on(stream: Any, source: TextSource) -> Iterator[bytes]:
    while True:
        with readable(source):
            piece = bytes(stream.read(_PIECE_BYTES))
        if not piece:
            return
        yield piece


def _is_fixed(source: TextSource) -> bool:
    return getattr(source, "format", None) == "fwf"


def _held(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a text that is held in memory whole, unless it is too long for that."""
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > FIXED_BYTES:
            raise LimitError(
                f"a text of columns of fixed width may have at most {FIXED_BYTES} bytes, got more; send it "
                "as CSV"
            )
        yield piece


def within_limits(
    pieces: Iterable[bytes], start: int, file: GrowingFile, limits: UploadLimits
) -> Iterator[bytes]:
    """Yield the bytes behind a file's compression; `start` of them were left out.

    Raises
    ------
    LimitError
        If there are more than allowed.
    """
    size = start
    for piece in pieces:
        size += len(piece)
        sent = max(file.tell(), 1)
        if size > _EXPANSION_BYTES and size / sent > limits.expansion:
            raise LimitError(
                f"a compressed table may unpack to at most {limits.expansion:g} times its size, got more "
                f"than {size / sent:.0f} times; send it with less compression"
            )
        if size > limits.text_bytes:
            raise LimitError(
                f"a table may have at most {limits.text_bytes} bytes unpacked, got more; send fewer rows "
                "or columns"
            )
        yield piece


def look_at_text(file: GrowingFile, source: TextSource, limits: UploadLimits) -> Profile:
    """Return the names and first rows of a text by its beginning."""
    with closing(TextReader(file, source, limits)) as reader:
        try:
            dialect, start = reader.open()
        except UnicodeError as error:
            _check_said(source, error)
            dialect, start = reader.open("latin-1")
        head = next(reader.blocks(start, HEAD_BYTES), None)
    check_columns_of(dialect.columns, limits)
    columns = tuple(ColumnProfile(name, "", 0, 0) for name in dialect.columns)
    return Profile(0, 0, columns, first_rows(head.read(), dialect) if head else ())


def profile_file(
    file: GrowingFile, source: TextSource, limits: UploadLimits, *, quick: bool = True,
    missing: Sequence[str] = (),
) -> Profile:  # fmt: skip
    """Check every row of a text with delimiters and profile its columns.

    Parameters
    ----------
    file
        The table as it was sent; it may still grow.
    source
        How it is written; its `url` is for messages.
    limits
        More is refused.
    quick
        Whether a table that is longer than its head may be parsed by the quick reader.
    missing
        What stands for a missing value besides what always does.

    Raises
    ------
    DataError
        If no dataset can be made of it.
    LimitError
        If it is larger than allowed.
    """
    table = _SentTable(file, source, limits, quick, Markers(tuple(missing)))
    try:
        return table.profile()
    except UnicodeError as error:
        _check_said(source, error)
        file.seek(0)
        with unpacked(file) as (stream, _):
            encoding = legacy_encoding(iter(lambda: bytes(stream.read(_PIECE_BYTES)), b""))
        return replace(table, encoding=encoding).profile()


def _check_said(source: TextSource, error: UnicodeError) -> None:
    """Refuse a text that is not of the encoding that was said."""
    if source.encoding is not None:
        got = " ".join(str(error).split())
        raise DataError(
            f"the text must be {source.encoding}, but it is not ({got}); give the right encoding, or leave "
            "it out to detect it"
        ) from None


@dataclass(frozen=True)
class _SentTable:
    """A table as it was sent, read anew in each pass."""

    file: GrowingFile
    source: TextSource
    limits: UploadLimits
    quick: bool
    markers: Markers
    encoding: str | None = None
    """What it is taken for, where nothing says it."""

    def profile(self) -> Profile:
        """Check and count all rows, and once more where text stands among numbers: it was not counted."""
        found, profile, dialect = self.read(frozenset())
        if found.mixed:
            found, profile, dialect = self.read(found.plan.text | found.mixed)
        where = partial(self.where, found)
        notes = (*self.text_notes(dialect), *found.notes())
        return replace(profile, columns=tuple(found.columns(where, {})), notes=notes)

    def read(self, texts: frozenset[str]) -> tuple[TableCounts, Profile, Dialect]:
        """Check and count all rows, with these columns as text; the profile has no columns yet."""
        found: TableCounts | None = None
        examples: tuple[tuple[str, ...], ...] = ()
        with closing(TextReader(self.file, self.source, self.limits)) as reader:
            dialect, start = reader.open(self.encoding)
            with ThreadPoolExecutor(1, thread_name_prefix="dnnflow-read") as pool:
                for block in _ahead(pool, self.file, reader.blocks(start, self._block_bytes(dialect))):
                    try:
                        if found is None:
                            quick = self.quick and not reader.is_short
                            found = TableCounts.of(_plan(block, dialect, texts, quick, self.markers))
                            examples = first_rows(block.read(), dialect)
                        found.add(block)
                    except RowError as error:
                        where = self.where(found, BadValue(block.index, error.row, ""))
                        raise DataError(f"{where} {error.reason}") from None
                    check_rows(found.rows, self.limits)
        if found is None or not found.rows:
            raise DataError(
                "a table needs rows, got a header only; give a CSV with data, or say it has no header"
            )
        reading = {name: getattr(dialect, name) for name in ("delimiter", "quote", "header")}
        reading["encoding"] = reader.encoding
        return found, Profile(found.rows, reader.text_bytes, (), examples, reading), dialect

    def _block_bytes(self, dialect: Dialect) -> int:
        check_columns_of(dialect.columns, self.limits)
        return min(max(BLOCK_BYTES, _COLUMN_BYTES * len(dialect.columns)), _WIDE_BLOCK_BYTES)

    def where(self, found: TableCounts | None, place: BadValue) -> str:
        """Return row and line of a place, in words; this reads the text up to there once more."""
        rows_before = found.first_rows[place.block] if found and place.block < len(found.first_rows) else 0
        with closing(TextReader(self.file, self.source, self.limits)) as reader:
            dialect, start = reader.open(self.encoding)
            line = 1 + reader.lines_before(start)
            for block in reader.blocks(start, self._block_bytes(dialect)):
                if block.index == place.block:
                    line += line_in(block.read(), dialect, place.row) - 1
                    break
                line += block.read().count(b"\n")
        return f"row {rows_before + place.row} (line {line})"

    def text_notes(self, dialect: Dialect) -> Iterator[str]:
        """Yield what a person should know of how the text was read."""
        from dnnflow.table.store.column_blocks import text_notes
        from dnnflow.table.store.table_parts import TextPart

        text = Head(Path(self.source.url), 0, 0, "", (), (0, 0))
        is_guessed = self.encoding is not None
        said = {"format": "fwf"} if _is_fixed(self.source) else {}
        yield from text_notes(
            [TextPart(text, dialect, 0, is_guessed=is_guessed, encoding=self.encoding or "", said=said)]
        )


def check_rows(rows: int, limits: UploadLimits) -> None:
    """Refuse a table of too many rows.

    Raises
    ------
    LimitError
    """
    if rows > limits.rows:
        raise LimitError(f"a table may have at most {limits.rows} rows, got more; send fewer rows")


def check_columns_of(columns: Sequence[str], limits: UploadLimits) -> None:
    """Refuse a table of too many columns, or with a name twice.

    Raises
    ------
    LimitError, DataError
    """
    if len(columns) > limits.columns:
        raise LimitError(
            f"a table may have at most {limits.columns} columns, got {len(columns)}; leave some out"
        )
    check_columns(tuple(columns), (), {})


def _plan(head: Block, dialect: Dialect, texts: frozenset[str], quick: bool, markers: Markers) -> ParsePlan:
    """Plan by the first records, as the intake does; no label is chosen yet."""
    of_labels = replace(markers, standard=STANDARD_LABEL_MARKERS)
    draft = ParsePlan(dialect, (), dialect.columns, texts, markers, quick, label_markers=of_labels)
    cutter = Cutter(dialect.quote.encode(), head.start, _SAMPLE_BYTES)
    cutter.feed(head.read())
    end = min([*cutter.cuts, head.end])
    plan = first_plan(replace(head, end=end, held=head.read()[: end - head.start]), draft)
    return replace(plan, styles={})  # dressed numbers are counted as they are written


def _ahead(pool: ThreadPoolExecutor, file: GrowingFile, blocks: Iterator[Block]) -> Iterator[Block]:
    """Yield blocks while a thread reads the next one."""
    coming = pool.submit(next, blocks, None)
    try:
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block
    finally:
        if not coming.done():
            file.finish()  # nobody wants what may come: the thread must not wait for it


def first_rows(head: bytes, dialect: Dialect) -> tuple[tuple[str, ...], ...]:
    """Return the first rows as they are written; long values are cut."""
    lines = io.TextIOWrapper(io.BytesIO(head), "utf-8", "replace", newline="")  # decodes as far as it is read
    quoting = {"quotechar": dialect.quote} if dialect.quote else {"quoting": csv.QUOTE_NONE}
    rows = csv.reader(lines, delimiter=dialect.delimiter, **quoting)
    try:
        first = [*islice((row for row in rows if row), _FIRST_ROWS)]
    except csv.Error:  # a value longer than that parser takes
        return ()
    return tuple(tuple(value[:_SHOWN] for value in row) for row in first)
