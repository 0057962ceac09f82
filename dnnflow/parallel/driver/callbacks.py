"""Refuse callbacks of Keras that would not be heard: they run beside a training, once a validation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dnnflow.errors import InputError

_UNHEARD = tuple(
    f"on_{of}_{when}" for of in ("batch", "train_batch", "test", "test_batch") for when in ("begin", "end")
)
_REFUSED = {
    "SwapEMAWeights": "the last weights are the moving average without it, if the optimizer has use_ema",
    "BackupAndRestore": "give checkpoint, and restore to go on",
}


def require_heard(callbacks: Sequence[Any]) -> None:
    """Refuse callbacks that wait for batches, which replicas train on in other processes.

    Raises
    ------
    InputError
        For such a callback.
    """
    import keras

    for callback in callbacks:
        kind = type(callback)
        if kind.__name__ in _REFUSED and kind.__module__.startswith("keras."):
            raise InputError(
                f"a callback must not set weights itself, got {kind.__name__}; {_REFUSED[kind.__name__]}"
            )
        own = [name for name in _UNHEARD if name in vars(callback)]
        if not kind.__module__.startswith("keras."):
            base = keras.callbacks.Callback
            own += [name for name in _UNHEARD if getattr(kind, name, None) is not getattr(base, name)]
        if own or isinstance(getattr(callback, "save_freq", None), int):
            raise InputError(
                "a callback hears of a training's begin and end and of an epoch's, got "
                f"{kind.__name__} with {', '.join(own) or 'save_freq in batches'}; leave it out, or write "
                "on_epoch_end"
            )


class HeldModel:
    """Shows that callbacks leave alone what replicas would not see: weights, and which are trained.

    Parameters
    ----------
    step : GradientStep
        Of the model that callbacks have.
    """

    def __init__(self, model: Any, step: Any) -> None:
        self._model, self._step = model, step
        self._before = self._state()

    def require_same(self) -> None:
        """Refuse what callbacks have changed since this object was made.

        Raises
        ------
        InputError
            For changed weights, or other layers that are trained.
        """
        pairs = zip(self._before, self._state(), strict=True)
        if not all(np.array_equal(before, now, equal_nan=True) for before, now in pairs):
            raise InputError(
                "callbacks must leave weights and what is trainable as they are, as replicas have their own, "
                f"got others of {self._model.name}; write a constraint or a layer, or train with model.fit"
            )

    def _state(self) -> list[np.ndarray]:
        from dnnflow.parallel.model.variables import frozen, layers_of

        trained = np.array([bool(layer.trainable) for layer in layers_of(self._model)])
        return [self._step.get(), trained, *(np.array(variable.numpy()) for variable in frozen(self._model))]
