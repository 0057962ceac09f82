"""Build Keras models of others: one that averages several, one whose probabilities are scaled."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dnnflow.engines.process_setup import import_tensorflow
from dnnflow.table.columns.kinds import Task

if TYPE_CHECKING:
    import keras


def averaged(members: "Sequence[tuple[keras.Model, float]]", n_features: int) -> "keras.Model":
    """Return a model whose output is the weighted mean of its members' outputs.

    It is an ordinary functional Keras model, which plain Keras reads.

    Parameters
    ----------
    members
        Models from (rows, n_features) to (rows, outputs), and their weights, which sum to 1.
    """
    import_tensorflow()
    import keras

    inputs = keras.Input((n_features,), name="features")
    outputs = []
    for number, (model, weight) in enumerate(members):
        model.name = f"member_{number}"
        outputs.append(keras.layers.Rescaling(weight, name=f"share_{number}")(model(inputs)))
    mean = outputs[0] if len(outputs) == 1 else keras.layers.Add(name="mean")(outputs)
    return keras.Model(inputs, mean, name="ensemble")


def with_temperature(model: "keras.Model", temperature: float, task: Task, n_features: int) -> "keras.Model":
    """Return a model with the logarithms of another's probabilities divided by a temperature.

    Of softmax(z) that is softmax(z / temperature), of p of a label sigmoid(logit(p) / temperature). Where z
    comes from the model's last layer, its kernel and bias are divided, in place; else it gets layers more.
    Either way it is an ordinary functional Keras model.

    Parameters
    ----------
    model
        From (rows, n_features) to (rows, outputs).
    """
    import keras

    last, kind = model.layers[-1], "sigmoid" if task is Task.MULTILABEL else "softmax"
    is_output = model.outputs[0]._keras_history.operation is last
    if is_output and isinstance(last, keras.layers.Dense) and last.activation is keras.activations.get(kind):
        last.set_weights([array / temperature for array in last.get_weights()])
        return model
    inputs = keras.Input((n_features,), name="features")
    shares = model(inputs)
    logits = keras.ops.log(shares)
    if task is Task.MULTILABEL:
        logits = keras.ops.subtract(logits, keras.ops.log(keras.ops.subtract(1.0, shares)))
    scaled = keras.layers.Rescaling(1 / temperature, name="temperature")(logits)
    return keras.Model(inputs, keras.layers.Activation(kind, name="calibrated")(scaled), name="calibrated")
