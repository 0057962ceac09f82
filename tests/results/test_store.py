"""The results store, alike over SQLite and PostgreSQL: it holds what hours of training were for."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import psutil
import pytest
import sqlalchemy as sa

from dnnflow.design.layers import Design, EarlyStopping, Layer, Optimizer, Reference, Schedule
from dnnflow.engines.records import Trial, TrialError, TrialState
from dnnflow.errors import ConflictError, InputError, NotFoundError, StoreError, StudyError
from dnnflow.events import Command
from dnnflow.paths import content_id
from dnnflow.results.store import database, run_record, schema
from dnnflow.results.store import runs as runs_module
from dnnflow.results.store.run_record import Driver, RunRecord, RunState, new_study_id, own_host
from dnnflow.results.store.store import Store
from dnnflow.results.view import overview


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An empty store."""
    with Store(url) as opened:
        yield opened


# ---- designs and trials


def some_designs(count: int) -> list[Design]:
    return [Design(layers=(Layer(units=8 + index),), seed=index) for index in range(count)]


def completed(design: Design, score: float = 0.9, **more: object) -> Trial:
    fields = {"engine": "keras", "score": score, **more}
    return Trial(design_id=design.design_id, state=TrialState.COMPLETED, **fields)  # type: ignore[arg-type]


def failed(design: Design, kind: str = "MemoryError", message: str = "too big") -> Trial:
    error = TrialError(kind, message, f"Traceback …\n{kind}: {message}")
    return Trial(design_id=design.design_id, state=TrialState.FAILED, engine="keras", error=error)


def add_study(store: Store, designs: list[Design], **more: object) -> str:
    fields = {"key": "k", "name": "a study", "dataset_id": "d", "dataset_path": "/data", **more}
    record = RunRecord(n_designs=len(designs), **fields)  # type: ignore[arg-type]
    store.add_study(record, designs)
    return record.study_id


# ---- studies


def test_a_study_comes_back_as_it_was_added(store: Store) -> None:
    designs = [
        *some_designs(3),
        Design(),
        Design(reference=Reference("my.models:build", {"width": 3, "name": "ü"})),
        Design(
            layers=(Layer(4, "tanh", dropout=0.5, batch_norm=True), Layer(5)),
            residual=1,
            optimizer=Optimizer("sgd", 0.1, {"momentum": 0.9}),
            schedule=Schedule("step", {"rate": 0.5, "every": 2}),
            early_stopping=EarlyStopping(3),
        ),
    ]
    record = RunRecord(
        key="k" * 64,
        name="Ünï <b>\u2028 name",
        state=RunState.RUNNING,
        dataset_id="d" * 64,
        dataset_path="/a/b",
        n_designs=len(designs),
        pipeline={"name": "x", "space": {"depth": {"int": [1, 3]}}},
        dataset={"rows": {"train": 4, "test": 2}, "class_names": ["a", "ß"]},
        dashboard="http://127.0.0.1:8787/status",
    )
    store.add_study(record, designs)
    assert store.study(record.study_id) == record
    assert store.designs(record.study_id) == designs


def test_studies_are_listed_newest_first_and_found_by_key(store: Store) -> None:
    old = add_study(store, [], created_at="2026-01-01T00:00:00.000+00:00")
    new = add_study(store, [], created_at="2026-01-02T00:00:00.000+00:00")
    assert [study.study_id for study in store.studies()] == [new, old]
    newest = store.study_of("k")
    assert newest is not None
    assert newest.study_id == new
    assert store.study_of("another key") is None


def test_a_study_is_found_by_a_unique_beginning_of_its_id(store: Store) -> None:
    for study_id in ("abc_1", "abd%2", "ABc_3"):
        add_study(store, [], run_id=study_id)
    assert store.study("abc").study_id == "abc_1"
    assert store.study("abd%").study_id == "abd%2"
    assert store.study("A").study_id == "ABc_3"
    with pytest.raises(NotFoundError, match=r"got 'ab', which fits ab.*, ab.*; type one of these ids"):
        store.study("ab")
    with pytest.raises(
        NotFoundError, match=r"got 'abcx_1'; did you mean abc_1.*`dnnflow studies` lists them"
    ):
        store.study("abcx_1")
    with pytest.raises(NotFoundError, match="got ''"):
        store.study("")


def test_an_id_that_begins_another_is_still_found(store: Store) -> None:
    add_study(store, [], run_id="abc")
    add_study(store, [], run_id="abcd")
    assert store.study("abc").study_id == "abc"


def test_state_and_dashboard_change(store: Store) -> None:
    study_id = add_study(store, [], updated_at="2026-01-01T00:00:00.000+00:00")
    store.set_state(study_id, RunState.FINISHED)
    store.tell(study_id, dashboard="http://127.0.0.1:1/status")
    study = store.study(study_id)
    assert study.state is RunState.FINISHED
    assert study.updated_at > "2026-01-01T00:00:00.000+00:00"
    assert study.dashboard == "http://127.0.0.1:1/status"


def test_what_is_asked_of_an_unknown_study_is_an_error_not_nothing(store: Store) -> None:
    design = Design()
    calls: list[Callable[[], object]] = [
        lambda: store.designs("nope"),
        lambda: store.set_state("nope", RunState.STOPPED),
        lambda: store.claim("nope"),
        lambda: store.add_trials("nope", [(design, completed(design))]),
        lambda: store.trial("nope", design.design_id),
    ]
    for call in calls:
        with pytest.raises(NotFoundError, match="nope"):
            call()


def test_a_study_with_another_number_of_designs_is_refused(store: Store) -> None:
    record = RunRecord(key="k", name="n", dataset_id="d", dataset_path="p", n_designs=2)
    with pytest.raises(InputError, match="got 2 for 1 designs"):
        store.add_study(record, some_designs(1))


def test_ids_are_random_and_never_look_like_an_option() -> None:
    ids = {new_study_id() for _ in range(2000)}
    assert len(ids) == 2000
    assert all(study_id[0].isalnum() and len(study_id) == 16 for study_id in ids)


# ---- trials


def test_a_trial_is_stored_once_and_keeps_its_first_result(store: Store) -> None:
    designs = some_designs(5)
    study_id = add_study(store, designs)
    assert store.add_trials(study_id, [(d, completed(d, 0.5)) for d in designs[:3]]) == 3
    again = [(d, completed(d, 0.7)) for d in designs]
    assert store.add_trials(study_id, [*again, *again]) == 2
    assert store.finished(study_id) == {d.design_id for d in designs}
    assert [store.trial(study_id, d.design_id).score for d in designs] == [0.5, 0.5, 0.5, 0.7, 0.7]
    assert store.add_trials(study_id, []) == 0


def test_trials_of_two_studies_do_not_mix(store: Store) -> None:
    designs = some_designs(2)
    first, second = add_study(store, designs), add_study(store, designs)
    store.add_trials(first, [(designs[0], completed(designs[0]))])
    store.add_trials(second, [(designs[1], failed(designs[1]))])
    assert store.finished(first) == {designs[0].design_id}
    assert store.counts(second) == {TrialState.COMPLETED: 0, TrialState.FAILED: 1, TrialState.LOST: 0}
    assert len(store.frame(first)) == 1


def test_a_trial_comes_back_with_everything(store: Store) -> None:
    design = some_designs(1)[0]
    study_id = add_study(store, [design])
    trial = completed(
        design,
        0.9375,
        worker="tcp://127.0.0.1:1",
        device="gpu",
        started_at="2026-01-01T00:00:00.000+00:00",
        queue_s=0.1,
        training_s=1 / 3,
        total_s=2.5,
        amortised=True,
        parameters=2**40,
        flops=2**41,
        epochs_run=2,
        loss=math.inf,
        train_score=1.0,
        train_loss=1e-300,
        validation_score=0.5,
        validation_loss=0.25,
        history={"loss": (1 / 3, 0.1), "accuracy": (0.5, 1.0)},
        confusion=((3, 1), (0, 4)),
    )
    store.add_trials(study_id, [(design, trial)])
    assert store.trial(study_id, design.design_id) == trial


def test_numbers_of_numpy_and_not_a_number_are_stored(store: Store) -> None:
    design = some_designs(1)[0]
    study_id = add_study(store, [design])
    trial = completed(
        design,
        np.float32(0.5),  # type: ignore[arg-type]
        loss=math.nan,
        parameters=np.int64(7),
        flops=10**30,
        history={"loss": (np.float32(0.25), math.nan, math.inf)},
        confusion=((np.int32(1),),),
    )
    store.add_trials(study_id, [(design, trial)])
    found = store.trial(study_id, design.design_id)
    assert (found.score, found.loss, found.parameters, found.flops) == (0.5, None, 7, 2**63 - 1)
    assert found.history["loss"][0] == 0.25
    assert all(math.isnan(value) for value in found.history["loss"][1:])
    assert found.confusion == ((1,),)


def test_an_error_with_hostile_text_is_stored(store: Store) -> None:
    design = some_designs(1)[0]
    study_id = add_study(store, [design], name="zero \0 name")
    store.add_trials(
        study_id, [(design, failed(design, "UserError", "nul \0, surrogate \ud800, '; DROP TABLE x"))]
    )
    error = store.trial(study_id, design.design_id).error
    assert error is not None
    assert error.message == "nul \\0, surrogate \\ud800, '; DROP TABLE x"
    assert error.traceback.startswith("Traceback …")
    assert store.study(study_id).name == "zero \\0 name"


def test_a_batch_is_stored_whole_or_not_at_all(store: Store) -> None:
    designs = some_designs(3)
    study_id = add_study(store, designs)
    bad = completed(designs[1], started_at=None)
    pairs = [(designs[0], completed(designs[0])), (designs[1], bad), (designs[2], completed(designs[2]))]
    with pytest.raises(StoreError, match=r"the store .* must be readable and writable, got: .*started_at"):
        store.add_trials(study_id, pairs)
    assert store.finished(study_id) == set()


def test_parameters_of_designs_are_columns(store: Store) -> None:
    designs = [
        Design(layers=(Layer(8, "tanh", dropout=0.2), Layer(16, "relu", dropout=0.4, batch_norm=True))),
        Design(layers=(Layer(8, l2=0.01),) * 3, optimizer=Optimizer("sgd", 0.5, {"momentum": 0.9}),
               schedule=Schedule("exponential", {"rate": 0.9}), early_stopping=EarlyStopping(4), batch_size=7,
               epochs=3, seed=2**63 - 1, residual=1),
        Design(),
        Design(reference=Reference("a.b:c", {"width": 5})),
    ]  # fmt: skip
    study_id = add_study(store, designs)
    store.add_trials(study_id, [(d, completed(d)) for d in designs])
    frame = store.frame(study_id).set_index("design_id")
    mixed, uniform, bare, reference = (frame.loc[d.design_id] for d in designs)
    assert (mixed.depth, mixed.units, mixed.units_min, mixed.units_max) == (2, 8, 8, 16)
    assert (mixed.activation, mixed.batch_norm, mixed.dropout) == ("mixed", True, pytest.approx(0.3))
    assert (uniform.activation, uniform.l2, uniform.optimizer, uniform.learning_rate) == (
        "relu",
        0.01,
        "sgd",
        0.5,
    )
    assert (uniform.schedule, uniform.early_stopping, uniform.seed) == ("exponential", 4, 2**63 - 1)
    assert uniform.more_parameters == '{"optimizer.momentum":0.9,"schedule.rate":0.9}'
    assert (uniform.batch_size, uniform.epochs, uniform.residual) == (7, 3, 1)
    assert bare.depth == 0
    assert pd.isna(bare.units)
    assert pd.isna(reference.depth)
    assert (reference.reference, reference.more_parameters) == ("a.b:c", '{"reference.width":5}')


def test_a_frame_has_the_same_types_empty_or_full(store: Store) -> None:
    designs = some_designs(2)
    study_id = add_study(store, designs)
    empty = store.frame(study_id)
    store.add_trials(study_id, [(designs[0], completed(designs[0])), (designs[1], failed(designs[1]))])
    full = store.frame(study_id)
    assert full.dtypes.to_dict() == empty.dtypes.to_dict()
    assert (len(empty), len(full)) == (0, 2)
    assert {"design", "error_type", "error_message", "units", "score"} <= set(full.columns)
    assert not {"history", "confusion", "error_traceback"} & set(full.columns)
    assert full.score.isna().sum() == 1


def test_a_frame_of_chosen_columns(store: Store) -> None:
    study_id = add_study(store, [])
    assert list(store.frame(study_id, columns=["state", "history"]).columns) == ["state", "history"]
    with pytest.raises(InputError, match=r"a trial's columns are .*, got test_accuracy"):
        store.frame(study_id, columns=["test_accuracy"])


def test_histories_and_designs_of_many_trials(store: Store) -> None:
    designs = some_designs(1203)  # more than one statement takes
    study_id = add_study(store, designs)
    store.add_trials(study_id, [(d, completed(d, history={"loss": (float(d.seed),)})) for d in designs[:-1]])
    ids = [d.design_id for d in reversed(designs)]
    histories = store.histories(study_id, ids)
    assert list(histories) == ids[1:]
    assert histories[designs[7].design_id] == {"loss": (7.0,)}
    assert store.designs_of(study_id, ids[1:]) == {d.design_id: d for d in designs[:-1]}


def test_designs_are_told_without_their_seeds(store: Store) -> None:
    assert max(field.name for field in fields(Design)) == "seed", "the store cuts off the last key"
    made = Reference("a.module:function", {"seed": 7})
    plain = [Design(), Design(reference=made), Design(layers=(Layer(8),), schedule=Schedule("cosine"))]
    designs = [replace(one, seed=seed) for one in plain for seed in (0, 7)]
    study_id = add_study(store, designs)
    store.add_trials(study_id, [(design, completed(design)) for design in designs])
    found = store.unseeded(study_id)
    assert {name: content_id(json.loads(text)) for name, text in found.items()} == {
        design.design_id: design.unseeded_id for design in designs
    }


def test_many_writers_at_once_store_each_trial_once(url: str) -> None:
    designs = some_designs(60)
    with Store(url) as store:
        study_id = add_study(store, designs)

        def write(seed: int) -> int:
            order = np.random.default_rng(seed).permutation(len(designs)).reshape(-1, 6)
            with Store(url) as own:
                batches = ([(designs[i], completed(designs[i])) for i in sorted(batch)] for batch in order)
                return sum(own.add_trials(study_id, batch) for batch in batches)

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(write, range(4))) == len(designs)
        assert len(store.frame(study_id)) == len(designs)


KILLED = """
import sys
from dnnflow.design.layers import Design
from dnnflow.results.store.store import Store
from dnnflow.engines.records import Trial, TrialState
store, seed = Store(sys.argv[1]), 0
while True:
    designs = [Design(seed=seed + i) for i in range(50)]
    store.add_trials(sys.argv[2], [(d, Trial(design_id=d.design_id, state=TrialState.COMPLETED, engine="x",
                                             score=0.5)) for d in designs])
    seed += 50
    print(seed, flush=True)
"""


def test_a_killed_writer_leaves_whole_batches(store: Store, url: str) -> None:
    study_id = add_study(store, [])
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, url, study_id], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(5)][-1]
        writer.kill()
    stored = len(store.finished(study_id))
    assert stored >= told
    assert stored % 50 == 0


# ---- who drives a study


@pytest.fixture
def other_process() -> Iterator["subprocess.Popen[bytes]"]:
    """A process of this host that lives until it is killed."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_a_study_is_driven_by_one_living_process(
    store: Store, other_process: "subprocess.Popen[bytes]"
) -> None:
    import psutil

    study_id = add_study(store, [])
    started_s = psutil.Process(other_process.pid).create_time()
    other = Driver(own_host(), other_process.pid, started_s)
    store.claim(study_id, other)
    assert store.driver(study_id) == Driver.parse(str(other))
    with pytest.raises(
        StudyError, match=rf"study {study_id} driven by process {other.pid} on .*; wait for it"
    ):
        store.claim(study_id)
    other_process.kill()
    # Not yet waited for: a zombie, which still has its number
    _wait_until(lambda: psutil.Process(other.pid).status() == psutil.STATUS_ZOMBIE)
    assert store.driver(study_id) is None
    mine = store.claim(study_id)
    assert mine.pid == os.getpid()
    with pytest.raises(StudyError, match="taken by another"):
        store.heartbeat(study_id, other)
    store.release(study_id, other)
    assert store.driver(study_id) is not None
    store.release(study_id, mine)
    assert store.driver(study_id) is None


def _wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError("the condition did not come true within 10 s")


def test_a_later_process_with_the_same_number_is_another(store: Store) -> None:
    study_id = add_study(store, [])
    mine = Driver.this_process()
    store.claim(study_id, replace(mine, started_s=mine.started_s - 1000))
    assert store.claim(study_id) == mine


def test_the_same_process_may_claim_again(store: Store) -> None:
    study_id = add_study(store, [])
    first = store.claim(study_id)
    assert store.claim(study_id) == first


def test_a_driver_on_another_host_is_gone_once_it_is_silent(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = add_study(store, [])
    far = Driver("host:with:colons", 1, 1.0)
    store.claim(study_id, far)
    store.heartbeat(study_id, far)
    with pytest.raises(StudyError, match="process 1 on host:with:colons"):
        store.claim(study_id)
    monkeypatch.setattr(run_record, "SILENT_AFTER_S", 0.0)
    assert store.claim(study_id).pid == os.getpid()


def test_driving_sends_heartbeats_and_releases_even_after_an_error(
    store: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "HEARTBEAT_S", 0.01)
    study_id = add_study(store, [])
    engine = database.open_engine(database.store_url(url))

    def heartbeat_s() -> float:
        with engine.connect() as connection:
            return float(connection.execute(sa.select(schema.runs.c.heartbeat_s)).scalar_one())

    def drive() -> None:
        with store.driving(study_id):
            first = heartbeat_s()
            _wait_until(lambda: heartbeat_s() > first)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive()
    engine.dispose()
    assert store.driver(study_id) is None
    assert threading.active_count() == 1 or not any(
        "_beat" in thread.name for thread in threading.enumerate()
    )


# ---- opening


def test_a_store_opened_twice_is_the_same(url: str) -> None:
    with Store(url) as first:
        study_id = add_study(first, some_designs(1))
    with Store(url) as second:
        assert len(second.designs(study_id)) == 1


def test_many_may_open_a_new_store_at_once(url: str) -> None:
    barrier = threading.Barrier(4)

    def open_one(index: int) -> int:
        barrier.wait()
        with Store(url) as store:
            return len(store.studies())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_one, range(4))) == [0] * 4


@pytest.mark.parametrize(
    ("step", "remedy"), [(1, "update dnnflow"), (-schema.SCHEMA_VERSION, "set DNNFLOW_STORE to a new store")]
)
def test_a_store_of_another_version_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch, step: int, remedy: str
) -> None:
    Store(url).close()
    engine = database.open_engine(database.store_url(url))
    with engine.execution_options(writes=True).begin() as connection:
        connection.execute(schema.schema_versions.update().values(version=schema.SCHEMA_VERSION + step))
    engine.dispose()
    with pytest.raises(StoreError, match=f"got one of version {schema.SCHEMA_VERSION + step}; {remedy}"):
        Store(url)


def test_what_is_wanted_stands_until_the_study_is_started_again(store: Store) -> None:
    study_id = add_study(store, [])
    store.send_command(study_id, Command.CANCEL)
    store.acknowledge(study_id, Command.PAUSE)
    store.set_state(study_id, RunState.STOPPED)
    store.start(study_id)
    record = store.study(study_id)
    assert (record.command, record.acknowledged, record.state) == (Command.RUN, Command.RUN, RunState.RUNNING)
    store.set_state(study_id, RunState.FINISHED)
    store.start(study_id)
    assert store.study(study_id).state is RunState.FINISHED


def test_a_start_does_not_undo_what_is_wanted_of_another_process(store: Store) -> None:
    study_id = add_study(store, [])
    parent = psutil.Process(os.getppid())
    store.claim(study_id, Driver(own_host(), parent.pid, parent.create_time()))
    store.send_command(study_id, Command.PAUSE)
    store.start(study_id)
    assert store.command(study_id) is Command.PAUSE


def test_an_id_is_given_once(store: Store) -> None:
    add_study(store, [], run_id="mine")
    with pytest.raises(ConflictError, match="got mine, which another study has"):
        add_study(store, some_designs(2), run_id="mine")
    assert store.designs("mine") == []


# ---- numbers that the database counts


def test_the_database_counts_what_a_page_shows(store: Store) -> None:
    designs = [
        Design(layers=tuple(Layer(units=8) for _ in range(depth)), seed=seed)
        for depth in (1, 3)
        for seed in range(3)
    ]
    study_id = add_study(store, designs)
    assert overview.grid(store, study_id, "score") is None
    accuracies = (0.5, 0.755, 0.9, 0.9, 0.625)
    pairs = [
        (design, completed(design, accuracy, training_s=2.0, parameters=100 - design.seed))
        for design, accuracy in zip(designs, accuracies, strict=False)
    ]
    store.add_trials(study_id, [*pairs, (designs[5], failed(designs[5]))])
    counted = overview.totals(store, study_id)
    assert (counted.stored, overview.count_trials(store, study_id)) == (6, 6)
    assert counted.counts[TrialState.COMPLETED] == 5
    assert counted.counts[TrialState.FAILED] == 1
    assert counted.training_s == pytest.approx(10.0)
    # Of two with the best accuracy, the smaller network
    assert (counted.best_score, counted.best_design_id) == (0.9, designs[2].design_id)
    found = overview.grid(store, study_id, "score")
    assert found is not None
    assert (found.first_depth, found.depth_width, found.low, found.is_cut) == (1, 1, 0.5, False)
    last = overview.BINS - 1
    assert found.cells == ((0, 0, 1), (0, 25, 1), (0, last, 1), (2, 12, 1), (2, last, 1))
    kinds = overview.failure_kinds(store, study_id)
    assert kinds == [("MemoryError", 1, "too big", designs[5].design_id)]


def test_a_few_slow_trials_do_not_squeeze_all_others(store: Store) -> None:
    """The first trials of a study compile: 2 s beside 0.05 s left one row for all others."""
    designs = some_designs(200)
    study_id = add_study(store, designs)
    seconds = [2.0, 2.5, *(0.01 + 0.0005 * index for index in range(198))]
    store.add_trials(
        study_id,
        [
            (design, completed(design, training_s=spent))
            for design, spent in zip(designs, seconds, strict=True)
        ],
    )
    found = overview.grid(store, study_id, "training_s")
    assert found is not None
    assert found.is_cut
    assert found.low + overview.BINS * found.height < 0.2
    assert sum(count for _, _, count in found.cells) == 200
    assert len({row for _, row, _ in found.cells}) == overview.BINS
