"""What has no counterpart in Keras to the last digit: dropout's draws; and slopes of everything at once."""

import numba
import numpy as np
import pytest

from dnnflow.design.layers import OPTIMIZERS, Design, Layer, Optimizer
from dnnflow.engines.compiled.compiled_engine import DEFAULTS, CompiledEngine, CompiledNetwork
from dnnflow.engines.compiled.wide_kernels import drop
from dnnflow.engines.epoch_rows import TrainingRows
from dnnflow.engines.keras.build import build_optimizer
from dnnflow.engines.keras.keras_engine import KerasEngine
from dnnflow.engines.loop import Deadline
from dnnflow.engines.records import TrainingSettings
from dnnflow.engines.seam import TrainingContext
from dnnflow.table.store.dataset import Dataset

ON_TEST = TrainingSettings(select_on="test")
EVERYTHING = Design(
    (
        Layer(9, "gelu", dropout=0.3, batch_norm=True, l2=0.01), Layer(9, "mish", dropout=0.2),
        Layer(9, "tanh"),
    ),
    residual=1, optimizer=Optimizer("sgd", 2.0**-8), batch_size=50, epochs=1, seed=4,
)  # fmt: skip


@numba.njit
def drop_now(rate, key, step, first, batch, columns, values, slopes):
    drop(rate, key, step, first, batch, columns, values, slopes)


def dropped(
    units: int,
    columns: int,
    rate: float = 0.5,
    *,
    layer: int = 0,
    step: int = 0,
    first: int = 0,
    batch: int = 512,
) -> np.ndarray:
    key = np.random.SeedSequence([3, layer]).generate_state(2)
    values, slopes = np.ones(units * columns, np.float32), np.full(units * columns, 3, np.float32)
    drop_now(np.float32(rate), key, step, first, batch, columns, values, slopes)
    np.testing.assert_array_equal(slopes, 3 * values)
    return values.reshape(units, columns)


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.9])
def test_dropout_zeroes_the_share_it_says_and_keeps_the_mean(rate: float) -> None:
    found = dropped(256, 512, rate)
    assert abs((found == 0).mean() - rate) < 0.005
    assert abs(found.mean() - 1) < 0.02
    assert np.allclose(np.unique(found)[1:], 1 / (1 - rate))


def test_draws_of_layers_steps_units_and_rows_say_nothing_of_each_other() -> None:
    found = dropped(256, 512) == 0
    for other in (dropped(256, 512, layer=1), dropped(256, 512, step=1), dropped(256, 512, step=2**20)):
        assert abs((found & (other == 0)).mean() - 0.25) < 0.005
    assert abs((found[1:] & found[:-1]).mean() - 0.25) < 0.005
    assert abs((found[:, 1:] & found[:, :-1]).mean() - 0.25) < 0.005
    assert abs((found[:, 16:] & found[:, :-16]).mean() - 0.25) < 0.005


def test_draws_do_not_depend_on_how_a_batch_is_divided() -> None:
    whole = dropped(40, 96, batch=96)
    for first in (0, 32, 64):
        part = dropped(40, 32, first=first, batch=96)
        np.testing.assert_array_equal(part, whole[:, first : first + 32])


def test_slopes_of_everything_at_once_are_those_of_the_loss(iris: Dataset) -> None:
    """By differences of the loss, with the same draws of dropout, in float64."""

    def network() -> CompiledNetwork:
        return CompiledNetwork(EVERYTHING, TrainingRows(iris, ON_TEST), "float64")

    block = next(network().rows.epoch(0, EVERYTHING.batch_size))
    before, moved = network().weights(), network()
    moved.train_rows(block, 0, 50, EVERYTHING.optimizer.learning_rate)
    rng = np.random.default_rng(0)
    learned = [i for i, weight in enumerate(before) if i not in (4, 5)]  # but for the moving averages
    for index in learned:
        place = tuple(rng.integers(size) for size in before[index].shape)
        slope = (before[index][place] - moved.weights()[index][place]) / EVERYTHING.optimizer.learning_rate
        losses = []
        for ahead in (1e-5, -1e-5):
            weights = [weight.copy() for weight in before]
            weights[index][place] += ahead
            other = network()
            other.set_weights(tuple(weights))
            losses.append(other.train_rows(block, 0, 50, 0.0)[0] / 50)
        assert slope == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4, abs=1e-7), index


def test_what_is_measured_drops_nothing_and_penalizes(iris: Dataset) -> None:
    rows = TrainingRows(iris, ON_TEST)
    block = next(rows.epoch(0, 50))
    plain = Design((Layer(9, "tanh"),), seed=4)
    wide = Design((Layer(9, "tanh", dropout=0.5, l2=0.25),), seed=4)
    (loss, outputs), (more, others) = (
        CompiledNetwork(one, rows, "float64").evaluate(block) for one in (plain, wide)
    )
    np.testing.assert_allclose(others, outputs, rtol=1e-12)
    kernel = CompiledNetwork(plain, rows, "float64").weights()[0]
    assert more / len(outputs) - loss / len(outputs) == pytest.approx(0.25 * (kernel**2).sum())


def test_training_is_the_same_however_often_it_is_called(iris: Dataset) -> None:
    """Dropout and Nadam's momenta go on where a call ended."""
    design = Design(EVERYTHING.layers, 1, Optimizer("nadam", 0.01), batch_size=16, seed=4)
    one, other = (CompiledNetwork(design, TrainingRows(iris, ON_TEST)) for _ in range(2))
    block = next(one.rows.epoch(0, 16))
    one.train_rows(block, 0, 64, 0.01)
    for first in range(0, 64, 16):
        other.train_rows(block, first, first + 16, 0.01)
    for weight, theirs in zip(one.weights(), other.weights(), strict=True):
        np.testing.assert_array_equal(weight, theirs)


def test_weights_come_back_as_they_were_set(iris: Dataset) -> None:
    network = CompiledNetwork(EVERYTHING, TrainingRows(iris, ON_TEST))
    rng = np.random.default_rng(0)
    given = tuple(rng.normal(size=weight.shape).astype(np.float32) for weight in network.weights())
    network.set_weights(given)
    for weight, mine in zip(network.weights(), given, strict=True):
        np.testing.assert_array_equal(weight, mine)


def test_defaults_of_optimizers_are_those_of_keras() -> None:
    for name in OPTIMIZERS:
        config = build_optimizer(Optimizer(name)).get_config()
        assert all(config[key] == value for key, value in DEFAULTS[name].items()), name
        assert set(DEFAULTS[name]) == OPTIMIZERS[name] - {"amsgrad"}


def test_dropout_trains_as_well_as_with_keras(digits: Dataset) -> None:
    some = [
        Design((Layer(32, dropout=0.3), Layer(32, dropout=0.3)), epochs=6, seed=seed) for seed in range(6)
    ]
    ours, theirs = (
        [fitted.trial.score or 0.0 for fitted in engine.train(some, TrainingContext(digits, ON_TEST))]
        for engine in (CompiledEngine(), KerasEngine())
    )
    assert abs(np.mean(ours) - np.mean(theirs)) < 0.02


def test_the_loss_falls(iris: Dataset) -> None:
    network = CompiledNetwork(EVERYTHING, TrainingRows(iris, ON_TEST))
    found = [network.train_epoch(epoch, 0.05, Deadline(None)).loss for epoch in range(30)]
    assert found[-1] < found[0]
