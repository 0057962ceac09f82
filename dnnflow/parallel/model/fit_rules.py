"""Refuse models for which Keras' `fit` does something that no gradient step holds."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from dnnflow.errors import InputError
from dnnflow.parallel.model.variables import layers_of, learned

_OWN_STEPS = (
    "fit", "train_step", "train_on_batch", "make_train_function",
    "evaluate", "test_step", "test_on_batch", "make_test_function", "_compute_loss",
)  # fmt: skip
"""Methods of a model that are never called: compute_loss, compute_metrics, call and metrics are."""


def require_plain_fit(model: keras.Model, training: Mapping[str, Any]) -> None:
    """Refuse what would be left out without a word.

    Parameters
    ----------
    training
        What is given beside what the model was compiled with.

    Raises
    ------
    InputError
        For methods of a model, layers or settings that only `fit` follows.
    """
    own = [name for name in _OWN_STEPS if _is_own(model, name)]
    if own:
        raise InputError(
            f"a model must train by the steps of keras.Model, got {type(model).__name__} with its own "
            f"{', '.join(own)}, which replicas would not call; override compute_loss or compute_metrics "
            "instead, or train with model.fit"
        )
    if model.compiled and model.run_eagerly:
        raise InputError("a model must be one that is traced, got run_eagerly=True; compile it without")
    if _scales_losses(model, training):
        raise InputError(
            f"losses are not scaled, got {model.name} of mixed_float16, for which Keras scales them; use the "
            "policy mixed_bfloat16, or compile with auto_scale_loss=False"
        )
    for layer in layers_of(model):
        for name, (is_refused, why) in _REFUSED_LAYERS.items():
            if is_refused(layer):
                raise InputError(f"a layer must not have {name}, got {layer.name}: {why}")
    overwritten = [
        weight.path for weight in learned(model) if getattr(weight, "overwrite_with_gradient", False)
    ]
    if overwritten:
        raise InputError(
            f"weights must be changed by an optimizer, got {', '.join(overwritten)}, which their gradient "
            "overwrites, as those of quantization to float8; train with model.fit"
        )


_REFUSED_LAYERS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "stateful=True": (
        lambda layer: getattr(layer, "stateful", False) is True,
        "it goes on from batch to batch, and batches are dealt out to replicas; give whole sequences as "
        "rows, and stateful=False",
    ),
    "synchronized=True": (
        lambda layer: getattr(layer, "synchronized", False) is True,
        "statistics of a batch are those of one replica; give synchronized=False",
    ),
}


@contextmanager
def without_optimizer(model: keras.Model) -> Iterator[None]:
    """Refuse a loss that asks the model's optimizer, as for its steps: that of a replica takes none."""
    if type(model).compute_loss is keras.Model.compute_loss:
        yield
        return
    optimizer = model.optimizer
    model.optimizer = _NoOptimizer()
    try:
        yield
    finally:
        model.optimizer = optimizer


class _NoOptimizer:
    """Stands where compute_loss must not look."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise InputError(
            f"compute_loss must not ask the optimizer, got optimizer.{name}: steps are the server's; count "
            "in a weight of a layer that its call changes while training"
        )


def _is_own(model: keras.Model, name: str) -> bool:
    return name in vars(model) or getattr(type(model), name, None) is not getattr(keras.Model, name, None)


def _scales_losses(model: keras.Model, training: Mapping[str, Any]) -> bool:
    """Say whether `compile` would wrap, or has wrapped, the optimizer in one that scales losses."""
    if model.dtype_policy.name != "mixed_float16":
        return False
    plain = model.compiled and model.optimizer and not _is_scaling(model.optimizer)
    return training.get("optimizer") is not None or not plain


def _is_scaling(optimizer: Any) -> bool:
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
