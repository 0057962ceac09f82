"""Read dates, times and durations as seconds, and take instants apart for a network.

An instant is in seconds since 1970, of UTC where it has a zone; a duration and a time of day are in seconds.
Which of day, month and year comes first, the values of a column say together, or the recipe does.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import InputError
from dnnflow.table.columns.dressing import other_digits
from dnnflow.table.columns.kinds import quoted

EXAMPLES = {"ymd": "2024-12-31", "dmy": "31/12/2024", "mdy": "12/31/2024"}
"""How each order of year, month and day writes the last day of 2024; a recipe says one of them."""
SPAN, CLOCK = "span", "clock"
"""Durations that say their units or have three parts, and those of hours and minutes only."""
ORDERS = tuple(EXAMPLES)
DAY_S = 86_400
PARTS = ("year", "day", "weekday", "hour")
"""Of an instant: its place in the year, the month, the week and the day."""

MOST_STRANGE = 8
"""Of the texts of a column that are no times, so many are known."""
_NEARLY = 0.9
_EPOCH = datetime(1970, 1, 1)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_WEEKDAY = (
    r"(?:(?:mon|tue|tues|wed|thu|thur|thurs|fri|sat|sun)(?:\.|,)?\s*|"
    r"(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s*)?"
)
_TIME = (
    r"(?:(?:t|,?\s+)(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"\s*(?P<half>[ap]\.?m\.?)?\s*(?P<zone>z|(?:utc|gmt)?[-+]\d{2}(?::?\d{2})?|utc|gmt)?"
    r"(?:\[[\w/+-]+\]|\s*\([\w\s]+\))?)?"
)
_NUMERIC = r"(?P<a>\d{1,4})(?P<mark>[-/.])(?P<b>\d{1,2})(?:(?P=mark)(?P<c>\d{4}|\d{1,2}))?"
_NAMED = (
    rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th)?[-\s.]*{_MONTH}[-\s,]*(?P<named_year>\d{{4}}|\d{{2}})",
    rf"{_MONTH}\s*(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<named_year>\d{{4}})",
    rf"(?P<named_year>\d{{4}})[-\s./]*{_MONTH}[-\s./]*(?P<day>\d{{1,2}})?",
    rf"{_MONTH}[-\s,./]*(?P<named_year>\d{{4}})",
)
_COMPACT = (
    r"(?P<a>\d{4})(?P<b>\d{2})(?P<c>\d{2})(?P<mark>)"
    r"(?:[t ]?(?P<hour>\d{2}):?(?P<minute>\d{2})(?::?(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?P<half>)(?P<zone>z|[-+]\d{2}(?::?\d{2})?)?)?"
)
"""The basic form of ISO 8601; without a T it is a number, too."""
_CLOCK_INSIDE = (
    rf"{_MONTH}\s+(?P<day>\d{{1,2}})\s+(?P<hour>\d{{1,2}}):(?P<minute>\d{{2}}):(?P<second>\d{{2}})(?P<fraction>)"
    r"(?P<half>)(?:\s+(?P<zone>utc|gmt))?\s+(?P<named_year>\d{4})"
)
"""As C writes it: Fri May 31 18:00:05 2024."""
_PERIOD = r"(?P<year>\d{4})[-\s]?(?:w(?P<week>\d{2})(?:-?(?P<weekday>[1-7]))?|q(?P<quarter>[1-4]))"
_DATES = [
    re.compile(one, re.IGNORECASE | re.ASCII)
    for one in (
        *(_WEEKDAY + one + _TIME for one in (_NUMERIC, *_NAMED)), _WEEKDAY + _CLOCK_INSIDE, _COMPACT, _PERIOD
    )
]  # fmt: skip
_SPANS = [
    re.compile(one, re.IGNORECASE | re.ASCII)
    for one in (
        r"(?P<sign>[-+])?(?P<h>\d+):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d(?:\.\d+)?))?",
        r"(?P<h>\d{1,2})(?::(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d(?:\.\d+)?))?)?\s*(?P<half>[ap])\.?m\.?",
        r"(?P<sign>[-+])?(?P<m>\d+):(?P<s>[0-5]\d\.\d+)",
        r"(?P<d>[-+]?\d+) days?(?:,?\s+\+?(?P<h>\d+):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d(?:\.\d+)?))?)?",
        r"(?P<sign>[-+])?P(?=.)(?:(?P<w>\d+)W)?(?:(?P<d>\d+(?:\.\d+)?)D)?"
        r"(?:T(?=.)(?:(?P<h>\d+(?:\.\d+)?)H)?(?:(?P<m>\d+(?:\.\d+)?)M)?(?:(?P<s>\d+(?:\.\d+)?(?:e[-+]?\d+)?)S)?)?",
        r"(?P<sign>[-+])?(?=.*[a-z].*\d)(?:(?P<d>\d+)\s*d(?:ays?)?\s*)?(?:(?P<h>\d+)\s*h(?:ours?|rs?)?\s*)?"
        r"(?:(?P<m>\d+)\s*m(?:in(?:utes?|s)?)?\s*)?(?:(?P<s>\d+(?:\.\d+)?)\s*s(?:ec(?:onds?|s)?)?)?",
    )
]
_MARKS = {ord("年"): "-", ord("月"): "-", ord("日"): " "}
_UNIT_S = {"w": 7.0 * DAY_S, "d": float(DAY_S), "h": 3600.0, "m": 60.0, "s": 1.0}
_NAMES = "|".join((*_MONTHS, "mon", "tue", "wed", "thu", "fri", "sat", "sun"))
BEGINS = re.compile(rf"[-+]?(?:pt?)?\d|(?:{_NAMES})", re.IGNORECASE)
"""What a text begins with that may be an instant or a duration."""


class _Instant(NamedTuple):
    """What a text means by each order that fits it."""

    seconds: dict[str, float]
    has_zone: bool
    is_dotted: bool
    """Whether points stand between its numbers, which is the mark of day, month, year."""


def _plain(text: str) -> str:
    """Return a text with our digits and marks between the parts of a date."""
    return text if text.isascii() else text.translate(_MARKS | other_digits()).strip()


def _instant(text: str) -> _Instant | None:
    text = _plain(text)
    for pattern in _DATES:
        if found := pattern.fullmatch(text):
            break
    else:
        return None
    parts = found.groupdict()
    if "quarter" in parts:
        return _period(parts)
    micro, has_zone = _time_of(parts)
    if micro is None:
        return None
    days = {order: day for order in ORDERS if (day := _day(parts, order)) is not None}
    seconds = {order: (day * DAY_S * 1_000_000 + micro) / 1e6 for order, day in days.items()}
    return _Instant(seconds, has_zone, parts.get("mark") == ".") if seconds else None


def _period(parts: Mapping[str, str | None]) -> _Instant | None:
    """Return the first day of a week or a quarter of a year."""
    year = int(str(parts["year"]))
    try:
        if parts["week"]:
            first = datetime.fromisocalendar(year, int(parts["week"]), int(parts["weekday"] or 1))
        else:
            first = datetime(year, 3 * int(str(parts["quarter"])) - 2, 1)
    except ValueError:
        return None
    seconds = float((first - _EPOCH).days * DAY_S)
    return _Instant(dict.fromkeys(ORDERS, seconds), False, False)


def _day(parts: Mapping[str, str | None], order: str) -> int | None:
    """Return the days since 1970 of a date by an order; None if it does not fit."""
    year: str | None
    month: str | None
    day: str | None
    if parts.get("month"):
        number = _MONTHS.index(str(parts["month"])[:3].lower()) + 1
        year, month, day = parts["named_year"], str(number), parts.get("day") or "1"
    else:
        a, b, c, mark = (parts[name] for name in ("a", "b", "c", "mark"))
        if len(str(a)) == 4:
            year, month, day = a, b, c or "1"
            if c is None and (mark == "." or len(str(b)) < 2):
                return None
        elif c is None or len(str(a)) == 3:
            return None
        elif len(c) < 3 and (len(c) < 2 or (mark != "/" and len(f"{a}{b}") < 4)):
            return None  # 1.2.10 is a version rather than a day
        else:
            named = dict(zip(order, (a, b, c), strict=True))
            year, month, day = named["y"], named["m"], named["d"]
    years = str(year)
    if len(years) not in (2, 4) or len(str(day)) > 2 or len(str(month)) > 2:
        return None
    century = 0 if len(years) == 4 else 1900 if int(years) > 68 else 2000
    try:
        return (datetime(century + int(years), int(str(month)), int(str(day))) - _EPOCH).days
    except ValueError:
        return None


def _time_of(parts: Mapping[str, str | None]) -> tuple[int | None, bool]:
    """Return the microseconds since midnight, of UTC where there is a zone, and whether there is one."""
    if parts["hour"] is None:
        return 0, False
    hour, minute, second = (int(parts[name] or 0) for name in ("hour", "minute", "second"))
    if half := parts["half"]:
        if not 1 <= hour <= 12:
            return None, False
        hour = hour % 12 + (12 if half[0] in "pP" else 0)
    is_midnight = hour == 24 and not (minute or second or int(parts["fraction"] or 0))
    if (hour > 23 and not is_midnight) or minute > 59 or second > 60:  # 60 is a leap second
        return None, False
    micro = int((parts["fraction"] or "").ljust(6, "0")[:6])
    zone, offset = parts["zone"], 0
    sign = zone.lower().removeprefix("utc").removeprefix("gmt")[:1] if zone else ""
    if zone and sign in ("+", "-"):
        digits = zone.partition(sign)[2].replace(":", "").ljust(4, "0")
        offset = (int(digits[:2]) * 3600 + int(digits[2:]) * 60) * (-1 if sign == "-" else 1)
    return (hour * 3600 + minute * 60 + second - offset) * 1_000_000 + micro, bool(zone)


def _span(text: str) -> tuple[str, float] | None:
    """Return whether a duration is a span or of hours and minutes only, and its seconds."""
    text = _plain(text)
    matches = (pattern.fullmatch(text) for pattern in _SPANS)
    parts = next((found.groupdict() for found in matches if found and any(found.groupdict().values())), None)
    if parts is None:
        return None
    is_short = ":" in text and parts["s"] is None and "d" not in parts
    sign, half = -1.0 if parts.pop("sign", None) == "-" else 1.0, parts.pop("half", None)
    if half is not None:
        hour = int(parts["h"] or 0)
        if not 1 <= hour <= 12:
            return None
        parts["h"], is_short = str(hour % 12 + (12 if half in "pP" else 0)), False
    seconds = sum(_UNIT_S[unit] * float(value) for unit, value in parts.items() if value)
    return CLOCK if is_short else SPAN, sign * seconds


@dataclass(frozen=True)
class TimeStyle:
    """How the instants or durations of a column are written."""

    form: str
    """Of instants ymd, dmy or mdy, the order of numbers where the year is not first; of durations span, or
    clock where some may have hours and minutes only."""
    has_zone: bool = False
    """Whether instants have a zone."""
    is_asked: bool = False
    """Whether the recipe or the column's type says so."""
    zone_is_asked: bool = True
    """Whether instants must have a zone, or none, as `has_zone` says."""

    @classmethod
    def of(cls, example: str) -> "TimeStyle":
        """Make it of an example as a recipe gives it.

        Raises
        ------
        InputError
        """
        form = next((form for form, known in EXAMPLES.items() if known == example), None)
        if form is None:
            raise InputError(
                "dates must say how the last day of 2024 is written, got "
                f"{example!r}; give {', '.join(map(repr, EXAMPLES.values()))}"
            )
        return cls(form, is_asked=True, zone_is_asked=False)

    @property
    def is_instant(self) -> bool:
        """Whether it is of instants rather than durations."""
        return self.form in ORDERS

    @property
    def example(self) -> str:
        """How something is written so."""
        if not self.is_instant:
            return "8:15" if self.form == CLOCK else "1:02:03"
        return EXAMPLES[self.form] + (" 18:00Z" if self.has_zone else "")

    def read(self, text: str) -> float | None:
        """Return the seconds that a text stands for, or None."""
        if not BEGINS.match(text):
            return None
        if self.is_instant:
            found = _instant(text)
            if found is None or (self.zone_is_asked and found.has_zone != self.has_zone):
                return None
            return found.seconds.get(self.form)
        span = _span(text)
        return None if span is None or (span[0] == CLOCK and self.form == SPAN) else span[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"form": self.form, "has_zone": self.has_zone}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TimeStyle":
        """Make it of what `to_dict` returned."""
        return cls(values["form"], values["has_zone"])


@dataclass(frozen=True)
class TimeFacts:
    """How the values of a column of text may be read as instants or durations, in some blocks."""

    forms: Mapping[str, int] = field(default_factory=dict)
    """Values that each form reads."""
    read: int = 0
    """Values that some form reads."""
    zoned: int = 0
    """Instants with a zone."""
    differ: str = ""
    """The first text that two orders of day and month read, and not alike."""
    only_dots: bool = True
    """Whether all such texts have points."""
    example: str = ""
    strange: frozenset[str] = frozenset()
    """Texts that no form reads; a few of them."""

    @classmethod
    def of(cls, counted: Iterable[tuple[str, int]]) -> "TimeFacts":
        """Gather them of distinct texts and how often each occurs."""
        forms: dict[str, int] = {}
        read, zoned, differ, only_dots, example = 0, 0, "", True, ""
        strange = set[str]()
        for text, count in counted:
            if not count:
                continue
            if not BEGINS.match(text):
                strange |= {text} if len(strange) <= MOST_STRANGE else set()
                continue
            if (instant := _instant(text)) is not None:
                fitting: Iterable[str] = instant.seconds
                zoned += count * instant.has_zone
                if len({*instant.seconds.values()}) > 1:
                    differ, only_dots = differ or text, only_dots and instant.is_dotted
            elif (span := _span(text)) is not None:
                fitting = (span[0],)
            else:
                strange |= {text} if len(strange) <= MOST_STRANGE else set()
                continue
            read, example = read + count, example or text
            for form in fitting:
                forms[form] = forms.get(form, 0) + count
        return cls(forms, read, zoned, differ, only_dots, example, frozenset(strange))

    def merge(self, other: "TimeFacts") -> "TimeFacts":
        """Add those of blocks that come later."""
        forms = {n: self.forms.get(n, 0) + other.forms.get(n, 0) for n in (*self.forms, *other.forms)}
        return TimeFacts(
            forms, self.read + other.read, self.zoned + other.zoned, self.differ or other.differ,
            self.only_dots and other.only_dots, self.example or other.example,
            self.strange if len(self.strange) > MOST_STRANGE else self.strange | other.strange,
        )  # fmt: skip

    def style(self, values: int) -> TimeStyle | None:
        """Return how all values are written, where there is no doubt."""
        if not values or self.zoned not in (0, values):
            return None
        whole = [form for form in (*ORDERS, SPAN, CLOCK) if self.forms.get(form) == values]
        if self.differ and len(whole) > 1:
            whole = ["dmy"] if self.only_dots and "dmy" in whole else []
        return TimeStyle(whole[0], bool(self.zoned)) if whole else None

    def are_meant(self, values: int) -> bool:
        """Say whether nearly all values are instants or durations."""
        return values > 0 and self.read >= _NEARLY * values

    def doubt(self, name: str, values: int) -> str:
        """Say why the instants of a column were not read, and what to do."""
        text = f"list the column in text_columns if it is text, or drop it (drop: [{name}])"
        if self.read < values:
            return (
                f"nearly all of its values are dates or durations, such as {quoted(self.example)}: correct "
                f"the others, name them in missing_values, {text}"
            )
        if 0 < self.zoned < values:
            return f"some of its times have a zone and some have none: write all alike, {text}"
        if self.forms.get(SPAN) or self.forms.get(CLOCK):
            return (
                "its durations are of several kinds (hours:minutes, hours:minutes:seconds, dates): write all "
                f"with seconds, {text}"
            )
        example = quoted(self.differ or self.example)
        return (
            f"{example} may begin with the day, the month or the year: say how the last day of 2024 is "
            f'written there, dates: {{{name}: "{EXAMPLES["dmy"]}"}} or "{EXAMPLES["mdy"]}" '
            f"(--date-column {name}={EXAMPLES['dmy']}), {text}"
        )


def is_compact_date(text: str) -> bool:
    """Say whether a number is a day of this or the last century in the basic form of ISO 8601: 20240531."""
    return len(text) == 8 and text.isdigit() and text[:2] in ("19", "20") and _instant(text) is not None


def is_time(text: str) -> bool:
    """Say whether a text is an instant or a duration in some form."""
    return bool(BEGINS.match(text)) and (_instant(text) or _span(text)) is not None


def told(name: str, style: TimeStyle, example: str) -> str:
    """Say how a column's instants or durations are read."""
    seconds = style.read(example)
    if seconds is None:
        return ""
    if style.is_instant:
        moment = _EPOCH + timedelta(seconds=seconds)
        zone = " UTC" if style.has_zone else ""
        clock = f", {moment:%H:%M:%S}" if seconds % DAY_S else ""
        what = f"dates, {quoted(example)} as {moment:%d %B %Y}{clock}{zone}"
    else:
        what = f"durations in seconds, {quoted(example)} as {seconds:.15g}"
    return f"column {name!r} is read as {what}; if it is text, list it in text_columns"


def parts_of(seconds: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the parts of instants, shape (rows,) each, by `PARTS`; NaN of a missing one.

    year is the day of the year, 0 to 365, day that of the month, 0 to 30, weekday 0 (Monday) to 6, and hour
    the hours since midnight with their fraction.
    """
    missing = np.isnan(seconds)
    whole = np.floor(np.where(missing, 0.0, seconds) / DAY_S)
    days = whole.astype(np.int64).astype("datetime64[D]")
    found = {
        "year": (days - days.astype("datetime64[Y]")).astype(np.float64),
        "day": (days - days.astype("datetime64[M]")).astype(np.float64),
        "weekday": (whole + 3) % 7,  # 1 January 1970 was a Thursday
        "hour": (np.where(missing, 0.0, seconds) - whole * DAY_S) / 3600,
    }
    return {name: np.where(missing, np.nan, values) for name, values in found.items()}


PERIODS = {"year": 366.0, "weekday": 7.0, "hour": 24.0}
"""Of parts that begin anew: they become sine and cosine."""
LONGEST_MONTH = 31.0
