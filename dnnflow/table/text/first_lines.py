"""Tell from the first lines of a text what separates its values, and where its table begins.

Above a header may stand a line `sep=;`, comments and titles; below it, a row of units.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from dnnflow.table.columns.dressing import undress
from dnnflow.table.columns.kinds import Markers, looks_like_values, to_number
from dnnflow.table.text.source_text import Text, TextSource

_DELIMITERS = (",", ";", "\t", "|")
"""In the order in which a tie is decided."""
_SAMPLE_BYTES = 1 << 16
_MOST_LINES = 30
_MOST_TITLES = 5
_BOM = b"\xef\xbb\xbf"
_SEP = re.compile(r"\ufeff*\"?sep=(.)\"?\r?\n?", re.IGNORECASE)
_COMMENT = re.compile(r"\s*(#|%|//|--)")
_UNIT = re.compile(r"[\[(].{0,12}[\])]|[%‰°]\w?|[^\W\d_]{1,4}([/*^·][\w^²³-]{1,5})+|[^\W\d_]{1,3}[²³]")
_SHORT = re.compile(r"[^\d\s]{1,6}")


class Preamble(NamedTuple):
    """What stands above a table."""

    length: int = 0
    """In bytes."""
    lines: tuple[str, ...] = ()
    delimiter: str | None = None
    """What separates values, if a line says it."""


def csv_records(text: str, delimiter: str, quote: str) -> Any:
    """Return Python's reader of a text's records."""
    lines = io.StringIO(text, newline="")
    if not quote:
        return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=delimiter, quotechar=quote)


def records(raw: bytes, quote: str, delimiter: str, *, whole: bool) -> list[list[str]]:
    """Return the records of a sample, without the last if that may be cut."""
    rows = [row for row in csv_records(raw.decode(errors="replace"), delimiter, quote) if row]
    return rows if whole or len(rows) < 2 else rows[:-1]


def sniff(raw: bytes, quote: str, *, whole: bool) -> str:
    """Return the delimiter of a sample.

    It is the one by which most records are as wide as the first, fewest values hold another delimiter, and
    records are widest.
    """
    found = {}
    for delimiter in _DELIMITERS:
        rows = records(raw, quote, delimiter, whole=whole)
        width = len(rows[0]) if rows else 0
        if width > 1:
            alike = [row for row in rows if len(row) == width]
            found[delimiter] = (len(alike) / len(rows), -_strange(alike, delimiter), width)
    return max(found, key=lambda d: found[d]) if found else ","


def _strange(rows: Sequence[Sequence[str]], delimiter: str) -> float:
    """Return the share of values that hold another delimiter, and are no number by it."""
    others = [one for one in _DELIMITERS if one != delimiter]
    values = [value for row in rows for value in row]
    strange = sum(any(one in value for one in others) and undress(value.strip()) is None for value in values)
    return round(strange / len(values), 2)


def find_preamble(text: Text, source: TextSource) -> Preamble:
    """Return what stands above the header, or above the first row of a text without one."""
    raw = text.read(text.start, min(text.start + _SAMPLE_BYTES, text.end))
    marks = 0
    while raw.startswith(_BOM, marks):
        marks += len(_BOM)
    is_whole = text.start + len(raw) == text.end
    bom = ("\ufeff",) if marks else ()
    lines = raw[marks:].decode(errors="replace").splitlines(keepends=True)[: _MOST_LINES + 1]
    if lines and (said := _SEP.fullmatch(lines[0])):
        return Preamble(marks + len(lines[0].encode()), (*bom, lines[0].strip()), source.delimiter or said[1])
    if raw[marks:].count(b"\n") < 2:
        return Preamble(marks, bom)
    count = _comments(lines, source, raw[marks:], whole=is_whole)
    count = max(count, _titles(lines, source, raw[marks:], whole=is_whole))
    count = count or _narrow_lines(lines, source, raw[marks:], whole=is_whole)
    if not "".join(lines[:count]).strip():
        return Preamble(marks, bom)
    skipped = "".join(lines[:count])
    return Preamble(marks + len(skipped.encode()), (*bom, *filter(None, map(str.strip, lines[:count]))))


def _comments(lines: Sequence[str], source: TextSource, raw: bytes, *, whole: bool) -> int:
    """Return how many lines at the top are comments, which are not as wide as the table below them."""
    count = next((i for i, line in enumerate(lines) if not _COMMENT.match(line)), 0)
    if not count or count > _MOST_LINES:
        return 0
    below = raw[len("".join(lines[:count]).encode()) :]
    delimiter = source.delimiter or sniff(below, source.quote, whole=whole)
    rows = records(below, source.quote, delimiter, whole=whole)
    if len(rows) < 2:
        return 0
    if source.header and _is_header(rows):
        return count
    widths = [len(next(csv_records(line, delimiter, source.quote), [])) for line in lines[:count]]
    return next((i for i, width in enumerate(widths) if width == len(rows[0])), count)


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Say whether the first of some rows has no number, and a column of numbers is below it."""
    first, *others = rows[:50]
    if any(to_number(value.strip()) is not None for value in first):
        return False
    columns = zip(*(row for row in others if len(row) == len(first)), strict=False)
    return any(all(to_number(value.strip()) is not None for value in column) for column in columns)


def _titles(lines: Sequence[str], source: TextSource, raw: bytes, *, whole: bool) -> int:
    """Return how many lines at the top have a single value, where records below have several."""
    if source.quote and any(line.count(source.quote) % 2 for line in lines[:_MOST_LINES]):
        return 0  # a record of several lines
    count = next((i for i, line in enumerate(lines) if not _is_single(line, source)), 0)
    if not count or count > _MOST_LINES:
        return 0
    below = raw[len("".join(lines[:count]).encode()) :]
    delimiter = source.delimiter or sniff(below, source.quote, whole=whole)
    rows = records(below, source.quote, delimiter, whole=whole)
    widths = [len(row) for row in rows]
    width, alike = Counter(widths).most_common(1)[0] if widths else (0, 0)
    is_headed = bool(rows) and not (source.header and looks_like_values([v.strip() for v in rows[0]]))
    is_table = is_headed and len(rows) >= 3 and width > 1 and widths[0] == width and alike >= 0.9 * len(rows)
    is_full = is_table and all(value.strip() for value in rows[0])
    above: list[list[str]] = [next(csv_records(line, delimiter, source.quote), []) for line in lines[:count]]
    are_titles = all(len([v for v in row if v.strip()]) <= 1 for row in above)
    return count if is_table and are_titles and (width > 2 or is_full) else 0


def _narrow_lines(lines: Sequence[str], source: TextSource, raw: bytes, *, whole: bool) -> int:
    """Return how many lines at the top have fewer values than a header and its rows of numbers below."""
    if not source.header or (source.quote and any(source.quote in line for line in lines[:_MOST_LINES])):
        return 0
    below = raw[len("".join(lines[:_MOST_TITLES]).encode()) :]  # the table's delimiter, not that of a title
    delimiter = source.delimiter or sniff(below, source.quote, whole=whole)
    rows = records(raw, source.quote, delimiter, whole=whole)
    width, alike = Counter(map(len, rows)).most_common(1)[0] if rows else (0, 0)
    count = next((i for i, row in enumerate(rows) if len(row) >= width), 0)
    if not 0 < count <= _MOST_TITLES or alike < 0.9 * (len(rows) - count) or not _is_header(rows[count:]):
        return 0
    others = [one for one in _DELIMITERS if one != delimiter]
    filled = [i for i, line in enumerate(lines) if line.strip()]
    if any(one in line for line in lines[: filled[count - 1] + 1] for one in others):
        return 0
    return filled[count] if count < len(filled) else 0


def _is_single(line: str, source: TextSource) -> bool:
    """Say whether a line holds one value by each delimiter that it may be of."""
    delimiters = (source.delimiter,) if source.delimiter else _DELIMITERS
    rows: list[list[str]] = [next(csv_records(line, one, source.quote), []) for one in delimiters]
    filled = [len([value for value in row if value.strip()]) for row in rows]
    widths = [len(row) for row in rows]
    # A comma in a title is none between values where nothing else in the line separates any
    return max(filled) <= 1 or (max(widths[1:], default=1) == 1 and _is_sentence(line))


def _is_sentence(line: str) -> bool:
    return bool(re.fullmatch(r"[^,]*[^\W\d_]{2}[^,]* [^,]*(, [^,]+)*\s*", line)) and ", " in line


def is_units_row(rows: Sequence[Sequence[str]]) -> bool:
    """Say whether the first of some rows has units where all others have numbers."""
    if len(rows) < 3:
        return False
    first, *others = rows[:50]
    if any(len(row) != len(first) for row in others):
        return False
    missing = Markers().has
    units = certain = numbers = 0
    for place, value in enumerate(map(str.strip, first)):
        below = [text for row in others if not missing(text := row[place].strip())]
        if not below or any(undress(text) is None for text in below):
            continue
        numbers += 1
        if undress(value) is not None:
            return False
        known = undress(f"1 {value}")
        is_unit = bool(_UNIT.fullmatch(value)) or (
            known is not None and bool(known.affix) and not known.is_word
        )
        units += is_unit or missing(value) or bool(_SHORT.fullmatch(value))
        certain += is_unit
    return units == numbers and certain > 0
