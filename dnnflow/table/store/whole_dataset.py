"""See all rows of a dataset as training rows, for a last training after the test."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.table.columns.split import Marks
from dnnflow.table.store.chunks import SPLITS, Split, Stored
from dnnflow.table.store.dataset import Dataset


@dataclass(frozen=True, eq=False)
class WholeDataset(Dataset):
    """A dataset whose training rows are all its rows: those it has to train on, then its test rows.

    The test rows are there as such, too. Nothing marks rows: a dataset keeps groups and times of its training
    rows only, so that a part is held out class by class.
    """

    divided: Dataset
    """The same with its test rows apart."""

    @classmethod
    def of(cls, dataset: Dataset) -> "WholeDataset":
        """Return a dataset as a whole; it is made once, and kept with the dataset."""
        kept: dict[str, WholeDataset] = dataset.__dict__
        if "_whole" not in kept:
            kept["_whole"] = cls(dataset.path, dataset.manifest, dataset)
        return kept["_whole"]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "divided": self.divided}

    @cached_property
    def class_counts(self) -> dict[str, tuple[int, ...]]:
        """As of a dataset; all rows are training rows."""
        counts = self.divided.class_counts
        return {**counts, "train": tuple(map(add, counts["train"], counts["test"]))}

    @cached_property
    def weights(self) -> NDArray[np.float32] | None:
        """By how much each row counts, (rows,); None where the table does not say it of all."""
        train, test = self.divided.weights, self.divided.test_weights
        return None if train is None or test is None else np.concatenate([train, test])

    @property
    def marks_validation(self) -> bool:
        """False."""
        return False

    def marks(self) -> Marks:
        """Return no marks."""
        return Marks()

    def stored(self, split: Split) -> Stored:
        """Return where a split's arrays lie, as the dataset is divided."""
        return self.divided.stored(split)

    def labels(self, split: Split) -> NDArray[Any]:
        """Return the labels of a split's rows; see `Dataset.labels`."""
        if split == "test":
            return self.divided.labels(split)
        return np.concatenate([self.divided.labels(one) for one in SPLITS])

    def _load(self, split: Split) -> tuple[NDArray[np.float32], NDArray[Any]]:
        if split == "test":
            return self.divided.arrays(split)
        features, labels = zip(*(self.divided.arrays(one) for one in SPLITS), strict=True)
        return np.concatenate(features), np.concatenate(labels)

    def _n_chunks(self, split: Split) -> int:
        return sum(map(super()._n_chunks, SPLITS)) if split == "train" else super()._n_chunks(split)

    def _read(
        self, split: Split, wanted: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.int64]]:
        if split == "test":
            return super()._read(split, wanted)
        behind = super()._n_chunks("train")
        train = [one for one in wanted if one < behind]
        test = [one - behind for one in wanted if one >= behind]
        found = [super()._read("train", train)] if train else []
        if test:
            features, labels, rows = super()._read("test", test)
            found.append((features, labels, rows + self.divided.rows["train"]))
        features, labels, rows = map(np.concatenate, zip(*found, strict=True))
        return features, labels, rows
