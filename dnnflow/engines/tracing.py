"""Trace a function of TensorFlow without leaving anything of it behind when it is dropped."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry


def trace(function: Callable[..., Any], signature: Sequence[tf.TensorSpec]) -> Any:
    """Return the concrete function of tensors with this signature.

    A concrete function finds no signature again at each call, and TensorFlow's warning of frequent tracing
    is not for it. While tracing, each custom gradient (every Keras optimizer has one in its `all_reduce`, and
    silu another) enters a process-wide registry that holds its graph for ever: about 5 MB a design. Gradients
    have been taken when tracing ends, so that what it entered is taken out again.
    """
    entries: dict[str, Any] = getattr(gradient_registry, "_registry", {})
    before = set(entries)
    try:
        return tf.function(function, input_signature=signature, autograph=False).get_concrete_function()
    finally:
        for name in [name for name in entries if name.startswith("CustomGradient-") and name not in before]:
            del entries[name]
