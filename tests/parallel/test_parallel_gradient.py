"""The replica's step: what it computes is what `fit` would have learned, whatever the model."""

from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest

from dnnflow.errors import InputError
from dnnflow.parallel.model.batch_totals import BatchTotals, total
from dnnflow.parallel.model.gradient import GradientStep
from dnnflow.parallel.model.model_spec import ModelSpec
from dnnflow.parallel.model.variables import read_vector
from dnnflow.parallel.model.weights import aligned_vector
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec

L = keras.layers
ROWS = (8, 8, 3)
"""Of the batches: the last one is a partial one."""
TRACES: list[int] = []


def counted_loss(targets, outputs):
    """Mean squared error that notes when it is traced."""
    TRACES.append(1)
    return keras.ops.mean(keras.ops.square(targets - outputs), axis=-1)


@keras.saving.register_keras_serializable("tests")
class Highest(keras.metrics.Metric):
    """The highest output so far: nothing that can be added over replicas."""

    def __init__(self, name: str = "highest") -> None:
        super().__init__(name=name)
        self.value = self.add_variable((), "zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign(keras.ops.maximum(self.value, keras.ops.max(y_pred)))

    def result(self):
        return self.value

    def reset_state(self):
        self.value.assign(-1.0)


def _classifier(shape: tuple[int | None, ...], *layers) -> keras.Model:
    model = keras.Sequential([keras.Input(shape), *layers, L.Dense(3, activation="softmax")])
    model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def _two_sides() -> keras.Model:
    left, right = keras.Input((4,), name="left"), keras.Input((6, 2), name="right")
    both = L.Concatenate()([L.Dense(5, activation="tanh")(left), L.LSTM(3)(right)])
    outputs = {"number": L.Dense(1, name="number")(both), "kind": L.Dense(3, name="kind")(both)}
    model = keras.Model({"left": left, "right": right}, outputs, name="two_sides")
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        loss={"number": "mse", "kind": entropy},
        loss_weights={"number": 0.5, "kind": 2.0},
        metrics={"number": ["mae"], "kind": ["accuracy"]},
    )
    return model


MODELS = {
    "dense": lambda: _classifier((4,), L.Dense(5, activation="relu")),
    "lstm": lambda: _classifier((6, 4), L.LSTM(5)),
    "gru": lambda: _classifier((6, 4), L.GRU(5)),
    "conv": lambda: _classifier((6, 6, 1), L.Conv2D(3, 3, activation="relu"), L.GlobalAveragePooling2D()),
    "batch_norm": lambda: _classifier((4,), L.Dense(5, use_bias=False), L.BatchNormalization(), L.ReLU()),
    "dropout": lambda: _classifier((4,), L.Dense(9), L.Dropout(0.4, seed=3)),
    "lstm_dropout": lambda: _classifier((6, 4), L.LSTM(5, dropout=0.3, seed=3)),
    "penalties": lambda: _classifier(
        (4,), L.Dense(5, kernel_regularizer="l2", activity_regularizer=keras.regularizers.L1(0.01))
    ),
    "embedding": lambda: _classifier((6,), L.Embedding(9, 4, mask_zero=True), L.LSTM(5)),
    "two_sides": _two_sides,
}  # fmt: skip


@pytest.fixture(params=["float32", "float64"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """Keras' type of numbers."""
    before = keras.config.floatx()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(before)


def _reference(spec: ModelSpec, optimizer: keras.optimizers.Optimizer | None = None) -> keras.Model:
    """Build the model for Keras to train; without an optimizer its steps are its gradients."""
    model = spec.build()
    model.optimizer = optimizer or keras.optimizers.SGD(1.0)
    model.run_eagerly = True  # for the time that tracing takes
    return model


def _numbers(measured: dict) -> dict[str, float]:
    return {name: float(value) for name, value in measured.items()}


def _batches(model: keras.Model, rows: tuple[int, ...] = ROWS, *, weighted: bool = False) -> list[tuple]:
    rng = np.random.default_rng(7)
    x: np.ndarray | dict[str, np.ndarray]
    y: np.ndarray | dict[str, np.ndarray]
    found = []
    for n in rows:
        if model.name == "two_sides":
            x = {"left": rng.normal(size=(n, 4)), "right": rng.normal(size=(n, 6, 2))}
            y = {"number": rng.normal(size=(n, 1)), "kind": rng.integers(0, 3, n)}
        else:
            shape = (n, *(6 if length is None else length for length in model.input_shape[1:]))
            words = isinstance(model.layers[0], L.Embedding)
            x = rng.integers(0, 9, shape) if words else rng.normal(size=shape)
            y = np.eye(3)[rng.integers(0, 3, n)]
        found.append((x, y, rng.random(n)) if weighted else (x, y))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_statistics_are_those_of_keras(name: str, precision: str) -> None:
    spec = ModelSpec.of(MODELS[name]())
    reference, step = _reference(spec), GradientStep(spec.build())
    learned = step.layout.learned
    for batch in _batches(reference):
        before = read_vector(reference)
        measured = reference.train_on_batch(*batch, return_dict=True)
        after = read_vector(reference)
        found = step.gradient(before, batch)
        assert step.results(found.totals) == pytest.approx(_numbers(measured), rel=1e-5)
        limit = 1e-12 if precision == "float64" else 1e-6
        np.testing.assert_allclose(found.vector[:learned], (before - after)[:learned], rtol=0, atol=limit)
        np.testing.assert_allclose(found.vector[learned:], after[learned:], rtol=0, atol=limit)
    assert found.vector.dtype == precision
    assert np.abs(found.vector[:learned]).max() > 1e-3


def test_sample_weights_count_as_in_keras() -> None:
    spec = ModelSpec.of(MODELS["dense"]())
    reference, step = _reference(spec), GradientStep(spec.build())
    before = read_vector(reference)
    (batch,) = _batches(reference, (8,), weighted=True)
    reference.train_on_batch(*batch)
    found = step.gradient(before, batch)
    np.testing.assert_allclose(found.vector, before - read_vector(reference), atol=1e-6)


@pytest.mark.parametrize("name", ["dense", "penalties"])
def test_partial_batches_weighted_by_their_samples_make_the_whole_one(name: str) -> None:
    step = GradientStep(MODELS[name]())
    weights = step.get()
    (x, y), *_ = _batches(MODELS[name](), (10,))
    whole = step.gradient(weights, (x, y))
    parts = [step.gradient(weights, (x[rows], y[rows])) for rows in (slice(7), slice(7, 10))]
    mean = sum(part.vector * part.totals.count for part in parts) / 10
    np.testing.assert_allclose(mean, whole.vector, atol=1e-6)
    assert total(part.totals for part in parts).loss == pytest.approx(whole.totals.loss, rel=1e-5)


def test_batches_of_all_sizes_share_one_trace() -> None:
    model = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    model.compile(loss=counted_loss)
    step = GradientStep(model)
    (first, *others) = _batches(model, (8, 8, 3, 1, 12))
    step.gradient(step.get(), first)
    TRACES.clear()
    for batch in others:
        step.gradient(step.get(), batch)
    assert not TRACES


def test_sequences_of_many_lengths_need_two_traces() -> None:
    model = keras.Sequential([keras.Input((None, 4)), L.LSTM(3), L.Dense(3)])
    model.compile(loss=counted_loss)
    step = GradientStep(model)
    TRACES.clear()
    for length in (5, 7, 9, 5, 11):
        step.gradient(step.get(), (np.ones((2, length, 4)), np.ones((2, 3))))
    assert len(TRACES) == 3, "one to make the metrics, one for the first length, one for all"


OPTIMIZERS = [
    OptimizerSpec("sgd", 0.1),
    OptimizerSpec("sgd", 0.05, {"momentum": 0.9, "nesterov": True}),
    OptimizerSpec("adam", 0.01),
    OptimizerSpec("rmsprop", 0.01),
    OptimizerSpec("adam", 0.01, {"clipnorm": 0.1}),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda spec: f"{spec.name}{len(spec.parameters)}")
def test_local_steps_are_those_of_fit(optimizer: OptimizerSpec) -> None:
    from dnnflow.parallel.model.keras_optimizers import build_keras_optimizer

    spec = ModelSpec.of(MODELS["batch_norm"]())
    reference = _reference(spec, build_keras_optimizer(optimizer))
    step = GradientStep(spec.build(), optimizer=optimizer)
    start = aligned_vector(step.layout.size)
    start[:] = spec.vector
    batches = _batches(reference, (8, 8, 8, 3))
    first = step.local_steps(start, batches[:2])
    assert np.array_equal(start, spec.vector), "the weights a replica started from are still needed"
    second = step.local_steps(first.vector, batches[2:])
    history = reference.fit(
        (batch for batch in batches), steps_per_epoch=len(batches), shuffle=False, verbose=0
    ).history
    np.testing.assert_allclose(second.vector, read_vector(reference), atol=2e-6)
    assert (first.totals + second.totals).loss == pytest.approx(history["loss"][0], rel=1e-5)


def test_local_steps_take_the_learning_rate_they_are_given() -> None:
    spec = ModelSpec.of(MODELS["dense"]())
    (batch,) = _batches(spec.build(), (8,))
    far = GradientStep(spec.build(), optimizer=OptimizerSpec("sgd", 0.2)).local_steps(spec.vector, [batch])
    given = GradientStep(spec.build(), optimizer=OptimizerSpec("sgd", 9.0))
    near = given.local_steps(spec.vector, [batch], 0.1)
    np.testing.assert_allclose(far.vector - spec.vector, 2 * (near.vector - spec.vector), atol=1e-6)


@pytest.mark.parametrize("name", ["batch_norm", "two_sides"])
def test_evaluation_is_that_of_keras(name: str) -> None:
    spec = ModelSpec.of(MODELS[name]())
    step, reference = GradientStep(spec.build()), _reference(spec)
    batches = _batches(reference)
    found = step.results(step.evaluate(spec.vector, batches))
    expected = reference.evaluate(
        (batch for batch in batches), steps=len(batches), return_dict=True, verbose=0
    )
    # Keras counts a batch too many in its means of each output's loss
    shown = {key: value for key, value in _numbers(expected).items() if not key.endswith("_loss")}
    assert {key: found[key] for key in shown} == pytest.approx(shown, rel=1e-5)


def test_an_evaluation_leaves_no_trace_in_the_training() -> None:
    spec = ModelSpec.of(MODELS["batch_norm"]())
    step = GradientStep(spec.build())
    batch, *others = _batches(spec.build())
    alone = step.gradient(spec.vector, batch)
    step.evaluate(spec.vector * 2, others)
    again = step.gradient(spec.vector, batch)
    assert np.array_equal(alone.vector, again.vector)
    assert step.results(alone.totals) == step.results(again.totals)


def test_tallies_of_replicas_add_up_to_the_metrics_of_one_process() -> None:
    model = MODELS["dense"]()
    spec = ModelSpec.of(model, metrics=["accuracy", keras.metrics.AUC(num_thresholds=20)])
    batches = _batches(spec.build(), (8, 8, 8, 3))
    step = GradientStep(spec.build())
    parts = [GradientStep(spec.build()).evaluate(spec.vector, batches[n::2]) for n in range(2)]
    whole = step.evaluate(spec.vector, batches)
    assert step.results(parts[0] + parts[1]) == pytest.approx(step.results(whole), rel=1e-6)
    assert whole.count == 27
    assert np.isnan(BatchTotals(0, 0.0, np.zeros(0)).loss), "no sample has no loss"


@pytest.mark.parametrize("name", ["dense", "batch_norm"])
def test_aligned_weights_are_used_in_place_and_stay_as_they_are(name: str) -> None:
    spec = ModelSpec.of(MODELS[name]())
    aligned = aligned_vector(spec.layout.size)
    aligned[:] = spec.vector
    step, other = GradientStep(spec.build()), GradientStep(spec.build())
    for batch in _batches(spec.build()):
        found = step.gradient(aligned, batch)
        assert np.array_equal(found.vector, other.gradient(spec.vector, batch).vector)
        assert np.array_equal(aligned, spec.vector)
    assert not found.vector.flags.writeable, "it lies in TensorFlow's memory"
    earlier = np.array(found.vector)
    aligned += 1.0
    step.gradient(aligned, batch)
    assert np.array_equal(found.vector, earlier), "a push that waits must not change"


def test_weights_come_back_as_they_were_set() -> None:
    spec = ModelSpec.of(MODELS["batch_norm"]())
    step = GradientStep(spec.build())
    changed = spec.vector + np.arange(spec.layout.size, dtype=np.float32)
    step.set(changed)
    assert np.array_equal(step.get(), changed)
    assert np.array_equal(spec.layout.views(changed)[0], step._model.layers[0].kernel.numpy())


def test_a_compiled_step_learns_the_same() -> None:
    spec = ModelSpec.of(MODELS["dense"]())
    plain, compiled = GradientStep(spec.build()), GradientStep(spec.build(), jit_compile=True)
    for batch in _batches(spec.build(), (8, 3)):
        expected = plain.gradient(spec.vector, batch)
        found = compiled.gradient(spec.vector, batch)
        np.testing.assert_allclose(found.vector, expected.vector, atol=1e-6)
        assert found.totals.loss == pytest.approx(expected.totals.loss, rel=1e-5)


def _refusals() -> dict[str, Callable[[], object]]:
    dense = MODELS["dense"]
    good = (np.ones((2, 4)), np.eye(3)[:2])
    highest = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    highest.compile(loss="mse", metrics=[Highest()])
    plain = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    return {
        "must be compiled": (lambda: GradientStep(plain)),
        "weights must have the shape": (lambda: GradientStep(dense()).gradient(np.ones(3, np.float32), good)),
        "must fit the model": (
            lambda: GradientStep(dense()).evaluate(_vector(dense()), [(np.ones((2, 5)), np.eye(3)[:2])])
        ),
        "must have as many rows": (
            lambda: GradientStep(dense()).evaluate(_vector(dense()), [good, (good[0], np.eye(3))])
        ),
        "at least one": (
            lambda: GradientStep(dense()).evaluate(_vector(dense()), [(good[0][:0], good[1][:0])])
        ),
        r"got \[\(2, 5\), \(2, 3\)\]: .*size-incompatible": (
            lambda: _seen(dense(), good).gradient(_vector(dense()), (np.ones((2, 5)), good[1]))
        ),
        "metrics must start at zero": (lambda: GradientStep(highest).evaluate(_vector(highest), [good])),
        "need an optimizer": (lambda: GradientStep(dense()).local_steps(_vector(dense()), [good])),
        "must have a batch": (
            lambda: GradientStep(dense(), optimizer=OPTIMIZERS[0]).local_steps(_vector(dense()), [])
        ),
        "a tally must be of batches with these metrics": (lambda: _seen(dense(), good).results(_NO_TALLY)),
        "once a batch has been seen": (lambda: GradientStep(dense()).results(_NO_TALLY)),
    }


_NO_TALLY = BatchTotals(0, 0.0, np.zeros(0))


def _seen(model: keras.Model, batch: tuple) -> GradientStep:
    step = GradientStep(model)
    step.evaluate(step.get(), [batch])
    return step


def _vector(model: keras.Model) -> np.ndarray:
    return read_vector(model)


@pytest.mark.parametrize("rule", _refusals())
def test_what_cannot_be_computed_is_refused_with_the_rule(rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        _refusals()[rule]()
