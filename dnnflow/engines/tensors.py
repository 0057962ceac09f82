"""What engines on TensorFlow share: arrays as tensors, and where and how graphs run."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from dnnflow.engines.epoch_rows import Block
from dnnflow.errors import ClusterError


class Tensors:
    """Arrays as tensors, each made once: the arrays of a dataset come with every epoch of every design."""

    _KEPT = 4  # features and labels of both splits

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[np.ndarray, Any]] = OrderedDict()

    def of(self, block: Block) -> tuple[Any, Any, Any]:
        """Return a block's features, labels and order as tensors."""
        import tensorflow as tf

        features, labels, order = block
        return self._tensor(features), self._tensor(labels), tf.constant(order, tf.int64)

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
