"""Hidden layers that are alike, as a loop: a thousand of them cost one trace, and no time to build a graph.

TensorFlow's own gradient of a loop would keep every intermediate of every layer. This one keeps each layer's
input and runs the layer again on the way back: a third more arithmetic, a fifth of the memory.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf


class Layer(Protocol):
    """One hidden layer of all designs; what it does depends on its arguments only."""

    learns: bool
    """Whether the pass is one of training, where normalised layers give moments."""

    def __call__(self, flow: Any, weights: Sequence[Any], index: Any) -> tuple[Any, list[Any]]:
        """Return the output (designs, batch, units) of a layer, and its moments."""
        ...


def run_layers(
    layer: Layer, flow: Any, source: Any, weights: Sequence[Any], every: int
) -> tuple[Any, list[Any]]:
    """Run layers one after the other.

    Parameters
    ----------
    layer
        One layer.
    flow
        (designs, batch, units): output of the layer before, whose index is 0.
    source
        (designs, batch, units): what the next residual sum adds.
    weights
        Of all layers, each (designs, layers, ...).
    every
        Layers of a residual group, 0 for none.

    Returns
    -------
    flow
        (designs, batch, units)
    moments
        Each (designs, layers, ...).
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

    def __init__(self, layer: Layer, weights: Sequence[Any], every: int) -> None:
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
