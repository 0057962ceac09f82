"""Say why the values of a column cannot be used, and what to do about it."""

import json
import shlex
from collections.abc import Mapping

from dnnflow.table.columns.dressing import POINT
from dnnflow.table.columns.kinds import ColumnKind, in_a_list, quoted
from dnnflow.table.columns.times import MOST_STRANGE, is_time
from dnnflow.table.text.inference import MOST_OTHERS, BadValue, ColumnFacts, is_dressed

_MARK_LIKE = frozenset({"n.a.", "n.d.", "n.v.", "k.a.", "#n/a", "#value!", "#div/0!", "<na>", "<null>",
                        "missing", "unknown",
                        "unk", "nil", "void", "tbd"})  # fmt: skip
"""Words that stand for a missing value in many tables, and are one of its categories in some."""


def units_fault(name: str, facts: ColumnFacts) -> tuple[BadValue | None, str]:
    """Return what is wrong with a column of numbers in several units, as `fault` does."""
    units = sorted(affix for affix in facts.dress.affixes if affix)
    if len(units) < 2:
        return None, ""
    return None, (
        f"column {name!r}: numbers must have one unit, got {in_a_list(units)}; write them in one, or list "
        "the column in text_columns"
    )


def zones_fault(name: str, facts: ColumnFacts) -> tuple[BadValue | None, str]:
    """Return what is wrong with a column of instants some of which have a zone, as `fault` does."""
    if facts.clock.zoned in (0, facts.values) or facts.clock.read < facts.values:
        return None, ""
    return None, f"column {name!r}: {facts.clock.doubt(name, facts.values)}"


def fault(
    name: str, kind: ColumnKind, facts: ColumnFacts, *, forced_text: bool, is_declared: bool = False
) -> tuple[BadValue | None, str]:
    """Return what is wrong with a column of that kind: where, and in words; ("" if nothing is).

    `is_declared` says that it is text by its type, where plain numbers are texts, too.
    """
    place = facts.first_text
    if kind is ColumnKind.TEXT and not forced_text and place is not None:
        if facts.dress.are_meant(facts.values):
            dressed = quoted(facts.dress.example)
            reason = f"column {name!r}: {dressed} is no plain number"
            if "," in facts.dress.example:
                reason = f"column {name!r}: {dressed} has a comma, which is no part of a number"
            return place, f"{reason}, and {facts.dress.doubt(name, facts.values)}"
        if not is_declared and _is_of_numbers(facts):
            mark = quoted(min(facts.others))
            return place, (
                f"column {name!r}: {mark} is not a number, as all other values are; name it in "
                "missing_values, or list the column in text_columns"
            )
        if facts.clock.are_meant(facts.values):
            doubt = facts.clock.doubt(name, facts.values)
            odd = facts.first_odd
            if odd is None or is_time(odd.value):
                return odd or place, f"column {name!r}: {doubt}"
            return odd, f"column {name!r}: {quoted(odd.value)} is no date, but {doubt}"
        if _is_of_times(facts):
            mark = min(facts.clock.strange)
            return place, (
                f"column {name!r}: {quoted(mark)} is no date or duration, as all other values are; name it "
                "in missing_values, or list the column in text_columns"
            )
    if kind in (ColumnKind.TIME, ColumnKind.DURATION) and place:
        return place, (
            f"column {name!r}: {quoted(place.value)} is not written as dates says; correct it, name it in "
            f"missing_values, list the column in text_columns, or drop it (drop: [{name}])"
        )
    if kind is ColumnKind.NUMBER and place:
        remedy = "name it in missing_values, list the column in text_columns, or drop the column"
        if is_dressed(facts):
            remedy = f'say how its numbers are written, e.g. numbers: {{{name}: "{POINT}"}}, {remedy}'
        return place, f"column {name!r}: {quoted(place.value)} is not a number; {remedy}"
    if kind is ColumnKind.NUMBER and (place := facts.first_infinite):
        remedy = "name it in missing_values, or drop the column"
        return place, f"column {name!r}: numbers must be finite, got {quoted(place.value)}; {remedy}"
    return None, ""


def all_faults(reasons: Mapping[str, str]) -> str:
    """Return what is wrong with columns, by name, as one message."""
    if len(reasons) == 1:
        return next(iter(reasons.values()))
    told = "; ".join(f"({place}) {reason}" for place, reason in enumerate(reasons.values(), 1))
    options = " ".join(shlex.join(["--drop", name]) for name in reasons)
    names = ", ".join(map(json.dumps, reasons))
    return f"{len(reasons)} columns cannot be used: {told}. To leave all out: drop: [{names}] ({options})"


def _is_of_numbers(facts: ColumnFacts) -> bool:
    """Say whether a column of text has numbers, and besides only what is likely to mean missing."""
    numbers = len(facts.texts) - len(facts.others)
    if not facts.numbers or len(facts.others) > MOST_OTHERS:
        return False
    if all(is_mark_like(text) for text in facts.others):
        return numbers > 1
    return len(facts.others) == 1 and numbers > MOST_OTHERS


def _is_of_times(facts: ColumnFacts) -> bool:
    """Say whether a column of text has dates, and besides only what is likely to mean missing."""
    strange = facts.clock.strange
    is_few = len(strange) == 1 or (0 < len(strange) <= MOST_STRANGE and all(map(is_mark_like, strange)))
    return is_few and len(facts.texts) - len(strange) > MOST_OTHERS


def is_mark_like(text: str) -> bool:
    """Say whether a text looks as if it stood for a missing value: signs only, or a word for it."""
    return text.lower() in _MARK_LIKE or not any(c.isalnum() for c in text)
