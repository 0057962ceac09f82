"""Build Keras models of kept networks: one that averages several, one whose probabilities are scaled."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dnnflow.design.layers import Design
from dnnflow.engines.losses import loss_of
from dnnflow.engines.process_setup import import_tensorflow
from dnnflow.engines.seam import make_importable
from dnnflow.paths import content_id
from dnnflow.run.models.saved_model import read_weights
from dnnflow.table.columns.kinds import Task

if TYPE_CHECKING:
    import keras

    from dnnflow.run.study import Study


class KeptNetwork(NamedTuple):
    """A trained network that is handed out, alone or as one of several that are averaged."""

    design: Design
    weights: Path
    """File of them."""
    share: float
    """Of the output."""


def model_id(
    networks: Sequence[KeptNetwork], temperature: float, thresholds: tuple[float, ...] | None
) -> str:  # fmt: skip
    """Return the hash of what a model is: one that is adjusted otherwise is tested by itself, too."""
    return content_id([[[one.design.design_id, one.share] for one in networks], temperature, thresholds])


def described(networks: Sequence[KeptNetwork]) -> dict[str, Any]:
    """Return the designs of a model, as JSON types."""
    if len(networks) == 1:
        return {"design": networks[0].design.to_dict()}
    return {"members": [{"design": one.design.to_dict(), "share": one.share} for one in networks]}


def build_mean(study: "Study", networks: Sequence[KeptNetwork]) -> "keras.Model | None":
    """Return the model of a network, or the mean of several; None where weights were not kept."""
    weights = [read_weights(one.weights) for one in networks]
    if any(one is None for one in weights):
        return None
    make_importable(study.job().import_paths)
    import_tensorflow()
    from dnnflow.engines.keras.build import build_model

    dataset, settings = study.dataset, study.job().settings
    loss = loss_of(settings.loss, settings.quantile, dataset.task)
    members = []
    for one, arrays in zip(networks, weights, strict=True):
        model = build_model(one.design, dataset.n_features, dataset.n_outputs, loss=loss)
        model.set_weights(arrays)
        members.append((model, one.share))
    return members[0][0] if len(members) == 1 else averaged(members, dataset.n_features)


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
