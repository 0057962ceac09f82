"""What a pipeline file may say, and how everything wrong with it is told with its line."""

from pathlib import Path

import pytest
import yaml

from dnnflow.errors import PipelineError
from dnnflow.pipeline.pipeline_file import find_problems, load_any, load_pipeline, merge, to_yaml
from dnnflow.pipeline.study_pipeline import Pipeline
from tests.conftest import PIPELINES

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
    pipeline = load_any(path)
    assert pipeline.dataset is not None
    assert Path(pipeline.dataset.source).is_file()
    assert pipeline.name == path.stem


def test_every_shipped_table_has_a_pipeline() -> None:
    datasets = [load_any(path).dataset for path in PIPELINES.glob("*.yaml")]
    sources = {dataset and Path(dataset.source) for dataset in datasets}
    assert sources == set((PIPELINES / "data").glob("*.csv"))


def test_a_relative_source_is_relative_to_the_file(file: Path) -> None:
    file.write_text(GOOD)
    assert load_pipeline(file).dataset.source == str(file.parent / "data.csv")


def test_every_relative_path_is_relative_to_the_file(file: Path) -> None:
    file.write_text(GOOD + "outputs: {report: out/report.html}\nexecutor: {scheduler_file: scheduler.json}\n")
    pipeline = load_pipeline(file)
    assert pipeline.outputs.report == str(file.parent / "out" / "report.html")
    assert pipeline.executor.scheduler_file == str(file.parent / "scheduler.json")


def test_a_path_that_is_not_given_stays_so(file: Path) -> None:
    file.write_text(GOOD)
    assert set(load_pipeline(file).plain()) == {"name", "dataset", "space", "designs"}


def test_a_relative_path_of_an_override_is_relative_to_where_one_is(
    file: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    file.write_text(GOOD)
    pipeline = load_pipeline(file, ["dataset.source=b.csv", "outputs={report: report.html}"])
    assert pipeline.dataset.source == str(here / "b.csv")
    assert pipeline.outputs.report == str(here / "report.html")


@pytest.mark.parametrize("source", ["https://example.org/a.csv", "s3://bucket/a.csv", "/data/a.csv"])
def test_an_absolute_source_stays_as_it_is(file: Path, source: str) -> None:
    file.write_text(GOOD.replace("data.csv", source))
    assert load_pipeline(file).dataset.source == source


def test_a_pipeline_may_have_several_labels(file: Path) -> None:
    file.write_text(GOOD.replace("label: kind", "label: [kind, size]\n  task: multilabel"))
    pipeline = load_pipeline(file)
    assert (pipeline.recipe.labels, pipeline.recipe.task) == (("kind", "size"), "multilabel")
    file.write_text(to_yaml(pipeline))
    assert load_pipeline(file) == pipeline
    file.write_text(GOOD.replace("label: kind", "label: [kind]"))
    assert load_pipeline(file).recipe.label == "kind"


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
        (("label: kind", "label: [kind, kind]"), 4, "dataset.label: labels must differ, got 'kind' twice"),
        (("label: kind", "label: 5"), 4, "dataset.label: label must be a text or a list of texts, got 5"),
        (("label: kind", "label: kind\n  task: sort"), 5, "dataset.task: Input should be 'auto', 'class"),
        (("designs: 2", "designs: 0"), 7, "designs: Input should be greater than or equal to 1, got 0"),
        (("designs: 2", "designs: many"), 7, "designs: "),
        (("{int: [1, 3]}", "{int: [3, 1]}"), 6, "space.depth: int takes whole numbers"),
        (("{int: [1, 3]}", "{log_int: [1, 3, 4]}"), 6, "space.depth: log_int takes a count in [2, 3]"),
        (("{int: [1, 3]}", "{log_int: [1, 3]}"), 6, "space.depth"),
        (("{int: [1, 3]}", "{between: [1, 3]}"), 6, "space.depth"),
        (("{int: [1, 3]}", "{choice: []}"), 6, "space.depth"),
        (("{int: [1, 3]}", "0.5"), 6, "space.depth: depth must be a whole number"),
        (("name: test", "name: test\ntraining:\n  engine: kerass"), 3, "training.engine: "),
        (("name: test", "name: test\ntraining: {device: tpu}"), 2, "training.device: "),
        (("name: test", "name: a\nname: b"), 2, "the key 'name' stands twice"),
        (("{int: [1, 3]}", "{int: [1, 3"), 7, "not valid YAML"),
        (("designs: 2", "strategy: random"), 1, "random needs a number of designs"),
        (("depth: {int: [1, 3]}", "early_stopping: {patience: 0}"), 6, "space.early_stopping.patience: "),
        (("depth: {int: [1, 3]}", "schedule: {kind: linear}"), 6, "space.schedule.kind: "),
        (("depth: {int: [1, 3]}", "activation: relux"), 6, "space.activation: activation must be one of"),
        (
            ("depth: {int: [1, 3]}", "early_stopping: {patience: 3}\nevaluation: {select_on: test}"),
            6,
            "space.early_stopping: early",
        ),
        (("depth: {int: [1, 3]}", "optimizer_parameters:\n    rho: 0.5"), 7, "optimizer_parameters.rho: "),
        (("depth: {int: [1, 3]}", "explicit:\n  - {}\n  - {depth: 3}"), 8, "space.explicit.1: "),
        (("label: kind", "label: kind\n  delimiter: ab"), 5, "dataset.delimiter: delimiter must be one"),
        (("label: kind", "label: kind\n  encoding: utf-9"), 5, "dataset.encoding: encoding must be one"),
        (("label: kind", "label: kind\n  drop: [kind]"), 5, "dataset.drop: label must not be dropped"),
        (("label: kind", "label: kind\n  delimiter: ;\n  quote: ;"), 6, "dataset.quote: quote and delimiter"),
        (("name: test", "executor:\n  address: localhost:8786"), 2, "executor.address: an address must be"),
        (("name: test", "executor:\n  address: tcp://host:none"), 2, "executor.address: an address must be"),
        (("name: test", "executor:\n  memory_limit: lots"), 2, "executor.memory_limit: memory_limit must be"),
        (("name: test", "name: 2026-13-45"), 1, "not valid YAML: month must be in 1..12"),
        (("depth: {int: [1, 3]}", "explicit: [{layers: 5}]"), 6, "space.explicit.0: layers must be a list"),
        (
            ("depth: {int: [1, 3]}", "explicit: [{optimizer: 5}]"),
            6,
            "space.explicit.0: optimizer must be wri",
        ),
        (
            ("{int: [1, 3]}", "2\n  learning_rate: 1" + "0" * 400),
            7,
            "space.learning_rate: learning_rate must",
        ),
        (("name: test", "? [name]\n: test"), 1, "a key must be a text, got ['name']"),
    ],
)
def test_a_problem_is_told_with_its_line(file: Path, change: tuple[str, str], line: int, said: str) -> None:
    found = problems_of(file, GOOD.replace(*change))
    assert found, "no problem was found"
    assert any(text.startswith(f"line {line}: ") and said in text for text in found), found


def test_all_problems_are_told_at_once(file: Path) -> None:
    found = problems_of(file, GOOD.replace("name", "nam").replace("designs: 2", "designs: -1"))
    assert [text.split(":")[0] for text in found] == ["line 1", "line 7"]


EVERYTHING_WRONG = """\
dataset:
  source: data.csv
  encoding: utf-9
  test_fraction: 2
preprocess:
  scale: big
space:
  depth: {int: [1, 3]}
  units: {choice: []}
  activation: {choice: [relu, relux]}
  dropout: {uniform: [0.5, 1.5]}
  optimizer: {choice: [adam, lamb]}
  per_layer: [width]
  reference:
    function: no_such_module:build
    parameters:
      width: {int: [2, 1]}
training:
  engine: kerass
  device: tpu
executor:
  address: localhost:8786
  memory_limit: lots
colour: red
"""


def test_no_problem_hides_another(file: Path) -> None:
    """Types, values, names of code and the missing number of designs, each on its line."""
    found = problems_of(file, EVERYTHING_WRONG)
    lines = [int(text.removeprefix("line ").split(":")[0]) for text in found]
    assert sorted(lines) == lines
    assert [line for line in lines if line != 1] == [
        3, 4, 6, 9, 10, 11, 12, 13, 15, 17, 19, 20, 22, 23, 24,
    ]  # fmt: skip
    absent = {text.split(": ")[1] for text in found if text.startswith("line 1:")}
    assert absent == {"dataset.label", "designs"}


def test_a_field_is_not_blamed_for_another(file: Path) -> None:
    """Momentum is right for the optimizer that could be meant: only its name is wrong."""
    space = "optimizer: {choice: [sgd, 3, []]}\n  optimizer_parameters: {momentum: 0.9}"
    found = problems_of(file, GOOD.replace("depth: {int: [1, 3]}", space))
    assert {text.split(":")[0] for text in found} == {"line 6"}


def test_code_beside_the_pipeline_is_found(file: Path) -> None:
    (file.parent / "beside_the_pipeline.py").write_text("def build(**parameters): ...\nwidth = 3\n")
    space = "reference:\n    function: beside_the_pipeline:{}"
    assert not problems_of(file, GOOD.replace("depth: {int: [1, 3]}", space.format("build")))
    for name, said in (("width", "got 'beside_the_pipeline:width', a int"), ("make", "AttributeError")):
        [found] = problems_of(file, GOOD.replace("depth: {int: [1, 3]}", space.format(name)))
        assert found.startswith("line 7: space.reference.function: ")
        assert said in found


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


@pytest.mark.parametrize("text", ["designs=[", "name=2026-13-45", "space.depth={int: [1, 2}"])
def test_an_override_that_is_no_yaml_is_refused_on_one_line(file: Path, text: str) -> None:
    file.write_text(GOOD)
    with pytest.raises(PipelineError, match=r"the value of an override must be YAML, got ") as raised:
        load_pipeline(file, [text])
    assert "\n" not in str(raised.value)


def test_what_an_override_breaks_is_not_blamed_on_the_file(file: Path) -> None:
    file.write_text(GOOD)
    [found] = find_problems(file, ["space.epochs=0", "space.units=3"])
    assert found.where == "space.epochs"
    assert found.message.endswith(", got 0 (set by an override)")
    file.write_text(GOOD.replace("designs: 2", "designs: 0"))
    assert not [p for p in find_problems(file, ["space.epochs=3"]) if "override" in p.message]


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


def test_a_metric_is_named_among_those_there_are(tmp_path: Path) -> None:
    text = "dataset: {source: a.csv, label: y}\ndesigns: 3\nevaluation: {metric: f2}\n"
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(PipelineError, match=r"line 3: evaluation.metric: .*accuracy.*log_loss.*f2"):
        load_pipeline(tmp_path / "p.yaml")
