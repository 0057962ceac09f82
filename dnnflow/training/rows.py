"""Which rows a training sees, and in which order: the same for all designs and engines on a dataset."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dnnflow.data.split import epoch_order, validation_rows
from dnnflow.errors import InputError
from dnnflow.training.engine import TrainingContext

if TYPE_CHECKING:
    from dnnflow.data.dataset import Dataset

Block = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Features (rows, features) float32, labels (rows,) int32, and the order in which rows are visited."""


def in_memory(context: TrainingContext) -> bool:
    """Say whether the dataset's splits are each small enough to be kept: a third of this process' memory."""
    dataset, limit = context.dataset, context.memory_bytes
    return limit is None or max(dataset.split_bytes("train"), dataset.split_bytes("test")) <= limit / 3


@dataclass(frozen=True)
class TrainingRows:
    """The rows of a dataset as a training visits them."""

    dataset: "Dataset"
    validation_fraction: float
    blocks: bool = False
    """Whether rows are read in shuffled blocks, because a split is too large to be kept."""

    def __post_init__(self) -> None:
        if self.blocks and self.validation_fraction > 0:
            raise InputError("a dataset read in blocks has no validation part, got validation_fraction="
                             f"{self.validation_fraction}; leave it out or use workers with more memory")  # fmt: skip

    @cached_property
    def _parts(self) -> tuple[np.ndarray | None, np.ndarray]:
        """Row numbers to fit (None for all) and to watch."""
        if self.validation_fraction == 0:
            return None, np.empty(0, np.int64)
        rows = len(self.dataset.arrays("train")[1])
        return validation_rows(rows, self.validation_fraction, self.dataset.seed)

    def epoch(self, epoch: int, batch_size: int) -> Iterator[Block]:
        """Yield the rows of an epoch; every block but the last holds a whole number of batches."""
        if self.blocks:
            yield from _whole_batches(self.dataset.shuffled_blocks("train", epoch=epoch), batch_size)
            return
        features, labels = self.dataset.arrays("train")
        fit = self._parts[0]
        order = epoch_order(len(labels) if fit is None else len(fit), self.dataset.seed, epoch)
        yield features, labels, order if fit is None else fit[order]

    def validation(self) -> Iterator[Block]:
        """Yield the validation part, in one block; nothing where there is none."""
        watched = self._parts[1] if not self.blocks else ()
        if len(watched):
            yield *self.dataset.arrays("train"), np.asarray(watched)

    def test(self) -> Iterator[Block]:
        """Yield the test rows."""
        if not self.blocks:
            features, labels = self.dataset.arrays("test")
            yield features, labels, np.arange(len(labels))
            return
        for features, labels in self.dataset.shuffled_blocks("test", epoch=0):
            yield features, labels, np.arange(len(labels))


def _whole_batches(blocks: Iterator[tuple[np.ndarray, np.ndarray]], batch_size: int) -> Iterator[Block]:
    """Carry the rows that fill no batch over to the next block, so that only an epoch's last batch is smaller."""
    features, labels = None, None
    for block, block_labels in blocks:
        if features is not None and labels is not None and len(labels):
            block, block_labels = np.concatenate([features, block]), np.concatenate([labels, block_labels])
        whole = len(block_labels) - len(block_labels) % batch_size
        if whole:
            yield block[:whole], block_labels[:whole], np.arange(whole)
        features, labels = block[whole:], block_labels[whole:]
    if features is not None and labels is not None and len(labels):
        yield features, labels, np.arange(len(labels))
