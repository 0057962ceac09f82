"""The text of a file that is still being written: unpacked, decoded, and cut into blocks of whole records."""

import io
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnflow.errors import DataError, LimitError
from dnnflow.table.columns.recipe import Source
from dnnflow.table.text.csv_reader import Block, Dialect, read_dialect
from dnnflow.table.text.source_text import (
    RECORD_BYTES,
    Cutter,
    Text,
    check_head,
    check_text,
    decoded,
    encoding_of,
    readable,
    unpacked,
)
from dnnflow.web.contract.web_config import UploadLimits

HEAD_BYTES = 1 << 20
"""Text by which delimiter and columns are found; more of it where the first record is longer."""

_PIECE_BYTES = 1 << 20
_EXPANSION_BYTES = 10 << 20


class GrowingFile(io.RawIOBase):
    """Reads a file while another process writes it: a read waits until the bytes are there, or the end.

    Safe for one thread that reads and one that calls `grow` and `finish`.
    """

    def __init__(self, path: Path) -> None:
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

    def seekable(self) -> bool:
        """Return True."""
        return True

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

    def __init__(self, file: GrowingFile, source: Source, limits: UploadLimits) -> None:
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
        raw = self._unpacked(stream, first[self.start :])
        self._pieces = self._checked(decoded(raw, self.encoding))
        return self._dialect()

    def blocks(self, start: int, block_bytes: int) -> Iterator[Block]:
        """Yield the records from offset `start` on, each block with its text.

        Raises
        ------
        UnicodeDecodeError
            If the text is not of its encoding.
        DataError
            If it is not text, or a quote is never closed.
        LimitError
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
            text = Head(Path(self._source.url), self.start, self.start + len(data), "", (), (0, 0), data)
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

    def _unpacked(self, stream: Any, first: bytes) -> Iterator[bytes]:
        """Yield the bytes behind the compression, within the limits."""
        piece, size, limits = first, self.start, self._limits
        while piece:
            size += len(piece)
            sent = max(self._file.tell(), 1)
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
            with readable(self._source):
                piece = bytes(stream.read(_PIECE_BYTES))

    def _checked(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        any_byte = self.encoding == "latin-1"
        for piece in pieces:
            check_text(piece, any_byte=any_byte)
            self.text_bytes += len(piece)
            yield piece
