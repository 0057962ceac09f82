"""What the study flow decides by itself, without a server: parameters, shards, whose study, what is shown."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psutil
import pytest
import yaml
from jsonschema import Draft202012Validator

from dnnflow.design.layers import Design
from dnnflow.engines.records import Portion
from dnnflow.errors import ClusterError, DataError
from dnnflow.events import (
    ClusterReady,
    Notice,
    RowsRead,
    Stage,
    StageFinished,
    StageStarted,
    TrialsStored,
    WorkerLost,
    WorkerRecycled,
)
from dnnflow.execute.portions import StudyPlan, designs_of
from dnnflow.pipeline.pipeline_file import load_pipeline
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import Driver
from dnnflow.results.store.store import Store
from dnnflow.serve.deployment_defaults import every_part_optional, read_pipeline
from dnnflow.settings import Settings
from dnnflow.table.store.dataset import Dataset

ROOT = Path(__file__).parents[2]
STORED = TrialsStored(
    total=100, completed=20, failed=2, elapsed_s=4.0, rate=5.5, eta_s=14.2, best_score=0.95,
    best_design="2 x 64 relu",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def flows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make the flow's modules importable the way Prefect does, and keep Prefect out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "flows"))
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.setenv("DO_NOT_TRACK", "1")
        yield


@pytest.fixture
def iris_pipeline() -> Pipeline:
    """Two designs on the iris table."""
    pipeline = load_pipeline(ROOT / "pipelines" / "iris.yaml")
    return pipeline.model_copy(update={"designs": 2})


# Parameters


def test_a_run_may_give_any_part_of_a_pipeline_but_no_unknown_field() -> None:
    schema = every_part_optional(Pipeline.model_json_schema())
    validator = Draft202012Validator(schema)
    training = Draft202012Validator(every_part_optional(TrainPipeline.model_json_schema()))
    for path in (ROOT / "pipelines").glob("*.yaml"):
        data = yaml.safe_load(path.read_text())
        assert (training if "model" in data else validator).is_valid(data), path
    assert training.is_valid({"parallel": {"epochs": 4}})
    assert not training.is_valid({"parallel": {"epoch": 4}})
    assert validator.is_valid({"designs": 4})
    assert validator.is_valid({"dataset": {"drop": ["id"]}, "space": {"units": {"choice": [4, 8]}}})
    assert not validator.is_valid({"desings": 4})
    assert not validator.is_valid({"dataset": {"lable": "digit"}})
    assert not validator.is_valid({"designs": 0})
    assert "$ref" not in json.dumps(schema)


def test_a_field_named_required_is_kept() -> None:
    schema = {"properties": {"required": {"type": "boolean"}}, "required": ["required"]}
    assert every_part_optional(schema) == {"properties": {"required": {"type": "boolean"}}}


def test_a_default_is_the_file_wherever_the_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    default = read_pipeline("pipelines/quickstart.yaml")
    written = yaml.safe_load((ROOT / "pipelines" / "quickstart.yaml").read_text())
    source = default["pipeline"]["dataset"].pop("source")
    assert Path(source) == ROOT / "pipelines" / written["dataset"].pop("source")
    assert json.loads(json.dumps(default["pipeline"])) == written
    assert default["root"] == str(ROOT)


def test_what_a_run_gives_is_laid_over_its_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    import pipeline_form
    from pydantic import TypeAdapter

    default = load_pipeline(ROOT / "pipelines" / "quickstart.yaml").plain()

    @dataclass
    class Client:
        def __enter__(self) -> "Client":
            return self

        def __exit__(self, *error: object) -> None:
            return None

        def read_deployment(self, deployment_id: str) -> Any:
            assert deployment_id == "the deployment"
            return SimpleNamespace(parameters={"pipeline": default})

    monkeypatch.setattr(pipeline_form, "get_client", lambda sync_client: Client())
    monkeypatch.setattr(pipeline_form.runtime, "deployment", SimpleNamespace(id="the deployment"))
    monkeypatch.setattr(pipeline_form.runtime, "flow_run", SimpleNamespace(flow_name="study"))
    given = {"designs": 4, "space": {"units": 8, "epochs": 1}}
    merged = TypeAdapter(pipeline_form.PipelineForm).validate_python(given)
    assert (merged.designs, merged.space.units, merged.space.epochs) == (4, 8, 1)
    assert merged.dataset.label == "digit"
    # A choice is replaced whole; what was not given stays as the file has it.
    assert merged.space.depth == Pipeline.model_validate(default).space.depth


def test_without_a_deployment_a_pipeline_stands_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    import pipeline_form

    monkeypatch.setattr(pipeline_form.runtime, "deployment", SimpleNamespace(id=None))
    assert pipeline_form.over_default({"designs": 4}, "study") == {"designs": 4}


def test_a_flow_that_another_deployed_flow_calls_has_a_pipeline_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pipeline_form

    given = {"designs": 4}
    monkeypatch.setattr(pipeline_form.runtime, "deployment", SimpleNamespace(id="of the caller"))
    monkeypatch.setattr(pipeline_form.runtime, "flow_run", SimpleNamespace(flow_name="nightly"))
    assert pipeline_form.over_default(given, "study") == given  # in a thread that knows no flow
    monkeypatch.setattr(pipeline_form.runtime, "flow_run", SimpleNamespace(flow_name="study"))
    for context in ("FlowRunContext", "TaskRunContext"):
        with monkeypatch.context() as within:
            within.setattr(pipeline_form, context, SimpleNamespace(get=lambda: "the caller's"))
            assert pipeline_form.over_default(given, "study") == given


# Shards, studies, retries


@pytest.mark.parametrize("designs", [1, 49, 50, 51, 499, 501, 5000])
def test_shards_cover_every_design_once(designs: int) -> None:
    from study import shards

    plan = StudyPlan(single=tuple(Portion((Design(seed=seed),)) for seed in range(designs)))
    timeless = SimpleNamespace(minutes=None)
    held = SimpleNamespace(designs=list(range(designs)), plan=plan, is_trained=False, pipeline=timeless)
    slices = shards(held)
    assert 1 <= len(slices) <= 10
    trained = [one for shard in slices for one in designs_of(plan.shard(shard.number - 1, shard.of))]
    assert [design.seed for design in trained] == list(range(designs))


@pytest.mark.parametrize(("stacks", "expected"), [(3, 1), (16, 2), (1000, 10)])
def test_a_shard_has_enough_stacks_to_keep_workers_busy(stacks: int, expected: int) -> None:
    """Between shards all workers wait for the last stack."""
    from study import shards

    pairs = [Portion((Design(seed=2 * i), Design(seed=2 * i + 1))) for i in range(stacks)]
    plan, timeless = StudyPlan(stacks=tuple(pairs)), SimpleNamespace(minutes=None)
    held = SimpleNamespace(designs=range(5000), plan=plan, is_trained=False, pipeline=timeless)
    assert len(shards(held)) == expected


def flow_run(name: str, *, scheduled: bool) -> Any:
    """Return the context of a flow run."""
    return SimpleNamespace(flow_run=SimpleNamespace(id=name, auto_scheduled=scheduled))


@pytest.fixture
def begin(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, iris: Dataset, iris_pipeline: Pipeline
) -> Callable[..., Any]:
    """Begin the study that a flow run belongs to."""
    import study

    monkeypatch.setenv("DNNFLOW_HOME", str(settings.workspace.home))

    def begin(context: Any, pipeline: Pipeline = iris_pipeline) -> Any:
        monkeypatch.setattr(study.FlowRunContext, "get", lambda: context)
        return study.stages.begin(study.run_of(pipeline, None), iris)

    return begin


def test_a_scheduled_run_makes_a_new_study_and_its_retry_goes_on_with_it(
    begin: Callable[..., Any], settings: Settings, iris_pipeline: Pipeline
) -> None:
    nightly = begin(flow_run("first", scheduled=True)).id
    by_hand = begin(None).id
    assert by_hand == nightly, "without a schedule, the study of the same key goes on"
    assert begin(flow_run("by hand", scheduled=False)).id == nightly
    assert begin(flow_run("first", scheduled=True)).id == nightly
    second_night = begin(flow_run("second", scheduled=True)).id
    assert second_night != nightly
    # The retry of a run that failed before it had a study: those there are belong to earlier runs.
    third_night = begin(flow_run("third", scheduled=True)).id
    assert third_night not in {nightly, second_night}
    with Store(settings.store_url) as store:
        assert len(store.studies()) == 3, "no study is made and left empty"
    # What it studies has changed before the retry: its study stays as it is
    longer = iris_pipeline.model_copy(update={"designs": 3})
    assert begin(flow_run("third", scheduled=True), longer).id not in {nightly, second_night, third_night}


def test_a_run_by_hand_leaves_a_study_alone_that_another_run_is_at(begin: Callable[..., Any]) -> None:
    """`study/quickstart` must not fail because the nightly run of the same pipeline is at work."""
    nightly = begin(flow_run("nightly", scheduled=True))
    mine, parent = Driver.this_process(), psutil.Process(os.getppid())
    nightly.store.claim(nightly.id, Driver(mine.host, parent.pid, parent.create_time()))
    before = nightly.record
    assert begin(flow_run("by hand", scheduled=False)).id != nightly.id
    assert nightly.record == before


@pytest.mark.parametrize(
    ("error", "cause", "again"),
    [
        (ClusterError("no worker"), None, True),
        (ConnectionResetError("reset"), None, True),
        (DataError("cannot be read"), TimeoutError("no answer"), True),
        (DataError("cannot be read"), FileNotFoundError("no such file"), False),
        (DataError("a label column must exist"), None, False),
        (ValueError("a defect"), None, False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, cause: Exception | None, again: bool) -> None:
    from study import may_pass

    error.__cause__ = cause
    state = SimpleNamespace(result=lambda raise_on_failure: error)
    assert may_pass(None, None, state) is again


# What is shown


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (StageStarted(Stage.TRAIN, "study a"), "train: study a"),
        (StageFinished(Stage.TRAIN, "3 designs", 2.25), "train: 3 designs (2.2 s)"),
        (RowsRead(rows=1234, read_bytes=5, total_bytes=None), "1,234 rows read"),
        (ClusterReady("tcp://a:1", "http://b", 2), "cluster tcp://a:1: 2 workers, dashboard http://b"),
        (WorkerLost("tcp://a:1", 3), "worker tcp://a:1 was lost; 3 designs will be run again"),
        (WorkerRecycled("tcp://a:1", 2_500_000_000), "worker tcp://a:1 was restarted at 2.5 GB"),
        (Notice("take care"), "take care"),
        (STORED, "22 of 100 designs, 5.5/s, 14s left, 2 failed, best 0.9500 (2 x 64 relu)"),
    ],
)
def test_every_event_is_a_line(event: Any, words: str) -> None:
    from run_watch import in_words

    assert in_words(event) == words


def test_progress_is_shown_seldom_but_the_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import run_watch

    shown: list[float] = []

    def create(percent: float, key: str, description: str) -> Any:
        assert key == "progress-my-study-2"
        shown.append(percent)
        return uuid4()

    monkeypatch.setattr(run_watch, "create_progress_artifact", create)
    monkeypatch.setattr(
        run_watch, "update_progress_artifact", lambda artifact, percent, description: shown.append(percent)
    )
    watch = run_watch.Watch("My study (2)")
    for completed in (10, 20, 30, 98, 98):
        watch(replace(STORED, completed=completed))
    assert shown == [12.0, 100.0]
