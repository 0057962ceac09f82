"""Compute a stack: the same layers for every design at once, each with its own weights.

Tensors begin with the axis of designs; rows are the same for all of them. Nothing of one design enters
another's numbers, and, as products and sums over rows are made design by design, a design has the same bits
in any company of its own widths.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from dnnflow.engines.keras.keras_program import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM
from dnnflow.engines.stacked.stack_plan import Signature


class Options(NamedTuple):
    """What designs of one stack may differ in, besides weights and learning rates.

    A signature that is looped has one column for all layers, as they are alike.
    """

    units: Any
    """(designs, layers), int32: what lies beyond is padding."""
    activation: Any
    """(designs, layers), int32: position in the signature's palette."""
    dropout: Any
    """(designs, layers)."""
    l2: Any
    """(designs, layers)."""
    member: Any
    """(designs,), int32: place in the stack as it began, which dropout depends on."""


class StackNetwork:
    """Hidden layers and an output layer for every design of a stack."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._residual = dict(signature.residual)
        self._activations = [keras.activations.get(name) for name in signature.palette]

    def forward(
        self, features: Any, weights: Sequence[Any], options: Options, seed: Any
    ) -> tuple[Any, list[Any]]:
        """Return logits and, where something is learned, the moments of batch normalisation.

        Parameters
        ----------
        features
            (batch, n_features)
        weights
            In the order of `StackLayout.places`; without the moving averages where something is learned.
        seed
            (2,), int32: of this step's dropout. None where nothing is learned.

        Returns
        -------
        logits, moments
            (designs, batch, n_outputs); mean and variance of each normalised layer over the batch, (designs,
            1, units), in the order of the moving averages.
        """
        layer = _LayerCall(self._signature, self._activations, options, seed)
        hidden, output = list(weights[:-2]), weights[-2:]
        if self._signature.looped:
            flow, moments = self._looped(features, hidden, layer)
        else:
            flow, moments = self._unrolled(features, hidden, layer)
        return dense(flow, *output), moments

    def _unrolled(self, features: Any, weights: list[Any], layer: "_LayerCall") -> tuple[Any, list[Any]]:
        outputs, moments = [features], []  # of the input, (batch, n_features), then (designs, batch, units)
        for index, normalized in enumerate(self._signature.batch_norm):
            count = layer.count_weights(normalized)
            flow, found = layer(outputs[-1], weights[:count], index)
            del weights[:count]
            if index in self._residual:
                flow = flow + outputs[self._residual[index]]
            outputs.append(flow)
            moments += found
        return outputs[-1], moments

    def _looped(self, features: Any, weights: list[Any], layer: "_LayerCall") -> tuple[Any, list[Any]]:
        """Run the first layer, whose input has a width of its own, then the others as a loop."""
        every = self._signature.residual_every
        first = layer.count_weights(self._signature.batch_norm[0])
        flow, moments = layer(features, weights[:first], 0)
        source = tf.zeros_like(flow)
        if self._signature.residual_input:
            source = source + features
        if every == 1:
            flow = source = flow + source
        flow, found = run_layers(layer, flow, source, weights[first:], every)
        return flow, moments + found


class _LayerCall:
    """One hidden layer of all designs, in one forward pass."""

    def __init__(self, signature: Signature, activations: list[Any], options: Options, seed: Any) -> None:
        self._signature = signature
        self._activations = activations
        self._options = options
        self._seed = seed
        self.learns = seed is not None

    def count_weights(self, normalized: bool) -> int:
        """Return how many arrays a layer has: kernel, bias, gamma, beta, and the moving averages if used."""
        return (4 if self.learns else 6) if normalized else 2

    def __call__(self, flow: Any, weights: Sequence[Any], index: Any) -> tuple[Any, list[Any]]:
        """Return a layer's output (designs, batch, units) and its moments.

        Parameters
        ----------
        flow
            (designs, batch, in); (batch, in) for the input, which is the same for all.
        weights
            Kernel (designs, in, units); bias, gamma, beta, moving mean and variance (designs, 1, units).
        index
            Of the layer; a tensor inside a loop.
        """
        kernel, bias, *norm = weights
        flow, moments = dense(flow, kernel, bias), []
        column = 0 if self._signature.looped else index
        if norm:
            gamma, beta, *moments = norm if norm[2:] else [*norm, *batch_moments(flow)]
            flow = tf.nn.batch_normalization(flow, *moments, beta, gamma, BATCH_NORM_EPSILON)
        flow = self._activate(flow, self._options.activation[:, column])
        if self._signature.dropout and self.learns:
            flow = drop(flow, self._options, index, self._seed, column)
        if self._signature.padded:
            # Some activations do not leave zero at zero
            units = tf.sequence_mask(self._options.units[:, column], tf.shape(flow)[2], flow.dtype)
            flow = flow * units[:, tf.newaxis]  # (designs, 1, units)
        return flow, moments if self.learns else []

    def _activate(self, flow: Any, kinds: Any) -> Any:
        """Apply to each design its activation; `kinds` (designs,) are positions in the palette."""
        if len(self._activations) == 1:
            return self._activations[0](flow)
        count = len(self._activations)
        parts = tf.dynamic_partition(flow, kinds, count)  # each (its designs, batch, units)
        places = tf.dynamic_partition(tf.range(tf.size(kinds)), kinds, count)
        return tf.dynamic_stitch(
            places, [one(part) for one, part in zip(self._activations, parts, strict=True)]
        )


def run_layers(
    layer: "_LayerCall", flow: Any, source: Any, weights: Sequence[Any], every: int
) -> tuple[Any, list[Any]]:
    """Run layers that are alike one after the other: a thousand cost one trace, and no time to build a graph.

    TensorFlow's own gradient of a loop would keep every intermediate of every layer. This one keeps each
    layer's input and runs the layer again on the way back: a third more arithmetic, a fifth of the memory.

    Parameters
    ----------
    flow, source
        (designs, batch, units): output of the layer before, whose index is 0; what the next residual sum
        adds.
    weights
        Of all layers, each (designs, layers, ...).
    every
        Layers of a residual group, 0 for none.

    Returns
    -------
    flow, moments
        (designs, batch, units), and each (designs, layers, ...).
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(flow: Any, source: Any, *weights: Any) -> Any:
        loop = _Loop(layer, weights, every)
        output, inputs, moments = loop.forwards(flow, source)

        def gradient(change: Any, *_: Any) -> tuple[Any, ...]:
            return loop.backwards(change, inputs)

        return (output, *moments), gradient

    output, *moments = run(flow, source, *weights)
    return output, moments


class _Loop:
    """The layers of one step, forwards and backwards."""

    def __init__(self, layer: "_LayerCall", weights: Sequence[Any], every: int) -> None:
        self._layer = layer
        self._weights = weights
        self._every = every
        self._count = tf.shape(weights[0])[1]
        self._n_moments = 2 if len(weights) > 2 and layer.learns else 0

    def forwards(self, flow: Any, source: Any) -> tuple[Any, Any, list[Any]]:
        """Return the last output, every layer's input (layers, designs, batch, units), and the moments."""
        kept = [tf.TensorArray(flow.dtype, self._count) for _ in range(1 + self._n_moments)]

        def step(index: Any, flow: Any, source: Any, kept: list[Any]) -> tuple[Any, ...]:
            output, moments = self._layer(flow, self._of(index), index + 1)
            kept = [one.write(index, value) for one, value in zip(kept, [flow, *moments], strict=True)]
            if self._every:
                ends = self._ends(index)
                output = tf.where(ends, output + source, output)
                source = tf.where(ends, output, source)
            return index + 1, output, source, kept

        state = (tf.constant(0), flow, source, kept)
        _, output, _, kept = tf.while_loop(
            lambda index, *_: index < self._count, step, state, parallel_iterations=1
        )
        inputs, *moments = (one.stack() for one in kept)
        return output, inputs, [tf.transpose(moment, (1, 0, 2, 3)) for moment in moments]

    def backwards(self, change: Any, inputs: Any) -> tuple[Any, ...]:
        """Return the gradients towards flow, source and every weight, from that towards the output."""
        kept = [tf.TensorArray(change.dtype, self._count) for _ in self._weights]

        def step(index: Any, change: Any, towards_source: Any, kept: list[Any]) -> tuple[Any, ...]:
            if self._every:
                ends = self._ends(index)
                change = tf.where(ends, change + towards_source, change)
                towards_source = tf.where(ends, change, towards_source)
            read = [inputs[index], *self._of(index)]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(read)
                output, _ = self._layer(read[0], read[1:], index + 1)
            change, *found = tape.gradient(output, read, output_gradients=change)
            kept = [one.write(index, value) for one, value in zip(kept, found, strict=True)]
            return index - 1, change, towards_source, kept

        state = (self._count - 1, change, tf.zeros_like(change), kept)
        _, change, towards_source, kept = tf.while_loop(
            lambda index, *_: index >= 0, step, state, parallel_iterations=1
        )
        # (layers, designs, ...) → (designs, layers, ...)
        return change, towards_source, *(tf.transpose(one.stack(), (1, 0, 2, 3)) for one in kept)

    def _of(self, index: Any) -> list[Any]:
        return [weight[:, index] for weight in self._weights]

    def _ends(self, index: Any) -> Any:
        """Say whether a residual group ends with this layer, which is the network's number index + 2."""
        return tf.equal((index + 2) % self._every, 0)


def drop(flow: Any, options: Options, layer: Any, seed: Any, column: Any = 0) -> Any:
    """Zero a share of a layer's outputs (designs, batch, units), and scale up the others.

    Each place in the stack has its own draws, so that designs go on with the same ones when others have left.
    `seed` (2,), int32, is the step's; `column` that of the options.
    """
    _, batch, units = tf.unstack(tf.shape(flow))
    shape = (tf.reduce_max(options.member) + 1, batch, units)
    drawn = tf.random.stateless_uniform(shape, seed + tf.stack([layer, 0]), dtype=flow.dtype)
    rates = tf.reshape(options.dropout[:, column], (-1, 1, 1))
    kept = tf.gather(drawn, options.member) >= rates
    return tf.where(kept, flow / (1 - rates), tf.zeros_like(flow))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def dense(flow: Any, kernel: Any, bias: Any) -> Any:
    """Return flow · kernel + bias, (designs, batch, out).

    `flow` is (designs, batch, in), or (batch, in) for the input of the network, which is the same for all
    designs and has no gradient. Sums over the batch are products with ones: TensorFlow's own sum adds in an
    order that depends on the number of designs.
    """

    def gradient(change: Any) -> tuple[Any, Any, Any]:
        towards = None if flow.shape.rank == 2 else tf.matmul(change, kernel, transpose_b=True)
        return towards, tf.matmul(flow, change, transpose_a=True), batch_sum(change)

    return tf.matmul(flow, kernel) + bias, gradient


def batch_sum(flow: Any) -> Any:
    """Return sums over the batch, (designs, 1, units)."""
    return tf.matmul(tf.ones((1, tf.shape(flow)[1]), flow.dtype), flow)


def batch_moments(flow: Any) -> list[Any]:
    """Return mean and variance over the batch, each (designs, 1, units)."""
    count = tf.cast(tf.shape(flow)[1], flow.dtype)
    mean = batch_sum(flow) / count
    return [mean, batch_sum(tf.math.squared_difference(flow, tf.stop_gradient(mean))) / count]


def follow_moments(averages: Sequence[Any], moments: Sequence[Any]) -> None:
    """Let the moving averages follow the moments of a batch; traced."""
    for average, moment in zip(averages, moments, strict=True):
        average.assign(average * BATCH_NORM_MOMENTUM + moment * (1.0 - BATCH_NORM_MOMENTUM), read_value=False)
