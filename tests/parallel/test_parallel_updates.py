"""Update rules do what their formulas say, so that a run's result is that of the algorithm it names."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest

from dnnflow.errors import InputError
from dnnflow.parallel.model.weights import FlatLayout
from dnnflow.parallel.server import updates
from dnnflow.parallel.server.messages import Push
from dnnflow.parallel.server.optimizers import BLOCK, FlatOptimizer, is_flat
from dnnflow.parallel.server.parameter_server import ServerState
from dnnflow.parallel.server.updates import (
    GradientEnergyMatching,
    difference,
    elastic_replica,
    elastic_server,
    merge_statistics,
    scheduled_rate,
    shares_of,
    weighted_mean,
    within_bound,
)
from dnnflow.parallel.spec.algorithm import Algorithm, Kind, OptimizerSpec, PushKind, RateSchedule

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
CLOSE = {"float32": 2e-6, "float64": 1e-13}
SHAPES = ((6, 5), (5,), (5, 3), (3,))
SIZE = sum(math.prod(shape) for shape in SHAPES)
Vector = np.ndarray[Any, np.dtype[Any]]


def draw(*shape: int, dtype: str = "float32", seed: int = 0) -> Vector:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def close(found: Any, expected: Any, dtype: str = "float32") -> None:
    np.testing.assert_allclose(found, expected, rtol=CLOSE[dtype], atol=CLOSE[dtype])


# The vector


def test_arrays_come_back_from_the_vector_without_a_copy() -> None:
    arrays = [draw(*shape, seed=i) for i, shape in enumerate(((2, 3), (), (4,), (0, 2)))]
    layout = FlatLayout.of(arrays, statistics=2)
    vector = layout.flatten(arrays)
    assert (layout.size, layout.learned, vector.dtype) == (11, 7, np.dtype(np.float32))
    for view, array in zip(layout.views(vector), arrays, strict=True):
        np.testing.assert_array_equal(view, array)
    layout.views(vector)[2][...] = 9
    assert vector[7:].tolist() == [9] * 4
    assert layout.flatten(arrays, out=vector) is vector
    assert vector[7:].tolist() == arrays[2].tolist()


@pytest.mark.parametrize(("size", "n"), [(10, 1), (10, 3), (10, 10), (25_000_000, 7)])
def test_shards_cover_the_vector_and_are_of_one_size(size: int, n: int) -> None:
    cuts = FlatLayout(((size,),)).cut(n)
    assert [cut.stop for cut in cuts[:-1]] == [cut.start for cut in cuts[1:]]
    assert (cuts[0].start, cuts[-1].stop, len(cuts)) == (0, size, n)
    lengths = [cut.stop - cut.start for cut in cuts]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FlatLayout(((2,),)).cut(3), "in .1, 2."),
        (lambda: FlatLayout(((2,),)).flatten([np.zeros(3)]), "shapes"),
        (lambda: FlatLayout(((2,),)).views(np.zeros(3, np.float32)), "shape .2,."),
        (lambda: FlatLayout(((2,),)).views(np.zeros(4, np.float32)[::2]), "contiguous"),
        (lambda: FlatLayout(((-1, 2),)), "build the model"),
        (lambda: FlatLayout(((2,),), "int32"), "floating"),
        (lambda: FlatLayout(((2,),), statistics=2), "statistics"),
        (lambda: FlatLayout(((2,),), names=("a", "b")), "names"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


# Optimizers of the server

FLAT = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("sgd", {"momentum": 0.5, "weight_decay": 0.01}),
    ("adam", {}),
    ("adam", {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4}),
    ("adam", {"amsgrad": True}),
    ("adamw", {}),
    ("adamw", {"weight_decay": 0.1, "amsgrad": True}),
    ("rmsprop", {}),
    ("rmsprop", {"rho": 0.8, "momentum": 0.9}),
    ("rmsprop", {"centered": True}),
    ("rmsprop", {"centered": True, "momentum": 0.5, "epsilon": 1e-3}),
    ("adagrad", {}),
    ("adagrad", {"initial_accumulator_value": 0.0, "epsilon": 1e-5}),
]
NAMES = {"sgd": "SGD", "adamw": "AdamW", "rmsprop": "RMSprop"}


def keras_class(name: str) -> Any:
    return getattr(keras.optimizers, name.partition(":")[2] or NAMES.get(name, name.capitalize()))


def keras_steps(optimizer: Any, start: Sequence[Vector], gradients: Sequence[Sequence[Vector]]) -> Vector:
    """Return the flat weights after Keras' own steps on variables of the given shapes."""
    dtype = str(start[0].dtype)
    variables = [keras.Variable(value, dtype=dtype, name=f"v{i}") for i, value in enumerate(start)]
    for step in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(g, dtype=dtype) for g in step], variables)
    return np.concatenate([np.array(variable.numpy()).ravel() for variable in variables])


@DTYPES
@pytest.mark.parametrize(("name", "parameters"), FLAT)
def test_a_flat_optimizer_steps_as_that_of_keras(
    name: str, parameters: dict[str, Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks that do not divide the vector; a rate that is no float32 is rounded as Keras rounds it."""
    monkeypatch.setattr("dnnflow.parallel.server.optimizers.BLOCK", 20)
    gradients = draw(20, SIZE, dtype=dtype, seed=1)
    gradients[5] = 0
    spec = OptimizerSpec(name, 0.0123, parameters)
    assert is_flat(spec)
    start = draw(SIZE, dtype=dtype)
    weights = start.copy()
    optimizer = FlatOptimizer(spec, weights)
    for gradient in gradients:
        optimizer.apply(gradient, spec.learning_rate)
    expected = keras_steps(
        keras_class(name)(learning_rate=0.0123, **parameters), [start], [[g] for g in gradients]
    )
    assert weights.dtype == dtype
    assert np.abs(weights - start).max() > 1e-3
    close(weights, expected, dtype)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_defaults_are_those_of_keras(name: str) -> None:
    """A parameter that a user leaves out must be what Keras takes, also in a later Keras."""
    from dnnflow.parallel.server.optimizers import _RULES

    config = keras_class(name)().get_config()
    for parameter, value in _RULES[name].defaults.items():
        assert config[parameter] == value, parameter


def test_a_rate_may_change_from_step_to_step() -> None:
    weights = np.zeros(2, np.float32)
    optimizer = FlatOptimizer(OptimizerSpec("sgd", 1.0), weights)
    for rate in (1.0, 0.5, 0.5, 0.25):
        optimizer.apply(np.ones(2, np.float32), rate)
    assert weights.tolist() == [-2.25, -2.25]


def pushed(algorithm: Algorithm, vector: Vector, step: int = 0, count: int = 1) -> Push:
    return Push(0, step, step, count, vector, algorithm.push_kind)


def server_steps(
    spec: OptimizerSpec,
    start: Sequence[Vector],
    gradients: Sequence[Sequence[Vector]],
    names: Sequence[str] = (),
) -> Vector:
    """Return the flat weights after a server's steps."""
    dtype = str(start[0].dtype)
    layout = FlatLayout.of(start, dtype=dtype)
    layout = FlatLayout(layout.shapes, dtype, names=tuple(names))
    algorithm = Algorithm(server_optimizer=spec)
    state = ServerState(layout.flatten(start), algorithm, replicas=1, layout=layout, shard=None)
    for step, gradient in enumerate(gradients):
        out = np.empty_like(state.weights)
        state.apply_one(pushed(algorithm, layout.flatten(gradient), step), 0, 1, out)
        np.testing.assert_array_equal(out, state.weights)
    return state.weights


OTHERS = [
    ("nadam", {}),
    ("adamax", {}),
    ("adadelta", {}),
    ("lion", {}),
    ("ftrl", {"l1_regularization_strength": 0.01}),
    ("adam", {"clipvalue": 0.5}),
    ("sgd", {"use_ema": True, "ema_overwrite_frequency": 3}),
    ("lamb", {}),
    ("adafactor", {}),
    ("muon", {}),
    ("adam", {"clipnorm": 0.5}),
    ("rmsprop", {"global_clipnorm": 0.5}),
    ("keras.optimizers:ScheduleFreeAdamW", {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "dtype"), [*((*other, "float32") for other in OTHERS), ("lion", {}, "float64")]
)
def test_every_other_keras_optimizer_steps_as_on_the_model(
    name: str, parameters: dict[str, Any], dtype: str
) -> None:
    """One flat variable must not change what a rule does, and rules that look at tensors must see them."""
    start = [draw(*shape, dtype=dtype, seed=i) for i, shape in enumerate(SHAPES)]
    gradients = [
        [draw(*shape, dtype=dtype, seed=10 * t + i) for i, shape in enumerate(SHAPES)] for t in range(6)
    ]
    spec = OptimizerSpec(name, 0.01, parameters)
    assert not is_flat(spec)
    found = server_steps(spec, start, gradients)
    made = keras_class(name)(learning_rate=0.01, **parameters)
    np.testing.assert_allclose(found, keras_steps(made, start, gradients), rtol=3e-5, atol=1e-6)


def test_what_is_not_decayed_goes_by_the_names_of_variables() -> None:
    start, none = [np.ones((2, 2)), np.ones(2)], [np.zeros((2, 2)), np.zeros(2)]
    parameters = {"weight_decay": 0.5, "exclude_from_weight_decay": ["bias"]}
    spec = OptimizerSpec("adamw", 0.1, parameters)
    found = server_steps(spec, start, [none], names=("dense/kernel", "dense/bias"))
    close(found, [0.95] * 4 + [1.0] * 2)
    with pytest.raises(InputError, match="names"):
        server_steps(spec, start, [none])


@pytest.mark.parametrize(
    ("name", "parameters", "reason"),
    [
        ("lamb", {}, "norm of each layer's weights"),
        ("adafactor", {}, "rows and columns"),
        ("muon", {}, "matrix"),
        ("adam", {"clipnorm": 1.0}, "clipnorm=1.0.*norm of each layer's gradient"),
        ("sgd", {"global_clipnorm": 1.0}, "norm of the whole gradient"),
        ("adamw", {"exclude_from_weight_decay": ["bias"]}, "names of layers"),
        ("keras.optimizers:Adam", {}, "made by code"),
    ],
)
def test_what_looks_at_whole_tensors_is_refused_on_shards(
    name: str, parameters: dict[str, Any], reason: str
) -> None:
    """On a slice such a rule would silently do something else."""
    spec = OptimizerSpec(name, 0.01, parameters)
    spec.require_elementwise(1)
    with pytest.raises(InputError, match=f"weight by weight, got {name}.*{reason}.*; use one server"):
        spec.require_elementwise(2)
    layout = FlatLayout(SHAPES, names=("a", "b", "c", "d"))
    with pytest.raises(InputError, match=reason):
        ServerState(
            np.zeros(4, np.float32),
            Algorithm(server_optimizer=spec),
            replicas=1,
            layout=layout,
            shard=slice(2, 6),
        )


@pytest.mark.parametrize(
    ("name", "parameters"), [("adam", {}), ("rmsprop", {"momentum": 0.9}), ("nadam", {})]
)
def test_shards_together_step_as_one_server(name: str, parameters: dict[str, Any]) -> None:
    layout = FlatLayout(SHAPES, statistics=1)
    algorithm = Algorithm(server_optimizer=OptimizerSpec(name, 0.01, parameters))
    start, pushes = draw(SIZE), draw(5, SIZE, seed=1)

    def run(shard: slice | None) -> Vector:
        cut = shard or slice(None)
        state = ServerState(start[cut], algorithm, replicas=2, layout=layout, shard=shard)
        for step, vector in enumerate(pushes):
            state.apply_one(pushed(algorithm, vector[cut], step), 0, 2, np.empty_like(start[cut]))
        return state.weights

    whole = run(None)
    for n in (2, 7):
        np.testing.assert_array_equal(np.concatenate([run(cut) for cut in layout.cut(n)]), whole)


# Rules on vectors, against formulas written out entry by entry


@DTYPES
@pytest.mark.parametrize("size", [1, 13, BLOCK + 7])
def test_elastic_averaging_pulls_replicas_and_server_as_written(dtype: str, size: int) -> None:
    """x_i ← x_i - α (x_i - x̃), x̃ ← x̃ + α Σ (x_i - x̃), both from the old values."""
    center, replicas, alpha = draw(size, dtype=dtype), draw(3, size, dtype=dtype, seed=1), 0.3
    expected = [w - alpha * (w - center) for w in replicas]
    moved = center + alpha * sum(w - center for w in replicas)
    for weights in replicas:
        elastic_replica(weights, center, alpha)
    close(replicas, expected, dtype)
    replicas = draw(3, size, dtype=dtype, seed=1)
    elastic_server(center, list(replicas), alpha, (np.empty_like(center), np.empty_like(center)))
    close(center, moved, dtype)


def test_elastic_averaging_keeps_the_sum_of_replicas_and_server() -> None:
    """What the server gains replicas lose: a round of raw sums, as in mpi_learn, moves the sum away."""
    algorithm = Algorithm(kind=Kind.EASGD, synchronous=True, elastic_force=0.8)
    center, replicas = draw(9, dtype="float64"), draw(4, 9, dtype="float64", seed=1)
    state = ServerState(center, algorithm, replicas=4, layout=None, shard=None)
    before = np.empty(9)
    pushes = [Push(i, 0, 0, 7 * i, w.copy(), PushKind.WEIGHTS) for i, w in enumerate(replicas)]
    state.apply_round(pushes, 4, before)
    np.testing.assert_array_equal(before, center)
    for weights in replicas:
        elastic_replica(weights, before, algorithm.elastic_share(4))
    expected = 0.2 * center + 0.8 * draw(4, 9, dtype="float64", seed=1).mean(axis=0)  # equation 6
    close(state.weights, expected, "float64")
    close(
        state.weights + replicas.sum(axis=0),
        center + draw(4, 9, dtype="float64", seed=1).sum(axis=0),
        "float64",
    )


def test_asynchronous_elastic_averaging_replies_the_weights_before() -> None:
    algorithm = Algorithm(kind=Kind.EASGD, elastic_force=0.5)
    state = ServerState(np.zeros(2, np.float32), algorithm, replicas=2, layout=None, shard=None)
    out = np.empty(2, np.float32)
    for before, after in ((0.0, 0.25), (0.25, 0.4375)):
        state.apply_one(pushed(algorithm, np.ones(2, np.float32)), 3, 2, out)
        assert (out[0], state.weights[0]) == (before, after)


def test_more_replicas_than_planned_do_not_pull_too_hard() -> None:
    algorithm = Algorithm(kind=Kind.EASGD, elastic_force=1.0)
    state = ServerState(np.zeros(1, np.float32), algorithm, replicas=1, layout=None, shard=None)
    state.apply_one(pushed(algorithm, np.ones(1, np.float32)), 0, 4, np.empty(1, np.float32))
    assert state.weights[0] == 0.25


@DTYPES
def test_elastic_momentum_is_a_nesterov_step_of_the_replica(dtype: str) -> None:
    """v ← δ v - η g(x + δ v), x ← x + v, with the gradient of a parabola; Keras keeps x + δ v."""
    algorithm = Algorithm(kind=Kind.EASGD, momentum=0.9)
    spec = algorithm.used_replica_optimizer
    assert spec is not None
    curvature, rate, delta = np.linspace(0.5, 2, 5).astype(dtype), 0.01, 0.9
    x, v = draw(5, dtype=dtype), np.zeros(5, dtype)
    ahead = x.copy()
    optimizer = FlatOptimizer(spec, ahead)
    for _ in range(20):
        v = delta * v - rate * curvature * (x + delta * v)
        x = x + v
        optimizer.apply(curvature * ahead, rate)
    np.testing.assert_allclose(ahead, x + delta * v, rtol=1e-4)  # Keras rounds 0.9 to float32


def gem_entry(
    gradients: Sequence[float], centers: Sequence[float], rate: float, mu: float, kappa: float
) -> list[float]:
    """Return Δ of one weight, step by step; `centers` begins with the x that the replica began from."""
    moment, previous, found = 0.0, centers[0], []
    for gradient, center in zip(gradients, centers[1:], strict=True):
        step = -rate * gradient
        moment = mu * moment + step
        change, previous = center - previous, center
        scale = (kappa * abs(moment) - abs(change)) / abs(step + 1e-12) if step else 0.0
        found.append(min(max(scale, 0.0), 5.0) * step)
    return found


@DTYPES
@pytest.mark.parametrize("size", [17, BLOCK + 3])
def test_gem_matches_energy_as_written(dtype: str, size: int) -> None:
    """Steps that are shortened, clipped at 0 and at 5, and gradients of exactly 0 are all among them."""
    gradients, centers = draw(6, size, dtype=dtype, seed=1), draw(7, size, dtype=dtype, seed=2) * 0.02
    gradients[2:, 3] *= 1e-3
    gradients[:, 4] = 0
    gem = GradientEnergyMatching(centers[0], momentum=0.9, kappa=2.0)
    found = [gem.update(g, x, 0.01, np.empty_like(g)) for g, x in zip(gradients, centers[1:], strict=True)]
    for entry in (*range(16), size - 1):
        own, center = (a[:, entry].astype(float).tolist() for a in (gradients, centers))
        one = gem_entry(own, center, 0.01, 0.9, 2.0)
        np.testing.assert_allclose(
            [step[entry] for step in found], one, rtol=1e-4 if dtype == "float32" else 1e-9, atol=1e-8
        )
    scales = np.array(found) / np.where(gradients, -0.01 * gradients, 1)
    assert (scales == 0).any()
    assert np.isclose(scales, 5).any()
    assert ((scales > 0.1) & (scales < 4)).any()


def test_gem_may_write_over_the_gradient() -> None:
    """A replica of many weights has no memory to spare."""
    gradient, center = draw(9), draw(9, seed=1)
    apart = GradientEnergyMatching(center).update(gradient, center, 0.1, np.empty_like(gradient))
    np.testing.assert_array_equal(
        GradientEnergyMatching(center).update(gradient, center, 0.1, gradient), apart
    )


def test_gem_on_the_server_adds() -> None:
    algorithm = Algorithm(kind=Kind.GEM)
    state = ServerState(np.ones(3, np.float32), algorithm, replicas=2, layout=None, shard=None)
    out = np.empty(3, np.float32)
    state.apply_one(pushed(algorithm, np.full(3, 0.5, np.float32)), 4, 2, out)
    assert out.tolist() == state.weights.tolist() == [1.5] * 3


@DTYPES
def test_diloco_is_nesterov_on_the_mean_difference(dtype: str) -> None:
    """Δ = mean(x - w_i); m ← μ m + Δ; x ← x - ε (μ m + Δ), as PyTorch writes Nesterov's step."""
    algorithm = Algorithm(kind=Kind.DILOCO, synchronous=True, sync_every=50)
    x, m = draw(11, dtype=dtype), np.zeros(11, dtype)
    state = ServerState(x, algorithm, replicas=3, layout=None, shard=None)
    for step in range(5):
        replicas = draw(3, 11, dtype=dtype, seed=step + 1)
        outer = [difference(state.weights, w, np.empty_like(w)) for w in replicas]
        delta = np.mean([x - w for w in replicas], axis=0)
        m = 0.9 * m + delta
        x = x - 0.7 * (0.9 * m + delta)
        pushes = [Push(i, step, step, 10, o, PushKind.DIFFERENCE) for i, o in enumerate(outer)]
        state.apply_round(pushes, 3, None)
    np.testing.assert_allclose(state.weights, x, rtol=2e-5 if dtype == "float32" else 1e-6)


@DTYPES
def test_a_synchronous_gradient_is_that_of_all_samples_together(dtype: str) -> None:
    """A replica with a short last batch must not count as much as one with a full one."""
    features, labels = draw(70, 4, dtype=dtype), draw(70, dtype=dtype, seed=1)
    weights = draw(4, dtype=dtype, seed=2)

    def gradient(rows: slice) -> Vector:
        return features[rows].T @ (features[rows] @ weights - labels[rows]) / len(labels[rows])

    parts = [slice(0, 32), slice(32, 64), slice(64, 70)]
    shares = shares_of([32, 32, 6])
    mean = weighted_mean([gradient(part) for part in parts], shares, np.empty(4, dtype), np.empty(4, dtype))
    np.testing.assert_allclose(mean, gradient(slice(None)), rtol=1e-5)


def test_a_round_without_a_sample_is_no_division_by_zero() -> None:
    assert shares_of([0, 0]) == [0.5, 0.5]
    assert shares_of([0, 3]) == [0.0, 1.0]


def test_one_vector_is_its_own_mean_without_a_copy() -> None:
    vector = draw(4)
    assert weighted_mean([vector], [1.0], np.empty(0), np.empty(0)) is vector


@DTYPES
def test_statistics_are_averaged_and_not_learned(dtype: str) -> None:
    """Batch normalisation's moving means would explode if an optimizer took them for gradients."""
    center, other = draw(5, dtype=dtype), draw(5, dtype=dtype, seed=1)
    expected = [float(x) + 0.25 * (float(s) - float(x)) for x, s in zip(center, other, strict=True)]
    merge_statistics(center, other, 0.25)
    close(center, expected, dtype)
    merge_statistics(center, other, 1.0)
    np.testing.assert_array_equal(center, other)


@pytest.mark.parametrize("kind", ["downpour", "easgd", "gem", "diloco"])
@pytest.mark.parametrize("share", [None, 0.5])
def test_every_algorithm_averages_statistics(kind: str, share: float | None) -> None:
    layout = FlatLayout(((3,), (2,)), "float64", statistics=1)
    algorithm = Algorithm(kind=Kind(kind), statistics_share=share)
    state = ServerState(np.zeros(5), algorithm, replicas=4, layout=layout, shard=None)
    out = np.full(5, np.nan)
    state.apply_one(pushed(algorithm, np.ones(5)), 0, 4, out)
    assert state.weights[3:].tolist() == out[3:].tolist() == [share or 0.25] * 2
    if kind == "gem":
        return
    rounds = ServerState(
        np.zeros(5), Algorithm(kind=Kind(kind), synchronous=True), replicas=2, layout=layout, shard=None
    )
    counts = ((30, 1.0), (10, 2.0))
    pushes = [Push(i, 0, 0, n, np.full(5, v), algorithm.push_kind) for i, (n, v) in enumerate(counts)]
    rounds.apply_round(pushes, 2, out)
    assert rounds.weights[3:].tolist() == out[3:].tolist() == [1.25] * 2


def test_downpour_with_local_steps_takes_over_what_they_have_changed() -> None:
    algorithm = Algorithm(sync_every=4)
    assert (algorithm.push_kind, algorithm.used_server_optimizer) == ("difference", OptimizerSpec("sgd", 1.0))
    state = ServerState(np.ones(3, np.float32), algorithm, replicas=1, layout=None, shard=None)
    after = np.array([0.5, 1.0, 2.0], np.float32)
    push = difference(state.weights, after, np.empty(3, np.float32))
    state.apply_one(pushed(algorithm, push), 0, 1, np.empty(3, np.float32))
    np.testing.assert_array_equal(state.weights, after)


def damped_steps(late: Sequence[int], **settings: Any) -> list[float]:
    """Return the rates that a server of rate 1 applies pushes with."""
    algorithm = Algorithm(server_optimizer=OptimizerSpec("sgd", 1.0), **settings)
    state = ServerState(np.zeros(1), algorithm, replicas=1, layout=None, shard=None)
    found = [0.0]
    for step, staleness in enumerate(late):
        state.apply_one(pushed(algorithm, -np.ones(1), step), staleness, 4, np.empty(1))
        found.append(float(state.weights[0]))
    return np.diff(found).tolist()


def test_damping_divides_the_rate_by_one_plus_staleness() -> None:
    assert damped_steps((0, 1, 3), damping=True, damping_rule="inverse") == pytest.approx([1, 1 / 2, 1 / 4])
    assert damped_steps((0, 1, 3)) == [1, 1, 1]


def test_relative_damping_divides_the_factor_by_its_mean() -> None:
    late = [0, 3, 3, 1, 9, 40, 0, 3, 3]
    factors = [1 / (1 + staleness) for staleness in late]
    expected = [factor / (sum(factors[: i + 1]) / (i + 1)) for i, factor in enumerate(factors)]
    assert max(expected) < updates.MAX_FACTOR
    assert damped_steps(late, damping=True) == pytest.approx(expected)


def test_relative_damping_keeps_the_rate_of_replicas_that_push_in_turn() -> None:
    """Else training with more replicas is slower in the same number of epochs, which loses accuracy."""
    assert damped_steps([3] * 50, damping=True) == pytest.approx([1.0] * 50)
    drawn = np.random.default_rng(0).geometric(1 / 4, 2000) - 1
    assert np.mean(damped_steps(drawn.tolist(), damping=True)) == pytest.approx(1, abs=0.05)


def test_relative_damping_lengthens_no_push_beyond_a_limit() -> None:
    """One push that is not late among many that are would throw the weights far away."""
    assert damped_steps([99] * 50 + [0], damping=True)[-1] == updates.MAX_FACTOR


def test_relative_damping_follows_replicas_that_come_and_go() -> None:
    count = 10 * updates.MEAN_OVER
    steps = damped_steps([31] * count + [1] * count, damping=True)
    assert steps[count - 1 :: count] == pytest.approx([1, 1], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "parameters", "replicas", "less", "factor"),
    [
        ("sgd", {"momentum": 0.9}, 4, {"momentum": 0.6}, 4.0),
        ("sgd", {"momentum": 0.9, "nesterov": True}, 2, {"momentum": 0.8, "nesterov": True}, 2.0),
        ("sgd", {"momentum": 0.9}, 50, {"momentum": 0.001}, 9.99),
        ("sgd", {}, 4, {}, 1.0),
        ("adam", {}, 4, {"beta_1": 0.6}, 1.0),
        ("adamw", {"beta_1": 0.8, "weight_decay": 0.1}, 3, {"beta_1": 0.4, "weight_decay": 0.1}, 1.0),
        ("rmsprop", {}, 4, {}, 1.0),
        ("adam", {"beta_1": 0.0}, 4, {"beta_1": 0.0}, 1.0),
        ("adam", {}, 1, {}, 1.0),
    ],
)
def test_momentum_is_less_by_what_asynchrony_adds(
    name: str, parameters: dict[str, Any], replicas: int, less: dict[str, Any], factor: float
) -> None:
    found, scale = updates.reduce_momentum(OptimizerSpec(name, 0.1, parameters), replicas)
    assert (found.name, found.learning_rate) == (name, 0.1)
    assert dict(found.parameters) == pytest.approx(less)
    assert scale == pytest.approx(factor)


def total_effect(replicas: int, **settings: Any) -> float:
    """Return how far one gradient of 1 moves the weights in the end, applied by a server without others."""
    spec = OptimizerSpec("sgd", 0.1, {"momentum": 0.9})
    algorithm = Algorithm(server_optimizer=spec, **settings)
    state = ServerState(np.zeros(1), algorithm, replicas=replicas, layout=None, shard=None)
    for step in range(400):
        gradient = np.ones(1) if step == 0 else np.zeros(1)
        state.apply_one(pushed(algorithm, gradient, step), 0, replicas, np.empty(1))
    return -float(state.weights[0])


@pytest.mark.parametrize("replicas", [1, 2, 4, 16])
def test_less_momentum_moves_the_weights_as_far(replicas: int) -> None:
    """Else training with more replicas learns slower or faster than the rate that was set."""
    assert total_effect(replicas) == pytest.approx(1.0)
    assert total_effect(replicas, damping=True) == pytest.approx(1.0)


def test_synchronous_training_and_the_inverse_rule_keep_the_momentum() -> None:
    assert Algorithm(damping=True).corrects_momentum
    assert not Algorithm(damping=True, damping_rule="inverse").corrects_momentum
    assert not Algorithm(damping=True, synchronous=True).corrects_momentum
    assert not Algorithm().corrects_momentum


def test_a_damping_goes_on_with_the_mean_that_it_had() -> None:
    """After a restore a mean of its own would lengthen steps that were short before."""
    one, other = updates.Damping("relative"), updates.Damping("relative")
    for late in (3, 5, 0):
        one.factor(late)
    other.restore(one.state())
    assert [one.factor(late) for late in (7, 1)] == [other.factor(late) for late in (7, 1)]
    other.restore({})  # a checkpoint from before there was a mean
    assert other.factor(7) == 1


def test_the_bound_lets_nobody_run_further_ahead() -> None:
    assert [within_bound(pushes, 4, 2) for pushes in (4, 6, 7)] == [True, True, False]


@pytest.mark.parametrize(
    ("schedule", "samples", "share"),
    [
        (RateSchedule(), 10**9, 1.0),
        (RateSchedule("exponential", 100, 0.25), 50, 0.5),
        (RateSchedule("exponential", 100, 0.25), 200, 0.0625),
        (RateSchedule("step", 100, 0.1), 99, 1.0),
        (RateSchedule("step", 100, 0.1), 200, 0.01),
        (RateSchedule("cosine", 100), 0, 1.0),
        (RateSchedule("cosine", 100), 50, 0.5),
        (RateSchedule("cosine", 100, floor=0.2), 100, 0.2),
        (RateSchedule("cosine", 100, floor=0.2), 1000, 0.2),
    ],
)
def test_a_schedule_counts_samples(schedule: RateSchedule, samples: int, share: float) -> None:
    assert scheduled_rate(0.4, schedule, samples) == pytest.approx(0.4 * share)


@pytest.mark.parametrize("batch", [1, 5, 25])
def test_the_rate_after_an_epoch_does_not_depend_on_the_batch_size(batch: int) -> None:
    """With a schedule of pushes, twice the replicas or half the batch would end it in half an epoch."""
    schedule = RateSchedule("step", 50, 0.5)
    algorithm = Algorithm(server_optimizer=OptimizerSpec("sgd", 1.0), schedule=schedule)
    state = ServerState(np.zeros(1, np.float32), algorithm, replicas=1, layout=None, shard=None)
    for step in range(100 // batch):
        state.apply_one(
            pushed(algorithm, np.zeros(1, np.float32), step, batch), 0, 1, np.empty(1, np.float32)
        )
    state.apply_one(pushed(algorithm, np.ones(1, np.float32), 100, batch), 0, 1, np.empty(1, np.float32))
    assert state.weights[0] == -0.25


# Settings


@pytest.mark.parametrize(
    "algorithm",
    [
        Algorithm(),
        Algorithm(
            kind=Kind.EASGD, synchronous=True, quorum=0.5, elastic_force=0.5, momentum=0.9, sync_every=4
        ),
        Algorithm(
            server_optimizer=OptimizerSpec("adamw", 0.01, {"exclude_from_weight_decay": ["bias"]}),
            replica_optimizer=OptimizerSpec("sgd"),
            schedule=RateSchedule("cosine", 1000),
            damping=True,
            damping_rule="inverse",
            staleness_bound=3,
            wire="int8",
        ),
    ],
)
def test_an_algorithm_travels_as_json(algorithm: Algorithm) -> None:
    assert Algorithm.from_dict(json.loads(json.dumps(algorithm.to_dict()))) == algorithm


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "hogwild"}, "kind must be one of downpour.*got 'hogwild'"),
        ({"sync_every": 0}, "sync_every"),
        ({"sync_every": True}, "sync_every"),
        ({"quorum": 0.5}, "needs synchronous"),
        ({"synchronous": True, "quorum": 0}, "quorum must be in"),
        ({"synchronous": 1}, "synchronous must be true or false"),
        ({"synchronous": True, "staleness_bound": 2}, "asynchronous"),
        ({"staleness_bound": -1}, "staleness_bound"),
        ({"kind": "gem", "synchronous": True}, "gem works asynchronously"),
        ({"kind": "gem", "gem_rate": 0.0}, "gem_rate"),
        ({"kind": "easgd", "server_optimizer": OptimizerSpec()}, "easgd has no server_optimizer"),
        ({"kind": "easgd", "damping": True}, "damping"),
        ({"damping_rule": "sqrt"}, "damping_rule must be one of relative, inverse"),
        ({"kind": "easgd", "elastic_force": 1.5}, "elastic_force"),
        ({"kind": "easgd", "momentum": 0.9, "replica_optimizer": OptimizerSpec()}, "replica_optimizer"),
        ({"momentum": 0.9}, "server_optimizer"),
        ({"kind": "diloco", "momentum": 0.9, "server_optimizer": OptimizerSpec()}, "server_optimizer"),
        ({"momentum": "much"}, "momentum"),
        ({"statistics_share": 0.0}, "statistics_share"),
        ({"wire": "float8"}, "wire must be one of"),
        ({"reply_wire": "int8"}, "reply_wire"),
    ],
)
def test_settings_that_break_a_rule_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Algorithm(**given)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OptimizerSpec("adem"), "one of adadelta.*got 'adem'"),
        (lambda: OptimizerSpec("sgd", 0.0), "learning_rate must be > 0"),
        (lambda: OptimizerSpec("sgd", "fast"), "learning_rate must be a number"),
        (lambda: OptimizerSpec("sgd", 0.1, {"momentun": 0.9}), "sgd takes .*got 'momentun'"),
        (lambda: OptimizerSpec("sgd", 0.1, {"momentum": 1.5}), "momentum"),
        (lambda: OptimizerSpec("sgd", 0.1, {"nesterov": 1}), "true or false"),
        (lambda: OptimizerSpec("lamb", 0.1, {"betas": {}}), "number, text"),
        (lambda: RateSchedule("linear", 10), "a schedule must be one of"),
        (lambda: RateSchedule("step"), "every must be a number of samples"),
        (lambda: RateSchedule("step", 10, 0.0), "rate must be in"),
        (lambda: Algorithm.from_dict({"sync_evry": 2}), "takes .*got 'sync_evry'"),
        (
            lambda: server_steps(OptimizerSpec("lamb", 0.1, {"rho": 1}), [np.ones(2)], []),
            "take its parameters",
        ),
        (lambda: server_steps(OptimizerSpec("no.such:Thing"), [np.ones(2)], []), "importable on the server"),
        (
            lambda: server_steps(OptimizerSpec("collections:Counter"), [np.ones(2)], []),
            "must be a Keras optim",
        ),
    ],
)
def test_optimizers_and_schedules_that_break_a_rule_are_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
