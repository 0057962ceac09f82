"""Callbacks that no replica would hear, or whose changes none would see, are refused."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import callbacks as C

from dnnflow.errors import InputError
from dnnflow.parallel.driver.callbacks import HeldModel, require_heard
from dnnflow.parallel.model.gradient import GradientStep
from dnnflow.parallel.model.model_spec import ModelSpec


class EachBatch(C.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        raise AssertionError


class EachEpoch(C.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (EachBatch, "EachBatch with on_train_batch_end"),
        (lambda: C.LambdaCallback(on_train_batch_begin=print), "LambdaCallback with on_train_batch_begin"),
        (lambda: C.ModelCheckpoint("a.keras", save_freq=3), "save_freq in batches"),
        (C.SwapEMAWeights, "got SwapEMAWeights"),
        (lambda: C.BackupAndRestore("a"), "got BackupAndRestore"),
    ],
)
def test_callbacks_that_wait_for_batches_are_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        require_heard([make()])


def test_callbacks_of_epochs_are_heard() -> None:
    given = [C.EarlyStopping(), C.ReduceLROnPlateau(), C.CSVLogger("a"), C.TerminateOnNaN(), EachEpoch()]
    require_heard([*given, C.ModelCheckpoint("a.keras"), C.LambdaCallback(on_epoch_end=print)])


@pytest.mark.parametrize("change", ["weights", "frozen", "trainable"])
def test_what_callbacks_change_in_the_model_is_refused(change: str) -> None:
    layers = [keras.Input((3,)), keras.layers.Dense(2, trainable=False), keras.layers.Dense(1)]
    model = ModelSpec.of(keras.Sequential(layers), loss="mse").build()
    held = HeldModel(model, GradientStep(model))
    held.require_same()
    if change == "trainable":
        model.layers[0].trainable = True
    else:
        kernel = model.layers[change == "weights"].kernel
        kernel.assign(np.ones(kernel.shape))
    with pytest.raises(InputError, match="callbacks must leave weights"):
        held.require_same()
