"""Make UTF-8 text on disk of a path or URL: decompressed, decoded, hashed and cut between records."""

import bz2
import codecs
import io
import lzma
import os
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

import blake3

from dnnflow.errors import DataError
from dnnflow.table.columns.kinds import in_a_list
from dnnflow.table.text.blanks import BLANK, blank_separated, fixed_width
from dnnflow.table.text.encodings import legacy_encoding

BLOCK_BYTES = 16 << 20
"""Text between two cuts, up to the end of the record; 4 MB of 28 numbers a row, enough for huge pages."""
RECORD_BYTES = 64 << 20
"""A record longer than this is taken for a quote that is never closed."""

_PIECE_BYTES = 4 << 20
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz",
    **{f"BZh{level}1A".encode(): "bz2" for level in range(1, 10)},
}  # fmt: skip
_ARCHIVE = b"PK\x03\x04"
_LOOKED_AT = 4096
MAGIC_BYTES = 6
"""Bytes that say how a file is compressed."""
_FORMATS = {b"PAR1": "Parquet", _ARCHIVE: "zip or Excel", b"\x89HDF": "HDF5", b"%PDF": "PDF"}
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NOT_TEXT = bytes(sorted({*range(9), *range(14, 26), *range(27, 32)}))


class TextSource(Protocol):
    """Where a text lies and how it is written: a `Source`, or what carries the same fields."""

    @property
    def url(self) -> str: ...
    @property
    def delimiter(self) -> str | None: ...
    @property
    def quote(self) -> str: ...
    @property
    def encoding(self) -> str | None: ...
    @property
    def header(self) -> bool: ...
    @property
    def storage_options(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Text:
    """A CSV as UTF-8 on disk."""

    path: Path
    start: int
    """Offset of the first character, behind a byte order mark."""
    end: int
    digest: str
    """BLAKE3 of the text in UTF-8, whatever its encoding, compression and place were."""
    cuts: tuple[int, ...]
    """Offsets of ends of records, about `BLOCK_BYTES` apart; the last is `end`."""
    stamp: tuple[int, int]
    """Size and modification time (ns) of the file when it was read."""
    guessed: str = ""
    """The encoding that it was taken for, where nothing says it."""

    def read(self, start: int, end: int) -> bytes:
        """Return a range of the text."""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def check_unchanged(self) -> None:
        """Refuse a file that was written to since it was hashed.

        Raises
        ------
        DataError
        """
        if _stamp(self.path) != self.stamp:
            name = self.path.name
            raise DataError(f"a table must not change while it is read, but {name} did; start again")


class Cutter:
    """Finds ends of records in a stream of text, without keeping the text.

    A newline ends a record when an even number of quotes stands before it.
    """

    def __init__(self, quote: bytes, start: int, block_bytes: int) -> None:
        self._quote, self._block_bytes = quote, block_bytes
        self._position = self._block_start = start
        self._quoted = False
        self.cuts: list[int] = []

    def feed(self, piece: bytes) -> None:
        """Take the next piece of text."""
        known = 0  # up to here the quotes of the piece are counted
        while (target := self._block_start + self._block_bytes - self._position) < len(piece):
            known = self._count(piece, known, max(known, target))
            newline = piece.find(b"\n", known)
            if newline < 0:
                break
            known = self._count(piece, known, newline) + 1
            if not self._quoted:
                self._block_start = self._position + known
                self.cuts.append(self._block_start)
        self._count(piece, known, len(piece))
        self._position += len(piece)
        if self._position - self._block_start > RECORD_BYTES + self._block_bytes:
            raise unclosed_quote(self._quote, self._block_start)

    def finish(self) -> tuple[int, ...]:
        """Return the offsets of all cuts, the last at the end of the text."""
        if self._quoted:
            raise unclosed_quote(self._quote, self._block_start)
        if self._position > self._block_start:
            self.cuts.append(self._position)
        return tuple(self.cuts)

    def _count(self, piece: bytes, start: int, end: int) -> int:
        # To look for a quote is several times as fast as to count them, and most tables have none.
        if self._quote and piece.find(self._quote, start, end) >= 0:
            self._quoted ^= piece.count(self._quote, start, end) % 2 == 1
        return end


def unclosed_quote(quote: bytes, start: int) -> DataError:
    """Return the error of a quoted value that does not end, in a record behind byte `start`."""
    return DataError(
        f"a quoted value must end, but a quote ({quote.decode()}) behind byte {start} "
        "is never closed; fix it, or set the source's quote to empty if quotes are part of the values"
    )


def check_text(piece: bytes, *, any_byte: bool = False) -> None:
    """Refuse bytes that no text has; more of them where the encoding takes `any_byte`.

    Raises
    ------
    DataError
    """
    if b"\0" in piece or (any_byte and len(piece.translate(None, _NOT_TEXT)) < len(piece)):
        raise _binary_error("control characters")


def plain_text(source: TextSource) -> tuple[Text, str] | None:
    """Find a source that is a local file of UTF-8 as it stands: the text without hash and cuts, its encoding.

    None for every other source, and where the first 4 MiB show that something is wrong: `open_text` says
    what.
    """
    path = _local_path(source.url)
    try:
        if path is None or not path.is_file() or source.delimiter == BLANK:
            return None
        stamp = _stamp(path)
        with path.open("rb") as file:
            head = file.read(_PIECE_BYTES)
        encoding = encoding_of(head, source)
        check_head(head)
        check_text(head)
        codecs.getincrementaldecoder(encoding)().decode(head)
    except (OSError, UnicodeError, DataError):
        return None
    if not _is_utf8(encoding) or head.startswith(tuple(_COMPRESSIONS)):
        return None
    mark = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    return (Text(path, mark, stamp[0], "", (), stamp), encoding) if stamp[0] > mark else None


def encoding_of(head: bytes, source: TextSource) -> str:
    """Return the encoding that a source has by its own word, else by its first bytes.

    Raises
    ------
    DataError
        If it looks like UTF-16 without a mark.
    """
    if source.encoding:
        return source.encoding
    if found := next((name for mark, name in _MARKS if head.startswith(mark)), None):
        return found
    zeros = [head[start:_LOOKED_AT:2].count(0) for start in (0, 1)]
    if max(zeros) > 0.35 * len(head[:_LOOKED_AT]) and not min(zeros):  # nearly every other byte of it
        name = ("utf-16-be", "utf-16-le")[zeros[1] > zeros[0]]
        raise DataError(f"a text without a byte order mark must be UTF-8, got {name}; set encoding to {name}")
    return "utf-8"


def shows_encoding(source: TextSource) -> bool:
    """Say whether a text is UTF-8, or begins with a mark of its encoding."""
    with binary(source) as (stream, _), readable(source):
        head = _read(stream, _PIECE_BYTES)
        if any(head.startswith(mark) for mark, _ in _MARKS):
            return True
        with suppress(UnicodeDecodeError):
            for _ in decoded(_pieces(stream, head), "utf-8"):
                pass
            return True
    return False


def open_text(
    source: TextSource, scratch: Path, *, copy: bool = False, block_bytes: int = BLOCK_BYTES
) -> Text:
    """Make a source readable by offset, with cuts `block_bytes` apart.

    It is copied to `scratch` if it is not already plain UTF-8 on a local disk, or where `copy` is asked for,
    for readers on other machines that see `scratch` only.

    Raises
    ------
    DataError
        If there is no such file, it cannot be read or decoded, is empty, or is not text.
    """
    try:
        return _open_as(source, source.encoding, scratch, copy, block_bytes)
    except UnicodeDecodeError as error:
        if source.encoding is not None:
            raise DataError(
                f"the text must be {source.encoding}, but byte {error.object[error.start]:#04x} is not; "
                "give the right encoding, or leave it out to detect it"
            ) from None
    with binary(source) as (stream, _), readable(source):
        encoding = legacy_encoding(_pieces(stream, _read(stream, _PIECE_BYTES)))
    return replace(_open_as(source, encoding, scratch, copy, block_bytes), guessed=encoding)


def _open_as(source: TextSource, encoding: str | None, scratch: Path, copy: bool, block_bytes: int) -> Text:
    with ExitStack() as stack:
        stream, compressed = stack.enter_context(binary(source))
        with readable(source):
            head = _read(stream, _PIECE_BYTES)
        check_head(head)
        encoding = encoding or encoding_of(head, source)
        is_rewritten = source.delimiter == BLANK
        in_place = _local_path(source.url) is not None and not (compressed or copy or is_rewritten)
        in_place = in_place and _is_utf8(encoding)
        mark = len(codecs.BOM_UTF8) if in_place and head.startswith(codecs.BOM_UTF8) else 0
        path = _local_path(source.url) if in_place else scratch / "source.csv"
        sink = None if in_place else stack.enter_context((scratch / "source.csv").open("wb"))
        scan = _Scan(Cutter(source.quote.encode(), mark, block_bytes), sink, encoding == "latin-1")
        with readable(source):
            # Behind a mark that is left out, a second one is text: decoded as one, the end would be cut
            pieces = decoded(_pieces(stream, head[mark:]), "utf-8" if mark else encoding)
            if is_rewritten:
                pieces = rewritten(pieces, source)
            for piece in pieces:
                scan.feed(piece)
        return scan.text(path or scratch, mark)


def rewritten(pieces: Iterator[bytes], source: TextSource) -> Iterator[bytes]:
    """Yield text that blanks separate, or of columns of fixed width, with one blank between values."""
    if getattr(source, "format", None) != "fwf":
        return blank_separated(pieces, source.quote)
    return iter([fixed_width(io.BytesIO(b"".join(pieces)), "utf-8", source.quote)])


def new_hash() -> Any:
    """Return the hash by which texts are known: 0.17 s for 1.1 GB, where sha256 takes 0.62 s."""
    return blake3.blake3()


class _Scan:
    """One pass over the text: hash, check, cut, and copy if there is a sink."""

    def __init__(self, cutter: Cutter, sink: IO[bytes] | None, any_byte: bool) -> None:
        self._cutter, self._sink, self._any_byte = cutter, sink, any_byte
        self._size = 0
        self._hash = new_hash()
        # It runs outside the interpreter lock: a second thread does it.
        self._pool = ThreadPoolExecutor(1)
        self._hashing: Future[None] | None = None

    def feed(self, piece: bytes) -> None:
        check_text(piece, any_byte=self._any_byte)
        self._wait()
        self._hashing = self._pool.submit(self._hash.update, piece)
        if self._sink is not None:
            self._sink.write(piece)
        self._cutter.feed(piece)
        self._size += len(piece)

    def _wait(self) -> None:
        if self._hashing is not None:
            self._hashing.result()

    def text(self, path: Path, start: int) -> Text:
        self._wait()
        self._pool.shutdown()
        if self._sink is not None:
            self._sink.close()
        if not self._size:
            raise _empty_error()
        return Text(
            path, start, start + self._size, self._hash.hexdigest(), self._cutter.finish(), _stamp(path)
        )


def _pieces(stream: IO[bytes], head: bytes) -> Iterator[bytes]:
    while head:
        yield head
        head = _read(stream, _PIECE_BYTES)


def _read(stream: IO[bytes], size: int) -> bytes:
    return bytes(stream.read(size) or b"")


def decoded(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Yield the text in UTF-8.

    Raises
    ------
    UnicodeDecodeError
        If the bytes are not of that encoding.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    utf8 = _is_utf8(encoding)
    ascii_only = utf8 and encoding != "utf-8-sig"
    for piece in pieces:
        if ascii_only and piece.isascii():  # five times as fast as decoding, and the usual case
            yield piece
            continue
        ascii_only = False
        text = decoder.decode(piece)
        if utf8 and encoding != "utf-8-sig":
            yield piece
        elif text:
            yield text.encode()
    tail = decoder.decode(b"", final=True)
    if tail and not (utf8 and encoding != "utf-8-sig"):
        yield tail.encode()


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")


def check_head(head: bytes) -> None:
    """Refuse an empty file, and what begins like a file of another format.

    Raises
    ------
    DataError
    """
    if not head.strip():
        raise _empty_error()
    for magic, name in _FORMATS.items():
        if head.startswith(magic):
            raise _binary_error(f"a {name} file")


def _empty_error() -> DataError:
    return DataError("a table needs a header and rows, got an empty file; give a CSV with data")


def _binary_error(what: str) -> DataError:
    return DataError(
        f"a table must be text, got {what}; export it as CSV, or give its encoding if it is text "
        "(e.g. utf-16)"
    )


def _local_path(url: str) -> Path | None:
    if url.startswith("file://"):
        return Path(url.removeprefix("file://"))
    return None if "://" in url or "::" in url else Path(url)


def _stamp(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


@contextmanager
def readable(source: TextSource) -> Iterator[None]:
    """Turn what goes wrong while reading into an error that says what to do."""
    try:
        yield
    except UnicodeDecodeError:
        raise
    except (OSError, EOFError, ValueError, ImportError, lzma.LZMAError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        reason = " ".join((str(error) or type(error).__name__).split())
        remedy = "check the address, the file and your access"
        raise DataError(f"cannot read {source.url}: {reason}; {remedy}") from error


@contextmanager
def binary(source: TextSource) -> Iterator[tuple[IO[bytes], bool]]:
    """Open a source for reading bytes, decompressed; also say whether it was compressed."""
    with ExitStack() as stack:
        with readable(source):
            raw = stack.enter_context(_opened(source))
            member = _member(raw, source.url)
            if member is not None:
                raw = stack.enter_context(member)
            stream, compressed = stack.enter_context(unpacked(raw))
            compressed |= member is not None
        yield stream, compressed


def compression_of(head: bytes) -> str | None:
    """Return how bytes are compressed that begin so, if they are."""
    return next((name for magic, name in _COMPRESSIONS.items() if head.startswith(magic)), None)


@contextmanager
def unpacked(raw: Any) -> Iterator[tuple[IO[bytes], bool]]:
    """Yield a file's bytes, decompressed; also say whether it was compressed."""
    compression = compression_of(raw.read(MAGIC_BYTES))
    raw.seek(0)
    if compression is None:
        yield raw, False
        return
    if compression == "xz":
        with lzma.LZMAFile(raw) as stream:
            yield stream, True
        return
    if compression == "bz2":
        with bz2.BZ2File(raw) as stream:
            yield stream, True
        return
    import pyarrow as pa

    with pa.CompressedInputStream(pa.PythonFile(raw, "r"), compression) as stream:
        yield stream, True


def _member(raw: Any, url: str) -> Any:
    """Open the one file of a ZIP archive; None where a file is none, or a workbook or arrays are written so.

    Raises
    ------
    DataError
        If it holds several files, or none.
    """
    begins = raw.read(len(_ARCHIVE))
    raw.seek(0)
    if begins != _ARCHIVE:
        return None
    try:
        archive = zipfile.ZipFile(raw)
    except zipfile.BadZipFile:
        raw.seek(0)
        if url.lower().endswith(".zip"):
            raise
        return None  # whoever reads workbooks or arrays says what is wrong
    names = [one.filename for one in archive.infolist() if not one.is_dir()]
    names = [name for name in names if not name.startswith(("__MACOSX/", "."))]
    if {"[Content_Types].xml", "mimetype"} & {*names} or all(name.endswith(".npy") for name in names):
        raw.seek(0)
        return None
    if len(names) > 1:
        raise DataError(
            f"an archive must hold one table, got {in_a_list(names)} in {url}; unpack it, and name the files "
            "of one kind by a glob"
        )
    return archive.open(names[0])


def _opened(source: TextSource) -> Any:
    path = _local_path(source.url)
    if path is None:
        import fsspec

        return fsspec.open(source.url, "rb", **dict(source.storage_options))
    if not path.exists():
        raise DataError(f"a table must exist, but there is no file {source.url}; check the path")
    if not path.is_file():
        raise DataError(f"a table must be a file, got {source.url}, which is not one; give one CSV file")
    return io.FileIO(path, "r")
