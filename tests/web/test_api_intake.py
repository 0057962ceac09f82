"""What a sent pipeline may name: no path, no address, no code, whoever asks."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from dnnflow.pipeline.study_pipeline import Pipeline, Section
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.web.jobs.intake import PLACES
from dnnflow.web.jobs.services import Services
from tests.web.recording import recorder
from tests.web.served import TestClient

IRIS = (Path(__file__).parents[2] / "pipelines" / "data" / "iris.csv").read_bytes()


@pytest.fixture
def source(client: TestClient) -> str:
    """What a pipeline says for an uploaded table."""
    answer = client.post("/api/v1/datasets", content=IRIS, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 201, answer.text
    return answer.json()["source"]


def pipeline_of(source: str, **more: object) -> dict[str, Any]:
    return {"name": "iris", "dataset": {"source": source, "label": "species"}, "designs": 4, **more}


def test_an_upload_becomes_a_path_that_only_the_launcher_sees(
    client: TestClient, services: Services, source: str
) -> None:
    answer = client.post("/api/v1/studies", json={"pipeline": pipeline_of(source)})
    assert answer.status_code == 201
    made = recorder(services).pipelines[answer.json()["study_id"]]
    assert isinstance(made, Pipeline)
    upload = services.uploads.get(source.removeprefix("upload:"))
    assert Path(made.dataset.source) == upload.path.absolute()
    assert str(upload.path) not in client.get(answer.headers["location"]).text


def test_the_same_as_yaml(client: TestClient, source: str) -> None:
    text = yaml.safe_dump(pipeline_of(source))
    answer = client.post("/api/v1/studies", content=text, headers={"Content-Type": "application/yaml"})
    assert answer.status_code == 201, answer.text


REFUSED = [
    ({"dataset": {"source": "/etc/passwd", "label": "x"}}, "dataset.source"),
    ({"dataset": {"source": "file:///etc/passwd", "label": "x"}}, "dataset.source"),
    ({"dataset": {"source": "http://169.254.169.254/latest", "label": "x"}}, "dataset.source"),
    ({"dataset": {"source": "s3://bucket/key", "label": "x"}}, "dataset.source"),
    ({"dataset": {"source": "upload:../../etc/passwd", "label": "x"}}, "dataset.source"),
    ({"dataset": {"source": "upload:", "label": "x"}}, "dataset.source"),
    ({"dataset": {"source": ["/etc/passwd"], "label": "x"}}, "dataset.source"),
    ({"dataset": {"label": "x"}}, "dataset.source"),
    ({"outputs": {"report": "/var/www/x.html"}}, "outputs.report"),
    ({"executor": {"address": "tcp://10.0.0.1:8786"}}, "executor.address"),
    ({"executor": {"scheduler_file": "/tmp/s.json"}}, "executor.scheduler_file"),
    ({"space": {"reference": {"function": "os:system"}}}, "space.reference"),
    ({"space": {"code_folder": "/tmp"}}, "space.code_folder"),
    ({"space": {"explicit": [{"reference": {"function": "os:system"}}]}}, "space.explicit.0.reference"),
    ({"training": {"engine": "os:system"}}, "training.engine"),
    ({"training": {"engine": ["os:system"]}}, "training.engine"),
]


@pytest.mark.parametrize(("part", "where"), REFUSED)
def test_places_and_code_are_refused(
    client: TestClient, services: Services, source: str, part: dict[str, object], where: str
) -> None:
    sent = {**pipeline_of(source), **part}
    answers = [
        client.post("/api/v1/studies", json={"pipeline": sent}),
        client.post("/api/v1/studies", content=yaml.safe_dump(sent), headers={"Content-Type": "text/yaml"}),
    ]
    for answer in answers:
        assert answer.status_code == 422
        assert where in [error["where"] for error in answer.json()["errors"]]
    estimated = client.post("/api/v1/studies/estimate", json={"pipeline": sent}).json()
    assert (estimated["valid"], where in [error["where"] for error in estimated["problems"]]) == (False, True)
    assert recorder(services).asked == []


def test_storage_options_are_refused(client: TestClient, source: str) -> None:
    sent = pipeline_of(source)
    sent["dataset"] |= {"storage_options": {"key": "secret"}}
    answer = client.post("/api/v1/studies", json={"pipeline": sent})
    assert (answer.status_code, "secret" in answer.text) == (422, False)


@pytest.mark.parametrize(
    "model",
    ["os:system", "/etc/passwd", "network.json", "study:nobody/1", "study:../../x/1", "study:x/9999999"],
)
def test_a_trainings_model_is_a_studys(
    client: TestClient, services: Services, source: str, model: str
) -> None:
    sent = {"model": {"source": model}, "dataset": {"source": source, "label": "species"}}
    answer = client.post("/api/v1/runs", json={"pipeline": sent})
    assert (answer.status_code, answer.json()["errors"][0]["where"]) == (422, "model.source")
    assert recorder(services).asked == []


@pytest.mark.parametrize(
    "more",
    [
        {"model": {"loss": "os:system"}},
        {"model": {"optimizer": "os:system"}},
        {"model": {"metrics": ["os:system"]}},
        {"model": {"code_folder": "/tmp"}},
        {"data": {"source": "/etc/passwd"}},
        {"parallel": {"checkpoint": "/tmp/x"}},
        {"outputs": {"model": "/tmp/x.keras"}},
    ],
)
def test_a_training_names_no_places_and_no_code_either(
    client: TestClient, services: Services, source: str, more: dict[str, dict[str, object]], make_study
) -> None:
    study_id = make_study(4)
    path = services.settings.workspace.model(study_id, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a model")
    sent: dict[str, dict[str, object]] = {
        "model": {"source": f"study:{study_id}/1"},
        "dataset": {"source": source, "label": "species"},
    }
    assert client.post("/api/v1/runs", json={"pipeline": sent}).status_code == 201
    for section, fields in more.items():
        sent[section] = {**sent.get(section, {}), **fields}
    assert client.post("/api/v1/runs", json={"pipeline": sent}).status_code == 422
    assert len(recorder(services).asked) == 1


HARMLESS = {
    "name", "dataset.label", "dataset.drop", "dataset.missing_values", "dataset.text_columns",
    "dataset.missing_labels", "dataset.numbers", "dataset.dates",
    "dataset.weights", "training.class_weight",
    "evaluation.groups", "evaluation.time", "evaluation.split",
    "dataset.delimiter", "dataset.quote", "dataset.encoding", "space.per_layer", "space.depth",
    "space.units", "space.activation", "space.dropout", "space.batch_norm", "space.initializer",
    "space.l2", "space.residual", "space.optimizer", "space.learning_rate",
    "space.optimizer_parameters", "space.schedule", "space.batch_size", "space.epochs",
    "space.early_stopping", "space.seed", "executor.memory_limit", "model.parameters",
    "parallel.target",
}  # fmt: skip
"""Fields that hold text which names neither a place nor code: `Space` takes known names only."""
RESOLVED = {"dataset.source", "model.source"}
CHECKED = {"training.engine", "space.explicit", "model.loss", "model.metrics", "model.optimizer"}


@pytest.mark.parametrize("kind", [Pipeline, TrainPipeline])
def test_every_field_of_a_pipeline_that_holds_text_was_thought_of(kind: type[BaseModel]) -> None:
    known = HARMLESS | RESOLVED | CHECKED | set(PLACES)
    assert {
        where for where in texts_of(kind) if where not in known and where.split(".")[0] not in PLACES
    } == set()


def texts_of(kind: type[BaseModel], where: str = "") -> list[str]:
    """Return fields of a section, and of those in it, whose type is not of numbers and fixed words alone."""
    found = []
    for name, field in kind.model_fields.items():
        section = next(
            (one for one in (field.annotation, *get_args(field.annotation)) if is_section(one)), None
        )
        if section is not None and name not in ("reference", "early_stopping"):
            found += texts_of(section, f"{where}{name}.")
        elif re.search(r"\bstr\b|\bAny\b|Section", str(field.annotation)):
            found.append(f"{where}{name}")
    return found


def is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def test_every_problem_is_told_at_once_and_by_its_line(client: TestClient, source: str) -> None:
    text = (
        f"dataset:\n  source: {source}\n  label: species\ndesigns: many\nspace:\n  depth: [1, 2]\n  unit: 3\n"
    )
    answer = client.post("/api/v1/studies", content=text, headers={"Content-Type": "application/yaml"})
    found = {(error["where"], error["line"]) for error in answer.json()["errors"]}
    assert {("designs", 4), ("space.unit", 7)} <= found


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1]\nb: *a\n",
        "a: [" * 5000,
        "{{{{",
        "- 1\n- 2\n",
        "!!python/object/apply:os.system ['true']",
        "dataset: !!python/name:os.system ''",
        "\x00",
        "a: 1\na: 2\n",
    ],
)
def test_yaml_that_is_no_pipeline_is_refused(client: TestClient, text: str) -> None:
    answer = client.post("/api/v1/studies", content=text, headers={"Content-Type": "application/yaml"})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"[" * 20000, b'"x"', b'{"pipeline": 1, "more": 2}']
)
def test_json_that_is_none_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/api/v1/studies", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)


def test_a_key_starts_one_study(client: TestClient, services: Services, source: str) -> None:
    headers = {"Idempotency-Key": "once"}
    first = client.post("/api/v1/studies", json={"pipeline": pipeline_of(source)}, headers=headers).json()
    again = client.post("/api/v1/studies", json={"pipeline": pipeline_of(source)}, headers=headers).json()
    assert first["study_id"] == again["study_id"]
    other = client.post("/api/v1/studies", json={"pipeline": pipeline_of(source, designs=5)}, headers=headers)
    assert (other.status_code, len(services.store.runs())) == (409, 1)


def test_a_million_designs_are_accepted_without_drawing_them(
    client: TestClient, services: Services, source: str
) -> None:
    import time

    space = {"depth": {"int": [1, 8]}, "learning_rate": {"loguniform": [0.001, 0.1]}}
    sent = pipeline_of(source, designs=1_000_000, space=space)
    client.post("/api/v1/studies/estimate", json={"pipeline": pipeline_of(source)})
    start = time.monotonic()
    made = client.post("/api/v1/studies", json={"pipeline": sent}).json()
    estimated = client.post("/api/v1/studies/estimate", json={"pipeline": sent}).json()
    assert time.monotonic() - start < 10
    given = recorder(services).pipelines[made["study_id"]]
    assert isinstance(given, Pipeline)
    assert given.designs == 1_000_000
    assert (estimated["valid"], estimated["designs"], estimated["features"], estimated["classes"]) == (
        True,
        1_000_000,
        4,
        3,
    )
    assert (
        estimated["parameters"]["least"]
        <= estimated["parameters"]["median"]
        <= estimated["parameters"]["most"]
    )
    assert estimated["processor_s"] > estimated["seconds_s"] / 64 > 0
