"""Make the rules form from the pipeline's JSON schema: its fields, what is typed there, and back."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import yaml

from dnnflow.design.draws import KINDS
from dnnflow.design.layers import ACTIVATIONS, INITIALIZERS, OPTIMIZERS
from dnnflow.design.space import LAYER_FIELDS
from dnnflow.engines.registry import engine_names
from dnnflow.errors import InputError
from dnnflow.pipeline.study_pipeline import Pipeline

# Fields

GENERAL = ""
"""Name of the group of fields that stand in no section."""
LEFT_OUT = (
    "kind", "dataset.source", "evaluation.test_source", "dataset.label", "dataset.storage_options",
    "dataset.format", "dataset.sheet", "dataset.query",
    "space.reference", "space.explicit", "space.code_folder", "executor.address", "executor.scheduler_file",
    "executor.dashboard_port", "outputs.report",
)  # fmt: skip
"""Fields that name a place or code, those that two pages before have set, and designs one by one."""
FORMS = ("constant", *KINDS)
"""What a parameter of the space may be."""
FIRST = ("depth", "units", "activation", "learning_rate", "batch_size", "epochs", "dropout")
"""Parameters of the space that most studies set; the others unfold."""
TITLES = {
    GENERAL: "How many designs",
    "space": "Designs to draw from",
    "dataset": "Reading the table",
    "preprocess": "Preprocessing",
    "evaluation": "Rows to compare and to measure on",
    "training": "Training",
    "executor": "Workers",
    "outputs": "What is kept",
    "refit": "Train the best design on all rows",
}
"""Groups in the order they are shown; further sections of the schema follow under their own name."""
LABELS = {
    "depth": "hidden layers", "units": "units a layer", "batch_norm": "batch normalisation",
    "l2": "L2 penalty",
    "residual": "layers a residual group", "per_layer": "drawn for each layer", "designs": "designs",
    "time_limit_s": "time limit, s", "stack_mb": "memory of a stack, MiB", "drop": "columns to leave out",
    "finalists_share": "most share of the study for finalists", "prefer": "finalist that wins",
    "ensemble": "most designs of the ensemble", "repeats": "repeats of the folds",
    "all_rows": "train once more on all rows",
}  # fmt: skip


class FieldKind(StrEnum):
    """How a field is shown and read."""

    TEXT = "text"
    NUMBER = "number"
    INTEGER = "integer"
    CHECK = "check"
    SELECT = "select"
    LINES = "lines"
    """A list of texts, one a line."""
    PARAMETER = "parameter"
    """Of the space: what it is (`FORMS`), and the text of its values."""
    YAML = "yaml"
    """Anything else, as YAML in one line."""


@dataclass(frozen=True)
class FormField:
    """One field of the form."""

    path: str
    """Dotted, as in the pipeline: also the name in the HTML form."""
    kind: FieldKind
    help: str
    """The schema's description."""
    default: Any
    """What the pipeline takes where the field is left out."""
    options: tuple[str, ...] = ()
    """Of a select, all; of a text or a parameter, suggestions."""
    least: float | None = None
    most: float | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def label(self) -> str:
        """The name in words."""
        words = LABELS.get(self.name, self.name.replace("_", " "))
        return words[:1].upper() + words[1:]

    @property
    def is_first(self) -> bool:
        """Whether it is shown without unfolding its group."""
        return self.path.startswith("space.") and self.name in FIRST


@dataclass(frozen=True)
class FieldGroup:
    """Fields that stand together: a section of the pipeline, or those in none."""

    section: str
    title: str
    help: str
    fields: tuple[FormField, ...]
    is_optional: bool = False
    """Whether the section as a whole may be absent, and is by default."""


@lru_cache(maxsize=1)
def field_groups() -> tuple[FieldGroup, ...]:
    """Return all groups of the form, in the order they are shown."""
    schema = Pipeline.model_json_schema()
    parts = schema["$defs"]
    general: list[FormField] = []
    found = {}
    for name, part in schema["properties"].items():
        reference, is_optional = _section(part)
        if reference is None:
            general += _fields("", {name: part})
            continue
        fields = tuple(_fields(name, parts[reference]["properties"]))
        found[name] = FieldGroup(name, TITLES.get(name, name), _line(parts[reference]), fields, is_optional)
    found[GENERAL] = FieldGroup(GENERAL, TITLES[GENERAL], "", tuple(general))
    order = [name for name in TITLES if name in found]
    return tuple(found[name] for name in [*order, *(name for name in found if name not in TITLES)])


@lru_cache(maxsize=1)
def fields_by_path() -> Mapping[str, FormField]:
    """Return all fields by their dotted path."""
    return {field.path: field for group in field_groups() for field in group.fields}


def _line(part: Mapping[str, Any]) -> str:
    return " ".join(part.get("description", "").split())


def _section(part: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Return the name of the section that a property refers to, and whether it may be absent."""
    variants = part.get("anyOf", [part])
    references = [one["$ref"].rpartition("/")[2] for one in variants if "$ref" in one]
    return (references[0] if references else None), "anyOf" in part


def _fields(section: str, properties: Mapping[str, Any]) -> Iterator[FormField]:
    for name, part in properties.items():
        path = f"{section}.{name}".removeprefix(".")
        if path not in LEFT_OUT:
            yield _field(path, part)


def _field(path: str, part: Mapping[str, Any]) -> FormField:
    variants = [one for one in part.get("anyOf", ()) if one.get("type") != "null"]
    plain = variants[0] if variants else part
    if {one.get("type") for one in variants} == {"string", "object"}:  # a word, or a mapping
        plain = {}
    least = plain.get("minimum", plain.get("exclusiveMinimum"))
    most = plain.get("maximum", plain.get("exclusiveMaximum"))
    kind, options = _kind(path, plain)
    return FormField(
        path=path,
        kind=kind,
        help=_line(part),
        default=part.get("default"),
        options=options,
        least=least,
        most=most if most is None or most < 2**53 else None,
    )


def _kind(path: str, plain: Mapping[str, Any]) -> tuple[FieldKind, tuple[str, ...]]:
    suggestions = _suggestions(path)
    variants = [one.get("$ref", "") for one in plain.get("oneOf", ())]
    if "#/$defs/IntRange" in variants:
        return FieldKind.PARAMETER, suggestions
    if "enum" in plain:
        return FieldKind.SELECT, tuple(plain["enum"])
    match plain.get("type"):
        case "boolean":
            return FieldKind.CHECK, ()
        case "integer":
            return FieldKind.INTEGER, ()
        case "number":
            return FieldKind.NUMBER, ()
        case "string":
            return FieldKind.TEXT, suggestions
        case "array" if plain.get("items", {}).get("type") == "string":
            return FieldKind.LINES, suggestions
    return FieldKind.YAML, suggestions


def _suggestions(path: str) -> tuple[str, ...]:
    match path:
        case "space.activation":
            return tuple(ACTIVATIONS)
        case "space.initializer":
            return tuple(INITIALIZERS)
        case "space.optimizer":
            return tuple(OPTIMIZERS)
        case "space.per_layer":
            return LAYER_FIELDS
        case "space.batch_norm":
            return ("true", "false")
        case "training.engine":
            return engine_names()
    return ()


# Values

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


# The form

FORM_OF = ":form"
"""After a parameter's path: the name of the input that says what it is."""
USE = "use:"
"""Before an optional section's name: the check box that says whether it is there."""


@dataclass(frozen=True)
class Trouble:
    """One thing wrong with a form."""

    where: str
    """Dotted path; empty for the pipeline as a whole."""
    message: str

    @property
    def at_field(self) -> str:
        """The path of the field that shows it; empty where there is none."""
        known = fields_by_path()
        parts = self.where.split(".")
        found = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        return next((path for path in found if path in known), "")


Check = Callable[[Mapping[str, Any]], tuple[Pipeline | None, list[Trouble]]]
"""Validates a pipeline: returns it, or None and what is wrong with it."""


@dataclass(frozen=True)
class RulesForm:
    """A pipeline as it stands in the form."""

    plain: Mapping[str, Any]
    """The pipeline as JSON types."""
    pipeline: Pipeline | None
    """None where something is wrong."""
    texts: Mapping[str, str]
    """What stands in each field, by its path."""
    forms: Mapping[str, str]
    """Of the space's parameters: constant, choice, …"""
    used: frozenset[str]
    """Optional sections that are there."""
    troubles: tuple[Trouble, ...] = ()

    @property
    def yaml(self) -> str:
        """The pipeline as YAML."""
        return to_yaml(self.plain)

    def trouble_at(self, path: str) -> str:
        """Return what is wrong with a field, empty where nothing is."""
        return "; ".join(trouble.message for trouble in self.troubles if trouble.at_field == path)

    @property
    def other_troubles(self) -> tuple[Trouble, ...]:
        """What is wrong and belongs to no field."""
        return tuple(trouble for trouble in self.troubles if not trouble.at_field)

    def is_open(self, group: FieldGroup) -> bool:
        """Whether a group that unfolds is shown: something in it was set, or is wrong."""
        return any(
            self.trouble_at(one.path) or value_at(self.plain, one.path) is not None
            for one in group.fields
            if not one.is_first
        )


def to_yaml(plain: Mapping[str, Any]) -> str:
    """Return a pipeline as YAML text, ranges in one line."""
    return yaml.dump(dict(plain), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes lists and mappings of scalars in one line, as people do."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        keys = {key.value for key, _ in node.value}
        node.flow_style = bool(keys & {*KINDS, "patience"})
        return node

    def represent_sequence(
        self, tag: str, sequence: Any, flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        node = super().represent_sequence(tag, sequence, flow_style)
        node.flow_style = all(isinstance(one, yaml.ScalarNode) for one in node.value)
        return node

    def ignore_aliases(self, data: Any) -> bool:
        return True


def form_of(plain: Mapping[str, Any], check: Check) -> RulesForm:
    """Return the form for a pipeline."""
    texts, forms = {}, {}
    for path, one in fields_by_path().items():
        value = value_at(plain, path)
        texts[path], forms[path] = show_value(one, one.default if value is None else value)
    used = {group.section for group in field_groups() if group.is_optional and plain.get(group.section)}
    pipeline, troubles = check(plain)
    return RulesForm(plain, pipeline, texts, forms, frozenset(used), tuple(troubles))


def read_form(data: Mapping[str, str], check: Check, *, base: Mapping[str, Any]) -> RulesForm:
    """Return the form that a person sent.

    Parameters
    ----------
    data
        Field path → text, `<path>:form` → form of a parameter, `use:<section>` → on.
    check
        Validates what was read.
    base
        What stands in no field: the dataset's source and label.
    """
    plain: dict[str, Any] = {"name": "study", "dataset": dict(base)}
    texts, forms, wrong = {}, {}, []
    used = frozenset(key.removeprefix(USE) for key in data if key.startswith(USE))
    for group in field_groups():
        if group.is_optional and group.section in used:
            plain.setdefault(group.section, {})
        for one in group.fields:
            texts[one.path] = data.get(one.path, "")
            forms[one.path] = data.get(one.path + FORM_OF, "constant")
            if group.is_optional and group.section not in used:
                continue
            try:
                value = read_value(one, texts[one.path], forms[one.path])
            except InputError as error:
                wrong.append(Trouble(one.path, str(error)))
                continue
            _put(plain, one, value)
    pipeline, troubles = check(plain)
    refused = {trouble.at_field for trouble in wrong}
    kept = [trouble for trouble in troubles if trouble.at_field not in refused]
    return RulesForm(plain, None if wrong else pipeline, texts, forms, used, (*wrong, *kept))


def _put(plain: dict[str, Any], one: FormField, value: Any) -> None:
    """Set a field that says something else than the default; some are always said."""
    section, _, name = one.path.rpartition(".")
    is_said = one.is_first or one.path in ("name", "strategy")
    if value is None or (value == one.default and not is_said):
        return
    if one.kind is FieldKind.LINES and value == list(one.default or ()):
        return
    (plain.setdefault(section, {}) if section else plain)[name] = value


def value_at(plain: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path, None where there is none."""
    value: Any = plain
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
