"""Put one blank between values of text that blanks separate, or whose columns are of fixed width."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.table.columns.kinds import Markers, to_number

BLANK = " "
_OTHERS = re.compile(r"[,;\t|]")
_LEAST_LINES = 4
_WIDEST, _GRID_LINES = 4096, 1024
FIXED_BYTES = 256 << 20
"""Longer texts are not looked at for columns of fixed width, which are held in memory."""


def may_be_fixed(source: Any) -> bool:
    """Say whether a text that is read like this may be found to have columns of fixed width."""
    return source.format is None and bool(source.header and source.quote)


def kind_by_blanks(
    head: bytes, rest: Callable[[], bytes] | None, *, may_be_fixed: bool
) -> Literal["csv", "fwf"] | None:
    """Return csv of a text whose values only blanks separate, fwf of columns of fixed width, else None.

    Parameters
    ----------
    head
        Its first bytes.
    rest
        Returns the others, at most `FIXED_BYTES`; None where there are none.
    """
    if is_blank_separated(head, whole=rest is None):
        return "csv"
    if not may_be_fixed or not is_fixed_width(head, whole=rest is None):
        return None
    more = rest() if rest is not None else b""
    is_fixed = len(more) < FIXED_BYTES and (rest is None or is_fixed_width(head + more, whole=True))
    return "fwf" if is_fixed else None


def is_blank_separated(head: bytes, *, whole: bool) -> bool:
    """Say whether blanks alone separate the values of a sample: all lines have as many, and several."""
    lines = head.decode("utf-8-sig", errors="ignore").splitlines()
    lines = [line for line in (lines if whole else lines[:-1]) if line.strip()]
    if len(lines) < _LEAST_LINES or any(_OTHERS.search(line) for line in lines):
        return False
    widths = {len(_values(line, '"')) for line in lines}
    return len(widths) == 1 and widths.pop() > 1


def is_fixed_width(text: bytes, *, whole: bool) -> bool:
    """Say whether lines are beyond doubt columns of fixed width, with blanks or nothing in some values.

    That is so where columns of blanks part all lines, the first has a name in each part, and the values of
    each part stand at its left or its right end, or are numbers.
    """
    if b"\t" in text:
        return False
    decoded = text.decode("utf-8-sig", errors="ignore").splitlines()
    lines = [line.rstrip() for line in (decoded if whole else decoded[:-1]) if line.strip()]
    if len(lines) <= _LEAST_LINES or _OTHERS.search(lines[0]) or len(lines[0].split()) < 2:
        return False
    width = max(map(len, lines))
    if width > _WIDEST or not all("  " in line or len(line) < width for line in lines[1:]):
        return False
    is_blank = np.ones(width, dtype=np.bool_)
    for part in _grids(lines, width):
        is_blank &= (part == BLANK).all(axis=0)
    edges = np.flatnonzero(np.diff(np.r_[True, is_blank, True].astype(np.int8)))
    ranges = [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
    if len(ranges) < 2 or not all(lines[0][a:b].strip() for a, b in ranges):
        return False
    return all(_is_column([line[a:b].ljust(b - a) for line in lines[1:]]) for a, b in ranges)


def _grids(lines: Sequence[str], width: int) -> Iterator[NDArray[np.str_]]:
    """Yield the characters of some lines, shape (lines, width)."""
    for at in range(0, len(lines), _GRID_LINES):
        some = np.array([line.ljust(width) for line in lines[at : at + _GRID_LINES]])
        yield some.view("U1").reshape(-1, width)


def _is_column(cells: Sequence[str]) -> bool:
    """Say whether the values of a part of all lines, half of which have one, stand at one of its ends."""
    there = [cell for cell in cells if cell.strip()]
    if 2 * len(there) < len(cells):
        return False
    starts, ends = ({len(cell) - len(strip(cell)) for cell in there} for strip in (str.lstrip, str.rstrip))
    if len(starts) == 1 or len(ends) == 1:
        return True
    return all(to_number(cell.strip()) is not None or Markers().has(cell.strip()) for cell in there)


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
