"""Score what a network gives for rows against what is true: the study's metric, and counts of classes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dnnflow.table.store.dataset import Dataset


@dataclass(frozen=True)
class MeasuredRows:
    """What a network gives for some rows, beside what is true."""

    loss: float
    """Mean over the rows, penalties included as Keras does."""
    truth: NDArray[np.integer]
    """Shape (rows,): class codes."""
    outputs: NDArray[np.floating]
    """Shape (rows, classes): probabilities."""

    @property
    def share_right(self) -> float:
        """Share of rows whose class was predicted, 0 to 1."""
        return float(np.mean(self.outputs.argmax(axis=-1) == self.truth))

    def confusion(self) -> NDArray[np.int64]:
        """Return counts (classes, classes), [true class][predicted class]."""
        return confusion(self.truth, self.outputs.argmax(axis=-1), self.outputs.shape[-1])


def confusion(truth: NDArray[np.integer], classes: NDArray[np.integer], n_classes: int) -> NDArray[np.int64]:
    """Return counts (classes, classes) of rows, [true class][predicted class]."""
    cells = truth.astype(np.int64) * n_classes + classes
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def as_codes(classes: NDArray[np.integer], n_classes: int) -> NDArray[np.integer]:
    """Return class codes in as few bytes as hold them."""
    return classes.astype(np.min_scalar_type(n_classes - 1))


def kept_of(measured: MeasuredRows, dataset: "Dataset", *, whole: bool) -> NDArray[np.generic]:
    """Return class codes (rows,) to be kept, or, `whole`, probabilities (rows, classes) in float16."""
    if whole:
        return measured.outputs.astype(np.float16)
    return as_codes(measured.outputs.argmax(axis=1), dataset.n_classes)
