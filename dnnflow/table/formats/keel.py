"""Read the header of a KEEL file; its rows are text with commas behind it."""

import re
from dataclasses import dataclass

from dnnflow.errors import DataError

KEEL_MISSING = ("<null>",)
"""What stands for a missing value in a KEEL file, besides what does everywhere."""

KEEL_BYTES = 16 << 20
"""Most that a header takes."""

_LINE = re.compile(r"@(\w+)\s*(.*)", re.DOTALL)
_ATTRIBUTE = re.compile(r"""(?:'([^']+)'|"([^"]+)"|([^\s{\[]+))\s*(.*)""", re.DOTALL)
_NUMBERS = ("real", "integer", "numeric")


@dataclass(frozen=True)
class KeelHeader:
    """The columns of a KEEL file."""

    columns: tuple[str, ...]
    nominal: frozenset[str]
    """Columns whose values are names, whatever they look like."""
    outputs: tuple[str, ...]
    """Columns to predict; the last one, if the header does not say."""
    length: int
    """Bytes before the first row."""


def read_keel(text: bytes) -> KeelHeader:
    """Read a header from the beginning of a file in UTF-8.

    Raises
    ------
    DataError
        With the line that is wrong.
    """
    columns: list[str] = []
    nominal, outputs, length = set[str](), tuple[str, ...](), 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        length += len(line)
        found = _LINE.fullmatch(line.decode(errors="replace").strip())
        if found is None:
            continue
        key, rest = found[1].lower(), found[2].strip()
        if key == "data":
            return KeelHeader(tuple(columns), frozenset(nominal), outputs or tuple(columns[-1:]), length)
        if key == "attribute":
            name, is_number = _attribute(rest, number)
            columns.append(name)
            if not is_number:
                nominal.add(name)
        elif key in ("output", "outputs"):
            outputs = tuple(name.strip() for name in rest.split(",") if name.strip())
    raise DataError("a KEEL file must have a line @data behind its header, got none; add it before the rows")


def _attribute(rest: str, number: int) -> tuple[str, bool]:
    """Return an attribute's name, and whether it is a number."""
    found = _ATTRIBUTE.fullmatch(rest)
    kind = found[4].strip() if found else ""
    word = re.split(r"[\s\[{]", kind, maxsplit=1)[0].lower()
    if found is None or not (word in (*_NUMBERS, "nominal") or kind.startswith("{")):
        raise DataError(
            f"an attribute must be a name and real, integer or {{values}}, got {rest!r} in line {number}; "
            "correct it"
        )
    return found[1] or found[2] or found[3], word in _NUMBERS
