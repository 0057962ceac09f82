"""Pushes beside the next computing: of which weights a gradient is, and that each push counts once."""

import threading
import time
from collections import Counter
from typing import Any

import keras
import numpy as np
import pytest

from dnnflow.errors import InputError
from dnnflow.parallel.model.model_spec import ModelSpec
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.replica.lookout import CoordinatorClient
from dnnflow.parallel.replica.replica import Replica, ReplicaConfig
from dnnflow.parallel.replica.shards import Shards
from dnnflow.parallel.rows.batches import Batching, batches
from dnnflow.parallel.rows.coordinator import Coordinator
from dnnflow.parallel.rows.leases import lane_of
from dnnflow.parallel.server.messages import Push, PushReply
from dnnflow.parallel.server.parameter_server import ParameterServer
from dnnflow.parallel.spec.algorithm import Algorithm, OptimizerSpec
from dnnflow.table.rows.sources import open_source

ROWS, FEATURES, BATCH, EPOCHS = 210, 4, 20, 2
RATE, LOCAL_RATE = 0.05, 0.02


class Way:
    """A channel to a server in this process, which may be slow, cut or in doubt of what came through."""

    def __init__(self, server: ParameterServer, *, seconds_s: float = 0.0, twice: bool = False) -> None:
        self.server, self.seconds_s, self.twice = server, seconds_s, twice
        self.cut_after: int | None = None
        self.pushes = 0

    def join(self, replica: int) -> int:
        return self.server.join(replica)

    def leave(self, replica: int) -> None:
        self.server.leave(replica)

    def pull(self, replica: int = -1, out: Vector | None = None) -> tuple[int, Vector]:
        return self.server.pull(replica, out)

    def exchange(self, push: Push, out: Vector | None = None) -> PushReply:
        time.sleep(self.seconds_s)
        reply = self.server.exchange(push, out)
        self.pushes += 1
        if self.twice:
            self.server.exchange(push)
        if self.pushes == self.cut_after:
            raise RuntimeError("cut behind the server")
        return reply

    def close(self) -> None: ...

    def abort(self) -> None: ...


def linear_table() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    inputs = generator.normal(size=(ROWS, FEATURES)).astype(np.float32)
    return inputs, inputs @ generator.normal(size=(FEATURES, 1)).astype(np.float32)


class Training:
    """One model, its books and its server in this process."""

    def __init__(self, algorithm: Algorithm, **way: Any) -> None:
        layers = [keras.Input((FEATURES,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")]
        model = keras.Sequential(layers)
        model.compile("sgd", "mse")
        self.algorithm, self.spec = algorithm, ModelSpec.of(model)
        self.source = open_source(linear_table())
        self.chunks = self.source.chunks(self.source.chunk_rows(1, BATCH))
        self.coordinator = Coordinator(self.chunks, seed=0, epochs=EPOCHS)
        self.server = ParameterServer(self.spec.vector, algorithm, layout=self.spec.layout)
        self.way = Way(self.server, **way)

    def run(self, replica: int = 0) -> int:
        config = ReplicaConfig(
            replica=replica, replicas=1, peers=1, model=self.spec, source=self.source, chunks=self.chunks,
            batching=Batching(BATCH), algorithm=self.algorithm, epochs=EPOCHS, parts=(slice(None),),

        )  # fmt: skip
        with Shards([self.way], config.parts, replica) as shards:
            return Replica(config).run(shards, CoordinatorClient(self.coordinator, replica), int)

    @property
    def weights(self) -> np.ndarray:
        return self.server.pull()[1]


def slope(weights: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the gradient of the mean squared error of a linear model."""
    return 2 / len(inputs) * inputs.T @ (inputs @ weights - targets[:, 0])


def expected(sync_every: int) -> np.ndarray:
    """Return the weights after a training whose push t is computed from what push t - 2 was answered with."""
    source = open_source(linear_table())
    leases = lane_of(0, source.chunks(source.chunk_rows(1, BATCH)), 1, seed=0, epochs=EPOCHS)
    rows = [(batch.inputs[0], batch.targets[0]) for batch in batches(source, leases, Batching(BATCH))]
    seen = [np.ones(FEATURES)]
    for first in range(0, len(rows), sync_every):
        before = start = seen[max(len(seen) - 2, 0)]
        if sync_every == 1:
            seen.append(seen[-1] - RATE * slope(before, *rows[first]))
            continue
        for batch in rows[first : first + sync_every]:
            start = start - LOCAL_RATE * slope(start, *batch)
        seen.append(seen[-1] - (before - start))
    return seen[-1]


def algorithm(sync_every: int, **more: Any) -> Algorithm:
    if sync_every == 1:
        return Algorithm(overlap=True, server_optimizer=OptimizerSpec("sgd", RATE), **more)
    replica = OptimizerSpec("sgd", LOCAL_RATE)
    return Algorithm(overlap=True, sync_every=sync_every, replica_optimizer=replica, **more)


@pytest.mark.parametrize("seconds_s", [0.0, 0.01], ids=["quick", "slow server"])
@pytest.mark.parametrize("sync_every", [1, 2])
def test_a_push_is_computed_on_the_weights_before_the_last_answer(sync_every: int, seconds_s: float) -> None:
    training = Training(algorithm(sync_every), seconds_s=seconds_s)
    assert training.run() == EPOCHS * ROWS
    assert training.weights == pytest.approx(expected(sync_every), rel=1e-4, abs=1e-5)
    pushes = -(-EPOCHS * -(-ROWS // BATCH) // sync_every)
    assert training.server.statistics().staleness == {0: 1, 1: pushes - 1}
    assert training.server.statistics().samples == EPOCHS * ROWS
    assert training.coordinator.is_done()


def test_a_push_that_comes_twice_counts_once() -> None:
    training = Training(algorithm(1), twice=True)
    training.run()
    assert training.weights == pytest.approx(expected(1), rel=1e-4, abs=1e-5)
    assert training.server.statistics().repeated == training.server.statistics().pushes


def test_rows_count_as_done_when_their_push_is_answered() -> None:
    """A replica that fails with a push on its way leaves the rows of it, and of later ones, to others."""
    training = Training(algorithm(1))
    training.way.cut_after = 5
    with pytest.raises(RuntimeError, match="cut behind the server"):
        training.run()
    done = sum(report.count for report in training.coordinator.collect())
    assert done == 4 * BATCH
    assert training.server.statistics().samples == 5 * BATCH  # the fifth is trained on twice
    training.coordinator.give_back(0)
    assert training.run(1) == EPOCHS * ROWS - done
    assert training.coordinator.is_done()


def test_threads_end_with_the_replica() -> None:
    for cut_after in (None, 3):
        training = Training(algorithm(2))
        training.way.cut_after = cut_after
        if cut_after is None:
            training.run()
        else:
            with pytest.raises(RuntimeError):
                training.run()
    names = Counter(thread.name.partition("_")[0] for thread in threading.enumerate())
    assert not names["dnnflow-push"]


@pytest.mark.parametrize("given", [{"synchronous": True}, {"kind": "easgd"}, {"kind": "gem"}], ids=str)
def test_overlap_is_refused_where_the_answer_is_part_of_the_next_step(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="overlap is for asynchronous downpour and diloco"):
        Algorithm(overlap=True, **given)
