"""Put one blank between values of text that blanks separate, or whose columns are of fixed width."""

import csv
import io
import re
from collections.abc import Iterator
from typing import IO

from dnnflow.errors import DataError

BLANK = " "
_OTHERS = re.compile(r"[,;\t|]")
_LEAST_LINES = 4


def is_blank_separated(head: bytes, *, whole: bool) -> bool:
    """Say whether blanks alone separate the values of a sample: all lines have as many, and several."""
    lines = head.decode("utf-8-sig", errors="ignore").splitlines()
    lines = [line for line in (lines if whole else lines[:-1]) if line.strip()]
    if len(lines) < _LEAST_LINES or any(_OTHERS.search(line) for line in lines):
        return False
    widths = {len(_values(line, '"')) for line in lines}
    return len(widths) == 1 and widths.pop() > 1


def blank_separated(pieces: Iterator[bytes], quote: str) -> Iterator[bytes]:
    """Yield text in UTF-8 with one blank between values, where any number of blanks and tabs was."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield b"".join(_separated(line, quote) + b"\n" for line in lines)
    if rest.strip():
        yield _separated(rest, quote)


def _separated(line: bytes, quote: str) -> bytes:
    if not quote or quote.encode() not in line:
        return b" ".join(line.split())
    return _line(_values(line.decode(), quote), quote)


def _values(line: str, quote: str) -> list[str]:
    if not quote or quote not in line:
        return line.split()
    plain = line.replace("\t", BLANK).strip()
    return next(csv.reader([plain], delimiter=BLANK, quotechar=quote, skipinitialspace=True), [])


def _line(values: list[str], quote: str) -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=BLANK, quotechar=quote, lineterminator="").writerow(values)
    return out.getvalue().encode()


def fixed_width(stream: IO[bytes], encoding: str, quote: str) -> bytes:
    """Return text of columns of fixed width with one blank between values.

    A column ends where all lines have a blank; values that hold one are quoted. The text is held in memory.

    Raises
    ------
    DataError
        If there is one column, or no quote for values with blanks.
    """
    import pandas as pd

    if not quote:
        raise DataError("a text of columns of fixed width needs a quote, got an empty one; leave quote out")
    frame = pd.read_fwf(
        stream, header=None, dtype=str, keep_default_na=False, infer_nrows=1 << 62, encoding=encoding,
        skip_blank_lines=True,
    )  # fmt: skip
    if frame.shape[1] < 2:
        raise DataError(
            "a text of columns of fixed width needs two columns with blanks between them in all lines, got "
            "one; set format to csv and delimiter to what separates values"
        )
    out = io.StringIO()
    frame.to_csv(out, sep=BLANK, header=False, index=False, quotechar=quote, lineterminator="\n")
    return out.getvalue().encode()
