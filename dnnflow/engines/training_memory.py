"""What training a design takes of memory, told before it is taken."""

import psutil

from dnnflow.design.layers import Design, count_parameters
from dnnflow.engines.seam import TrainingContext
from dnnflow.errors import OutOfMemoryError

_FLOAT_BYTES = 4
_COPIES = 4
"""Weights, gradients and two moments of an optimizer."""
_KEPT = 3
"""A layer's product, its output and the gradient of it."""


def training_bytes(design: Design, n_features: int, n_classes: int) -> int:
    """Estimate what training a design takes besides the rows: weights, optimizer state, activations."""
    weights = count_parameters(design, n_features, n_classes) * _COPIES
    activations = design.batch_size * (sum(layer.units for layer in design.layers) + n_classes) * _KEPT
    return (weights + activations) * _FLOAT_BYTES


def check_memory(design: Design, context: TrainingContext, need_bytes: int | None = None) -> None:
    """Refuse a design that does not fit, before anything is allocated.

    Raises
    ------
    OutOfMemoryError
        When its weights and activations need more than `context.memory_bytes`, or, without one, than what
        the machine has left.
    """
    dataset = context.dataset
    need = need_bytes or training_bytes(design, dataset.n_features, dataset.n_classes)
    limit = context.memory_bytes
    if limit is None:
        limit = psutil.virtual_memory().available
    if need > limit:
        parameters = count_parameters(design, dataset.n_features, dataset.n_classes)
        raise OutOfMemoryError(
            f"a design must fit the worker's memory of {limit / 1e9:.3g} GB, got {need / 1e9:.3g} "
            f"GB for {parameters:,} parameters; take fewer units or layers"
        )
