"""Parse a local CSV while it is still being read.

Its text is hashed and checked block by block on the way to the parser, so that it is read once and no core
waits. Everything else (compressed, remote, in another encoding) is first made into a text on disk.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import IO

from dnnflow.table.text.csv_reader import Block
from dnnflow.table.text.source_text import (
    RECORD_BYTES,
    Text,
    TextSource,
    check_text,
    new_hash,
    unclosed_quote,
)

_LINE_BYTES = 1 << 16
_AHEAD = 3


class Stream:
    """Reads a text once, in blocks of whole records. Made by `open_stream`."""

    def __init__(self, text: Text, file: IO[bytes], quote: str, encoding: str, block_bytes: int) -> None:
        self.text = text
        self._file, self._quote = file, quote.encode()
        self._encoding, self._block_bytes = encoding, block_bytes
        self._hash = new_hash()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="dnnflow-read")

    def blocks(self, start: int) -> Iterator[Block]:
        """Yield the records from `start` on, with their text; a thread reads some blocks ahead.

        Raises
        ------
        UnicodeDecodeError
            If the text is not of its encoding.
        DataError
            If it is not text, or a quote is never closed.
        """
        ahead = self._read_all(start)
        coming = deque(self._pool.submit(next, ahead, None) for _ in range(_AHEAD))
        while (block := coming.popleft().result()) is not None:
            coming.append(self._pool.submit(next, ahead, None))
            yield block

    def finish(self) -> Text:
        """Return the text with its hash, after the last block."""
        return replace(self.text, digest=self._hash.hexdigest())

    def close(self) -> None:
        """End the thread that reads."""
        self._pool.shutdown(cancel_futures=True)

    def _read_all(self, start: int) -> Iterator[Block]:
        self._take(self._read(self.text.start, start))
        index = 0
        while start < self.text.end:
            data = self._records(start)
            self._take(data)
            yield Block(index, self.text.path, start, start + len(data), data)
            start, index = start + len(data), index + 1

    def _take(self, data: bytes) -> None:
        check_text(data)
        if not data.isascii():
            data.decode(self._encoding)
        self._hash.update(data)  # outside the interpreter lock

    def _records(self, start: int) -> bytes:
        """Read whole records: up to a newline with an even number of quotes before it."""
        end = self._line_end(start + self._block_bytes)
        data = self._read(start, end)
        if not self._quote or self._quote not in data:
            return data
        pieces, quotes, step = [data], data.count(self._quote), _LINE_BYTES
        while quotes % 2:
            if end == self.text.end or end - start > RECORD_BYTES + self._block_bytes:
                raise unclosed_quote(self._quote, start)
            end, begin = self._line_end(end + step), end
            pieces.append(self._read(begin, end))
            quotes, step = quotes + pieces[-1].count(self._quote), 2 * step
        return b"".join(pieces)

    def _line_end(self, offset: int) -> int:
        """Return where the line ends in which `offset` is, behind its newline."""
        while offset < self.text.end:
            piece = self._read(offset, min(offset + _LINE_BYTES, self.text.end))
            if (newline := piece.find(b"\n")) >= 0:
                return offset + newline + 1
            offset += len(piece)
        return self.text.end

    def _read(self, start: int, end: int) -> bytes:
        data = os.pread(self._file.fileno(), end - start, start)
        while len(data) < end - start:
            more = os.pread(self._file.fileno(), end - start - len(data), start + len(data))
            if not more:
                self.text.check_unchanged()
                raise OSError(f"{self.text.path} ends before its size")
            data += more
        return data


@contextmanager
def open_stream(text: Text, encoding: str, source: TextSource, block_bytes: int) -> Iterator[Stream]:
    """Yield a stream of what `plain_text` found of a source."""
    with text.path.open("rb", buffering=0) as file:
        stream = Stream(text, file, source.quote, encoding, block_bytes)
        try:
            yield stream
        finally:
            stream.close()
