"""Build one Keras model that averages several networks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dnnflow.engines.process_setup import import_tensorflow

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
