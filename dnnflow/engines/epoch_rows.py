"""Give the rows of a training in their order, the same for all designs and engines on a dataset."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnnflow.engines.losses import Loss, loss_of
from dnnflow.engines.records import DEFAULT_HOLDOUT, TrainingSettings
from dnnflow.engines.scoring import in_units
from dnnflow.engines.seam import TrainingContext
from dnnflow.errors import InputError
from dnnflow.table.columns.kinds import Task
from dnnflow.table.columns.split import Part, epoch_order

if TYPE_CHECKING:
    from dnnflow.table.store.dataset import Dataset

Pair = tuple[NDArray[np.float32], NDArray[Any]]


class RowBlock(NamedTuple):
    """Rows, and the order in which they are visited."""

    features: NDArray[np.float32]
    """Shape (rows, features)."""
    labels: NDArray[Any]
    """As `Targets.encode` gives them: codes of classes (rows,) int32, else (rows, outputs) float32."""
    order: NDArray[np.int64]
    """Which rows come, one after the other."""
    weights: NDArray[np.float32] | None = None
    """Shape (rows,): by how much each row's loss counts; None where all count alike."""


_KEPT_ROWS = 65_536
"""Of a dataset whose orders are kept for the next design: 64 of them take 32 MB at most."""
_kept_order = lru_cache(maxsize=64)(epoch_order)


def in_memory(context: TrainingContext) -> bool:
    """Say whether each split is small enough to be kept: a third of what this process may use."""
    dataset, limit = context.dataset, context.memory_bytes
    return limit is None or max(dataset.split_bytes("train"), dataset.split_bytes("test")) <= limit / 3


@dataclass(frozen=True)
class TrainingRows:
    """The rows of a dataset as a training visits them."""

    dataset: "Dataset"
    settings: TrainingSettings
    blocks: bool = False
    """Whether rows are read in shuffled blocks, because a split is too large to be kept."""
    part: Part | None = None
    """Rows to hold back instead of those that the settings or the table say."""
    is_weighing: bool = True
    """Whether rows come with their weights, which who predicts does not need."""

    @classmethod
    def of(cls, context: TrainingContext) -> "TrainingRows":
        """Return the rows of a training."""
        return cls(context.dataset, context.settings, not in_memory(context), context.part)

    @property
    def loss(self) -> Loss:
        """What training makes small."""
        return loss_of(self.settings.loss, self.settings.quantile, self.dataset.task)

    @cached_property
    def class_weights(self) -> NDArray[np.float32] | None:
        """By how much a row of each class counts, (classes,); None where all count alike."""
        return class_weights(self.dataset, self.settings.class_weight)

    @cached_property
    def weights(self) -> NDArray[np.float32] | None:
        """By how much the loss of each training row counts, (rows,); None where all count alike."""
        of_rows, of_classes = self.dataset.weights, self.class_weights
        if of_classes is None:
            return of_rows
        of_labels: NDArray[np.float32] = of_classes[self.dataset.labels("train")]
        return of_labels if of_rows is None else of_labels * of_rows

    @property
    def has_validation(self) -> bool:
        """Whether training rows are held back: a share of them, or those that the table marks."""
        if self.part is not None:
            return self.part.holds_rows
        return self.settings.held_share > 0 or self.dataset.marks_validation

    @property
    def is_measured(self) -> bool:
        """Whether there are rows to measure a design on: not where it is fitted to all training rows."""
        return self.part is None or self.part.holds_rows

    @cached_property
    def _parts(self) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
        """Numbers of the training rows to fit (None for all) and to watch (None for none)."""
        if not self.has_validation:
            return None, None
        return self.dataset.part(self.part or Part(holdout=self.settings.held_share or DEFAULT_HOLDOUT))

    def epoch(self, epoch: int, batch_size: int) -> Iterator[RowBlock]:
        """Yield the rows of an epoch; every block but the last holds a whole number of batches."""
        fit, _ = self._parts
        if self.blocks:
            for block in _whole_batches(
                self.dataset.shuffled_blocks("train", epoch=epoch, rows=fit), batch_size
            ):
                yield self._weighed(block)
            return
        features, labels = self.dataset.arrays("train")
        n_rows = len(labels) if fit is None else len(fit)
        draw = _kept_order if n_rows <= _KEPT_ROWS else epoch_order
        order = draw(n_rows, self.dataset.seed, epoch)
        yield RowBlock(features, labels, order if fit is None else fit[order], self.weights)

    def validation(self) -> Iterator[RowBlock]:
        """Yield the validation rows; nothing where there are none."""
        _, watched = self._parts
        if watched is None:
            return
        if self.blocks:
            for pair in self.dataset.shuffled_blocks("train", epoch=0, rows=watched):
                yield self._weighed(_in_order(pair))
        else:
            yield RowBlock(*self.dataset.arrays("train"), watched, self.weights)

    def measured(self) -> Iterator[RowBlock]:
        """Yield the rows that designs are compared on: validation rows, or by the study's word test rows."""
        if self.settings.select_on == "validation" or self.part is not None:
            return self.validation()
        return self.test()

    def measured_labels(self) -> NDArray[Any]:
        """Return the labels of the rows that designs are compared on, in the dataset's order (`in_units`)."""
        if self.settings.select_on == "test":
            return in_units(self.dataset.targets, self.dataset.labels("test"))
        _, watched = self._parts
        return in_units(self.dataset.targets, self.dataset.labels("train")[watched])

    def test(self) -> Iterator[RowBlock]:
        """Yield the test rows."""
        if self.blocks:
            for pair in self.dataset.shuffled_blocks("test", epoch=0):
                yield self._alike(_in_order(pair))
        else:
            yield self._alike(_in_order(self.dataset.arrays("test")))

    @property
    def is_weighted(self) -> bool:
        """Whether the losses of some training rows count more than those of others."""
        return self.settings.class_weight is not None or self.dataset.weights is not None

    def _weighed(self, block: RowBlock) -> RowBlock:
        """Return rows of a split that is too large to be kept, with weights, which follow from labels."""
        if not self.is_weighing:
            return block
        if self.dataset.weights is not None:
            raise InputError(
                "dataset.weights needs splits of at most a third of a worker's memory, got larger ones; take "
                "larger workers, or leave it out"
            )
        of_classes = self.class_weights
        return block if of_classes is None else block._replace(weights=of_classes[block.labels])

    def _alike(self, block: RowBlock) -> RowBlock:
        """Return test rows, which all count alike, as a weighted training takes them."""
        ones = np.ones(len(block.labels), np.float32) if self.is_weighted else None
        return block._replace(weights=ones)


def class_weights(
    dataset: "Dataset", asked: Literal["balanced"] | Mapping[str, float] | None
) -> NDArray[np.float32] | None:
    """Return by how much a row of each class counts, (classes,); None where all count alike.

    balanced: rows / (classes · rows of the class), as scikit-learn has it (King and Zeng, Logistic regression
    in rare events data, 2001); of a mapping, classes that it leaves out count 1.

    Raises
    ------
    InputError
        If the task is no classification, or a class is not there.
    """
    if asked is None:
        return None
    if dataset.task is not Task.CLASSIFICATION:
        raise InputError(
            f"training.class_weight is for classes, got a dataset of {dataset.task}; leave it out, or name a "
            "column in dataset.weights"
        )
    if asked == "balanced":
        counts = np.array(dataset.class_counts["train"], np.float64)
        return np.asarray(counts.sum() / (len(counts) * np.maximum(counts, 1)), np.float32)
    if unknown := sorted(set(asked) - set(dataset.class_names)):
        known = ", ".join(dataset.class_names[:12])
        raise InputError(
            f"training.class_weight names classes of the table, got {unknown[0]!r}; there are {known}"
        )
    return np.array([asked.get(name, 1.0) for name in dataset.class_names], np.float32)


def _in_order(pair: Pair) -> RowBlock:
    return RowBlock(*pair, np.arange(len(pair[1])))


def _whole_batches(blocks: Iterator[Pair], batch_size: int) -> Iterator[RowBlock]:
    """Carry rows that fill no batch over to the next block: only an epoch's last batch is smaller."""
    rest: Pair | None = None
    for features, labels in blocks:
        if rest is not None:
            features, labels = np.concatenate([rest[0], features]), np.concatenate([rest[1], labels])
        whole = len(labels) - len(labels) % batch_size
        rest = features[whole:], labels[whole:]
        if whole:
            yield _in_order((features[:whole], labels[:whole]))
    if rest is not None and len(rest[1]):
        yield _in_order(rest)
