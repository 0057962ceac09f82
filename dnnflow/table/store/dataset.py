"""Open a preprocessed table: zarr arrays, schema, fitted preprocessing, identified by content."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DamagedError
from dnnflow.paths import canonical_json, content_id
from dnnflow.table.columns.column_row import ColumnRow, column_rows
from dnnflow.table.columns.kinds import ColumnKind, FeatureColumn, Task
from dnnflow.table.columns.preprocess import Preprocessing
from dnnflow.table.columns.recipe import Recipe
from dnnflow.table.columns.split import Marks, Part, RowNumbers, divide, epoch_order
from dnnflow.table.columns.targets import Targets
from dnnflow.table.formats.rows_file import rows_of
from dnnflow.table.store.chunks import (
    SPLITS,
    Split,
    Stored,
    mark_path,
    read_chunks,
    read_labels,
    read_mark,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Dataset", "epoch_order", "open_cached"]

FORMAT = 2
"""Version of the directory's layout and of what the recipe means; part of every dataset's id."""
RULES = 3
"""Version of what spellings mean: part of the id of datasets that earlier rules read otherwise."""
MANIFEST = "manifest.json"

_MARKS = {"train": "marks", "test": "test_marks"}
"""Under which name a manifest has what is known of a split's rows."""
_BUFFER_CHUNKS = 8
_KEPT_PARTS = 32
_KEPT_ROWS = 1 << 24
"""In all parts that are kept: 128 MiB of row numbers."""
_BLOCK_EPOCH = 1 << 32  # keeps the order of chunks apart from the order of rows of the same epoch


def dataset_id(
    digest: str, reading: Mapping[str, Any], recipe: Recipe, test: Mapping[str, Any] | None = None,
    *, is_renewed: bool = False,
) -> str:  # fmt: skip
    """Return the id of the dataset of a text, read in one way, by a recipe.

    `test` has the digest (`source`) and the reading of the test rows' text, if that is another one;
    `is_renewed` says that earlier rules read some of it otherwise.
    """
    made_of = {"format": FORMAT, "source": digest, "reading": dict(reading), "recipe": recipe.to_dict()}
    if is_renewed:
        made_of["rules"] = RULES
    return content_id(made_of if test is None else {**made_of, "test": dict(test)})


@dataclass(frozen=True, eq=False)
class Dataset:
    """An opened dataset. Open it with `Dataset.open`, or `open_cached` to share its arrays in a process."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> "Dataset":
        """Open a dataset's directory.

        Raises
        ------
        DataError
            If there is no valid manifest, or a chunk is missing or cut short.
        """
        root = Path(path).absolute()
        try:
            manifest = json.loads((root / MANIFEST).read_bytes())
            seal = manifest.pop("seal")
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise _invalid(root, type(error).__name__) from error
        if manifest.get("format") != FORMAT:
            raise _invalid(root, f"its format is {manifest.get('format')}, not {FORMAT}")
        if seal != content_id(manifest):
            raise _invalid(root, "its manifest was changed")
        dataset = cls(root, manifest)
        dataset._check_sizes()
        return dataset

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "manifest": self.manifest}  # without arrays: rows never travel in a task

    def _check_sizes(self) -> None:
        for path, wanted in self._files():
            if not path.is_file() or path.stat().st_size != wanted:
                raise _invalid(self.path, f"chunk {path.relative_to(self.path)} is missing or cut short")

    def _files(self) -> Iterator[tuple[Path, int]]:
        """Yield each file that holds rows, and its size in bytes."""
        for split in SPLITS:
            stored = self.stored(split)
            lengths = [stored.size * row_bytes for row_bytes in stored.row_bytes]
            for index in range(len(stored.checksums)):
                yield from zip(stored.paths(index), lengths, strict=True)
            for name, (kind, _) in self.manifest.get(_MARKS[split], {}).items():
                yield mark_path(self.path, split, name), np.dtype(kind).itemsize * self.rows[split]

    @property
    def id(self) -> str:
        """sha256 of the hash of the source's text, how it was read, the recipe and the format's version."""
        return str(self.manifest["id"])

    @cached_property
    def recipe(self) -> Recipe:
        """How it was made."""
        return Recipe.from_dict(self.manifest["recipe"])

    @cached_property
    def schema(self) -> tuple[FeatureColumn, ...]:
        """The table's feature columns, those without any value included."""
        return tuple(
            FeatureColumn(c["name"], ColumnKind(c["kind"]), c["missing"]) for c in self.manifest["schema"]
        )

    @cached_property
    def fitted(self) -> Preprocessing:
        """The preprocessing fitted on the training rows."""
        return Preprocessing.from_dict(self.manifest["preprocessing"])

    @property
    def targets(self) -> Targets:
        """What is predicted, and how it is encoded."""
        return self.fitted.targets

    @property
    def task(self) -> Task:
        """What is predicted of a row: its class, which of two values each label has, or numbers."""
        return self.targets.task

    @property
    def n_outputs(self) -> int:
        """Width of a network's output: classes, or labels."""
        return self.targets.n_outputs

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their codes; none but for classification."""
        return self.fitted.classes.names

    @property
    def n_classes(self) -> int:
        """How many classes there are; 0 but for classification."""
        return len(self.class_names)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the encoded columns."""
        return self.fitted.feature_names

    @property
    def n_features(self) -> int:
        """How many encoded columns there are: the width of a network's input."""
        return self.fitted.n_features

    @property
    def seed(self) -> int:
        """Seed of the split and of the order of rows in training."""
        return self.recipe.split_seed

    @cached_property
    def rows(self) -> dict[str, int]:
        """Rows of each split."""
        return {split: sum(self.class_counts[split]) for split in SPLITS}

    @cached_property
    def class_counts(self) -> dict[str, tuple[int, ...]]:
        """Rows of each class in each split; one number, all rows, but for classification."""
        return {split: tuple(self.manifest["class_counts"][split]) for split in SPLITS}

    @property
    def dropped_rows(self) -> int:
        """Rows that were left out as their label is missing."""
        return int(self.manifest["dropped_rows"])

    @property
    def reading(self) -> dict[str, Any]:
        """How its table was read, for new rows.

        Of a text delimiter, quote, header, and its encoding where that is no UTF; of other kinds `format` and
        options (sheet, header, query, encoding); `columns` are the names of all columns, in their order.
        """
        source = self.manifest["source"]
        known = {"encoding": source["encoding"]} if source.get("encoding") else {}
        known |= {"columns": self.manifest["columns"]} if "columns" in self.manifest else {}
        return {**self.manifest["reading"], **source.get("said", {}), **known}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how the table was read."""
        return tuple(self.manifest.get("notes", ()))

    @property
    def useless(self) -> dict[str, str]:
        """Columns of which no network learns, and why."""
        return dict(self.manifest.get("useless", {}))

    @property
    def column_rows(self) -> list[ColumnRow]:
        """What a person is told of each column: its kind, missing and different values, what it became."""
        counts = self.manifest.get("different", {})
        return list(column_rows(self.recipe, self.schema, self.fitted, counts))

    @cached_property
    def missing_share(self) -> dict[str, float]:
        """Share of rows without a value, 0 to 1, for each feature column."""
        return {column.name: column.missing for column in self.schema}

    def describe(self) -> dict[str, Any]:
        """Return what a person wants to know, as plain JSON values."""
        return {
            "id": self.id,
            "label": self.recipe.to_dict()["label"],
            "rows": dict(self.rows),
            "dropped_rows": self.dropped_rows,
            "notes": list(self.notes),
            "n_features": self.n_features,
            "feature_names": list(self.feature_names),
            "class_names": list(self.class_names),
            "class_counts": {split: list(counts) for split, counts in self.class_counts.items()},
            "task": str(self.task),
            "targets": self.manifest.get("targets", []),
            "columns": [column.to_dict() for column in self.schema],
            "column_rows": [asdict(row) for row in self.column_rows],
            "recipe": self.recipe.to_dict(),
            "source": dict(self.manifest["source"]),
        }

    def split_bytes(self, split: Split) -> int:
        """Return the memory that a split's arrays take, in bytes."""
        return self.rows[split] * sum(self.stored(split).row_bytes)

    def arrays(self, split: Split) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return a split, read once and kept; the arrays are shared and therefore read-only.

        Features are (rows, n_features) float32 in C order. Labels are (rows,) int32, the codes of classes, or
        of another task (rows, n_outputs) float32; see `Targets.encode`.

        Raises
        ------
        DataError
            If a chunk is missing or damaged.
        """
        kept: dict[str, tuple[NDArray[np.float32], NDArray[Any]]] = self.__dict__.setdefault("_arrays", {})
        if split not in kept:
            features, labels = self._load(split)
            features.flags.writeable = labels.flags.writeable = False
            kept[split] = features, labels
        return kept[split]

    def _load(self, split: Split) -> tuple[NDArray[np.float32], NDArray[Any]]:
        stored = self.stored(split)
        return read_chunks(stored, range(len(stored.checksums)))

    def labels(self, split: Split) -> NDArray[Any]:
        """Return the labels of a split's rows, as `arrays` does; its features are not read for them.

        Raises
        ------
        DataError
            If a chunk is missing or damaged.
        """
        kept = self.__dict__.get("_arrays", {})
        return kept[split][1] if split in kept else read_labels(self.stored(split))

    @cached_property
    def weights(self) -> NDArray[np.float32] | None:
        """By how much each training row counts, (rows,); None where the table does not say.

        Raises
        ------
        DataError
            If they are missing or damaged.
        """
        return self.marks().weights

    @cached_property
    def test_weights(self) -> NDArray[np.float32] | None:
        """By how much each test row would count in a training, (rows,); None where the table does not say.

        Raises
        ------
        DataError
            If they are missing or damaged.
        """
        return self._marks("test").weights

    @property
    def marks_validation(self) -> bool:
        """Whether the table says which training rows are for validation."""
        return "validation" in self.manifest.get("marks", {})

    def marks(self) -> Marks:
        """Read what is known of the training rows besides their class: groups, times, marks for validation.

        Raises
        ------
        DataError
            If one is missing or damaged.
        """
        return self._marks("train")

    def _marks(self, split: Split) -> Marks:
        written, rows = self.manifest.get(_MARKS[split], {}).items(), self.rows[split]
        return Marks(
            **{name: read_mark(mark_path(self.path, split, name), rows, *how) for name, how in written}
        )

    def part(self, part: Part) -> tuple[RowNumbers, RowNumbers]:
        """Return the numbers of the training rows to fit and of those held out for validation.

        Both are int64, ascending and read-only; together they are all rows, but for folds by time: see
        `divide`. The last parts asked for are kept.

        Raises
        ------
        InputError
            If there are too few rows, groups or instants.
        """
        kept: dict[Part, tuple[RowNumbers, RowNumbers]] = self.__dict__.setdefault("_parts", {})
        if (found := kept.get(part)) is None:
            is_stratified = self.task is Task.CLASSIFICATION
            strata = self.labels("train") if is_stratified else np.zeros(self.rows["train"], dtype=np.int32)
            found = divide(part, self.seed, strata, self.marks())
            for rows in found:
                rows.flags.writeable = False
            while len(kept) >= max(1, min(_KEPT_PARTS, _KEPT_ROWS // self.rows["train"])):
                kept.pop(next(iter(kept)), None)
            kept[part] = found
        return found

    def batches(
        self, split: Split, batch_size: int, *, epoch: int, rows: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
        """Yield an epoch's batches in the order of `epoch_order`; the last may be smaller.

        `rows` (n,), int64, are those of the split to use; all by default.
        """
        features, labels = self.arrays(split)
        order = epoch_order(len(labels) if rows is None else len(rows), self.seed, epoch)
        order = order if rows is None else rows[order]
        for at in range(0, len(order), batch_size):
            batch = order[at : at + batch_size]
            yield features[batch], labels[batch]

    def shuffled_blocks(
        self, split: Split, *, epoch: int, rows: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
        """Yield an epoch's rows in blocks, for a split that is too large for the memory.

        Chunks come in an order drawn from (seed, epoch); a block is a few of them with their rows shuffled.
        `rows` (n,), int64 and ascending, are those of the split to use; all by default.
        """
        order = epoch_order(self._n_chunks(split), self.seed, _BLOCK_EPOCH + epoch)
        for number, at in enumerate(range(0, len(order), _BUFFER_CHUNKS)):
            features, labels, mine = self._read(split, order[at : at + _BUFFER_CHUNKS].tolist())
            kept = np.arange(len(mine)) if rows is None else np.flatnonzero(np.isin(mine, rows))
            shuffled = kept[epoch_order(len(kept), self.seed, ((number + 1) << 33) + epoch)]
            if len(shuffled):
                yield features[shuffled], labels[shuffled]

    def _n_chunks(self, split: Split) -> int:
        return len(self.stored(split).checksums)

    def _read(
        self, split: Split, wanted: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.int64]]:
        """Read chunks of a split: features, labels, and which rows of the split they are."""
        stored = self.stored(split)
        return *read_chunks(stored, wanted), _row_numbers(stored, wanted)

    def transform(self, rows: Any) -> NDArray[np.float32]:
        """Encode raw rows as the training rows were; see `Preprocessing.transform`.

        `rows` are a DataFrame of pandas, polars or Dask, an Arrow table or an array.
        """
        is_pandas = type(rows).__module__.partition(".")[0] == "pandas" and rows.ndim > 1
        return self.fitted.transform(rows if is_pandas else rows_of(rows))

    def inverse(self, features: NDArray[np.float32]) -> "pd.DataFrame":
        """Return raw rows of encoded ones; see `Preprocessing.inverse`."""
        return self.fitted.inverse(features)

    def label_names(self, codes: Sequence[int] | NDArray[np.integer]) -> NDArray[np.object_]:
        """Return the class names of codes."""
        return self.fitted.label_names(codes)

    def preprocessing(self) -> dict[str, Any]:
        """Return all that is needed to apply a model to raw rows, as plain JSON values."""
        return self.fitted.to_dict()

    def verify(self) -> None:
        """Read every chunk and compare its checksum, those of marks too.

        Raises
        ------
        DataError
            If a chunk is missing or damaged.
        """
        for split in SPLITS:
            stored = self.stored(split)
            for index in range(len(stored.checksums)):
                read_chunks(stored, [index])
            self._marks(split)

    def stored(self, split: Split) -> Stored:
        """Return where a split's arrays lie, and how."""
        size, checksums = self.manifest["chunk_rows"][split], self.manifest["checksums"][split]
        return Stored(self.path, split, self.rows[split], self.n_features, size, checksums, self.targets)


def _row_numbers(stored: Stored, wanted: Sequence[int]) -> NDArray[np.int64]:
    """Return which rows of the split the rows of chunks are."""
    starts = [index * stored.size for index in wanted]
    return np.concatenate([np.arange(a, a + n) for a, n in zip(starts, stored.lengths(wanted), strict=True)])


def sealed(manifest: Mapping[str, Any]) -> str:
    """Return a manifest's text, with the checksum by which a change to it is seen."""
    return canonical_json({**manifest, "seal": content_id(dict(manifest))})


@lru_cache(maxsize=4)
def open_cached(path: str | Path) -> Dataset:
    """Open a dataset once per process: its arrays are read once and shared."""
    return Dataset.open(path)


def _invalid(path: Path, reason: str) -> DamagedError:
    return DamagedError(
        f"a dataset must have a valid manifest and all its chunks, got {path} ({reason}); "
        "delete it and make the dataset again"
    )
