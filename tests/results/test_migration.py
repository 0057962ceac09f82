"""Stores of older versions are brought up in place: hours of training are in them."""

import json
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import sqlalchemy as sa

from dnnflow.design.layers import Design, Layer
from dnnflow.engines.records import Trial, TrialState
from dnnflow.errors import NotFoundError, StoreError
from dnnflow.events import Command
from dnnflow.paths import canonical_json
from dnnflow.results.store.database import open_engine, store_url
from dnnflow.results.store.run_record import Driver, RunKind, RunState, own_host
from dnnflow.results.store.schema import MEASURES, SCHEMA_VERSION, runs
from dnnflow.results.store.store import Store
from dnnflow.results.store.trial_rows import trial_row
from dnnflow.run.study import read_stored

VERSION_2 = """
CREATE TABLE dnnflow_schema (
    version INTEGER NOT NULL,
    PRIMARY KEY (version)
);
CREATE TABLE studies (
    study_id VARCHAR(64) NOT NULL,
    key VARCHAR(64) NOT NULL,
    name TEXT NOT NULL,
    state VARCHAR(16) NOT NULL,
    created_at VARCHAR(40) NOT NULL,
    updated_at VARCHAR(40) NOT NULL,
    dataset_id VARCHAR(64) NOT NULL,
    dataset_path TEXT NOT NULL,
    n_designs BIGINT NOT NULL,
    pipeline TEXT NOT NULL,
    dataset TEXT NOT NULL,
    dashboard TEXT,
    driver TEXT,
    heartbeat_s DOUBLE PRECISION,
    wanted VARCHAR(8) DEFAULT 'run' NOT NULL,
    obeyed VARCHAR(8) DEFAULT 'run' NOT NULL,
    PRIMARY KEY (study_id)
);
CREATE INDEX ix_studies_key ON studies (key);
CREATE TABLE study_designs (
    study_id VARCHAR(64) NOT NULL,
    designs BYTEA NOT NULL,
    PRIMARY KEY (study_id),
    FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE trials (
    study_id VARCHAR(64) NOT NULL,
    design_id VARCHAR(64) NOT NULL,
    state VARCHAR(16) NOT NULL,
    engine TEXT NOT NULL,
    worker TEXT NOT NULL,
    device VARCHAR(8) NOT NULL,
    started_at VARCHAR(40) NOT NULL,
    queue_s DOUBLE PRECISION NOT NULL,
    training_s DOUBLE PRECISION NOT NULL,
    total_s DOUBLE PRECISION NOT NULL,
    amortised BOOLEAN NOT NULL,
    parameters BIGINT,
    flops BIGINT,
    epochs_run INTEGER NOT NULL,
    test_accuracy DOUBLE PRECISION,
    test_loss DOUBLE PRECISION,
    train_accuracy DOUBLE PRECISION,
    train_loss DOUBLE PRECISION,
    validation_accuracy DOUBLE PRECISION,
    validation_loss DOUBLE PRECISION,
    depth INTEGER,
    units BIGINT,
    units_min BIGINT,
    units_max BIGINT,
    activation TEXT,
    dropout DOUBLE PRECISION,
    batch_norm BOOLEAN,
    initializer TEXT,
    l2 DOUBLE PRECISION,
    residual BIGINT NOT NULL,
    optimizer TEXT NOT NULL,
    learning_rate DOUBLE PRECISION NOT NULL,
    schedule TEXT NOT NULL,
    batch_size BIGINT NOT NULL,
    epochs BIGINT NOT NULL,
    early_stopping BIGINT,
    seed BIGINT NOT NULL,
    reference TEXT,
    error_type TEXT,
    error_message TEXT,
    more_parameters TEXT NOT NULL,
    design TEXT NOT NULL,
    confusion TEXT NOT NULL,
    error_traceback TEXT,
    history TEXT NOT NULL,
    PRIMARY KEY (study_id, design_id),
    FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE INDEX trials_overview ON trials (study_id, state, depth, test_accuracy, training_s, started_at);
"""
"""As dnnflow of version 2 of the schema wrote it; version 1 had neither the last two columns of `studies` nor
the last index."""

DESIGNS = [Design(layers=(Layer(units=8 + index),), seed=index) for index in range(3)]
PIPELINE = {"name": "old", "dataset": {"source": "iris.csv", "label": "species"}, "designs": 3,
            "training": {"engine": "keras", "validation_fraction": 0.1}}  # fmt: skip
DATASET = {"rows": {"train": 120, "test": 30}}
COLUMNS_OF_4 = {"score": "accuracy", "train_score": "train_accuracy",
                "validation_score": "validation_accuracy"}  # fmt: skip
OLD_COLUMNS = {**COLUMNS_OF_4, "score": "test_accuracy", "loss": "test_loss"}
NAMES_OF_3 = {"run_id": "study_id", "command": "wanted", "acknowledged": "obeyed"}
"""Columns of `runs`, and what they were in `studies`."""
DEAD = Driver(own_host(), 2**22 - 1, 1.0)
MakeOld = Callable[..., None]


def statements(url: str, version: int) -> Iterator[str]:
    text = VERSION_2 if url.startswith("postgresql") else VERSION_2.replace("BYTEA", "BLOB")
    if version == 1:
        text = text.replace("    wanted VARCHAR(8) DEFAULT 'run' NOT NULL,\n", "")
        text = text.replace("    obeyed VARCHAR(8) DEFAULT 'run' NOT NULL,\n", "")
    for statement in text.split(";"):
        if statement.strip() and not (version == 1 and "trials_overview" in statement):
            yield statement


@pytest.fixture
def make_old(url: str) -> MakeOld:
    """A function that makes a store of an older version with the study `old`, which has one trial."""

    def make(version: int, driver: Driver | None = None, **more: object) -> None:
        Store(url).close()  # the directory of a file
        engine = open_engine(store_url(url))
        study = {"study_id": "old", "key": "k" * 64, "name": "old", "state": "running",
                 "created_at": "2026-01-01T00:00:00.000+00:00", "updated_at": "2026-01-01T01:00:00.000+00:00",
                 "dataset_id": "d" * 64, "dataset_path": "/data/d", "n_designs": 3,
                 "pipeline": json.dumps(PIPELINE), "dataset": json.dumps(DATASET),
                 "dashboard": "http://127.0.0.1:8787/status", "driver": str(driver) if driver else None,
                 "heartbeat_s": 5.0 if driver else None, **more}  # fmt: skip
        blob = zlib.compress("\n".join(canonical_json(one.to_dict()) for one in DESIGNS).encode())
        trial = Trial(design_id=DESIGNS[0].design_id, state=TrialState.COMPLETED, engine="keras",
                      score=0.75, history={"loss": (0.5, 0.25)})  # fmt: skip
        with engine.execution_options(writes=True).begin() as connection:
            columns = {4: COLUMNS_OF_4, 5: {}}.get(version, OLD_COLUMNS)
            if version < 5:
                connection.execute(sa.text("DROP TABLE final_trials"))
            if version >= 3:
                for name in ("note", "tags"):
                    connection.execute(sa.text(f"ALTER TABLE runs DROP COLUMN {name}"))
                for name in MEASURES if version < 5 else ():
                    connection.execute(sa.text(f"ALTER TABLE trials DROP COLUMN {name}"))
                for ours, theirs in columns.items():
                    connection.execute(sa.text(f"ALTER TABLE trials RENAME COLUMN {ours} TO {theirs}"))
                connection.execute(sa.text(f"UPDATE dnnflow_schema SET version = {version}"))
                for ours, theirs in NAMES_OF_3.items():
                    if theirs in study:
                        study[ours] = study.pop(theirs)
            else:
                for table in ("trials", "study_designs", "runs", "queues", "dnnflow_schema"):
                    connection.execute(sa.text(f"DROP TABLE {table}"))
                for statement in statements(url, version):
                    connection.execute(sa.text(statement))
                connection.execute(sa.text(f"INSERT INTO dnnflow_schema (version) VALUES ({version})"))
            row = {columns.get(name, name): value for name, value in
                   trial_row("old", DESIGNS[0], trial).items()}  # fmt: skip
            for name, values in (("runs" if version >= 3 else "studies", study),
                                 ("study_designs", {"study_id": "old", "designs": blob}),
                                 ("trials", row)):  # fmt: skip
                into = sa.table(name, *(sa.column(key) for key in values))
                connection.execute(into.insert().values(values))
        engine.dispose()

    return make


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_an_old_store_keeps_all_that_is_in_it(url: str, make_old: MakeOld, version: int) -> None:
    asked = {"wanted": "pause", "obeyed": "pause"} if version > 1 else {}
    make_old(version, DEAD, **asked)
    with Store(url) as store:
        record = store.study("old")
        assert (record.kind, record.state, record.n_designs) == (RunKind.STUDY, RunState.RUNNING, 3)
        assert (record.key, record.dataset_id, record.dataset_path) == ("k" * 64, "d" * 64, "/data/d")
        if version < 4:
            # What went without saying then is said now: the best was chosen on the test rows
            training, evaluation = {"engine": "keras"}, {"select_on": "test", "holdout": 0.1}
            assert record.pipeline == {**PIPELINE, "training": training, "evaluation": evaluation}
            assert read_stored(record.pipeline).training_settings.held_share == 0.1
        assert record.dataset["rows"]["train"] == 120
        assert store.frame("old", columns=["score"])["score"].tolist() == [0.75]
        assert record.dashboard == "http://127.0.0.1:8787/status"
        assert record.updated_at == "2026-01-01T01:00:00.000+00:00"
        expected = Command.PAUSE if version > 1 else Command.RUN
        assert (record.command, record.acknowledged, record.is_driven) == (expected, expected, False)
        assert store.designs("old") == DESIGNS
        assert store.trial("old", DESIGNS[0].design_id).history == {"loss": (0.5, 0.25)}
        with store.reading() as connection:
            found = connection.execute(sa.select(runs.c.driver, runs.c.heartbeat_s)).one()
        assert tuple(found) == (str(DEAD), 5.0)


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_an_old_store_that_was_brought_up_takes_all_that_a_new_one_takes(
    url: str, make_old: MakeOld, version: int
) -> None:
    make_old(version)
    with Store(url) as store:
        store.ask("new", RunKind.TRAINING, "new", {"name": "new"}, key="a key", queue="a queue")
        assert (
            store.ask("x", RunKind.TRAINING, "new", {"name": "new"}, key="a key", queue="a queue").run_id
            == "new"
        )
        taken = store.take_next("a queue")
        assert taken is not None
        assert taken.run_id == "new"
        store.end("new", RunState.FINISHED, outcome={"last": {"loss": 0.5}})
        assert store.run("new").outcome == {"last": {"loss": 0.5}}
        assert store.describe("old", note="from before", tags=["kept"]).tags == ["kept"]
        trial = Trial(design_id=DESIGNS[1].design_id, state=TrialState.COMPLETED, engine="keras", score=1.0)
        with store.driving("old"):
            assert store.add_trials("old", [(DESIGNS[1], trial)]) == 1
            store.set_state("old", RunState.FINISHED)
        with pytest.raises(NotFoundError):  # a trial still belongs to a study that is there
            store.add_trials("nobody", [(DESIGNS[1], trial)])
        assert [record.run_id for record in store.studies()] == ["old"]
        assert len(store.runs()) == 2


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_whoever_opens_an_old_store_first_brings_it_up(url: str, make_old: MakeOld, version: int) -> None:
    """A web server and a driver may open it at the same moment."""
    make_old(version)
    barrier = threading.Barrier(4)

    def open_one(index: int) -> Command:
        barrier.wait()
        with Store(url) as store:
            return store.command("old")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_one, range(4))) == [Command.RUN] * 4


def test_an_old_store_is_left_as_it_is_while_a_process_of_its_version_trains(
    url: str, make_old: MakeOld
) -> None:
    """Its table would vanish under it."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        started_s = psutil.Process(process.pid).create_time()
        make_old(2, Driver(own_host(), process.pid, started_s))
        with pytest.raises(StoreError, match=rf"got old driven by process {process.pid} on .*; wait for it"):
            Store(url)
        engine = open_engine(store_url(url))
        with engine.connect() as connection:
            assert connection.execute(sa.text("SELECT study_id FROM studies")).scalars().all() == ["old"]
        engine.dispose()
        process.kill()
        process.wait()
        with Store(url) as store:
            assert store.study("old").state is RunState.RUNNING


def test_an_upgrade_that_is_killed_leaves_the_old_store(url: str, make_old: MakeOld) -> None:
    make_old(2)
    code = (
        "import os, sys, sqlalchemy as sa\n"
        "from dnnflow.results.store import schema; from dnnflow.results.store.store import Store\n"
        "schema._say_what_was_selected_on = lambda connection: os.kill(os.getpid(), 9)\n"
        "Store(sys.argv[1])"
    )
    assert subprocess.run([sys.executable, "-c", code, url], check=False).returncode == -9
    with Store(url) as store:
        assert store.designs("old") == DESIGNS


def test_dnnflow_of_the_version_before_refuses_a_store_of_this_one(url: str) -> None:
    """It compares the version with its own and ends; so the number is where it looks for it."""
    Store(url).close()
    engine = open_engine(store_url(url))
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT max(version) FROM dnnflow_schema")).scalar()
    engine.dispose()
    assert found == SCHEMA_VERSION > 3
