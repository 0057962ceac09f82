"""Parallel training from end to end on a Dask cluster: what it learns, counts and survives."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from distributed import Client

from dnnflow.api import train
from dnnflow.errors import ClusterError, DataError, DivergedError, InputError, NotFoundError
from dnnflow.execute.cluster import workers_of
from dnnflow.parallel.driver.checkpoint import FILE, read_checkpoint
from dnnflow.parallel.driver.placement import place
from dnnflow.parallel.rows.batches import Batch, Batching, batches
from dnnflow.parallel.rows.leases import lane_of
from dnnflow.table.rows.sources import open_source
from dnnflow.table.rows.user_source import Data

TESTS = Path(__file__).parents[1]
FEATURES, CLASSES = 6, 3
PART = 10
"""Rows of one part of `Counted`."""
PARTS = 20

# Rows that are counted: each has a weight of its own, whose gradient is 1 whatever the weights are


def linear(targets: Any, outputs: Any) -> Any:
    """Return the sum of the outputs: with rate 1 every row lowers its own weight by 1 each time."""
    return keras.ops.sum(outputs)


def counting_model(rows: int, momentum: float = 0.0) -> keras.Model:
    layers = [keras.Input((rows,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(1.0, momentum=momentum), linear)
    return model


def identity(rows: int) -> tuple[np.ndarray, np.ndarray]:
    return np.eye(rows, dtype=np.float32), np.zeros((rows, 1), np.float32)


def times(model: keras.Model) -> np.ndarray:
    """Return how often each row was trained on."""
    return -model.get_weights()[0][:, 0]


class Counted(Data):
    """Rows of the identity in parts, whose loading takes time and is written down."""

    def __init__(self, directory: str, seconds_s: float = 0.3) -> None:
        self.directory, self.seconds_s = directory, seconds_s

    def chunks(self) -> list[int]:
        return list(range(PARTS))

    def rows(self, key: int) -> int:
        return PART

    def load(self, key: int) -> tuple[np.ndarray, np.ndarray]:
        with open(Path(self.directory, f"loads-{os.getpid()}"), "a") as file:
            file.write(f"{key}\n")
        time.sleep(self.seconds_s)
        inputs, targets = identity(PARTS * PART)
        part = slice(key * PART, (key + 1) * PART)
        return inputs[part], targets[part]


class Whole(Data):
    """Rows of the identity in one part."""

    def chunks(self) -> list[int]:
        return [200]

    def load(self, key: int) -> tuple[np.ndarray, np.ndarray]:
        return identity(key)


class Broken(Data):
    """Rows that cannot be read where they are trained on."""

    def chunks(self) -> list[int]:
        return [0]

    def rows(self, key: int) -> int:
        return PART

    def load(self, key: int) -> tuple[np.ndarray, np.ndarray]:
        if threading.current_thread().name == "dnnflow-rows":
            raise KeyError("the disk that is not there")
        return np.zeros((PART, FEATURES), np.float32), np.zeros(PART, np.int32)


def building(fail: str = "") -> keras.Model:
    """Build a model here and fail on workers."""
    if fail and os.getpid() != int(fail):
        raise OverflowError("no such layer on this worker")
    return network()


# An easy table


def table(rows: int = 900, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    inputs = generator.normal(size=(rows, FEATURES))
    return inputs.astype(dtype), (inputs @ generator.normal(size=(FEATURES, CLASSES))).argmax(1)


def network(optimizer: Any = "adam", *, dtype: str = "float32", normalized: bool = False) -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = [keras.Input((FEATURES,), dtype=dtype)]
    # A bias before a normalisation has no gradient but rounding, which Adam makes a step of
    layers.append(keras.layers.Dense(12, use_bias=not normalized, dtype=dtype))
    if normalized:
        layers.append(keras.layers.BatchNormalization(dtype=dtype))
    layers += [
        keras.layers.Activation("tanh", dtype=dtype),
        keras.layers.Dense(CLASSES, "softmax", dtype=dtype),
    ]
    model = keras.Sequential(layers)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def lanes(data: Any, replicas: int, size: int, epochs: int = 1, dtype: str = "float32") -> list[list[Batch]]:
    """Return the batches of each replica's lane, in order."""
    source = open_source(data)
    chunks = source.chunks(source.chunk_rows(replicas, size))
    found = []
    for replica in range(replicas):
        leases = lane_of(replica, chunks, replicas, seed=0, epochs=epochs)
        found.append(list(batches(source, leases, Batching(size, 0, True, dtype))))
    return found


def distance(model: keras.Model, expected: keras.Model) -> float:
    """Return the largest relative difference of two models' tensors."""
    pairs = zip(model.get_weights(), expected.get_weights(), strict=True)
    return max(float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-30) for a, b in pairs)


OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "sgd": lambda: keras.optimizers.SGD(0.125, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.0078125),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.0078125),
}
"""With rates that float32 holds exactly: Keras keeps them in it for models of float64 too."""


@pytest.fixture
def float64(cluster: Client) -> Iterator[None]:
    """Let losses be computed in float64, which Keras does by a setting of the process alone."""
    for name in ("float64", "float32"):
        cluster.run(keras.config.set_floatx, name)
        keras.config.set_floatx(name)
        if name == "float64":
            yield


def workers(client: Client) -> dict[str, Any]:
    return workers_of(client)


def pids(client: Client) -> dict[str, int]:
    return client.run(os.getpid)


# The same numbers as Keras


@pytest.mark.parametrize("normalized", [False, True], ids=["plain", "batch-normalised"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "rows", "bound"), [("float64", 900, 1e-8), ("float32", 300, 1e-5)])
def test_one_replica_computes_what_keras_does(
    cluster: Client,
    request: pytest.FixtureRequest,
    dtype: str,
    rows: int,
    bound: float,
    name: str,
    normalized: bool,
) -> None:
    if dtype == "float64":
        request.getfixturevalue("float64")
    data = table(rows, dtype)
    expected = network(OPTIMIZERS[name](), dtype=dtype, normalized=normalized)
    for batch in lanes(data, 1, 30, dtype=dtype)[0]:
        expected.train_on_batch(batch.inputs[0], batch.targets[0])
    model = network(OPTIMIZERS[name](), dtype=dtype, normalized=normalized)
    result = train(model, data, client=cluster, replicas=1, synchronous=True, batch_size=30)
    assert distance(result["model"], expected) <= bound


@pytest.mark.slow
def test_what_is_no_gradient_reaches_the_servers(cluster: Client) -> None:
    """Adapted statistics, a constraint and a moving average of the weights, which the model ends with."""
    data = table(300)
    normalize = keras.layers.Normalization()
    normalize.adapt(3 * data[0] + 5)

    def made() -> keras.Model:
        keras.utils.set_random_seed(3)
        dense = keras.layers.Dense(CLASSES, "softmax", kernel_constraint=keras.constraints.MaxNorm(0.5))
        model = keras.Sequential([keras.Input((FEATURES,)), normalize, dense])
        optimizer = keras.optimizers.Adam(0.0625, use_ema=True, ema_momentum=0.5)
        model.compile(optimizer, "sparse_categorical_crossentropy")
        return model

    expected = made()
    for batch in lanes(data, 1, 30)[0]:
        expected.train_on_batch(batch.inputs[0], batch.targets[0])
    expected.optimizer.finalize_variable_values(expected.trainable_variables)
    result = train(made(), data, client=cluster, replicas=1, synchronous=True, batch_size=30)
    assert distance(result["model"], expected) <= 1e-5
    np.testing.assert_allclose(result["model"](data[0]), expected(data[0]), rtol=1e-4)


@pytest.mark.usefixtures("float64")
def test_synchronous_replicas_are_one_process_with_a_larger_batch(cluster: Client) -> None:
    """And the same bits each time, whoever comes first: 907 rows leave the lanes unequal."""
    data = table(907, "float64")
    expected = network(OPTIMIZERS["sgd"](), dtype="float64")
    for one, other in zip(*lanes(data, 2, 20, 2, "float64"), strict=True):
        joined = [
            np.concatenate(pair)
            for pair in zip((*one.inputs, *one.targets), (*other.inputs, *other.targets), strict=True)
        ]
        expected.train_on_batch(*joined)
    results = [
        train(
            network(OPTIMIZERS["sgd"](), dtype="float64"), data,
            client=cluster, replicas=2, synchronous=True, batch_size=20, epochs=2,
        )["model"]
        for _ in range(2)
    ]  # fmt: skip
    assert distance(results[0], expected) <= 1e-8
    assert all(np.array_equal(*pair) for pair in zip(*(one.get_weights() for one in results), strict=True))


# Every row once an epoch

WAYS: dict[str, dict[str, Any]] = {
    "asynchronous": {},
    "two servers": {"servers": 2},
    "two groups": {"groups": 2, "group_every": 3},
    "three batches a push": {"sync_every": 3},
    "never far ahead": {"staleness_bound": 0},
    "never far ahead of three batches": {"staleness_bound": 1, "sync_every": 3},
    "overlapped": {"overlap": True},
    "overlapped, two servers": {"overlap": True, "servers": 2},
    "overlapped, two groups": {"overlap": True, "groups": 2, "group_every": 3},
    "overlapped, three batches a push, never far ahead": {
        "overlap": True,
        "sync_every": 3,
        "staleness_bound": 0,
    },
}


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_every_row_is_trained_on_once_an_epoch(cluster: Client, settings: dict[str, Any]) -> None:
    result = train(
        counting_model(211), identity(211), client=cluster, replicas=2, batch_size=8, epochs=3, wait_s=20,
        replica_optimizer=None, **settings,
    )  # fmt: skip
    assert set(times(result["model"])) == {3.0}
    history = result["history"]
    assert (history.samples, history.ended_by) == (3 * 211, "epochs")
    if groups := settings.get("groups"):
        top, *below = (server.samples for server in history.servers)
        assert (top, sum(below), len(below)) == (3 * 211, 3 * 211, groups)
        return
    assert {server.samples for server in history.servers} == {3 * 211}
    assert len(history.servers) == settings.get("servers", 1)


@pytest.mark.parametrize("settings", [{}, {"servers": 2}, {"sync_every": 3}], ids=str)
@pytest.mark.parametrize(("rows", "batch"), [(211, 8), (3, 2)])
def test_synchronous_replicas_train_on_every_row(
    cluster: Client, rows: int, batch: int, settings: dict[str, Any]
) -> None:
    """Lanes of unequal length, a lane without a row, and a last batch that is not full."""
    result = train(
        counting_model(rows), identity(rows), client=cluster, replicas=2, batch_size=batch, epochs=2,
        synchronous=True, wait_s=20, **settings,
    )  # fmt: skip
    assert (times(result["model"]) > 0).all()
    assert result["history"].samples == 2 * rows
    assert {server.samples for server in result["history"].servers} == {2 * rows}


def test_one_who_waits_for_rows_holds_nobody_back(cluster: Client) -> None:
    """All rows are one replica's, which may not be ahead of the other, which waits for its end."""
    result = train(
        counting_model(200), Whole(), client=cluster, replicas=2, batch_size=10, staleness_bound=0, wait_s=20
    )
    assert set(times(result["model"])) == {1.0}


@pytest.mark.parametrize("rows", [1, 5])
def test_fewer_rows_than_replicas_could_use(cluster: Client, rows: int) -> None:
    result = train(counting_model(rows), identity(rows), client=cluster, replicas=2, batch_size=5, epochs=2)
    assert set(times(result["model"])) == {2.0}


# Learning

ALGORITHMS: dict[str, dict[str, Any]] = {
    "downpour": {},
    "synchronous": {"synchronous": True},
    "quorum": {"synchronous": True, "quorum": 0.5},
    "five batches a push": {"sync_every": 5},
    "damping": {"damping": True},
    "bound": {"staleness_bound": 1, "wait_s": 20},
    "easgd": {"algorithm": "easgd", "sync_every": 2},
    "synchronous easgd": {"algorithm": "easgd", "sync_every": 2, "synchronous": True},
    "eamsgd": {"algorithm": "easgd", "sync_every": 2, "momentum": 0.9},
    "gem": {"algorithm": "gem"},
    "gem of local steps": {"algorithm": "gem", "sync_every": 3},
    "diloco": {"algorithm": "diloco", "sync_every": 5, "synchronous": True},
    "int8": {"wire": "int8", "reply_wire": "bfloat16"},
    "overlapped": {"overlap": True},
}


@pytest.mark.parametrize("settings", ALGORITHMS.values(), ids=ALGORITHMS)
def test_an_algorithm_learns(cluster: Client, settings: dict[str, Any]) -> None:
    data = table()
    result = train(
        network(keras.optimizers.Adam(0.01)), data, validation=data, client=cluster, replicas=2, epochs=8,
        batch_size=20, **settings,
    )  # fmt: skip
    accuracy = result["model"].evaluate(*data, verbose=0, return_dict=True)["accuracy"]
    assert accuracy > 0.75
    assert result["history"].rows[-1]["val_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert result["history"].rows[-1]["loss"] < 0.9


# What goes wrong


def kill(pid: int, when: Callable[[], bool]) -> threading.Thread:
    """Kill a process once something is true."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while not when() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def loads(directory: Path, pid: int | None = None) -> int:
    """Return how many parts were loaded, by one process or all."""
    files = directory.glob(f"loads-{pid or '*'}")
    return sum(len(file.read_text().splitlines()) for file in files)


@pytest.mark.slow
@pytest.mark.parametrize("synchronous", [False, True], ids=["asynchronous", "synchronous"])
def test_a_killed_replica_costs_what_it_had_not_reported(
    fragile: Client, tmp_path: Path, synchronous: bool
) -> None:
    victim = place(workers(fragile), servers=1, replicas=2, device="auto").replicas[0]
    pid = pids(fragile)[victim]
    thread = kill(pid, lambda: loads(tmp_path, pid) >= 4)
    result = train(
        counting_model(PARTS * PART), Counted(str(tmp_path)), client=fragile, replicas=2, batch_size=PART,
        synchronous=synchronous, shuffle=False, wait_s=60,
    )  # fmt: skip
    thread.join()
    history, found = result["history"], times(result["model"])
    assert history.replicas[0].starts == 2
    assert [(one.replica, one.worker) for one in history.lost] == [(0, victim)]
    assert history.replicas[1].starts == 1
    assert (found > 0).all()
    again = history.servers[0].samples - PARTS * PART
    assert 0 <= again <= 4 * PART  # what half a second between two reports can hold, and a little
    if not synchronous:
        assert found.max() <= 2
        assert (found == 2).sum() == again


def assert_clear(client: Client) -> None:
    """Wait for the end of a training's tasks, actors and threads on the cluster."""
    deadline = time.monotonic() + 60
    while (left := _left(client)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def _left(client: Client) -> list[str]:
    def tasks(dask_scheduler: Any) -> list[str]:
        return [
            key for key in map(str, dask_scheduler.tasks) if key.startswith(("replica", "Server", "Coord"))
        ]

    threads = client.run(_threads)
    return client.run_on_scheduler(tasks) + [name for names in threads.values() for name in names]


def _threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("dnnflow-")]


def test_what_own_code_raises_on_a_worker_reaches_the_caller(cluster: Client) -> None:
    with pytest.raises(KeyError, match="the disk that is not there") as caught:
        train(network(), Broken(), client=cluster, replicas=1)
    assert "load" in [entry.name for entry in caught.traceback]
    here = {"fail": str(os.getpid())}
    with pytest.raises(OverflowError, match="no such layer") as built:
        train("test_parallel_train:building", table(), parameters=here, client=cluster, replicas=1)
    assert "building" in [entry.name for entry in built.traceback]
    assert_clear(cluster)


def test_a_loss_that_is_no_number_ends_the_training(cluster: Client) -> None:
    inputs, targets = table(100)
    steep = network(keras.optimizers.SGD(1e38))
    with pytest.raises(DivergedError, match="lower the learning rate"):
        train(steep, (inputs, targets), client=cluster, replicas=1, batch_size=20)
    inputs[50] = np.nan
    with pytest.raises(DataError, match=r"row 50 \(from 0\) of the arrays has nan"):
        train(network(), (inputs, targets), client=cluster, replicas=1, batch_size=20)
    assert_clear(cluster)


def test_what_cannot_be_asked_for_is_refused(cluster: Client, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sync_every.*got sync_evry"):
        train(network(), table(), client=cluster, sync_evry=5)
    with pytest.raises(ClusterError, match="a worker that declares GPU"):
        train(network(), table(), client=cluster, device="gpu")
    with pytest.raises(ClusterError, match="3 replicas need as many workers, got 2"):
        train(network(), table(), client=cluster, replicas=3)
    with pytest.raises(NotFoundError, match="start without restore"):
        train(network(), table(), client=cluster, checkpoint=str(tmp_path), restore=True)
    assert_clear(cluster)


# Checkpoints

DRIVER = """
import sys
from test_parallel_train import *
if __name__ == "__main__":
    model = counting_model(PARTS * PART, momentum=0.5)
    train(model, Counted(sys.argv[1]), replicas=1, batch_size=PART, epochs=50, checkpoint=sys.argv[2],
          checkpoint_every_s=0.3, copy_every_s=0.2, synchronous=bool(sys.argv[3]))
"""


def samples_in(directory: Path) -> int:
    return int(read_checkpoint(str(directory)).servers[0]["samples"]) if (directory / FILE).is_file() else 0


@pytest.mark.slow
@pytest.mark.parametrize("synchronous", [False, True], ids=["asynchronous", "synchronous"])
def test_a_killed_driver_goes_on_from_its_checkpoint(
    cluster: Client, tmp_path: Path, synchronous: bool
) -> None:
    """With lanes to the row: how far they are is part of the servers' state."""
    script, kept = tmp_path / "driver.py", tmp_path / "kept"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(kept), "yes" * synchronous],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS / "parallel"), str(TESTS.parent)])},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while samples_in(kept) < 3 * PART and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    state = read_checkpoint(str(kept))
    before, coordinator = state.servers, state.coordinator
    done = int(before[0]["samples"])
    assert PARTS * PART > done >= 3 * PART
    assert any(np.any(value) for name, value in before[0].items() if "slot" in name or "momentum" in name)
    result = train(
        counting_model(PARTS * PART, momentum=0.5), Counted(str(tmp_path), 0.01), client=cluster, replicas=1,
        batch_size=PART, epochs=50, checkpoint=str(kept), restore=True, synchronous=synchronous,
    )  # fmt: skip
    history = result["history"]
    assert history.servers[0].samples == done + history.samples
    rows = done if synchronous else sum(coordinator["leases"]["done"])
    assert history.samples == 50 * PARTS * PART - rows
    assert history.rows[-1]["samples"] == done + history.samples


def test_a_restored_training_keeps_weights_and_optimizer(cluster: Client, tmp_path: Path) -> None:
    """Two epochs, and then two more, are the bits of four."""
    settings: dict[str, Any] = {"client": cluster, "replicas": 1, "synchronous": True, "batch_size": 30}
    whole = train(network(), table(), epochs=4, **settings)["model"]
    train(network(), table(), epochs=2, checkpoint=str(tmp_path), **settings)
    result = train(network(), table(), epochs=4, checkpoint=str(tmp_path), restore=True, **settings)
    assert result["history"].samples == 2 * 900
    pairs = zip(whole.get_weights(), result["model"].get_weights(), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)
    again = train(network(), table(), epochs=4, checkpoint=str(tmp_path), restore=True, **settings)
    assert again["history"].samples == 0
    assert distance(again["model"], whole) == 0
    with pytest.raises(InputError, match="same chunks and seed"):
        train(network(), table(), epochs=4, seed=1, checkpoint=str(tmp_path), restore=True, **settings)


# Callbacks and ends


def test_callbacks_of_keras_hear_of_each_validation(cluster: Client, tmp_path: Path) -> None:
    data, (log, best) = table(), (tmp_path / "log.csv", tmp_path / "best.keras")
    callbacks = [
        keras.callbacks.ModelCheckpoint(best, monitor="val_accuracy", save_best_only=True),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.1, patience=1, min_delta=100.0),
        keras.callbacks.CSVLogger(log),
    ]
    result = train(
        network(), data, validation=data, client=cluster, replicas=2, epochs=30, batch_size=20,
        callbacks=callbacks, validate_every=900,
    )  # fmt: skip
    history = result["history"]
    accuracies = [row["val_accuracy"] for row in history.rows]
    lines = log.read_text().splitlines()
    assert len(lines) == 1 + len(history.rows)
    assert {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"} <= set(lines[0].split(","))
    found = keras.models.load_model(best).evaluate(*data, verbose=0, return_dict=True)["accuracy"]
    assert found == pytest.approx(max(accuracies), abs=1e-6)
    assert "learning_rate" in lines[0]
    assert float(result["model"].optimizer.learning_rate) < 0.0005
    assert history.samples == 30 * 900


def test_a_rate_that_a_callback_lowers_is_the_servers(cluster: Client, tmp_path: Path) -> None:
    """With a rate of almost nothing after the first part the weights stay where they are."""
    stop = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 1e-6)
    result = train(
        counting_model(PARTS * PART), Counted(str(tmp_path), 0.2), client=cluster, replicas=1,
        batch_size=PART, validate_every=PART, callbacks=[stop],
    )  # fmt: skip
    found = times(result["model"])
    assert set(found.round(3)) == {0.0, 1.0}


def test_what_ends_a_training_early(cluster: Client, tmp_path: Path) -> None:
    data, most = table(), 1000 * 900
    settings: dict[str, Any] = {"validation": data, "client": cluster, "replicas": 2, "epochs": 1000}
    early = keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=100.0)
    history = train(network(), data, callbacks=[early], **settings)["history"]
    assert (history.ended_by, history.samples < most) == ("callback", True)
    result = train(network(), data, target="val_accuracy,>,0.6", **settings)
    history = result["history"]
    assert (history.ended_by, history.samples < most) == ("target", True)
    assert max(row["val_accuracy"] for row in history.rows) > 0.6
    history = train(network(), data, time_limit_s=1.0, **settings)["history"]
    assert (history.ended_by, history.samples < most) == ("time limit", True)
    assert "val_accuracy" in history.rows[-1]


# The way of mpi_learn


def test_what_mpi_learn_is_given_trains_here(cluster: Client, tmp_path: Path) -> None:
    import h5py
    import pandas as pd

    digits = pd.read_csv(TESTS.parent / "pipelines" / "data" / "digits.csv")
    features = digits.drop(columns="digit").to_numpy(np.float32).reshape(-1, 8, 8, 1) / 16
    labels = np.eye(10, dtype=np.float32)[digits["digit"].to_numpy(int)]
    names = []
    for number, rows in enumerate(np.array_split(np.random.default_rng(0).permutation(len(digits)), 9)):
        names.append(str(tmp_path / f"part-{number}.h5"))
        with h5py.File(names[-1], "w") as file:
            file["features"], file["labels"] = features[rows], labels[rows]
    (tmp_path / "train.txt").write_text("\n".join(names[:8]))
    (tmp_path / "test.txt").write_text(names[8])
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10, "softmax"),
    ]
    (tmp_path / "model.json").write_text(keras.Sequential(layers).to_json())
    history = train(
        str(tmp_path / "model.json"), str(tmp_path / "train.txt"), validation=str(tmp_path / "test.txt"),
        client=cluster, replicas=2, epochs=6, batch_size=50, timeline=True, loss="categorical_crossentropy",
        metrics=["accuracy"], optimizer=keras.optimizers.Adam(0.003), cache_dir=str(tmp_path / "cache"),
    )["history"]  # fmt: skip
    assert history.rows[-1]["val_accuracy"] > 0.9
    told = json.loads(history.to_mpi_learn({"epochs": 6}))
    master = told["history"]["0:0:-"]
    assert told["train_time"] > 0
    assert master["val_loss"] == [row["val_loss"] for row in history.rows]
    assert told["history"]["1:0:-"]["loss"]
    spans = [event for event in json.loads(history.to_chrome_trace())["traceEvents"] if event["ph"] == "X"]
    assert {span["name"] for span in spans} == {"compute", "exchange", "data"}
    assert {span["tid"] for span in spans} <= {0, 1}
    assert all(span["dur"] >= 0 for span in spans)
    assert list(history.frame().columns[:3]) == ["epoch", "samples", "elapsed_s"]
