"""Keras' `model.fit`: as a user writes it, and as one who has measured where its time goes."""

import functools
from typing import Any

from dnnflow.design.layers import Design
from peers.common import Arrays, Run, Task, on_each_core


def as_written(task: Task) -> Run:
    """Train with Keras' defaults."""
    return on_each_core(prepare, train, task)


def tuned(task: Task) -> Run:
    """Train without XLA, with a whole epoch a call: 45 steps for 1,437 rows in batches of 32."""
    options = {"jit_compile": False, "steps_per_execution": 45}
    return on_each_core(prepare, functools.partial(train, options=options), task)


def prepare() -> None:
    """Import Keras."""
    from dnnflow.engines.process_setup import import_tensorflow

    import_tensorflow()


def compiled(design: Design, n_features: int, n_classes: int, options: dict[str, Any]) -> Any:
    """Return a compiled model as Keras' guides write it."""
    import keras

    hidden = [keras.layers.Dense(layer.units, activation=layer.activation) for layer in design.layers]
    output = keras.layers.Dense(n_classes, activation="softmax")
    model = keras.Sequential([keras.Input((n_features,)), *hidden, output])
    model.compile(
        optimizer=keras.optimizers.Adam(design.optimizer.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        **options,
    )
    return model


def train(design: Design, arrays: Arrays, options: dict[str, Any] | None = None) -> float:
    """Train and test one design."""
    import keras

    keras.utils.clear_session()  # as Keras advises where many models are made
    features, labels, test_features, test_labels = arrays
    model = compiled(design, features.shape[1], int(labels.max()) + 1, options or {})
    model.fit(features, labels, batch_size=design.batch_size, epochs=design.epochs, verbose=0)
    _, accuracy = model.evaluate(test_features, test_labels, verbose=0)
    return float(accuracy)
