"""What a model holds beside its weights: a rebuilt copy answers as the original, or is refused."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L

from dnnflow.errors import InputError
from dnnflow.parallel.model.kept_state import Probe
from dnnflow.parallel.model.model_spec import ModelSpec

HERE = "test_parallel_state"
WORDS = ["up", "down", "strange", "charm"]


def _over(inputs: Any, *layers: Any) -> keras.Model:
    flow = inputs
    for layer in layers:
        flow = layer(flow)
    model = keras.Model(inputs, L.Dense(1)(flow))
    model.compile("sgd", "mse")
    return model


def _normalised() -> keras.Model:
    layer = L.Normalization()
    layer.adapt(np.random.default_rng(0).normal(5.0, 3.0, (500, 3)))
    return _over(keras.Input((3,)), layer)


def _nested() -> keras.Model:
    layer = L.Normalization(axis=None)
    layer.adapt(np.arange(9.0))
    block = keras.Sequential([keras.Input((3,)), layer], name="block")
    block.trainable = False
    return _over(keras.Input((3,)), block, L.Dropout(0.5))


def _words(mode: str = "multi_hot", **given: Any) -> keras.Model:
    layer = L.StringLookup(output_mode=mode, **given)
    layer.adapt(np.array([WORDS, WORDS[::-1]]))
    return _over(keras.Input((2,), dtype="string"), layer)


def _numbers() -> keras.Model:
    layer = L.IntegerLookup(output_mode="count")
    layer.adapt(np.array([10, 20, 20, 30]))
    return _over(keras.Input((2,), dtype="int64"), layer)


def _text() -> keras.Model:
    layer = L.TextVectorization(output_mode="tf_idf")
    layer.adapt(["up down up", "down strange", "charm"])
    return _over(keras.Input((), dtype="string"), layer)


def _embedded() -> keras.Model:
    layer = L.StringLookup()
    layer.adapt(np.array(WORDS))
    return _over(keras.Input((2,), dtype="string"), layer, L.Embedding(9, 3), L.Flatten())


def _bins() -> keras.Model:
    layer = L.Discretization(num_bins=4, output_mode="one_hot")
    layer.adapt(np.random.default_rng(0).normal(1.0, 5.0, (100, 1)))
    return _over(keras.Input((1,)), layer)


def _encoded() -> keras.Model:
    hashed = L.Hashing(5, output_mode="multi_hot", salt=3)
    return _over(keras.Input((2,), dtype="string"), hashed)


def _categories() -> keras.Model:
    return _over(keras.Input((2,), dtype="int32"), L.CategoryEncoding(4, output_mode="count"))


def _random() -> keras.Model:
    model = _over(keras.Input((8, 8, 1)), L.RandomFlip(), L.GaussianNoise(0.5), L.Flatten())
    model(np.zeros((2, 8, 8, 1)), training=True)  # its generators have gone on
    return model


MODELS: dict[str, Callable[[], keras.Model]] = {
    "normalization": _normalised, "nested": _nested, "words": _words, "tf-idf": lambda: _words("tf_idf"),
    "numbers": _numbers, "text": _text, "embedded": _embedded, "bins": _bins, "hashed": _encoded,
    "categories": _categories, "random": _random,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_answers_as_the_original(name: str) -> None:
    model = MODELS[name]()
    spec = pickle.loads(pickle.dumps(ModelSpec.of(model)))
    assert spec.probe is not None
    copy = spec.build()
    expected = Probe.of(model)
    assert expected is not None
    expected.require_same(copy, here=True)
    for one, other in zip(model.variables, copy.variables, strict=True):
        assert np.array_equal(one.numpy(), other.numpy()), one.path


def test_adapted_statistics_are_no_part_of_what_replicas_push() -> None:
    assert ModelSpec.of(_normalised()).layout.size == 4


def test_a_trained_copy_can_be_saved_with_what_it_was_adapted_to(tmp_path: Any) -> None:
    copy = ModelSpec.of(_normalised()).build()
    copy.save(tmp_path / "copy.keras")
    again = keras.models.load_model(tmp_path / "copy.keras")
    x = np.random.default_rng(1).normal(size=(5, 3))
    np.testing.assert_array_equal(again(x), copy(x))


def test_a_file_keeps_a_table(tmp_path: Any) -> None:
    model = _words()
    model.save(tmp_path / "words.keras")
    spec = ModelSpec.load(tmp_path / "words.keras")
    x = np.array([WORDS[:2], ["down", "?"]], object)
    np.testing.assert_array_equal(spec.build()(x), model(x))


# What cannot travel


@keras.saving.register_keras_serializable(HERE)
class Shifted(L.Layer):
    """Holds a number that only who set it knows."""

    shift = 0.0

    def call(self, inputs: Any) -> Any:
        return inputs + self.shift


@keras.saving.register_keras_serializable(HERE)
class Noisy(L.Layer):
    """Tells no config how much noise it makes while training."""

    def __init__(self, much: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.much = much

    def call(self, inputs: Any, training: bool = False) -> Any:
        return inputs * (1 + self.much) if training else inputs

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


@keras.saving.register_keras_serializable(HERE)
class Steep(keras.losses.Loss):
    """A loss whose config lacks its power."""

    def __init__(self, power: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.power = power

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.abs(y_true - y_pred) ** self.power


def shifted() -> keras.Model:
    return _over(keras.Input((3,)), Shifted())


def _shifted() -> keras.Model:
    model = shifted()
    model.layers[1].shift = 2.0
    return model


def _steep() -> keras.Model:
    model = shifted()
    model.compile("sgd", Steep(3.0))
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_shifted, "outputs off by .* something that it keeps outside its weights"),
        (lambda: _over(keras.Input((3,)), Noisy(0.5)), "Noisy must be rebuilt with the much"),
        (_steep, "Steep must be rebuilt with the power"),
    ],
)
def test_what_a_copy_would_lose_is_refused(make: Callable[[], keras.Model], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ModelSpec.of(make())


def test_a_process_that_builds_another_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec.load(f"{HERE}:shifted")
    monkeypatch.setattr(Shifted, "shift", 1.0)
    with pytest.raises(InputError, match="must answer the same wherever it is built"):
        spec.build()
    with pytest.raises(InputError, match=r"must have Keras' floatx float64.*float32 here"):
        replace(spec, settings={"floatx": "float64"}).build()


def test_a_model_without_known_inputs_or_that_draws_each_time_has_no_probe() -> None:
    model = _over(keras.Input((3,)), Drawing())
    assert ModelSpec.of(model).probe is None


@keras.saving.register_keras_serializable(HERE)
class Drawing(L.Layer):
    """Draws from the process' own generator."""

    def call(self, inputs: Any) -> Any:
        return inputs + keras.random.normal(keras.ops.shape(inputs))
