"""A study from data to report, whatever happens on the way: nothing is trained twice, nothing is lost."""

import errno
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import sqlalchemy
import yaml

from dnnflow.api import execute, open_study, run_study
from dnnflow.design.layers import Design
from dnnflow.engines.records import Outcome, Portion, Trial, TrialState
from dnnflow.engines.seam import StudyContext
from dnnflow.errors import (
    ConflictError,
    DamagedError,
    DataError,
    DesignError,
    InputError,
    LostStudyError,
    NotFoundError,
    StoreAwayError,
    StudyError,
)
from dnnflow.events import Event, Notice, StageFinished, StageStarted, TrialsStored
from dnnflow.execute.local import LocalExecutor
from dnnflow.pipeline.pipeline_file import load_pipeline
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store import database, schema
from dnnflow.results.store.database import patient, waited
from dnnflow.results.store.run_record import RunState
from dnnflow.results.store.schema import runs
from dnnflow.results.store.store import Store
from dnnflow.run.execute import begin, preprocess, train, upload
from dnnflow.run.models.saved_model import load_model
from dnnflow.run.run import StudyRun
from dnnflow.run.study import Study, driven
from dnnflow.settings import Settings
from dnnflow.table.columns.split import Part
from tests.conftest import PIPELINES, ROOT, begin_study

IRIS = PIPELINES / "iris.yaml"
TINY = ("executor.kind=in-process", "space.epochs=2", "space.seed=0", "designs=4", "strategy=random")


def iris(*overrides: str) -> Pipeline:
    return load_pipeline(IRIS, [*TINY, *overrides])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation that the tests of this module share, so that iris is trained once."""
    return Settings.from_environment({"DNNFLOW_HOME": str(tmp_path_factory.mktemp("home"))})


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def study(home: Settings, events: list[Event]):
    return run_study(iris(), settings=home, listener=events.append)


def test_every_design_has_one_trial(study) -> None:
    trials = study.trials()
    assert sorted(trials["design_id"]) == sorted(design.design_id for design in study.designs)
    assert set(trials["state"]) == {"completed"}
    assert study.is_finished


def test_stages_are_told_in_order_and_progress_ends_complete(study, events: list[Event]) -> None:
    stages = [event.stage.value for event in events if isinstance(event, StageStarted)]
    assert stages == ["upload", "preprocess", "train", "aggregate", "finalists", "test", "final", "report"]
    last = [event for event in events if isinstance(event, TrialsStored)][-1]
    assert (last.total, last.completed, last.failed) == (4, 4, 0)
    assert last.best_score == study.best["score"]


def test_the_same_command_shows_the_finished_study(study, home: Settings) -> None:
    assert run_study(iris(), settings=home).id == study.id


def test_new_makes_another_study_of_the_same_key(study, home: Settings) -> None:
    other = run_study(iris(), settings=home, new=True)
    assert other.id != study.id
    assert other.key == study.key
    accuracies = ["design_id", "score"]
    first, second = (
        s.trials()[accuracies].sort_values("design_id", ignore_index=True) for s in (study, other)
    )
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.slow
def test_half_finished_stacks_are_trained_again_to_the_same_bits(tmp_path: Path) -> None:
    """A study that stopped in the middle of its stacks ends with the numbers of one that did not."""
    settings = Settings.from_environment({"DNNFLOW_HOME": str(tmp_path)})
    drawn = ["designs=3", "space.seed={int: [0, 9]}", "space.dropout={choice: [0.0, 0.3]}",
             "evaluation.finalists=0", "training.engine=stacked"]  # fmt: skip
    whole = run_study(iris(*drawn, "evaluation.holdout=0.2"), settings=settings)
    first = whole.trials().set_index("design_id").sort_index()
    assert first["amortised"].any()
    folder = settings.workspace.weights_directory(whole.id)
    weights = {path.name: path.read_bytes() for path in folder.glob("*.npz")}
    lost = list(first.index[::2])
    with sqlalchemy.create_engine(settings.store_url).begin() as connection:
        gone = connection.execute(schema.trials.delete().where(schema.trials.c.design_id.in_(lost)))
    assert gone.rowcount == 15
    for path in folder.glob("*.npz"):
        if path.stem in lost:
            path.unlink()
    again = open_study(whole.id, settings=settings).finish()
    second = again.trials().set_index("design_id").sort_index()
    measured = [
        name
        for name in map(str, first)
        if name.startswith(("score", "loss", "train_", "validation_", "epochs"))
    ]
    pd.testing.assert_frame_equal(first[measured], second[measured])
    assert {path.name: path.read_bytes() for path in folder.glob("*.npz")} == weights


@pytest.mark.parametrize(
    "override", ["space.epochs=3", "designs=5", "training.time_limit_s=100", "preprocess.scale=standard"]
)
def test_what_changes_the_result_changes_the_key(study, home: Settings, override: str) -> None:
    pipeline = iris(override)
    begun = begin_study(pipeline, home)
    assert begun.key != study.key


def test_a_saved_model_reproduces_the_recorded_accuracy_to_the_row(settings: Settings) -> None:
    """The file alone, given raw rows, is right on as many validation rows as the leaderboard says."""
    study = run_study(iris("evaluation.finalists=0"), settings=settings)
    best = study.best
    assert best is not None
    saved = load_model(study.settings.workspace.model(study.id, 1))
    assert saved.about["design_id"] == best["design_id"]
    features, labels = study.dataset.arrays("train")
    _, held = study.dataset.part(Part())
    raw, labels = study.dataset.inverse(features[held]), labels[held]
    right = saved.predict(raw)["prediction"].to_numpy() == study.dataset.label_names(labels)
    assert right.sum() == round(best["score"] * len(labels))


def test_the_models_of_the_best_are_kept_and_no_others(study) -> None:
    kept = {path.stem for path in study.settings.workspace.weights_directory(study.id).glob("*.npz")}
    assert kept == {place.design_id for place in study.view().screen[:3]}


def test_the_report_is_one_file_and_names_the_study(study) -> None:
    page = study.settings.workspace.report(study.id).read_text()
    assert study.id in page
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=.?http", page)


def test_a_study_is_found_by_the_beginning_of_its_id(study, home: Settings) -> None:
    assert open_study(study.id[:10], settings=home).id == study.id
    with pytest.raises(NotFoundError):
        open_study("nosuchstudy", settings=home)


def test_a_table_that_is_not_there_is_named(home: Settings) -> None:
    with pytest.raises(DataError, match=r"dataset.source must be a file that can be read, got .*none\.csv"):
        run_study(iris("dataset.source=none.csv"), settings=home)


def test_a_design_that_the_engine_cannot_train_is_refused_before_any_is_trained(home: Settings) -> None:
    data = {**iris().plain(), "training": {"engine": "sklearn"}}
    pipeline = Pipeline.model_validate({**data, "space": {**data["space"], "dropout": 0.5}})
    with pytest.raises(DesignError, match="engine sklearn must be able to train every design"):
        run_study(pipeline, settings=home)


def test_failures_are_recorded_and_the_study_goes_on(home: Settings) -> None:
    """One design of 10^9 units and one whose loss diverges; the third is trained."""
    layers = [
        "[{units: 1000000000}]",
        "[{units: 4, activation: linear}, {units: 4, activation: linear}]",
        "[{units: 4}]",
    ]
    rates = ["0.01", "1.0e+30", "0.01"]
    designs = [
        f"{{layers: {layer}, epochs: 2, optimizer: {{name: sgd, learning_rate: {rate}}}}}"
        for layer, rate in zip(layers, rates, strict=True)
    ]
    space = yaml.safe_load(f"{{explicit: [{', '.join(designs)}]}}")
    data = {**iris().plain(), "space": space}
    study = run_study(Pipeline.model_validate(data), settings=home)
    trials = study.trials().set_index("design_id").loc[[design.design_id for design in study.designs]]
    assert list(trials["state"]) == ["failed", "failed", "completed"]
    assert list(trials["error_type"])[:2] == ["OutOfMemoryError", "DivergedError"]
    assert study.is_finished
    assert {kind.type for kind in study.view().failures} == {"OutOfMemoryError", "DivergedError"}


class Stopping(LocalExecutor):
    """Is interrupted by Ctrl-C after a few designs."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def train(
        self, portions: Sequence[Portion], study: StudyContext, **options: Any
    ) -> Generator[list[Outcome], None, None]:
        for done, batch in enumerate(super().train(portions, study, **options)):
            yield batch
            if done + 1 >= self.after:
                raise KeyboardInterrupt


def test_a_stopped_study_goes_on_with_what_is_missing(settings: Settings) -> None:
    pipeline = iris("designs=12")
    begun = begin_study(pipeline, settings)
    with pytest.raises(KeyboardInterrupt):
        begun.train(Stopping(after=1))
    assert begun.record.state is RunState.STOPPED
    before = len(begun.trials())
    assert 1 <= before < 12
    finished = run_study(pipeline, settings=settings)
    assert finished.id == begun.id
    assert finished.trials()["design_id"].nunique() == len(finished.trials()) == 12


def test_a_new_study_gets_the_id_that_was_made_for_it(settings: Settings) -> None:
    """A page is opened under the id before the study is begun; a retry must find the same study again."""
    pipeline = iris("designs=2")
    other = begin_study(pipeline, settings)
    begun = begin_study(pipeline, settings, study_id="Made-before_1")
    assert (begun.id, begun.key) == ("Made-before_1", other.key)
    assert begin_study(pipeline, settings, study_id="Made-before_1").id == "Made-before_1"
    assert len(begun.store.studies()) == 2
    more = iris("designs=3")
    for refused in ({"new": True}, {"pipeline": more}):
        asked = {"pipeline": pipeline, "study_id": begun.id} | refused
        with pytest.raises(ConflictError, match="got Made-before_1, which another study has; leave it out"):
            begin_study(asked.pop("pipeline"), settings, **asked)
    assert execute(StudyRun(pipeline, settings, study_id="Made-before_2")).study.id == "Made-before_2"


@pytest.mark.parametrize("study_id", ["", "-x", "../x", "a/b", "a" * 65, "a b", "ä", "a\n"])
def test_an_id_that_is_no_name_of_a_directory_is_refused(settings: Settings, study_id: str) -> None:
    with pytest.raises(InputError, match="a study's id is 1 to 64 letters, digits, _ and -"):
        execute(StudyRun(iris(), settings, study_id=study_id))


def test_a_study_that_goes_on_takes_device_outputs_and_place_of_data_from_the_call(
    settings: Settings,
) -> None:
    """A wrong device, or a home that has moved, must not make a study impossible to finish."""
    pipeline = iris("training.device=gpu", "designs=2")
    begun = begin_study(pipeline, settings)
    moved = settings.workspace.home.rename(settings.workspace.home.parent / "moved")
    home = Settings.from_environment({"DNNFLOW_HOME": str(moved)})
    again = run_study(iris("training.device=cpu", "designs=2", "outputs.models=1"), settings=home)
    assert again.id == begun.id
    assert again.is_finished
    models = {path.name for path in home.workspace.model(again.id, 1).parent.iterdir()}
    assert models == {"best-1.keras", "ensemble.keras", "final.keras"}


def test_failed_designs_can_be_trained_again(settings: Settings) -> None:
    pipeline = iris("training.time_limit_s=0.000001", "designs=2")
    failed = run_study(pipeline, settings=settings)
    assert set(failed.trials()["error_type"]) == {"TimeLimitError"}
    assert failed.forget_failed() == 2
    assert len(failed.trials()) == 0
    assert len(failed.finish().trials()) == 2


def test_a_space_with_fewer_designs_than_asked_for_says_so(settings: Settings) -> None:
    told: list[Event] = []
    pipeline = iris("designs=1000")
    begin(StudyRun(pipeline, settings), preprocess(pipeline, settings), told.append)
    assert [event.message for event in told if isinstance(event, Notice)] == [
        "the space holds 18 different designs, not 1,000"
    ]


BY_CODE = """
name: by-code
dataset: {{source: {source}, label: species}}
space: {{reference: {{function: "lone_model:build", parameters: {{units: {{choice: [3, 5]}}}}}}, epochs: 2}}
designs: 2
executor: {{workers: 1}}
"""
LONE_MODEL = """
import keras

def build(n_features, n_classes, units):
    layers = [keras.layers.Dense(units, "relu"), keras.layers.Dense(n_classes, "softmax")]
    return keras.Sequential([keras.Input((n_features,)), *layers])
"""


@pytest.mark.slow
def test_a_module_beside_the_pipeline_file_makes_designs_on_workers_too(
    tmp_path: Path, settings: Settings
) -> None:
    """A Keras model of one's own, in a file next to the YAML, must work without packaging it."""
    (tmp_path / "lone_model.py").write_text(LONE_MODEL)
    file = tmp_path / "by-code.yaml"
    file.write_text(BY_CODE.format(source=PIPELINES / "data" / "iris.csv"))
    study = run_study(load_pipeline(file), settings=settings)
    assert list(study.trials()["state"]) == ["completed"] * 2
    saved = load_model(settings.workspace.model(study.id, 1))
    features, labels = study.dataset.arrays("test")
    right = (saved.model.predict(features, verbose=0).argmax(axis=1) == labels).sum()
    assert right == round(study.view().tested[0].score * len(labels))


def test_two_processes_do_not_train_one_study(settings: Settings) -> None:
    from dnnflow.results.store.run_record import Driver

    pipeline = iris()
    begun = begin_study(pipeline, settings)
    other = psutil.Process(os.getppid())
    mine = Driver.this_process()
    begun.store.claim(begun.id, Driver(mine.host, other.pid, other.create_time()))
    with pytest.raises(StudyError, match="a study is driven by one process at a time"):
        begun.train(LocalExecutor())


@pytest.mark.parametrize("engine", ["compiled", "keras"])
def test_a_study_goes_on_only_with_the_rows_that_it_began_with(engine: str, settings: Settings) -> None:
    begun = begin_study(iris("designs=4", f"training.engine={engine}"), settings)
    chunk = begun.dataset.path / "train/X/c/0/0"
    sound = chunk.read_bytes()
    chunk.write_bytes(bytes(1) + sound[1:-1] + b"\x7f")
    for told in ("checksum differs", f"the command that began study {begun.id} does so, and goes on"):
        with pytest.raises(DamagedError, match=told):
            Study(begun.store, settings, begun.id).train(LocalExecutor())
        # No design has failed; the second time some are trained
        assert begun.store.counts(begun.id)[TrialState.FAILED] == 0
        chunk.write_bytes(sound)
        first = begun.designs[0]
        trial = Trial(design_id=first.design_id, state=TrialState.COMPLETED, engine=engine, score=0.5)
        begun.store.add_trials(begun.id, [(first, trial)])
        chunk.write_bytes(bytes(1) + sound[1:-1] + b"\x7f")


class TakenOver(LocalExecutor):
    """An executor during whose training another process takes the study over, as if it was suspended."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def train(
        self, portions: Sequence[Portion], study: StudyContext, *, control: Any = None, **_: Any
    ) -> Generator[list[Outcome], None, None]:  # fmt: skip
        yield from super().train(portions[:1], study)
        with self._study.store._write() as connection:
            connection.execute(runs.update().values(driver="elsewhere:7:1.0", heartbeat_s=time.time()))
        while not control.must_end:
            time.sleep(0.01)


def test_a_driver_that_has_lost_its_study_ends_and_leaves_it_to_the_other(settings: Settings) -> None:
    begun = begin_study(iris("designs=4"), settings)
    with pytest.raises(LostStudyError, match=f"got study {begun.id} driven by process 7 on elsewhere while"):
        begun.train(TakenOver(begun))
    assert begun.record.state is RunState.RUNNING
    assert begun.record.is_driven
    assert sum(begun.store.counts(begun.id).values()) > 0


def test_a_study_that_is_deleted_meanwhile_ends_its_training(settings: Settings) -> None:
    begun = begin_study(iris(), settings)
    with driven(begun) as control:
        with begun.store._write() as connection:
            for table in reversed(runs.metadata.sorted_tables):
                connection.execute(table.delete())
        deadline = time.monotonic() + 20
        while control.may_begin and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(NotFoundError, match=begun.id):
            control.check()


def test_shards_cover_every_design_once(settings: Settings) -> None:
    pipeline = iris("designs=12")
    begun = begin_study(pipeline, settings)
    parts = [begun.missing((index, 3)) for index in range(3)]
    assert sorted(x.design_id for part in parts for x in part) == sorted(x.design_id for x in begun.missing())


# ---- stacks


@pytest.fixture
def stacks(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    """A study of iris in five stacks or more, of which an engine that takes no time writes down the calls."""
    from dnnflow.engines import registry as engines
    from dnnflow.execute import pack_run as run

    monkeypatch.setitem(engines.BUILT_IN, "stacked", "executor_engines:Instant")
    run._engine.cache_clear()
    pipeline = iris("training.engine=stacked", "designs=6", "space.seed={int: [0, 9]}")
    yield begin_study(pipeline, settings)
    run._engine.cache_clear()


def calls(study: Study) -> list[list[int]]:
    """Return the seeds that each call of the engine got."""
    log = study.settings.workspace.datasets / "calls.log"
    return [json.loads(line) for line in log.read_text().splitlines()]


def seeds(portions: Sequence[Portion]) -> list[list[int]]:
    return [[design.seed for design in portion.designs] for portion in portions]


def one_trial(design: Design, score: float) -> tuple[Design, Trial]:
    trial = Trial(design_id=design.design_id, state=TrialState.COMPLETED, engine="x", score=score)
    return design, trial


def test_a_study_trains_stack_by_stack(stacks: Study) -> None:
    stacks.train(LocalExecutor())
    assert stacks.is_trained
    assert calls(stacks) == seeds(stacks.plan.portions)
    assert max(map(len, calls(stacks))) > 1


def test_a_stack_with_a_missing_member_is_trained_whole_and_what_is_stored_stays(stacks: Study) -> None:
    """Other members would give other last digits; a trial that a user has seen must not change."""
    whole = next(portion for portion in stacks.plan.portions if len(portion.designs) > 2)
    unfinished = next(portion for portion in stacks.plan.portions if portion is not whole)
    kept, *missing = whole.designs
    others = [x for x in stacks.designs if x not in whole.designs and x is not unfinished.designs[-1]]
    stacks.store.add_trials(stacks.id, [one_trial(design, 0.25) for design in [kept, *others]])
    told: list[Event] = []
    again = Study(stacks.store, stacks.settings, stacks.id)
    again.train(LocalExecutor(), listener=told.append)
    assert calls(again) == seeds([x for x in again.plan.portions if x in (whole, unfinished)])
    accuracies = again.trials().set_index("design_id")["score"]
    assert accuracies[kept.design_id] == 0.25
    assert {accuracies[design.design_id] for design in missing} == {0.5}
    progress = [event for event in told if isinstance(event, TrialsStored)]
    assert (progress[-1].total, progress[-1].completed, progress[-1].failed) == (60, 60, 0)
    assert again.is_trained


def test_only_missing_designs_are_counted_though_stacks_are_trained_whole(stacks: Study) -> None:
    stacks.store.add_trials(stacks.id, [one_trial(design, 0.25) for design in stacks.designs[1:]])
    told: list[Event] = []
    assert train(stacks, LocalExecutor(), listener=told.append) == 1
    assert [x.detail for x in told if isinstance(x, StageFinished)] == ["1 designs trained"]


def test_how_designs_are_stacked_is_told_once_for_all_shards(stacks: Study) -> None:
    told: list[Event] = []
    for index in range(3):
        stacks.train(LocalExecutor(), shard=(index, 3), listener=told.append)
    assert stacks.is_trained
    assert sorted(calls(stacks)) == sorted(seeds(stacks.plan.portions)), "a stack was trained twice, or cut"
    assert [event.message for event in told if isinstance(event, Notice)] == [stacks.plan.summary]


def test_measuring_designs_alone_is_another_study_without_stacks(stacks: Study) -> None:
    pipeline = iris(
        "training.engine=stacked", "training.measured_alone=true", "designs=6", "space.seed={int: [0, 9]}"
    )
    alone = begin_study(pipeline, stacks.settings)
    assert alone.key != stacks.key
    alone.train(LocalExecutor())
    assert set(map(len, calls(alone))) == {1}


# ---- a driver that is killed


def trained(home: Path) -> list[str]:
    log = home / "datasets" / "trained.log"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.is_file() else []


@pytest.fixture
def killed_home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def start_run(home: Path) -> subprocess.Popen[bytes]:
    sets = ["training.engine=executor_engines:Short", "strategy=grid", "designs=300", "space.seed=0",
            "space.batch_size={int: [1, 300]}", "space.depth=1", "space.units=4", "space.activation=relu",
            "evaluation.finalists=0", "executor.workers=2"]  # fmt: skip
    options = [part for item in sets for part in ("--set", item)]
    env = os.environ | {"DNNFLOW_HOME": str(home), "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "dnnflow", "run", str(IRIS), *options]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT)


def wait_for_trainings(home: Path, more_than: int, run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while len(trained(home)) <= more_than and time.monotonic() < deadline:
        assert run.poll() is None, run.stdout.read().decode() if run.stdout else ""
        time.sleep(0.05)
    assert len(trained(home)) > more_than, "no design was trained in time"


@pytest.mark.slow
def test_a_driver_killed_twice_loses_no_stored_trial(killed_home: Path) -> None:
    """kill -9, twice: the same command ends with every design once, and repeats hardly any training."""
    seen = 0
    for _ in range(2):
        run = start_run(killed_home)
        wait_for_trainings(killed_home, seen + 60, run)
        time.sleep(1.2)  # what is finished reaches the store within a second
        children = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        psutil.wait_procs(children, timeout=60)
        assert not [child for child in children if child.is_running() and child.status() != "zombie"]
        seen = len(trained(killed_home))
    last = start_run(killed_home)
    output = last.communicate(timeout=200)[0].decode()
    assert last.returncode == 0, output
    home = Settings.from_environment({"DNNFLOW_HOME": str(killed_home)})
    from dnnflow.results.store.store import Store

    records = Store(home.store_url).studies()
    assert len(records) == 1
    study = open_study(records[0].study_id, settings=home)
    assert len(study.trials()) == study.trials()["design_id"].nunique() == 300
    assert study.is_finished
    assert len(trained(killed_home)) - 300 < 240, "stored trials were trained again"


def test_a_pipeline_takes_directories_and_databases(home: Settings, tmp_path: Path) -> None:
    frame = pd.read_csv(PIPELINES / "data" / "iris.csv")
    (tmp_path / "parts").mkdir()
    frame[:75].to_parquet(tmp_path / "parts" / "a.parquet")
    frame[75:].to_parquet(tmp_path / "parts" / "b.parquet")
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/flowers.db")
    frame.to_sql("iris", engine, index=False)
    engine.dispose()
    of_csv = preprocess(iris(), home)
    for source, said in (
        (f"{tmp_path}/parts", "2 files"), (f"{tmp_path}/parts/*.parquet", "2 files"),
        (f"sqlite:///{tmp_path}/flowers.db", "a database"), (f"{tmp_path}/flowers.db", "bytes"),
    ):  # fmt: skip
        told: list[Event] = []
        upload(iris(f"dataset.source={source}"), told.append)
        assert any(said in str(event) for event in told)
        dataset = preprocess(iris(f"dataset.source={source}"), home)
        assert dataset.preprocessing() == of_csv.preprocessing()


# ---- a store, or a disk, that takes nothing for a while


class Waiting(LocalExecutor):
    """An executor that calls something before it hands over what it has trained."""

    def __init__(self, before: Callable[[], object]) -> None:
        self._before = before

    def train(self, *given: Any, **more: Any) -> Generator[list[Outcome], None, None]:
        for outcomes in super().train(*given, **more):
            self._before()
            yield outcomes


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a store wait for others for a tenth of a second only, and look again as soon."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
    monkeypatch.setattr(database, "LOOK_S", 0.05)


def test_a_study_waits_for_a_store_that_is_locked_and_loses_nothing(settings: Settings, hasty: None) -> None:
    begun, told = begin_study(iris("designs=4"), settings), list[str]()
    lock = sqlite3.connect(settings.workspace.home / "results.db", check_same_thread=False)
    lock.isolation_level = None
    timers = list[threading.Timer]()

    def hold() -> None:
        if not timers:
            lock.execute("BEGIN IMMEDIATE")
            timers.append(threading.Timer(0.6, lambda: lock.execute("COMMIT")))
            timers[0].start()

    with patient(told.append):
        begun.train(Waiting(hold))
    assert begun.store.counts(begun.id)[TrialState.COMPLETED] == 4
    assert "database is locked" in told[0]
    assert told[0].startswith("waits, with what is finished kept in memory")
    assert told[1].startswith("goes on after")


def test_without_patience_a_locked_store_is_an_error_at_once(settings: Settings, hasty: None) -> None:
    begun = begin_study(iris(), settings)
    lock = sqlite3.connect(settings.workspace.home / "results.db")
    lock.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreAwayError, match="database is locked"):
        begun.store.set_state(begun.id, RunState.RUNNING)
    lock.rollback()


def test_a_study_waits_for_a_disk_that_is_full(
    settings: Settings, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, told, refused = begin_study(iris("designs=4"), settings), list[str](), Counter[str]()
    fsync, add = os.fsync, Store.add_trials

    def sometimes(what: str, error: Exception, call: Callable[..., Any], *given: Any) -> Any:
        refused[what] += 1
        if refused[what] % 3:
            raise error
        return call(*given)

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", partial(sometimes, "weights", full, fsync))
    away = StoreAwayError("database or disk is full")
    monkeypatch.setattr(Store, "add_trials", lambda *given: sometimes("trials", away, add, *given))
    with patient(told.append):
        begun.train(LocalExecutor())
    monkeypatch.undo()
    assert begun.store.counts(begun.id)[TrialState.COMPLETED] == 4
    assert refused.keys() == {"weights", "trials"}
    assert len(list(settings.workspace.weights_directory(begun.id).glob("*.npz"))) == 3
    assert any("No space left on device; free some room" in one for one in told)
    assert any("database or disk is full" in one for one in told)


def test_a_wait_for_a_store_ends(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise StoreAwayError("no answer")

    monkeypatch.setattr(database, "WAIT_S", 0.2)
    told = list[str]()
    with patient(told.append), pytest.raises(StoreAwayError, match="no answer"):
        waited(away)
    assert len(told) == 1
