"""Write a design as Python that needs Keras alone: the network, how it is compiled, how it is fitted."""

from collections.abc import Iterator

from dnnflow.design.layers import SCHEDULE_DEFAULTS, Design, Layer, residual_sources
from dnnflow.engines.losses import Loss, LossKind

OPTIMIZER_CLASSES = {
    "sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "nadam": "Nadam", "adamax": "Adamax",
    "rmsprop": "RMSprop", "adagrad": "Adagrad", "adadelta": "Adadelta", "lion": "Lion",
}  # fmt: skip
LOSS_CLASSES = {
    LossKind.CROSS_ENTROPY: "SparseCategoricalCrossentropy",
    LossKind.BINARY_CROSS_ENTROPY: "BinaryCrossentropy",
    LossKind.MEAN_SQUARED_ERROR: "MeanSquaredError",
    LossKind.MEAN_ABSOLUTE_ERROR: "MeanAbsoluteError",
    LossKind.HUBER: "Huber",
}
METRICS = {"softmax": ["accuracy"], "sigmoid": ["binary_accuracy"], "linear": []}
QUANTILE = """
def quantile_loss(y_true, y_pred):
    ahead = y_pred - y_true
    return keras.ops.mean(keras.ops.maximum(-{q} * ahead, {rest} * ahead), axis=-1)

"""


def keras_code(design: Design, n_features: int, n_outputs: int, loss: Loss) -> str:
    """Return a module with `build_model()` and `fit(model, x, y, ...)`.

    Initial weights are drawn by Keras: what comes of it differs as between two seeds.
    """
    if design.reference is not None:
        return _of_reference(design, n_features, n_outputs, loss)
    parts = ["import math\n"] if design.schedule.kind == "cosine" else []
    parts += ["import keras\n", ""]
    if loss.kind is LossKind.QUANTILE:
        parts.append(QUANTILE.format(q=loss.quantile, rest=1 - loss.quantile))
    parts += _build(design, n_features, n_outputs, loss)
    parts += ["", "", *_fit(design)]
    return "\n".join(parts) + "\n"


def _build(design: Design, n_features: int, n_outputs: int, loss: Loss) -> Iterator[str]:
    yield "def build_model():"
    yield f'    """Return the compiled network: {design.describe()}."""'
    yield f'    inputs = flow = keras.Input(({n_features},), name="features")'
    sources = residual_sources(design, n_features)
    starts = set(sources.values())
    if 0 in starts:
        yield "    before_0 = flow"
    for index, layer in enumerate(design.layers):
        yield from (f"    {line}" for line in _layer(layer, index))
        if index in sources:
            yield f'    flow = keras.layers.Add(name="residual_{index}")([flow, before_{sources[index]}])'
        if index + 1 in starts:
            yield f"    before_{index + 1} = flow"
    yield (
        f'    outputs = keras.layers.Dense({n_outputs}, activation="{loss.activation}", name="output")(flow)'
    )
    yield "    model = keras.Model(inputs, outputs)"
    optimizer = design.optimizer
    given = {"learning_rate": optimizer.learning_rate, **optimizer.parameters}
    arguments = ", ".join(f"{name}={value!r}" for name, value in given.items())
    own = f"keras.losses.{LOSS_CLASSES[loss.kind]}()" if loss.kind in LOSS_CLASSES else "quantile_loss"
    yield "    model.compile("
    yield f"        optimizer=keras.optimizers.{OPTIMIZER_CLASSES[optimizer.name]}({arguments}),"
    yield f"        loss={own},"
    yield f"        metrics={METRICS[loss.activation]!r},"
    yield "    )"
    yield "    return model"


def _layer(layer: Layer, index: int) -> Iterator[str]:
    arguments = [str(layer.units)]
    if not layer.batch_norm:
        arguments.append(f"activation={layer.activation!r}")
    arguments.append(f"kernel_initializer={layer.initializer!r}")
    if layer.l2:
        arguments.append(f"kernel_regularizer=keras.regularizers.L2({layer.l2!r})")
    yield f"flow = keras.layers.Dense({', '.join(arguments)}, name='layer_{index}')(flow)"
    if layer.batch_norm:
        yield f"flow = keras.layers.BatchNormalization(name='batch_norm_{index}')(flow)"
        yield f"flow = keras.layers.Activation({layer.activation!r}, name='activation_{index}')(flow)"
    if layer.dropout:
        yield f"flow = keras.layers.Dropout({layer.dropout!r}, name='dropout_{index}')(flow)"


def _fit(design: Design) -> Iterator[str]:
    yield "def fit(model, x, y, validation_data=None):"
    yield '    """Train as the study did: x is float32 (rows, features), prepared as in the study."""'
    if design.watches_validation:
        yield "    if validation_data is None:"
        yield '        raise ValueError("this design watches validation rows: give validation_data=(x, y)")'
    yield "    callbacks = ["
    yield from (f"        {line}," for line in _callbacks(design))
    yield "    ]"
    yield "    return model.fit("
    yield f"        x, y, epochs={design.epochs}, batch_size={design.batch_size}, shuffle=True,"
    yield "        validation_data=validation_data, callbacks=callbacks,"
    yield "    )"


def _callbacks(design: Design) -> Iterator[str]:
    kind, first = design.schedule.kind, design.optimizer.learning_rate
    given = {**SCHEDULE_DEFAULTS[kind], **design.schedule.parameters}
    scheduler = "keras.callbacks.LearningRateScheduler(lambda epoch, rate: {})"
    if kind == "exponential":
        yield scheduler.format(f"{first!r} * {given['rate']!r} ** epoch")
    elif kind == "step":
        yield scheduler.format(f"{first!r} * {given['rate']!r} ** (epoch // {int(given['every'])})")
    elif kind == "cosine":
        floor = given["floor"]
        share = f"(1 + math.cos(math.pi * epoch / {design.epochs})) / 2"
        yield scheduler.format(f"{first!r} * ({floor!r} + (1 - {floor!r}) * {share})")
    elif kind == "plateau":
        yield (
            f"keras.callbacks.ReduceLROnPlateau(monitor='val_loss', factor={given['rate']!r}, "
            f"patience={int(given['patience'])}, min_delta={given['min_delta']!r}, "
            f"min_lr={first * given['floor']!r})"
        )
    if (rule := design.early_stopping) is not None:
        yield (
            f"keras.callbacks.EarlyStopping(monitor='val_loss', patience={rule.patience}, "
            f"min_delta={rule.min_delta!r}, restore_best_weights=True)"
        )


def _of_reference(design: Design, n_features: int, n_outputs: int, loss: Loss) -> str:
    reference = design.reference
    if reference is None:
        raise ValueError("a design by reference has one, got none")
    module, _, name = reference.function.partition(":")
    outputs = "n_classes" if loss.activation == "softmax" else "n_outputs"
    given = {"n_features": n_features, outputs: n_outputs, **reference.parameters}
    arguments = ", ".join(f"{key}={value!r}" for key, value in given.items())
    return (
        f"from {module} import {name}\n\n\ndef build_model():\n"
        f'    """Return the network of the design\'s own code."""\n    return {name}({arguments})\n\n\n'
        + "\n".join(_fit(design))
        + "\n"
    )
