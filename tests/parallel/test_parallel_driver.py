"""The driver of a parallel training: rows of its history, what it sends, what it waits for, what goes on."""

import os
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from distributed import Client
from test_parallel_train import (
    counting_model,
    distance,
    identity,
    lanes,
    network,
    pids,
    table,
    times,
    workers,
)

from dnnflow.api import train
from dnnflow.errors import ClusterError, InputError, OutputError
from dnnflow.events import Event, Notice
from dnnflow.parallel.driver import training as driver
from dnnflow.parallel.driver.placement import place
from dnnflow.parallel.driver.training import Training
from dnnflow.parallel.model.model_spec import ModelSpec
from dnnflow.parallel.replica.replica import Pickled
from dnnflow.run.train import read_options
from dnnflow.table.rows.sources import open_source

# Rows of the history


@pytest.mark.parametrize("replicas", [1, 2])
def test_each_epoch_has_its_row_however_short_it_is(cluster: Client, tmp_path: Path, replicas: int) -> None:
    """Thirty epochs of milliseconds: replicas report twice a second."""
    log = tmp_path / "log.csv"
    history = train(
        network(keras.optimizers.Adam(0.003)), table(300), validation=table(300), client=cluster,
        replicas=replicas, epochs=30, batch_size=20, callbacks=[keras.callbacks.CSVLogger(log)],
    )["history"]  # fmt: skip
    assert [row["epoch"] for row in history.rows] == list(range(1, 31))
    assert [row["samples"] for row in history.rows] == [300.0 * epoch for epoch in range(1, 31)]
    assert all({"loss", "accuracy", "val_loss", "val_accuracy"} <= row.keys() for row in history.rows)
    assert [line.partition(",")[0] for line in log.read_text().splitlines()[1:]] == [
        str(n) for n in range(30)
    ]


def test_a_row_has_the_loss_of_its_own_epoch(cluster: Client) -> None:
    """The weight of row r is -e in epoch e + 1, and so is what the model gives for it."""
    history = train(
        counting_model(200), identity(200), client=cluster, replicas=1, synchronous=True, epochs=5,
        batch_size=10,
    )["history"]  # fmt: skip
    assert [row["loss"] for row in history.rows] == pytest.approx([-10.0 * epoch for epoch in range(5)])


# What is sent


def test_large_rows_are_packed_once_and_dask_warns_of_nothing(
    cluster: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[Pickled] = []
    make = Pickled.of

    def counted(thing: object) -> Pickled:
        packed.append(make(thing))
        return packed[-1]

    monkeypatch.setattr(Pickled, "of", counted)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = train(counting_model(2000), identity(2000), client=cluster, replicas=2, batch_size=100)
    assert set(times(result["model"])) == {1.0}
    (pickled,) = packed
    assert sum(array.nbytes for array in pickled.arrays) >= 16_000_000


def test_a_large_model_is_trained_as_by_keras_and_dask_warns_of_nothing(cluster: Client) -> None:
    def wide() -> keras.Model:
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(400_000), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1e-6), "mse")
        return model

    inputs, targets = table(40)
    data = inputs, targets[:, None].astype(np.float32)
    expected = wide()
    for batch in lanes(data, 1, 20)[0]:
        expected.train_on_batch(batch.inputs[0], batch.targets[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = train(wide(), data, client=cluster, replicas=1, synchronous=True, batch_size=20)
    assert distance(result["model"], expected) <= 1e-5


def test_a_parcel_is_opened_without_a_copy_of_its_arrays() -> None:
    pickled = Pickled.of({"rows": np.arange(1000), "name": "x"})
    opened = pickled.load()
    assert np.array_equal(opened["rows"], np.arange(1000))
    assert opened["name"] == "x"
    assert np.shares_memory(opened["rows"], pickled.arrays[0])
    assert len(pickled.data) < 1000


# What is waited for


@pytest.mark.slow
def test_a_worker_that_is_lost_before_its_server_is_made_is_not_waited_for(fragile: Client) -> None:
    """The task that makes a server is bound to its worker's address, which never comes back."""
    model, data = network(), table()
    spec, source = ModelSpec.of(model), open_source(data)
    training = Training(fragile, spec, source, read_options(spec, "downpour", {"replicas": 1}))
    address = training._placement.servers[0]
    os.kill(pids(fragile)[address], signal.SIGKILL)
    start = time.monotonic()
    _, history = training.run()
    assert history.samples == 900
    assert time.monotonic() - start < driver.SILENCE_S


def test_a_replica_that_does_not_begin_ends_the_training_with_what_is_waited_for(
    cluster: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "SILENCE_S", 2.0)
    busy = place(workers(cluster), servers=1, replicas=1, device="auto").replicas[0]
    task = cluster.submit(time.sleep, 8, workers=[busy], pure=False)
    with pytest.raises(
        ClusterError, match="must begin, and then report, within 2 s, got nothing of replica 0"
    ):
        train(network(), table(), client=cluster, replicas=1)
    task.result(timeout=30)


def test_no_worker_is_missed_while_the_client_asks_for_itself(cluster: Client) -> None:
    """A server's worker that seems gone ends a training."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            cluster.sync(cluster._update_scheduler_info)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        found = [len(workers(cluster)) for _ in range(300)]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert set(found) == {2}


# What goes on


def test_asynchronous_training_goes_on_with_another_number_of_replicas(
    cluster: Client, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"client": cluster, "batch_size": 8, "checkpoint": str(tmp_path)}
    train(counting_model(211), identity(211), replicas=2, **settings)
    result = train(counting_model(211), identity(211), replicas=1, epochs=2, restore=True, **settings)
    assert set(times(result["model"])) == {2.0}
    result = train(counting_model(211), identity(211), replicas=2, epochs=4, restore=True, **settings)
    assert set(times(result["model"])) == {4.0}
    assert [row["epoch"] for row in result["history"].rows] == [3, 4]
    settings |= {"epochs": 5, "restore": True, "synchronous": True}
    with pytest.raises(InputError, match="as it began, got synchronous after asynchronous"):
        train(counting_model(211), identity(211), replicas=2, **settings)


def test_a_checkpoint_that_cannot_be_written_ends_no_training(
    cluster: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(*_: object) -> None:
        raise OutputError("no room")

    told: list[Event] = []
    monkeypatch.setattr("dnnflow.parallel.driver.training.write_checkpoint", is_full)
    result = train(
        counting_model(50), identity(50), client=cluster, replicas=1, batch_size=5, checkpoint=str(tmp_path),
        checkpoint_every_s=0.001, listener=told.append,
    )  # fmt: skip
    assert set(times(result["model"])) == {1.0}
    notices = [event.message for event in told if isinstance(event, Notice)]
    assert notices.count("no checkpoint: no room; the training goes on, and the last one stays") == 1


def test_a_checkpoint_that_has_no_place_is_told_before_the_training(cluster: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file is no directory"):
        train(counting_model(50), identity(50), client=cluster, checkpoint=str(tmp_path / "file" / "in"))


def test_synchronous_training_does_not_and_says_why(cluster: Client, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "client": cluster, "batch_size": 8, "checkpoint": str(tmp_path), "synchronous": True,
    }  # fmt: skip
    train(counting_model(50), identity(50), replicas=2, **settings)
    with pytest.raises(InputError, match="depends on their number, got 1 after 2; set replicas=2"):
        train(counting_model(50), identity(50), replicas=1, epochs=2, restore=True, **settings)
