"""What is typed into a field of the rules form, and the value it stands for in a pipeline."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dnnflow.design.draws import KINDS
from dnnflow.errors import InputError
from dnnflow.web.pages.form_fields import FORMS, FieldKind, FormField

_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_RANGE = re.compile(r"\s*(?:,|;|–|…|\.\.+|\bto\b|\s)\s*")
"""What may stand between the ends of a range."""
LENGTHS = {kind: draw.lengths() for kind, draw in KINDS.items() if kind != "choice"}
"""How many numbers a range is written with."""
HINTS = {"constant": "one value"} | {kind: draw.hint for kind, draw in KINDS.items()}
"""What is typed for each form of a parameter."""
FORM_LABELS = {"constant": "value"} | {kind: draw.label for kind, draw in KINDS.items()}


def read_value(field: FormField, text: str, form: str = "constant") -> Any:
    """Return the value that a text stands for; None for an empty one.

    Parameters
    ----------
    form
        Of a parameter of the space: one of `FORMS`.

    Raises
    ------
    InputError
        If it stands for none.
    """
    text = text.strip()
    match field.kind:
        case FieldKind.CHECK:
            return text in ("on", "true")
        case FieldKind.LINES:
            return [line.strip() for line in text.splitlines() if line.strip()] or None
    if not text:
        return None
    match field.kind:
        case FieldKind.PARAMETER:
            return _parameter(text, form)
        case FieldKind.INTEGER | FieldKind.NUMBER:
            return _number(text)
        case FieldKind.YAML:
            return _yaml(text)
    return text


def show_value(field: FormField, value: Any) -> tuple[str, str]:
    """Return the text for a value and, of a parameter, its form."""
    if field.kind is FieldKind.PARAMETER:
        return _show_parameter(value)
    if value is None:
        return "", "constant"
    match field.kind:
        case FieldKind.CHECK:
            return ("on" if value is True else ""), "constant"
        case FieldKind.LINES if isinstance(value, list | tuple):
            return "\n".join(map(str, value)), "constant"
        case FieldKind.TEXT | FieldKind.SELECT if isinstance(value, str):
            return value, "constant"
    return _flow(value), "constant"


def _parameter(text: str, form: str) -> Any:
    if form not in FORMS:
        raise InputError(f"a parameter must be one of {', '.join(FORMS)}, got {form!r}")
    if form == "constant":
        return scalar(text)
    if form == "choice":
        return {"choice": [scalar(part) for part in text.strip("[]").split(",") if part.strip()]}
    numbers = [_number(part) for part in _RANGE.split(text.strip("[]() ")) if part]
    if len(numbers) not in LENGTHS[form]:
        raise InputError(f"a range must be written {HINTS[form]}, got {text!r}")
    return {form: numbers}


def _show_parameter(value: Any) -> tuple[str, str]:
    if isinstance(value, Mapping) and len(value) == 1:
        form, inside = next(iter(value.items()))
        if form in FORMS and isinstance(inside, Sequence) and not isinstance(inside, str):
            return ", ".join(map(_flow, inside)), form
    return _flow(value), "constant"


def scalar(text: str) -> Any:
    """Return a text as a number, true, false or a text, as YAML reads it; `1e-3` is a number."""
    text = text.strip()
    if _FLOAT.fullmatch(text):
        return _number(text)
    value = _yaml(text)
    return value if isinstance(value, bool | str | int | float) else text


def _number(text: str) -> Any:
    text = text.strip()
    if not _FLOAT.fullmatch(text):
        raise InputError(f"a number must be written like 3, 0.5 or 1e-3, got {text!r}")
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"the value must be YAML, e.g. {{patience: 5}}, got {text!r}: {reason}") from error


def _flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()
