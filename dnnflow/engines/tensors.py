"""Make tensors of arrays, and trace and run graphs, for all engines on TensorFlow."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnflow.engines.epoch_rows import RowBlock
from dnnflow.errors import ClusterError

if TYPE_CHECKING:
    import tensorflow as tf


Rows = tuple[Any, Any, Any, Any]
"""A block as tensors: features (rows, features), labels, the order in which rows are visited, and weights
(rows,), of length 0 where all count alike."""


class Tensors:
    """Arrays as tensors, each made once: the arrays of a dataset come with every epoch of every design."""

    _KEPT = 6  # features, labels and weights of both splits

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[np.ndarray, Any]] = OrderedDict()

    def of(self, block: RowBlock) -> Rows:
        """Return a block as tensors."""
        import tensorflow as tf

        features, labels, order, weights = block
        given = tf.zeros(0) if weights is None else self._tensor(weights)
        return self._tensor(features), self._tensor(labels), tf.constant(order, tf.int64), given

    def _tensor(self, array: np.ndarray) -> Any:
        import tensorflow as tf

        # The array is kept with its tensor, so that its id stays its own.
        kept = self._kept.pop(id(array), None) or (array, tf.constant(array))
        self._kept[id(array)] = kept
        while len(self._kept) > self._KEPT:
            self._kept.popitem(last=False)
        return kept[1]


def on_device(device: str) -> AbstractContextManager[None]:
    """Return a scope in which tensors live on the device."""
    import tensorflow as tf

    if device == "cpu":
        scope: Callable[[str], AbstractContextManager[None]] = tf.device
        return scope("/CPU:0")
    if not tf.config.list_physical_devices("GPU"):
        raise ClusterError(
            "device gpu needs a GPU that TensorFlow sees, got none; set device: cpu, or install "
            "tensorflow with CUDA on this worker"
        )
    tf.config.experimental.enable_op_determinism()
    scope = tf.device
    return scope("/GPU:0")


@contextmanager
def graphs_as_written() -> Iterator[None]:
    """Run graphs without rewriting them first.

    TensorFlow's rewriting takes a third of a new program's time, and the steps of dense layers were 0 to 10 %
    quicker without it. With batch normalisation they were 7 % slower.
    """
    import tensorflow as tf

    name = "disable_meta_optimizer"
    before = tf.config.optimizer.get_experimental_options().get(name, False)
    tf.config.optimizer.set_experimental_options({name: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({name: before})


def trace(function: Callable[..., Any], signature: Sequence["tf.TensorSpec"]) -> Any:
    """Return the concrete function of tensors with this signature.

    A concrete function finds no signature again at each call, and TensorFlow's warning of frequent tracing
    is not for it. While tracing, each custom gradient (every Keras optimizer has one in its `all_reduce`, and
    silu another) enters a process-wide registry that holds its graph for ever: about 5 MB a design. Gradients
    have been taken when tracing ends, so that what it entered is taken out again.
    """
    import tensorflow as tf
    from tensorflow.python.framework.ops import gradient_registry

    entries: dict[str, Any] = getattr(gradient_registry, "_registry", {})
    before = set(entries)
    try:
        return tf.function(function, input_signature=signature, autograph=False).get_concrete_function()
    finally:
        for name in [name for name in entries if name.startswith("CustomGradient-") and name not in before]:
            del entries[name]
