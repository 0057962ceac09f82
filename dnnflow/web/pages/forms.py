"""The rules form: a pipeline as text fields with their problems, and back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from dnnflow.design.draws import KINDS
from dnnflow.errors import InputError
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.web.pages.form_fields import FieldGroup, FieldKind, FormField, field_groups, fields_by_path
from dnnflow.web.pages.form_values import read_value, show_value

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
    troubles: tuple[Trouble, ...] = field(default=())

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
