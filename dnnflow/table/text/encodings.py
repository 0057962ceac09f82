"""Tell in which encoding a text is that says none and is no UTF-8."""

import codecs
from collections.abc import Iterable

from dnnflow.errors import DataError

LEGACY = "latin-1"
"""What a text without any valid UTF-8 beyond ASCII is read as."""


def legacy_encoding(pieces: Iterable[bytes]) -> str:
    """Return the encoding of bytes that are no UTF-8.

    Raises
    ------
    DataError
        If they are UTF-8 but for some bytes, by which all other letters would be read wrongly.
    """
    valid = invalid = line = 0
    first = (0, 0)

    def count(error: UnicodeError) -> tuple[str, int]:
        nonlocal invalid, first
        if isinstance(error, UnicodeDecodeError):
            if not invalid:
                first = line + error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
            invalid += 1
            return "\n" if error.object[error.start] == 0x0A else "?", error.end
        raise error

    codecs.register_error("dnnflow-count", count)
    decoder = codecs.getincrementaldecoder("utf-8")("dnnflow-count")
    for piece in pieces:
        text = decoder.decode(piece)
        valid += 0 if text.isascii() else sum(not c.isascii() for c in text)
        line += piece.count(b"\n")
    if valid > invalid:
        raise DataError(
            f"the text must be in one encoding, but line {first[0]} has the byte {first[1]:#04x}, which is "
            f"no UTF-8, where {valid:,} other letters are; correct it, or set encoding (e.g. cp1252) if "
            "those are wrong"
        )
    return LEGACY


def is_utf(encoding: str) -> bool:
    """Say whether an encoding is one that a text shows by itself: ASCII or of Unicode."""
    return codecs.lookup(encoding).name.startswith(("utf", "ascii"))
