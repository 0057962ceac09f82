"""Trace a stack with its optimizer once: the loop over batches runs inside TensorFlow.

No shape is fixed but that of the table, so that stacks of all widths and sizes share a trace: tracing costs
0.2 s and a compiled program of fixed shapes 0.5 s, as much as training a dozen designs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dnnflow.design.layers import Optimizer
from dnnflow.engines.keras.keras_program import COUNT, ORDER, WEIGHTS
from dnnflow.engines.keras.tensor_losses import (
    followed_sum,
    followed_type,
    labels_spec,
    mean_of,
    outputs_of,
    row_losses,
)
from dnnflow.engines.losses import CROSS_ENTROPY, Loss, LossKind
from dnnflow.engines.stacked.stack_network import Options, StackNetwork, follow_moments
from dnnflow.engines.stacked.stack_plan import Signature
from dnnflow.engines.stacked.stack_updates import empty_variable, make_update
from dnnflow.engines.stacked.stack_weights import StackLayout
from dnnflow.engines.tensors import Rows, trace


class StackProgram:
    """Trains and measures stacks of one signature, of whatever widths, one after the other."""

    def __init__(
        self, signature: Signature, layout: StackLayout, dtype: str = "float32", *,
        loss: Loss = CROSS_ENTROPY, is_weighted: bool = False,
    ) -> None:  # fmt: skip
        self.dtype = dtype
        self.has_run = False
        self._loss, self._is_weighted = loss, is_weighted
        self._network = StackNetwork(signature)
        self._looped = signature.looped
        self._kernels = layout.kernels if signature.l2 else []
        self._learned = layout.learned
        ranks = list(zip(layout.ranks, self._learned, strict=True))
        optimizer = Optimizer(signature.optimizer, parameters=dict(signature.parameters))
        self._update = make_update(optimizer, [rank for rank, learned in ranks if learned], dtype)
        self._averages = [empty_variable(rank, dtype) for rank, learned in ranks if not learned]
        self._options = Options(
            *(empty_variable(rank, kind) for rank, kind in
              ((2, "int32"), (2, "int32"), (2, dtype), (2, dtype), (1, "int32")))
        )  # fmt: skip
        self._seed = tf.Variable([0, 0], dtype=tf.int32, trainable=False)  # of the stack; steps so far
        features = tf.TensorSpec((None, layout.n_features), tf.float32)
        rows = (features, labels_spec(loss, layout.n_outputs), ORDER, WEIGHTS)
        self._traced_train = trace(self._train, (*rows, COUNT, COUNT, COUNT))
        self._traced_measure = trace(self._measure, rows)

    def restart(self, arrays: Sequence[np.ndarray], options: Options, rates: np.ndarray, seed: int) -> None:
        """Begin a stack: arrays of `StackLayout.pack`, the first epoch's rates (designs,), dropout's seed."""
        for variable, value in zip(self._options, options, strict=True):
            variable.assign(value)
        self._seed.assign([seed, 0])
        self._update.restart(self._of(arrays, learned=True), rates)
        for average, value in zip(self._averages, self._of(arrays, learned=False), strict=True):
            average.assign(value)

    def set_rates(self, rates: np.ndarray) -> None:
        """Set the learning rates, (designs,), of the steps that follow."""
        self._update.set_rates(rates)

    def train(self, rows: Rows, batch_size: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Learn from the rows `order[first:last]` in batches.

        Return each design's sum of losses over rows, as measured before each step, float64, and that of what
        is followed (`followed_sum`); both (designs,).
        """
        self.has_run = True
        bounds = (tf.constant(value, tf.int64) for value in (batch_size, first, last))
        loss_sum, found = self._traced_train(*rows, *bounds)
        return loss_sum.numpy(), found.numpy()

    def measure(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Return each design's mean loss (designs,) over rows, and outputs (designs, rows, outputs)."""
        losses, outputs = self._traced_measure(*rows)
        return losses.numpy(), outputs.numpy()

    def weights(self, positions: Sequence[int]) -> list[np.ndarray]:
        """Copy the arrays of some designs, for `StackLayout.unpack`."""
        return [tf.gather(array, positions).numpy() for array in self._all()]

    def keep(self, positions: Sequence[int]) -> None:
        """Go on with some of the designs."""
        for variable in [*self._update.per_design, *self._averages, *self._options]:
            variable.assign(tf.gather(variable, positions))

    def release(self) -> None:
        """Give up the memory of a stack that has ended; the trace stays."""
        for variable in [*self._update.per_design, *self._averages]:
            variable.assign(tf.zeros([0] * variable.shape.rank, variable.dtype))

    def _of(self, arrays: Sequence[np.ndarray], *, learned: bool) -> list[np.ndarray]:
        return [array for array, flag in zip(arrays, self._learned, strict=True) if flag is learned]

    def _all(self) -> list[Any]:
        """Return all weights in the order of the layout."""
        learned, averages = iter(self._update.read()), iter(self._averages)
        return [next(learned) if flag else next(averages).read_value() for flag in self._learned]

    def _train(
        self, features: Any, labels: Any, order: Any, weights: Any, batch_size: Any, first: Any, last: Any
    ) -> tuple[Any, Any]:
        options = Options(*(variable.read_value() for variable in self._options))

        def step(start: Any, loss_sum: Any, found: Any) -> tuple[Any, Any, Any]:
            rows = order[start : tf.minimum(start + batch_size, last)]
            targets = tf.gather(labels, rows)  # (batch,) or (batch, outputs)
            batch = tf.cast(tf.gather(features, rows), self.dtype)  # (batch, n_features)
            losses, logits = self._step(batch, targets, self._weights_of(weights, rows), options)
            count = tf.cast(tf.size(rows), tf.float64)
            followed = tf.ensure_shape(followed_sum(self._loss, targets, logits), (None,))  # (designs,)
            return start + batch_size, loss_sum + tf.cast(losses, tf.float64) * count, found + followed

        designs = tf.shape(options.member)
        begin = (first, tf.zeros(designs, tf.float64), tf.zeros(designs, followed_type(self._loss)))
        _, loss_sum, found = tf.while_loop(
            lambda start, *_: start < last, step, begin, parallel_iterations=1,
            shape_invariants=(COUNT.shape, *[tf.TensorShape([None])] * 2),
        )  # fmt: skip
        return loss_sum, found

    def _step(self, features: Any, targets: Any, row_weights: Any, options: Options) -> tuple[Any, Any]:
        """Learn from one batch; return each design's loss and logits (designs, batch, outputs) before it."""
        weights = self._update.read()
        seed = self._seed.assign_add([0, 1])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            logits, moments = self._network.forward(features, weights, options, seed)
            losses = self._losses(logits, targets, row_weights, weights, options)
        # Of their sum: no design's loss depends on another's weights
        self._update.step(tape.gradient(losses, weights))
        follow_moments(self._averages, moments)
        return losses, logits

    def _measure(self, features: Any, labels: Any, order: Any, weights: Any) -> tuple[Any, Any]:
        options = Options(*(variable.read_value() for variable in self._options))
        batch = tf.cast(tf.gather(features, order), self.dtype)  # (rows, n_features)
        logits, _ = self._network.forward(batch, self._all(), options, None)  # (designs, rows, outputs)
        row_weights = self._weights_of(weights, order)
        losses = self._losses(logits, tf.gather(labels, order), row_weights, self._update.read(), options)
        return losses, outputs_of(self._loss, logits)

    def _weights_of(self, weights: Any, rows: Any) -> Any:
        return tf.gather(weights, rows) if self._is_weighted else None

    def _losses(
        self, logits: Any, targets: Any, row_weights: Any, weights: Sequence[Any], options: Options
    ) -> Any:
        """Return each design's mean loss over rows plus penalties, (designs,)."""
        if self._loss.kind is LossKind.CROSS_ENTROPY:
            designs, batch, classes = tf.unstack(tf.shape(logits))
            entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=tf.tile(targets, [designs]), logits=tf.reshape(logits, (designs * batch, classes))
            )
            losses = tf.reshape(entropy, (designs, batch))
        else:
            losses = row_losses(self._loss, targets, logits)
        losses = mean_of(losses, row_weights)
        for column, kernel in enumerate(self._kernels):
            squares = tf.square(weights[kernel])
            l2 = options.l2[:, 0 if self._looped else column]
            losses += l2 * tf.reduce_sum(squares, axis=range(1, squares.shape.rank))
        return losses
