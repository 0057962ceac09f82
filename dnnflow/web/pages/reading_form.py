"""Ask how an upload is to be read: the fields that its kind has, and what was typed there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from dnnflow.web.uploads.reading import UploadReading
from dnnflow.web.uploads.uploads import WebUpload

_DELIMITERS = (("", "as found"), (",", "comma ,"), (";", "semicolon ;"), ("\t", "tab"), ("|", "bar |"),
               (" ", "blanks, any number"), (":", "colon :"))  # fmt: skip
_TEXTS = (("", "as found"), ("csv", "with something between fields"), ("fwf", "columns of fixed width"))
_ENCODINGS = ("utf-8", "utf-16", "latin-1", "cp1252", "iso-8859-15", "cp1251", "shift_jis", "gb18030")


@dataclass(frozen=True)
class ReadingField:
    """One question of how a table is read."""

    name: str
    """As in `UploadReading`."""
    label: str
    kinds: tuple[str, ...] = ()
    """Of files that it is asked of; of all where there are none."""
    help: str = ""
    options: tuple[tuple[str, str], ...] = ()
    """Values and words to choose from; without, a text is typed."""
    suggestions: tuple[str, ...] = ()
    text: str = ""
    """What is there."""


READING_FIELDS = (
    ReadingField("format", "Text", ("csv", "fwf"), options=_TEXTS),
    ReadingField("delimiter", "Between fields", ("csv",), options=_DELIMITERS),
    ReadingField("header", "First line", ("csv", "fwf", "excel"),
                 options=(("", "has the columns' names"), ("no", "is a row of values"))),
    ReadingField("encoding", "Encoding", ("csv", "fwf", "keel", "arff"), "Empty: as found.",
                 suggestions=_ENCODINGS),
    ReadingField("sheet", "Sheet", ("excel",), "Of a workbook; empty: the first."),
    ReadingField("query", "Table, or a SELECT", ("sql",), "Of an SQLite file; empty: its only table."),
    ReadingField("missing_values", "Also missing", (), "By commas, e.g. -999, unknown. Empty fields, NA "
                 "and the like are missing anyway."),
)  # fmt: skip
"""All questions, without what is there."""

_AS_TRAINED = "as the table trained on"
ROWS_FIELDS = (
    ReadingField("delimiter", "Between fields", options=(("", _AS_TRAINED), *_DELIMITERS[1:])),
    ReadingField("header", "First line", options=(("", _AS_TRAINED), ("true", "has the columns' names"),
                                                  ("false", "is a row of values"))),
    ReadingField("encoding", "Encoding", help="Empty: as found.", suggestions=_ENCODINGS),
    ReadingField("sheet", "Sheet", help="Of a workbook; empty: as the table trained on."),
    ReadingField("missing_values", "Also missing", help="By commas, besides what was so in the training."),
)  # fmt: skip
"""Questions of how rows are written that a model is to predict."""


def reading_fields(upload: WebUpload, typed: Mapping[str, str] | None = None) -> list[ReadingField]:
    """Return the questions of an upload's kind, with what was typed, or what was said when it came."""
    reading, said = upload.profile.reading, upload.asked.said()
    kind = reading.get("format", "csv")
    found = []
    for one in READING_FIELDS:
        if one.kinds and kind not in one.kinds:
            continue
        if one.name == "delimiter" and "delimiter" not in said:
            words = dict(one.options).get(reading.get("delimiter", ""), repr(reading.get("delimiter", "")))
            one = replace(one, options=(("", f"as found: {words}"), *one.options[1:]))
        if one.name == "format" and kind == "fwf" and "format" not in said:
            one = replace(one, options=(("", "as found: columns of fixed width"), *one.options[1:]))
        if one.name == "encoding":
            one = replace(one, help=f"Empty: as found, {reading.get('encoding', 'utf-8')}.")
        if one.name == "sheet":
            sheets = upload.profile.parts
            one = replace(one, options=tuple((name, name) for name in sheets), help="")
            said = {"sheet": sheets[0] if sheets else "", **said}
        if one.name == "query":
            one = replace(
                one, suggestions=upload.profile.parts, help=f"Tables: {', '.join(upload.profile.parts)}."
            )
        text = (typed or {}).get(one.name, "") if typed is not None else _shown(said.get(one.name))
        found.append(replace(one, text=text))
    return found


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return "no" if value is False else str(value or "")


def asked_in(form: Mapping[str, str]) -> UploadReading:
    """Return how a table is to be read by what was typed.

    Raises
    ------
    InputError
        If a field breaks its rule.
    """
    marks = [mark.strip() for mark in form.get("missing_values", "").split(",")]
    return UploadReading(
        format=cast(Any, form.get("format") or None),
        delimiter=form.get("delimiter") or None,
        encoding=form.get("encoding", "").strip() or None,
        header=form.get("header") != "no",
        sheet=form.get("sheet") or None,
        query=form.get("query", "").strip() or None,
        missing_values=[mark for mark in marks if mark],
    )
