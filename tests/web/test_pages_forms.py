"""The rules form: made from the schema, read as typed, shown as it was, wrong at the right field."""

from collections.abc import Mapping
from typing import Any

import pytest

from dnnflow.pipeline.pipeline_file import check_text
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.web.pages import forms
from dnnflow.web.pages.forms import (
    FORM_OF,
    FORMS,
    HINTS,
    LEFT_OUT,
    LENGTHS,
    USE,
    FieldKind,
    Trouble,
    field_groups,
    fields_by_path,
    form_of,
    read_form,
    read_value,
    show_value,
    to_yaml,
)

BASE = {"source": "upload:x", "label": "digit"}


def check(plain: Mapping[str, Any]) -> tuple[Pipeline | None, list[Trouble]]:
    """Validate as the server does, but for its uploads."""
    from pathlib import Path

    pipeline, problems = check_text(to_yaml(plain), folder=Path("/nowhere"))
    found = [Trouble(one.where, one.message) for one in problems]
    return (pipeline if isinstance(pipeline, Pipeline) else None), found


def sent(form: forms.RulesForm, **typed: str) -> dict[str, str]:
    """Return what a browser sends of a form after somebody typed."""
    data = {**form.texts, **{path + FORM_OF: name for path, name in form.forms.items()}}
    data |= {USE + section: "on" for section in form.used}
    for path, one in fields_by_path().items():
        if one.kind is FieldKind.CHECK and not form.texts[path]:
            del data[path]
    return data | typed


def test_every_field_of_a_study_is_in_the_form_or_left_out_with_a_reason() -> None:
    schema = Pipeline.model_json_schema()
    wanted = set()
    for name, part in schema["properties"].items():
        references = [one.get("$ref", "") for one in part.get("anyOf", [part])]
        section = next((one.rpartition("/")[2] for one in references if one), None)
        inside = schema["$defs"][section]["properties"] if section else None
        wanted |= {name} if inside is None else {f"{name}.{key}" for key in inside}
    assert set(fields_by_path()) | set(LEFT_OUT) == wanted
    assert not set(fields_by_path()) & set(LEFT_OUT)


def test_help_is_the_schemas_description() -> None:
    assert fields_by_path()["space.depth"].help == "Number of hidden layers."
    assert all(one.help for one in fields_by_path().values())


@pytest.mark.parametrize(
    ("form", "text", "value"),
    [
        ("constant", "3", 3),
        ("constant", "1e-3", 0.001),
        ("constant", "true", True),
        ("constant", "relu", "relu"),
        ("choice", "relu, tanh", {"choice": ["relu", "tanh"]}),
        ("choice", "[0.0, 0.2]", {"choice": [0.0, 0.2]}),
        ("choice", "true, false", {"choice": [True, False]}),
        ("int", "1, 5", {"int": [1, 5]}),
        ("int", "1 to 9, 2", {"int": [1, 9, 2]}),
        ("int", "1–5", {"int": [1, 5]}),
        ("log_int", "1, 1000, 40", {"log_int": [1, 1000, 40]}),
        ("uniform", "0 … 0.5", {"uniform": [0, 0.5]}),
        ("loguniform", "1e-4, 0.1", {"loguniform": [0.0001, 0.1]}),
        ("uniform", "-1.5, 2", {"uniform": [-1.5, 2]}),
    ],
)
def test_a_parameter_is_read_as_people_write_it(form: str, text: str, value: object) -> None:
    one = fields_by_path()["space.units"]
    assert read_value(one, text, form) == value
    shown, shown_form = show_value(one, value)
    assert shown_form == form
    assert read_value(one, shown, form) == value


@pytest.mark.parametrize(
    ("form", "text"), [("int", "1"), ("int", "1, 2, 3, 4"), ("uniform", "a, b"), ("log_int", "1, 2")]
)
def test_a_range_that_is_none_says_how_it_is_written(form: str, text: str) -> None:
    with pytest.raises(ValueError, match="must be written"):
        read_value(fields_by_path()["space.units"], text, form)


def test_all_forms_of_a_parameter_have_words() -> None:
    assert set(HINTS) == set(FORMS) == {*LENGTHS, "constant", "choice"}


STARTS: list[dict[str, Any]] = [
    {"space": {"depth": {"int": [1, 5]}, "activation": {"choice": ["relu", "tanh"]}}, "designs": 10},
    {"space": {"learning_rate": {"loguniform": [0.001, 0.1]}, "batch_norm": {"choice": [True, False]},
               "per_layer": ["units"], "units": {"choice": [8, 16]}}, "designs": 5},
    {"space": {"early_stopping": {"patience": 3},
               "schedule": {"kind": "exponential", "parameters": {"rate": 0.9}},
               "optimizer": "sgd", "optimizer_parameters": {"momentum": 0.9}},
     "designs": 1, "training": {"time_limit_s": 30.0}, "evaluation": {"holdout": 0.2}},
    {"dataset": {"drop": ["a", "b"], "header": False, "delimiter": ";"}, "strategy": "grid",
     "space": {"depth": {"int": [1, 3]}}, "preprocess": {"scale": "standard", "indicator": True}},
    {"refit": {"replicas": 2, "synchronous": True}, "designs": 3, "outputs": {"models": 1}},
]  # fmt: skip


@pytest.mark.parametrize("start", STARTS)
def test_a_pipeline_that_goes_through_the_form_stays_itself(start: dict[str, Any]) -> None:
    plain = {"name": "x", **start, "dataset": {**start.get("dataset", {}), **BASE}}
    before, problems = check(plain)
    assert problems == []
    form = form_of(plain, check)
    back = read_form(sent(form), check, base=BASE)
    assert back.troubles == ()
    assert back.pipeline is not None
    assert back.pipeline.model_dump() == before.model_dump()  # type: ignore[union-attr]
    assert check_text(back.yaml, folder=__import__("pathlib").Path("/"))[1] == []


def test_what_is_wrong_stands_at_its_field_and_hides_nothing_else() -> None:
    form = form_of({"name": "x", "dataset": BASE, "designs": 10}, check)
    typed = {"space.depth": "one, two", "space.depth:form": "int", "designs": "0", "space.units": "-3",
             "training.engine": "nothing", "space.early_stopping": "{patience"}  # fmt: skip
    back = read_form(sent(form, **typed), check, base=BASE)
    assert back.pipeline is None
    for path in ("space.depth", "designs", "space.units", "training.engine", "space.early_stopping"):
        assert back.trouble_at(path), path
    assert back.trouble_at("space.activation") == ""
    assert back.texts["space.depth"] == "one, two"
    assert "-3" in back.trouble_at("space.units")


def test_an_optional_section_is_there_only_when_it_is_asked_for() -> None:
    form = form_of({"name": "x", "dataset": BASE, "designs": 10}, check)
    assert read_form(sent(form), check, base=BASE).pipeline.refit is None  # type: ignore[union-attr]
    with_refit = read_form(sent(form, **{"use:refit": "on", "refit.replicas": "2"}), check, base=BASE)
    assert with_refit.pipeline.refit.replicas == 2  # type: ignore[union-attr]
    assert [group.section for group in field_groups() if group.is_optional] == ["refit"]


def test_a_field_that_is_emptied_is_the_pipelines_default() -> None:
    form = form_of({"name": "x", "dataset": BASE, "designs": 10, "space": {"depth": {"int": [1, 5]}}}, check)
    back = read_form(sent(form, **{"space.depth": "", "evaluation.test_fraction": ""}), check, base=BASE)
    assert back.pipeline.space.depth == 2  # type: ignore[union-attr]
    assert back.pipeline.evaluation.test_fraction == 0.2  # type: ignore[union-attr]


def test_yaml_beside_the_form_has_ranges_in_one_line() -> None:
    text = to_yaml({"space": {"depth": {"int": [1, 5]}, "units": {"choice": [16, 32]}}, "designs": 3})
    assert "depth: {int: [1, 5]}" in text
    assert "units: {choice: [16, 32]}" in text
