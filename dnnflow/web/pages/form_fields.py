"""The fields of the rules form, made from the pipeline's JSON schema."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from dnnflow.design.draws import KINDS
from dnnflow.design.layers import ACTIVATIONS, INITIALIZERS, OPTIMIZERS
from dnnflow.design.space import LAYER_FIELDS
from dnnflow.engines.registry import engine_names
from dnnflow.pipeline.study_pipeline import Pipeline

GENERAL = ""
"""Name of the group of fields that stand in no section."""
LEFT_OUT = (
    "kind", "dataset.source", "dataset.label", "dataset.storage_options", "space.reference", "space.explicit",
    "space.code_folder", "executor.address", "executor.scheduler_file", "executor.dashboard_port",
    "outputs.report",
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
    plain = next((one for one in part.get("anyOf", ()) if one.get("type") != "null"), part)
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
