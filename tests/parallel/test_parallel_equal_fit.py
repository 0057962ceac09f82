"""One replica and one server step as `model.fit` does, for all that Keras lets a model and optimizer do."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import optimizers

from dnnflow.errors import InputError
from dnnflow.parallel.model.gradient import GradientStep
from dnnflow.parallel.model.model_spec import ModelSpec
from dnnflow.parallel.model.variables import write_vector
from dnnflow.parallel.server.messages import Push
from dnnflow.parallel.server.parameter_server import ParameterServer
from dnnflow.parallel.spec.algorithm import Algorithm, Kind, PushKind
from dnnflow.parallel.spec.train_options import TrainOptions

HERE = "test_parallel_equal_fit"
FEATURES, BATCH = 4, 16


def table(outputs: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(96, FEATURES)).astype("float32")
    return x, (x @ rng.normal(size=(FEATURES, outputs)) + 0.1).astype("float32")


def trained(model: keras.Model, x: Any, y: Any, weights: Any = None, epochs: int = 2) -> keras.Model:
    """Return a copy that one replica and one server have trained."""
    spec = ModelSpec.of(model)
    options = TrainOptions(algorithm=Algorithm(server_optimizer=spec.optimizer))
    options.require_applied(constrained=bool(spec.layout.constraints))
    server = ParameterServer(spec.vector, options.algorithm, layout=spec.layout)
    copy = spec.build()
    step = GradientStep(copy)
    clock = server.join(0)
    count = len(keras.tree.flatten(x)[0])
    for _ in range(epochs):
        for start in range(0, count, BATCH):
            parts = [keras.tree.map_structure(lambda a, s=start: a[s : s + BATCH], part)
                     for part in (x, y, weights) if part is not None]  # fmt: skip
            version, now = server.pull(0)
            found = step.gradient(np.array(now), tuple(parts))
            rows = len(keras.tree.flatten(parts[0])[0])
            server.exchange(Push(0, clock, version, rows, found.vector, PushKind.GRADIENT))
            clock += 1
    server.finish()
    write_vector(copy, server.pull()[1])
    return copy


def assert_equal(model: keras.Model, x: Any, y: Any, weights: Any = None, bound: float = 2e-5) -> None:
    found = trained(model, x, y, weights).get_weights()
    model.fit(x, y, sample_weight=weights, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(found, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=bound, atol=bound)


def plain(**dense: Any) -> keras.Model:
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((FEATURES,)), L.Dense(5, "tanh", **dense), L.Dense(1, **dense)])


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "clipnorm": lambda: optimizers.SGD(0.1, clipnorm=0.05),
    "global_clipnorm": lambda: optimizers.Adam(0.01, global_clipnorm=0.05),
    "clipvalue": lambda: optimizers.SGD(0.1, momentum=0.9, clipvalue=0.02),
    "use_ema": lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.8),
    "ema overwrites": lambda: optimizers.Adam(
        0.01, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=4
    ),
    "accumulation": lambda: optimizers.Adam(0.01, gradient_accumulation_steps=3),
    "weight_decay": lambda: optimizers.AdamW(0.01, weight_decay=0.3),
    "lamb": lambda: optimizers.Lamb(0.01),
    "own": lambda: OwnOptimizer(0.1, beta=0.5, clipvalue=0.02),
}


class OwnOptimizer(optimizers.SGD):
    """A rule of one's own, whose base takes what it does not name."""

    def __init__(self, learning_rate: float = 0.1, beta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta = beta

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient * self.beta, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta": self.beta}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_steps_as_in_fit(name: str) -> None:
    model = plain()
    model.compile(OPTIMIZERS[name](), "mse", jit_compile=False)
    assert_equal(model, *table())


def test_weights_that_are_named_are_not_decayed() -> None:
    model, optimizer = plain(), optimizers.AdamW(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, "mse", jit_compile=False)
    for layer in model.layers:
        layer.bias.assign(np.ones(layer.bias.shape))
    assert_equal(model, *table())


class Bounded(keras.constraints.Constraint):
    """A constraint of one's own."""

    def __init__(self, most: float = 1.0) -> None:
        self.most = most

    def __call__(self, weights: Any) -> Any:
        return keras.ops.clip(weights, -self.most, self.most)

    def get_config(self) -> dict[str, Any]:
        return {"most": self.most}


def halves(weights: Any) -> Any:
    return weights * 0.5


@pytest.mark.parametrize(
    "constraint", ["non_neg", keras.constraints.MaxNorm(0.5), "unit_norm", Bounded(0.2), halves]
)
def test_constraints_hold_after_each_step(constraint: Any) -> None:
    model = plain(kernel_constraint=constraint)
    model.compile(optimizers.SGD(0.1), "mse", jit_compile=False)
    assert_equal(model, *table())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"algorithm": Algorithm(kind=Kind.EASGD)}, "server has no optimizer"),
        ({"servers": 2}, "2 servers"),
        ({"groups": 2}, "2 groups"),
    ],
)
def test_constraints_that_no_server_keeps_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=f"constraints of weights are kept by one server.*{words}"):
        TrainOptions(**options).require_applied(constrained=True)
    means = optimizers.SGD(0.1, use_ema=True)
    model = plain()
    model.compile(means, "mse")
    algorithm = Algorithm(sync_every=2, replica_optimizer=ModelSpec.of(model).optimizer)
    with pytest.raises(InputError, match=r"use_ema.*in that of replicas"):
        TrainOptions(algorithm=algorithm).require_applied(constrained=False)


@keras.saving.register_keras_serializable(HERE)
class Penalty(L.Layer):
    """Adds a loss that is another one while training."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        self.add_loss((0.5 if training else 10.0) * keras.ops.mean(inputs**2))
        return inputs


@keras.saving.register_keras_serializable(HERE)
class OwnLoss(keras.Model):
    """Computes its loss itself, in the signature of older versions, and counts with a metric of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen = keras.metrics.Sum(name="seen")

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None
    ) -> Any:
        self.seen.update_state(keras.ops.ones_like(y))
        return keras.ops.mean((y - y_pred) ** 4)


class NoPhase(keras.Model):
    """Never says whether it trains, so that its dropout never drops."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.drop, self.last = L.Dense(5), L.Dropout(0.5), L.Dense(1)

    def build(self, shape: Any) -> None:
        self.hidden.build(shape)
        self.last.build((None, 5))
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self.last(self.drop(self.hidden(inputs)))


def no_phase() -> keras.Model:
    keras.utils.set_random_seed(2)
    model = NoPhase()
    model.build((None, FEATURES))
    return model


def _penalised() -> keras.Model:
    i = keras.Input((FEATURES,))
    hidden = L.Dense(5, "tanh", kernel_regularizer="l2", activity_regularizer="l1")(i)
    model = keras.Model(i, L.Dense(1)(Penalty()(hidden)))
    model.compile(optimizers.SGD(0.1), "mse", jit_compile=False)
    return model


def _own_loss() -> keras.Model:
    i = keras.Input((FEATURES,))
    model = OwnLoss(i, L.Dense(1)(i))
    model.compile(optimizers.SGD(0.01), jit_compile=False)
    return model


def _frozen_between() -> keras.Model:
    i = keras.Input((FEATURES,))
    flow = L.Dense(5, "tanh", trainable=False)(L.Dense(5)(i))
    model = keras.Model(i, L.Dense(1)(L.BatchNormalization(trainable=False)(flow)))
    model.compile("rmsprop", "mse", jit_compile=False)
    return model


def _normalised() -> keras.Model:
    i = keras.Input((FEATURES,))
    model = keras.Model(i, L.Dense(1)(L.BatchNormalization(momentum=0.5)(L.Dense(5, use_bias=False)(i))))
    model.compile(optimizers.SGD(0.05), "mse", jit_compile=False)
    return model


def _weighted() -> keras.Model:
    model = plain()
    model.compile(optimizers.SGD(0.1), "mae", weighted_metrics=["mse"], jit_compile=False)
    return model


MODELS = {"add_loss": _penalised, "own loss": _own_loss, "frozen": _frozen_between, "statistics": _normalised}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_steps_as_in_fit(name: str) -> None:
    keras.utils.set_random_seed(4)
    assert_equal(MODELS[name](), *table())


def test_weighted_rows_count_by_their_weight() -> None:
    x, y = table()
    assert_equal(_weighted(), x, y, np.linspace(0.0, 2.0, len(x)).astype("float32"))


def test_several_losses_have_their_weights() -> None:
    keras.utils.set_random_seed(4)
    x, y = table(3)
    i = keras.Input((FEATURES,))
    flow = L.Dense(5, "tanh")(i)
    model = keras.Model(
        i, {"one": L.Dense(3, name="one")(flow), "kind": L.Dense(3, "softmax", name="kind")(flow)}
    )
    losses = {"one": keras.losses.Huber(0.3), "kind": "sparse_categorical_crossentropy"}
    model.compile(optimizers.SGD(0.1), losses, loss_weights={"one": 0.2, "kind": 3.0}, jit_compile=False)
    assert_equal(model, x, {"one": y, "kind": y.argmax(1)})


def test_a_model_that_takes_no_phase_is_called_without() -> None:
    x, y = table()
    expected = no_phase()
    expected.compile(optimizers.SGD(0.1), "mse", jit_compile=False)
    expected.fit(x, y, batch_size=96, shuffle=False, verbose=0)
    spec = ModelSpec.load(f"{HERE}:no_phase", loss="mse")
    gradient = GradientStep(spec.build()).gradient(spec.vector, (x, y)).vector
    stepped = spec.layout.views(spec.vector - 0.1 * gradient)
    for one, other in zip(stepped, expected.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# What is refused


@keras.saving.register_keras_serializable(HERE)
class OwnStep(keras.Model):
    def train_step(self, data: Any) -> Any:
        return {}


@keras.saving.register_keras_serializable(HERE)
class OwnTest(keras.Model):
    def test_step(self, data: Any) -> Any:
        return {}


def _of(kind: type, **compiled: Any) -> keras.Model:
    i = keras.Input((FEATURES,))
    model = kind(i, L.Dense(1)(i))
    model.compile("sgd", "mse", **compiled)
    return model


def _instance_step() -> keras.Model:
    model = _of(keras.Model)
    model.train_step = lambda data: {}
    return model


def _half() -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return _of(keras.Model)
    finally:
        keras.config.set_dtype_policy("float32")


def _spectral() -> keras.Model:
    model = keras.Sequential([keras.Input((FEATURES,)), L.SpectralNormalization(L.Dense(3)), L.Dense(1)])
    model.compile("sgd", "mse")
    return model


def _stateful() -> keras.Model:
    model = keras.Sequential([keras.Input((3, 2), batch_size=4), L.GRU(3, stateful=True), L.Dense(1)])
    model.compile("sgd", "mse")
    return model


def _synchronized() -> keras.Model:
    model = keras.Sequential([keras.Input((FEATURES,)), L.BatchNormalization(synchronized=True), L.Dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _of(OwnStep), "got OwnStep with its own train_step"),
        (lambda: _of(OwnTest), "got OwnTest with its own test_step"),
        (_instance_step, "with its own train_step"),
        (lambda: _of(keras.Model, run_eagerly=True), "run_eagerly"),
        (_half, "losses are not scaled"),
        (_spectral, "kernel changed in the forward pass"),
        (_stateful, "stateful=True"),
        (_synchronized, "synchronized=True"),
    ],
)
def test_what_no_gradient_holds_is_refused(make: Callable[[], keras.Model], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ModelSpec.of(make())


@keras.saving.register_keras_serializable(HERE)
class Annealed(keras.Model):
    """Its loss grows with the optimizer's steps."""

    def compute_loss(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True
    ) -> Any:
        return keras.ops.mean((y - y_pred) ** 2) * keras.ops.cast(self.optimizer.iterations, "float32")


def test_a_loss_that_asks_the_optimizer_is_refused() -> None:
    spec = ModelSpec.of(_of(Annealed))
    with pytest.raises(InputError, match=r"must not ask the optimizer, got optimizer\.iterations"):
        GradientStep(spec.build()).gradient(spec.vector, table())


def _stepped() -> Any:
    model = _of(keras.Model)
    model.fit(*table(), verbose=0)
    return model.optimizer


def _by_objects() -> Any:
    optimizer = optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_list=plain().trainable_variables[:1])
    return optimizer


@keras.saving.register_keras_serializable(HERE)
class Forgets(optimizers.SGD):
    """Does not tell in its config what it was made with."""

    def __init__(self, learning_rate: float = 0.1, beta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta = beta


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_stepped, "after 3 steps"),
        (_by_objects, "var_names"),
        (lambda: optimizers.LossScaleOptimizer(optimizers.SGD()), "without loss scaling"),
        (lambda: optimizers.SGD(loss_scale_factor=8.0), "without loss scaling"),
        (optimizers.ScheduleFreeAdamW, "without weights of its own"),
        (lambda: Forgets(beta=0.5), "Forgets must be rebuilt with the beta"),
    ],
)
def test_optimizers_that_would_step_otherwise_are_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        _ = ModelSpec.of(plain(), loss="mse", optimizer=make()).optimizer


class Most(keras.metrics.Metric):
    """A metric that is no sum."""

    def __init__(self, name: str = "most", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.most = self.add_weight(name="most", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.most.assign(keras.ops.maximum(self.most, keras.ops.max(keras.ops.abs(y_true))))

    def result(self) -> Any:
        return self.most


def test_a_metric_of_several_numbers_has_a_name_for_each() -> None:
    x, y = table(3)
    model = keras.Sequential([keras.Input((FEATURES,)), L.Dense(3, "softmax")])
    model.compile("sgd", "mse", metrics=[keras.metrics.F1Score()])
    step = GradientStep(ModelSpec.of(model).build())
    found = step.results(step.evaluate(step.get(), [(x, y > 0)]))
    expected = model.evaluate(x, y > 0, batch_size=96, verbose=0, return_dict=True)["f1_score"]
    np.testing.assert_allclose([found[f"f1_score_{i}"] for i in range(3)], expected, rtol=1e-6)


def test_metrics_that_do_not_add_up_are_refused() -> None:
    spec = ModelSpec.of(plain(), loss="mse", metrics=[Most()])
    with pytest.raises(InputError, match=r"must keep sums and counts.*most"):
        GradientStep(spec.build()).evaluate(spec.vector, [table()])


def test_weights_outside_the_loss_are_refused_as_keras_passes_over_them() -> None:
    i = keras.Input((FEATURES,))
    outputs = {"used": L.Dense(1, name="used")(i), "spare": L.Dense(1, name="spare")(i)}
    model = keras.Model(i, outputs)
    model.compile(optimizers.AdamW(), {"used": "mse"})
    x, y = table()
    spec = ModelSpec.of(model)
    with pytest.raises(InputError, match="take part in the loss, got none of spare/kernel"):
        GradientStep(spec.build()).gradient(spec.vector, (x, {"used": y, "spare": y}))
