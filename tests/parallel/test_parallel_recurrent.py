"""Fused LSTM layers: they must be the layers that the user wrote, only quicker."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dnnflow.parallel.model.recurrent import fused_lstm

L = keras.layers


def _gradients_of(model: keras.Model):
    """Return a function that gives the model's outputs and every gradient of a number made of them."""

    def outputs_and_gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = tf.nest.flatten(model(x, training=True))
            value = tf.add_n([tf.reduce_sum(tf.sin(output)) for output in outputs])
        return outputs, tape.gradient(value, [x, *(weight.value for weight in model.trainable_variables)])

    return outputs_and_gradients


def _fused(model: keras.Model, rows: int):
    spec = tf.TensorSpec((None, *model.input_shape[1:]))
    traced = tf.function(_gradients_of(model), input_signature=[spec], autograph=False)
    with fused_lstm(model, rows):
        return traced.get_concrete_function()


def _is_fused(function) -> bool:
    return any(op.type == "BlockLSTM" for op in function.graph.get_operations())


LSTMS = {
    "plain": lambda x: L.LSTM(5)(x),
    "sequences": lambda x: L.LSTM(4)(L.LSTM(5, return_sequences=True)(x)),
    "states": lambda x: L.LSTM(5, return_state=True)(x),
    "initial_state": lambda x: L.LSTM(5)(x, initial_state=[x[:, 0, :1] + np.ones(5, np.float32)] * 2),
    "backwards": lambda x: L.LSTM(5, go_backwards=True, return_sequences=True)(x),
    "both_ways": lambda x: L.Bidirectional(L.LSTM(5))(x),
    "no_bias": lambda x: L.LSTM(5, use_bias=False)(x),
    "unrolled": lambda x: L.LSTM(5, unroll=True)(x),
    "large_cells": lambda x: L.LSTM(5, bias_initializer=keras.initializers.Constant(4.0))(x),
}
OTHERS = {
    "masked": lambda x: L.LSTM(5)(L.Masking(0.25)(x)),
    "activation": lambda x: L.LSTM(5, activation="relu")(x),
    "recurrent_dropout": lambda x: L.LSTM(5, recurrent_dropout=0.5, seed=1)(x),
    "half_precision": lambda x: L.LSTM(5, dtype="mixed_bfloat16")(x),
}


@pytest.mark.parametrize("name", [*LSTMS, *OTHERS])
def test_fused_lstms_compute_what_the_layer_does_and_only_where_they_can(name: str) -> None:
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, {**LSTMS, **OTHERS}[name](inputs))
    x = np.random.default_rng(0).normal(size=(7, 5, 3)).astype(np.float32)
    state = [variable.numpy() for variable in model.variables]
    fused = _fused(model, 7)
    found = fused(tf.constant(x))
    for variable, value in zip(model.variables, state, strict=True):
        variable.assign(value)
    expected = _gradients_of(model)(tf.constant(x))  # by the layers themselves, which are as before
    assert _is_fused(fused) == (name in LSTMS)
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)
    assert not any("inner_loop" in vars(layer) for layer in model.layers)


def test_wide_lstms_keep_the_loop_which_is_quicker_there() -> None:
    model = keras.Sequential([keras.Input((3, 8)), L.LSTM(256)])
    assert _is_fused(_fused(model, 1))
    assert not _is_fused(_fused(model, 100))
