"""Train simple designs with scikit-learn's MLPClassifier and MLPRegressor, on workers without TensorFlow."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dnnflow.design.initial import initial_weights
from dnnflow.design.layers import Design, count_flops
from dnnflow.engines.epoch_rows import RowBlock, TrainingRows, in_memory
from dnnflow.engines.loop import (
    Deadline,
    Metrics,
    Network,
    Result,
    Weights,
    check_memory,
    fit_and_measure,
    train_designs,
)
from dnnflow.engines.seam import Fitted, TrainingContext
from dnnflow.errors import DataError, DesignError, DivergedError
from dnnflow.table.columns.kinds import Task

_ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "sigmoid": "logistic", "linear": "identity"}
_OPTIMIZERS = {"adam": frozenset({"beta_1", "beta_2", "epsilon"}), "sgd": frozenset({"momentum", "nesterov"})}

_CALL_FLOPS = 2e9
"""A call of scikit-learn takes at most so much work, about a second: limits are checked between calls."""


class SklearnEngine:
    """Trains designs with scikit-learn, from the same initial weights and in the same row order as Keras.

    With two classes scikit-learn has one logistic output z where a Keras model has two softmax outputs. The
    two are one network: z starts as the difference of the Keras outputs, and is given back as (-z/2, z/2),
    whose softmax is (1 - sigmoid(z), sigmoid(z)). Only their training differs: one output takes half the
    step that two take.

    Of numbers scikit-learn halves squared errors and adds them up over targets, of labels it adds up
    cross-entropies, where Keras takes the mean: rates and epsilons make up for it, and steps are the same.
    """

    name = "sklearn"

    def refuse(self, design: Design) -> str | None:
        """Say why scikit-learn's networks cannot be this design, or None."""
        layers = design.layers
        taken = _OPTIMIZERS.get(design.optimizer.name, frozenset())
        reasons = {
            "designs by reference": design.reference is not None,
            "dropout": any(layer.dropout for layer in layers),
            "batch normalisation": any(layer.batch_norm for layer in layers),
            "L2 penalties": any(layer.l2 for layer in layers),
            "residual connections": design.residual > 0,
            "different activations in one network": len({layer.activation for layer in layers}) > 1,
            "activations but relu, tanh, sigmoid and linear": any(
                layer.activation not in _ACTIVATIONS for layer in layers
            ),
            "optimizers but adam and sgd": design.optimizer.name not in _OPTIMIZERS,
            "all parameters of this optimizer": bool(set(design.optimizer.parameters) - taken),
        }
        met = [what for what, is_met in reasons.items() if is_met]
        return f"engine sklearn has no {', no '.join(met)}; take engine keras" if met else None

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        """Yield one `Fitted` a design, in order.

        Raises
        ------
        DataError
            When a split is larger than a third of this process' memory.
        """
        if not in_memory(context):
            sizes = [context.dataset.split_bytes(split) for split in ("train", "test")]
            raise DataError(
                f"engine sklearn needs splits of at most a third of {context.memory_bytes:,} bytes, got "
                f"{sizes[0]:,} and {sizes[1]:,}; take engine keras or larger workers"
            )
        return train_designs(self._fit, designs, context, engine=self.name)

    def _fit(self, design: Design, context: TrainingContext) -> Result:
        reason = self.refuse(design)
        if reason is None and context.is_weighted:
            reason = "engine sklearn divides by the sum of weights, not by rows; take engine auto"
        if reason:
            raise DesignError(reason)
        check_memory(design, context)
        network = SklearnNetwork(design, TrainingRows.of(context))
        # scikit-learn warns of the overflow that comes before a loss that is no number
        with np.errstate(all="ignore"):
            return fit_and_measure(network, design, context)


class SklearnNetwork(Network):
    """A design as a network of scikit-learn on its way through the epochs."""

    def __init__(self, design: Design, rows: TrainingRows) -> None:
        n_features, n_outputs = rows.dataset.n_features, rows.dataset.n_outputs
        flops = 3 * design.batch_size * count_flops(design, n_features, n_outputs)
        super().__init__(rows, design.batch_size, design.batch_size * max(1, math.floor(_CALL_FLOPS / flops)))
        self._task = rows.dataset.task
        self._has_two_classes = self._task is Task.CLASSIFICATION and n_outputs == 2
        is_one_label = self._task is Task.MULTILABEL and n_outputs == 1
        self._classes = np.arange(2 if is_one_label else n_outputs)
        self._scale = {
            Task.CLASSIFICATION: 1.0,
            Task.MULTILABEL: 1 / n_outputs,
            Task.REGRESSION: 2 / n_outputs,
        }[self._task]
        weights = initial_weights(design, n_features, n_outputs)
        self._model = _network(design, self._from_keras(weights), self._task, self._scale)
        self._rate_scale = self._scale if design.optimizer.name == "sgd" else 1.0

    def train_epoch(self, epoch: int, learning_rate: float, deadline: Deadline) -> Metrics:
        """Train on every row once.

        The loss is the running mean over the epoch, as with Keras; what is followed beside it is that of the
        network at the end of the epoch, as scikit-learn keeps no predictions of its steps.
        """
        fitted = super().train_epoch(epoch, learning_rate, deadline)
        return Metrics(fitted.loss, self.measure(self.rows.epoch(epoch, self.batch_size)).followed)

    def train_rows(self, block: RowBlock, first: int, last: int, learning_rate: float) -> tuple[float, float]:
        """Learn from the rows `order[first:last]` of a block; return their summed loss, and nothing else."""
        rows = block.order[first:last]
        labels = block.labels[rows]
        is_column = labels.ndim == 2 and labels.shape[1] == 1
        self._step(
            block.features[rows], labels[:, 0] if is_column else labels, learning_rate * self._rate_scale
        )
        scale = 2.0 if self._task is Task.REGRESSION else self._scale
        return float(self._model.loss_) * scale * len(rows), 0.0

    def _step(self, features: np.ndarray, labels: np.ndarray, learning_rate: float) -> None:
        model = self._model
        model.batch_size = min(self.batch_size, len(labels))
        model.learning_rate_init = learning_rate
        if hasattr(model, "_optimizer"):  # made by the first call
            model._optimizer.learning_rate_init = model._optimizer.learning_rate = learning_rate
        try:
            classes = {} if self._task is Task.REGRESSION else {"classes": self._classes}
            model.partial_fit(features, labels, **classes)
        except ValueError as error:
            if "non-finite" not in str(error):
                raise
            raise DivergedError(
                "weights must stay finite, got NaN or infinity; lower the learning rate"
            ) from error

    def evaluate(self, block: RowBlock) -> tuple[float, np.ndarray]:
        """Return the summed loss and the outputs (rows, outputs) of a block's rows, in its order."""
        features, targets = block.features[block.order], block.labels[block.order]
        if self._task is Task.REGRESSION:
            numbers = self._model.predict(features).reshape(targets.shape)
            return float(np.square(numbers - targets, dtype=np.float64).mean(axis=1).sum()), numbers
        predicted = self._model.predict_proba(features)
        if self._task is Task.CLASSIFICATION:
            likely = predicted[np.arange(len(targets)), targets]  # (rows,)
        else:
            predicted = predicted[:, -targets.shape[1] :]  # of one label there are two
            likely = np.where(targets > 0.5, predicted, 1 - predicted)  # (rows, labels)
        each = np.log(np.clip(likely, 1e-30, 1.0), dtype=np.float64).reshape(len(targets), -1)
        return -float(each.mean(axis=1).sum()), predicted

    def weights(self) -> Weights:
        """Copy the weights, in the order and form of the Keras model."""
        weights = [array.copy() for array in _interleaved(self._model)]
        if self._has_two_classes:  # (-z/2, z/2); halving is exact
            kernel, bias = weights[-2] / 2, weights[-1] / 2
            weights[-2:] = [np.hstack([-kernel, kernel]), np.concatenate([-bias, bias])]
        return tuple(weights)

    def set_weights(self, weights: Weights) -> None:
        """Go back to weights that `weights` gave."""
        for own, given in zip(_interleaved(self._model), self._from_keras(weights), strict=True):
            own[...] = given  # in place: the optimizer holds these arrays

    def _from_keras(self, weights: Weights) -> Weights:
        """Turn two softmax outputs into one logistic output: z is their difference."""
        if not self._has_two_classes:
            return weights
        *hidden, kernel, bias = weights
        return (*hidden, kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1])


def _network(design: Design, weights: Weights, task: Task, scale: float) -> Any:
    """Make a network that starts from the given weights and learns one epoch a call.

    `scale` is a gradient of Keras over that of scikit-learn.
    """
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    given = iter(zip(weights[::2], weights[1::2], strict=True))

    class Layers(MLPRegressor if task is Task.REGRESSION else MLPClassifier):  # type: ignore[misc]
        def _init_coef(self, fan_in: int, fan_out: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
            kernel, bias = next(given)
            return kernel.astype(dtype), bias.astype(dtype)

    parameters: dict[str, Any] = dict(design.optimizer.parameters)
    return Layers(
        hidden_layer_sizes=tuple(layer.units for layer in design.layers),
        activation=_ACTIVATIONS[design.layers[0].activation] if design.layers else "identity",
        solver=design.optimizer.name,
        alpha=0.0,
        shuffle=False,  # rows come in the order shared by all engines
        n_iter_no_change=design.epochs + 1,
        beta_1=parameters.get("beta_1", 0.9),
        beta_2=parameters.get("beta_2", 0.999),
        epsilon=parameters.get("epsilon", 1e-7) / scale,
        momentum=parameters.get("momentum", 0.0),
        nesterovs_momentum=bool(parameters.get("nesterov", False)),
        random_state=0,
    )


def _interleaved(model: Any) -> list[np.ndarray]:
    return [array for pair in zip(model.coefs_, model.intercepts_, strict=True) for array in pair]
