"""Read numbers that are dressed: with units, percent, currency, separators, other signs or digits.

A text is undressed once for both marks that may begin its fraction; which of them a column means, its values
say together, or the recipe does.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from dnnflow.errors import InputError
from dnnflow.table.columns.kinds import in_a_list, number_name, quoted, to_number

NEARLY = 0.9
"""Share of a text column's values from which on they are meant as numbers."""
POINT, COMMA = "1,234.56", "1.234,56"
"""Examples of the two ways to write a number, as a recipe gives them."""
_MOST_AFFIXES = 8
_EXAMPLE = re.compile(r"1(?P<group>[,.' ]?)234(?P<mark>[,.])56")
_CURRENCIES = (
    r"[$€£¥₹₽₩₺₫₪฿¢]|[A-Z]{1,2}\$|USD|EUR|GBP|CHF|JPY|CNY|INR|RUB|SEK|NOK|DKK|PLN|CZK|HUF|BRL|ZAR|Fr\.|kr|"
    r"Rs\.?|zł"
)
_UNITS = (
    r"[%‰°′″]|°[CFK]|[numkMGµμ]?[gmslLVAWJN]|kg|mg|lbs?|oz|[kcm]?m[²³23]|cm|mm|km|mi|ft|in|yd|ha|ml|mL|"
    r"ms|min|h|hrs?|days?|weeks?|months?|years?|yrs?|[kMG]?Hz|[kMGT]i?B|k?bps|Mbps|[kMG]?Wh?|[kMm]?Pa|h?Pa|bar|psi|"
    r"[kKMB]|[Bb]n|[Mm]io\.?|[Mm]rd\.?|d|wks?|[+*†‡§]|"
    r"mph|km/h|m/s|kmpl|km/kg|bhp|hp|rpm|[cC][cC]|Nm|px|pt|dpi|mmHg|mg/dL|mmol/L|g/L|kcal|cal|ppm|ppb|dB|pH"
)
_SIGNS = str.maketrans({"−": "-", "﹣": "-", "－": "-", "–": "-", "＋": "+"})
_HEX = re.compile(r"(?P<sign>[-+]?)0[xX](?P<digits>[0-9a-fA-F]{1,13})")
"""A hexadecimal number that a float holds exactly: 52 bits."""
_NEGATIVE = re.compile(r"\(\s*(?P<size>[^()+-]+?)\s*\)")
"""How accounts write a negative number."""
_DRESSED = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<before>{_CURRENCIES}|[#~≈])?\s*(?P<inner>[-+]?)\s*"
    r"(?P<core>[0-9.,](?:[0-9.,'’_ \u00a0\u202f\u2009]*[0-9.,])?)(?P<power>[eEdD][-+]?[0-9]+)?(?P<behind>-?)"
    rf"(?:(?P<gap>\s*)(?P<after>{_CURRENCIES}|{_UNITS})|\s+(?P<word>[^\W\d_][\w/²³.·]*))?"
)
_POINT = re.compile(
    r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]*)?|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]*)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
)  # 12,34,567 as in India
_COMMA = re.compile(r"[1-9][0-9]{0,2}(?:\.[0-9]{3})+(?:,[0-9]*)?|[0-9]+(?:,[0-9]*)?|,[0-9]+")
_GROUPED = re.compile(
    r"(?<![0-9])[1-9][0-9]{0,2}(?:(['’_ \u00a0\u202f\u2009])[0-9]{3})(?:\1[0-9]{3})*(?![0-9])"
)
_LOOSE = re.compile(
    r"(?:(?:no|nr)\.?\s*|[^\w\s]{0,2}\s*|(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])\w*[\s./-]*)"
    r"[-+]?\d[\d.,:/\s'’_-]*(?:[^\W\d_]{1,3}\.?|[^\w\s]{1,2})?",
    re.IGNORECASE,
)
_BLANKS = re.compile(r"['’_ \u00a0\u202f\u2009]")
_PLURAL = re.compile(r"(?<=[a-z]{2})s$")


class Undressed(NamedTuple):
    """What a text is as a number."""

    point: float | None
    """Where a point begins the fraction, and commas separate thousands."""
    comma: float | None
    """Where a comma begins the fraction, and points separate thousands."""
    affix: str
    """The unit or currency beside it."""
    is_word: bool
    """Whether that is a word which is no known unit."""


def looks_like_amount(text: str) -> bool:
    """Say whether a text is a number, a date or a duration in some form, whether or not it can be read."""
    return bool(_LOOSE.fullmatch(text))


@cache
def other_digits() -> dict[int, str]:
    """Return the digits and marks of other scripts, as ours."""
    codes = range(128, sys.maxunicode)
    digits = {code: str(unicodedata.decimal(chr(code))) for code in codes if chr(code).isdecimal()}
    return digits | {ord("٫"): ".", ord("٬"): "'"}


def undress(text: str) -> Undressed | None:
    """Return what a text without surrounding blanks is as a number; None if it is none in any dress."""
    if not any(c.isdigit() for c in text) or len(text) > 64:
        return None
    text = text if text.isascii() else text.translate(_SIGNS | other_digits())
    if found := _HEX.fullmatch(text):
        number = float(int(found["sign"] + found["digits"], 16))
        return Undressed(number, number, "", False)
    if found := _NEGATIVE.fullmatch(text):
        text = f"-{found['size']}"
    found = _DRESSED.fullmatch(text)
    signs = [] if found is None else [sign for sign in found.group("sign", "inner", "behind") if sign]
    if found is None or len(signs) > 1:
        return None
    if found["behind"] and found["core"].isdigit():
        return None  # 24- is 24 or less
    core = found["core"]
    if _BLANKS.search(core):
        if not (grouped := _GROUPED.match(core)) or _BLANKS.search(core[grouped.end() :]):
            return None
        core = _BLANKS.sub("", core)
        if re.search(r"[.,][0-9]*[.,]", core):
            return None
    sign, power = "".join(signs), (found["power"] or "").upper().replace("D", "E")
    if found["power"] and found["power"][0] in "dD" and not re.search(r"[.,]|[-+]", core + found["power"]):
        return None  # 1D2 is a name rather than a number
    affix = " ".join(filter(None, (found["before"], found["after"] or found["word"])))
    affix = _PLURAL.sub("", affix)
    point = float(f"{sign}{core.replace(',', '')}{power}") if _POINT.fullmatch(core) else None
    comma = (
        float(f"{sign}{core.replace('.', '').replace(',', '.')}{power}") if _COMMA.fullmatch(core) else None
    )
    return None if point is None and comma is None else Undressed(point, comma, affix, bool(found["word"]))


@dataclass(frozen=True)
class NumberStyle:
    """How the numbers of a column are written."""

    comma: bool = False
    """Whether a comma begins the fraction."""
    affix: str = ""
    """The unit or currency that may stand beside them; others are refused."""
    is_asked: bool = False
    """Whether the recipe says so, and the affix is still to be found."""

    @classmethod
    def of(cls, example: str) -> "NumberStyle":
        """Make it of an example as a recipe gives it.

        Raises
        ------
        InputError
        """
        found = _EXAMPLE.fullmatch(example)
        if found is None or found["group"] == found["mark"]:
            raise InputError(
                f'numbers must say how 1234.56 is written, got {example!r}; give "{POINT}" or "{COMMA}"'
            )
        return cls(found["mark"] == ",", is_asked=True)

    @property
    def example(self) -> str:
        """How the number 1234.56 is written."""
        return COMMA if self.comma else POINT

    def read(self, text: str) -> float | None:
        """Return the number that a text stands for, or None."""
        found = undress(text)
        if found is None or not (self.is_asked or found.affix in ("", self.affix)):
            return None if self.comma else to_number(text)
        return found.comma if self.comma else found.point

    def plainly(self, text: str) -> str:
        """Return a number as a plain one; every other text as it is."""
        number = self.read(text)
        return text if number is None else number_name(number)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"example": self.example, "affix": self.affix}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "NumberStyle":
        """Make it of what `to_dict` returned."""
        return replace(cls.of(values["example"]), affix=values["affix"], is_asked=False)


def styles_of(numbers: Iterable[str]) -> dict[str, NumberStyle]:
    """Return how the numbers of columns are written, as texts `column=example` say it."""
    pairs = (text.rpartition("=") for text in numbers)
    return {column: NumberStyle.of(example) for column, _, example in pairs}


@dataclass(frozen=True)
class DressFacts:
    """How the values of a column of text may be read as numbers, in some blocks."""

    point: int = 0
    """Values that are numbers where a point begins the fraction."""
    comma: int = 0
    """The same where a comma does."""
    either: int = 0
    """Values that are numbers in one way at least."""
    differ: bool = False
    """Whether a value is a number in both ways, and not the same."""
    affixes: frozenset[str] = frozenset()
    words: bool = False
    """Whether some of them are words that are no known units."""
    example: str = ""
    """The first dressed value."""
    whole: bool = False
    """Whether some value has no mark but digits."""
    pointed: bool = False
    """Whether a plain number is another one where a comma begins the fraction."""

    @classmethod
    def of(cls, counted: Iterable[tuple[str, int]]) -> "DressFacts":
        """Gather them of distinct texts and how often each occurs."""
        point = comma = either = 0
        differ, words, whole, pointed, example = False, False, False, False, ""
        affixes: set[str] = set()
        for text, count in counted:
            if not count or (found := undress(text)) is None:
                continue
            point += count * (found.point is not None)
            comma += count * (found.comma is not None)
            either += count
            if None not in (found.point, found.comma) and found.point != found.comma:
                differ, pointed = True, pointed or to_number(text) is not None
            affixes.add(found.affix)
            words |= found.is_word
            whole |= text.isdigit()
            if not example and to_number(text) is None:
                example = text
        return cls(point, comma, either, differ, _few(affixes), words, example, whole, pointed)

    def merge(self, other: "DressFacts") -> "DressFacts":
        """Add those of blocks that come later."""
        return DressFacts(
            self.point + other.point,
            self.comma + other.comma,
            self.either + other.either,
            self.differ or other.differ,
            _few(self.affixes | other.affixes),
            self.words or other.words,
            self.example or other.example,
            self.whole or other.whole,
            self.pointed or other.pointed,
        )

    def style(self, values: int) -> NumberStyle | None:
        """Return how all values are written, where there is no doubt."""
        if not values or self.either < values or len(self.affixes) != 1:
            return None
        by_point, by_comma = self.point == values, self.comma == values
        if by_point == by_comma and (not by_point or self.differ):
            return None
        return NumberStyle(not by_point, next(iter(self.affixes)))

    def are_meant(self, values: int) -> bool:
        """Say whether nearly all values are numbers, some in a dress."""
        most = max(self.point, self.comma, self.either)
        return bool(self.example) and most >= NEARLY * values and not (self.words and len(self.affixes) > 1)

    def may_be_thousands(self, values: int) -> bool:
        """Say whether plain numbers have three digits behind every point, and some no point."""
        return not self.example and self.differ and self.whole and self.comma == values > 0

    def doubt(self, name: str, values: int) -> str:
        """Say why the numbers of a column were not read, and what to do."""
        text = f"list the column in text_columns ({name!r}), or drop it"
        ask = f'say how they are written, numbers: {{{name}: "{POINT}"}} or numbers: {{{name}: "{COMMA}"}}'
        if len([affix for affix in self.affixes if affix]) > 1:
            units = in_a_list(sorted(self.affixes))
            return f"its numbers have several units or currencies ({units}); write them in one, {text}"
        if self.either < values or max(self.point, self.comma) < values:
            left = values - max(self.point, self.comma)
            rule = f"{left:,} of its {values:,} values are no numbers"
            return f"{rule}; name them in missing_values and {ask}, {text}"
        if self.differ:
            return f"its commas or points may begin fractions or separate thousands; {ask}, {text}"
        return f"some of its numbers have a unit, others none; {ask}, {text}"


def told(name: str, style: NumberStyle, example: str) -> str:
    """Say how a column of dressed numbers is read."""
    number = style.read(example)
    unit = f", {quoted(style.affix)} left out" if style.affix else ""
    return (
        f"column {name!r} is read as numbers, {quoted(example)} as {number:.15g}{unit}; if it is text, "
        "list it in text_columns"
    )


def _few(affixes: Iterable[str]) -> frozenset[str]:
    return frozenset(sorted(affixes)[:_MOST_AFFIXES])
