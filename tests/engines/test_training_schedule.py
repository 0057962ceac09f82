"""Schedules, early stopping and batches: the same rules as Keras', whichever engine trains."""

import keras
import numpy as np
import pytest

from dnnflow.design.layers import Design, EarlyStopping, Optimizer, Schedule
from dnnflow.engines.epoch_rows import _whole_batches
from dnnflow.engines.loop import LearningRate, Patience
from dnnflow.engines.process_setup import limit_threads


def rates(schedule: Schedule, epochs: int) -> list[float]:
    rate = LearningRate(Design(optimizer=Optimizer(learning_rate=0.8), schedule=schedule, epochs=epochs))
    return [rate.at(epoch) for epoch in range(epochs)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(), [0.8, 0.8, 0.8, 0.8]),
        (Schedule("exponential", {"rate": 0.5}), [0.8, 0.4, 0.2, 0.1]),
        (Schedule("step", {"rate": 0.5, "every": 2}), [0.8, 0.8, 0.4, 0.4]),
        (
            Schedule("cosine", {"floor": 0.5}),
            [0.8, 0.4 + 0.2 * (1 + 2**-0.5), 0.6, 0.4 + 0.2 * (1 - 2**-0.5)],
        ),
    ],
)
def test_a_schedule_follows_its_formula(schedule: Schedule, expected: list[float]) -> None:
    assert rates(schedule, 4) == pytest.approx(expected)


@pytest.fixture(scope="module")
def losses() -> list[float]:
    """Validation losses that fall, stay and rise."""
    return np.random.default_rng(3).integers(1, 6, 60).cumsum().astype(float)[::-1].round(-1).tolist()


def model() -> keras.Model:
    made = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    made.compile(keras.optimizers.SGD(0.8), loss="mse")
    return made


@pytest.mark.parametrize("min_delta", [0.0, 15.0])
@pytest.mark.parametrize("patience", [1, 3])
def test_plateau_is_that_of_keras(losses: list[float], patience: int, min_delta: float) -> None:
    parameters = {"rate": 0.5, "patience": patience, "min_delta": min_delta, "floor": 0.1}
    rate = LearningRate(
        Design(optimizer=Optimizer(learning_rate=0.8), schedule=Schedule("plateau", parameters))
    )
    callback = keras.callbacks.ReduceLROnPlateau(
        factor=0.5, patience=patience, min_delta=min_delta, min_lr=0.08, verbose=0
    )
    callback.set_model(model())
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        assert rate.at(epoch) == pytest.approx(float(callback.model.optimizer.learning_rate))
        rate.observe(loss)
        callback.on_epoch_end(epoch, {"val_loss": loss})
    assert rate.at(len(losses)) < 0.8


@pytest.mark.parametrize("min_delta", [0.0, 15.0])
@pytest.mark.parametrize("patience", [1, 3])
def test_early_stopping_is_that_of_keras(losses: list[float], patience: int, min_delta: float) -> None:
    rule = Patience(EarlyStopping(patience, min_delta))
    callback = keras.callbacks.EarlyStopping(patience=patience, min_delta=min_delta, verbose=0)
    callback.set_model(model())
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        rule.improves(loss)
        callback.on_epoch_end(epoch, {"val_loss": loss})
        assert rule.is_exhausted == bool(callback.model.stop_training)
        if rule.is_exhausted:
            return
    pytest.fail("the losses must exhaust the patience, or this test compares nothing")


@pytest.mark.parametrize("sizes", [[5, 5, 5], [1, 1, 1, 1, 4], [7], [2, 9, 3], [4, 4]])
def test_blocks_lose_no_row_and_only_the_last_batch_is_small(sizes: list[int]) -> None:
    numbers = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    blocks = iter([(part[:, None].astype(np.float32), part.astype(np.int32)) for part in numbers])
    batches = []
    for features, labels, order, _ in _whole_batches(blocks, 4):
        assert (features[:, 0] == labels).all()
        batches += [labels[order][at : at + 4] for at in range(0, len(order), 4)]
    assert np.concatenate(batches).tolist() == list(range(sum(sizes)))
    assert all(len(batch) == 4 for batch in batches[:-1])


def test_threads_are_limited_before_tensorflow_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import sys

    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        monkeypatch.setenv(name, "8")
    monkeypatch.delitem(sys.modules, "tensorflow")
    assert limit_threads(1)
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == os.environ["OMP_NUM_THREADS"] == "1"
