"""What a pipeline file may say, and how everything wrong with it is told with its line."""

from pathlib import Path

import pytest
import yaml
from conftest import PIPELINES

from dnnflow.errors import PipelineError
from dnnflow.pipeline import Pipeline
from dnnflow.pipeline_file import find_problems, load_pipeline, merge, to_yaml

GOOD = """\
name: test
dataset:
  source: data.csv
  label: kind
space:
  depth: {int: [1, 3]}
designs: 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pipeline.yaml"


def problems_of(file: Path, text: str) -> list[str]:
    file.write_text(text)
    return [str(problem) for problem in find_problems(file)]


@pytest.mark.parametrize("path", sorted(PIPELINES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_pipeline_is_valid(path: Path) -> None:
    pipeline = load_pipeline(path)
    assert Path(pipeline.dataset.source).is_file()
    assert pipeline.name == path.stem


def test_every_shipped_table_has_a_pipeline() -> None:
    sources = {Path(load_pipeline(path).dataset.source) for path in PIPELINES.glob("*.yaml")}
    assert sources == set((PIPELINES / "data").glob("*.csv"))


def test_a_relative_source_is_relative_to_the_file(file: Path) -> None:
    file.write_text(GOOD)
    assert load_pipeline(file).dataset.source == str(file.parent / "data.csv")


@pytest.mark.parametrize("source", ["https://example.org/a.csv", "s3://bucket/a.csv", "/data/a.csv"])
def test_an_absolute_source_stays_as_it_is(file: Path, source: str) -> None:
    file.write_text(GOOD.replace("data.csv", source))
    assert load_pipeline(file).dataset.source == source


def test_a_pipeline_survives_being_written_and_read(file: Path) -> None:
    pipeline = load_pipeline(PIPELINES / "wide-search.yaml")
    file.write_text(to_yaml(pipeline))
    assert load_pipeline(file) == pipeline
    assert Pipeline.model_validate(pipeline.plain()) == pipeline


def test_numbers_written_with_an_exponent_are_numbers(file: Path) -> None:
    file.write_text(GOOD.replace("depth: {int: [1, 3]}", "learning_rate: {loguniform: [1e-3, 1E-2]}"))
    assert load_pipeline(file).plain()["space"]["learning_rate"] == {"loguniform": [0.001, 0.01]}


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("label: kind", "lable: kind"), 4, "dataset.lable: unknown key; known keys here: source, label"),
        (("  label: kind\n", ""), 2, "dataset.label: this key is required"),
        (("designs: 2", "designs: 0"), 7, "designs: Input should be greater than or equal to 1, got 0"),
        (("designs: 2", "designs: many"), 7, "designs: "),
        (("{int: [1, 3]}", "{int: [3, 1]}"), 5, "space: "),
        (("{int: [1, 3]}", "{between: [1, 3]}"), 6, "space.depth"),
        (("{int: [1, 3]}", "{choice: []}"), 6, "space.depth"),
        (("{int: [1, 3]}", "0.5"), 5, "space: "),
        (("name: test", "name: test\ntraining:\n  engine: kerass"), 3, "training.engine: "),
        (("name: test", "name: test\ntraining: {device: tpu}"), 2, "training.device: "),
        (("name: test", "name: a\nname: b"), 2, "the key 'name' stands twice"),
        (("{int: [1, 3]}", "{int: [1, 3"), 7, "not valid YAML"),
        (("designs: 2", "strategy: random"), 1, "random needs a number of designs"),
        (("depth: {int: [1, 3]}", "early_stopping: {patience: 0}"), 6, "space.early_stopping.patience: "),
        (("depth: {int: [1, 3]}", "schedule: {kind: linear}"), 6, "space.schedule.kind: "),
        (("depth: {int: [1, 3]}", "activation: relux"), 5, "activation must be one of"),
        (("depth: {int: [1, 3]}", "early_stopping: {patience: 3}"), 5, "validation_fraction"),
    ],
)
def test_a_problem_is_told_with_its_line(file: Path, change: tuple[str, str], line: int, said: str) -> None:
    found = problems_of(file, GOOD.replace(*change))
    assert found, "no problem was found"
    assert any(text.startswith(f"line {line}: ") and said in text for text in found), found


def test_all_problems_are_told_at_once(file: Path) -> None:
    found = problems_of(file, GOOD.replace("name", "nam").replace("designs: 2", "designs: -1"))
    assert [text.split(":")[0] for text in found] == ["line 1", "line 7"]


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(
        PipelineError, match=r"a pipeline must be a readable YAML file, got .*pipeline\.yaml: No such"
    ):
        load_pipeline(file)


def test_an_override_is_laid_over_the_file(file: Path) -> None:
    file.write_text(GOOD)
    pipeline = load_pipeline(file, ["designs=5", "dataset.label=other", "space.depth={choice: [1, 2]}"])
    assert pipeline.designs == 5
    assert pipeline.dataset.label == "other"
    assert pipeline.plain()["space"] == {"depth": {"choice": [1, 2]}}


def test_an_override_without_a_value_is_refused(file: Path) -> None:
    file.write_text(GOOD)
    with pytest.raises(PipelineError, match=r"an override must be written section\.key=value, got 'designs'"):
        load_pipeline(file, ["designs"])


def test_merging_goes_mapping_by_mapping() -> None:
    base = {"a": {"b": 1, "c": {"int": [1, 2]}}, "d": 1}
    assert merge(base, {"a": {"c": {"choice": [3]}}}) == {"a": {"b": 1, "c": {"choice": [3]}}, "d": 1}
    assert base["d"] == 1


def described(schema: dict) -> list[str]:
    """Return the fields of a schema that no word explains."""
    parts = {"Pipeline": schema, **schema.get("$defs", {})}
    return [
        f"{part}.{name}"
        for part, body in parts.items()
        for name, field in body.get("properties", {}).items()
        if not field.get("description")
    ]


def test_every_field_of_the_schema_is_documented() -> None:
    assert not described(Pipeline.model_json_schema())


def test_the_schema_accepts_what_the_model_accepts() -> None:
    schema = Pipeline.model_json_schema()
    data = yaml.safe_load((PIPELINES / "quickstart.yaml").read_text())
    assert set(data) <= set(schema["properties"])
    assert schema["additionalProperties"] is False
