"""Models of the best designs: kept while a study runs, saved as `.keras`, applied to raw rows.

A saved file is an ordinary Keras archive with one more member, `dnnflow.json`: the design, the class names,
how the table was written and the preprocessing fitted on the training rows, targets included, so that the
file alone turns raw rows into classes, or numbers in the table's units.
"""

import io
import json
import zipfile
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dnnflow.engines.metric import decided
from dnnflow.engines.process_setup import import_tensorflow
from dnnflow.errors import DataError, NotFoundError
from dnnflow.paths import write_file
from dnnflow.table.columns.kinds import Task
from dnnflow.table.columns.preprocess import Preprocessing
from dnnflow.table.columns.recipe import Source

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from dnnflow.table.store.dataset import Dataset

MEMBER = "dnnflow.json"
"""Name of our member in a Keras archive."""
_OWN_FIELDS = ("preprocessing", "class_names", "reading")
"""What of that member is a field of a saved model of its own."""


class LeaderboardKey(NamedTuple):
    """What orders trials on the leaderboard; the smallest is the best."""

    minus_score: float
    parameters: float
    """Of equal accuracies the smaller network is first."""
    design_id: str

    @classmethod
    def of(cls, design_id: str, score: float, parameters: float | None) -> "LeaderboardKey":
        """Return a completed trial's key."""
        # A frame's missing number is pandas' NA, of which nothing can be asked
        size = float(parameters) if isinstance(parameters, int | float | np.number) else float("nan")
        return cls(-float(score), float("inf") if np.isnan(size) else size, str(design_id))


class BestWeights:
    """The weights of the best designs so far, one `.npz` a design in a directory.

    Not safe for several threads. `keys` are those of the trials already stored.
    """

    def __init__(self, directory: Path, keep: int, keys: Iterable[LeaderboardKey]) -> None:
        self._directory = directory
        self._keep = keep
        self._best = sorted(keys)[:keep]

    def threshold(self) -> float:
        """Return the score from which on a trial may be among the best; infinite if none are kept."""
        if self._keep == 0:
            return float("inf")
        return -self._best[-1].minus_score if len(self._best) == self._keep else -float("inf")

    def offer(self, key: LeaderboardKey, weights: Sequence[np.ndarray] | None) -> None:
        """Count a completed trial; write its weights if it is among the best, and drop who no longer is."""
        insort(self._best, key)
        dropped = self._best[self._keep :]
        del self._best[self._keep :]
        if key in dropped:
            return
        if weights:
            write_weights(self._file(key), weights)
        for other in dropped:
            self._file(other).unlink(missing_ok=True)

    def _file(self, key: LeaderboardKey) -> Path:
        return self._directory / f"{key.design_id}.npz"


def write_weights(path: Path, weights: Sequence[np.ndarray]) -> None:
    """Write the arrays of a network, for `read_weights`."""
    buffer = io.BytesIO()
    np.savez(buffer, *weights)
    write_file(path, buffer.getvalue())


def read_weights(path: Path) -> list[np.ndarray] | None:
    """Return the arrays of a kept design in their order, or None if they were not kept."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return [arrays[f"arr_{index}"] for index in range(len(arrays.files))]


def write_model(path: Path, model: "keras.Model", dataset: "Dataset | None" = None,
                record: Mapping[str, Any] | None = None) -> None:  # fmt: skip
    """Write a Keras model as a `.keras` file, whole or not at all.

    Parameters
    ----------
    dataset
        What it was trained on, whose preprocessing goes along; without it the file is plain Keras.
    record
        What else to say of the model; JSON types.
    """
    if model.compiled and not model.optimizer.built:  # else Keras warns when it reads the file
        model.optimizer.build(model.trainable_variables)
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "model.keras"
        model.save(archive)
        if dataset is not None:
            about = {
                "class_names": list(dataset.class_names),
                "preprocessing": dataset.preprocessing(),
                "reading": dict(dataset.manifest["reading"]),
                **(record or {}),
            }
            with zipfile.ZipFile(archive, "a") as file:
                file.writestr(MEMBER, json.dumps(about))
        write_file(path, archive.read_bytes())


@dataclass(frozen=True)
class SavedModel:
    """A model of ours, ready to be applied."""

    model: "keras.Model"
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    about: Mapping[str, Any]
    """Design, study, recorded accuracy."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """Delimiter, quote and header of the table that it was trained on; empty if the file does not say."""

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Probability of the second of two classes above which it is predicted; None: the likeliest is."""
        found = self.about.get("thresholds")
        return None if found is None else tuple(found)

    def source(self, url: str, **given: Any) -> Source:
        """Return how a CSV of raw rows is read: as the table of the training, besides what is given.

        Parameters
        ----------
        url
            Path or URL of the CSV.
        given
            Fields of `Source`; those that are None are as in the training.

        Raises
        ------
        InputError
            If a field breaks its rule.
        """
        known = {name: value for name, value in given.items() if value is not None}
        return Source(url=url, **{**self.reading, **known})

    def predict(self, rows: "pd.DataFrame") -> "pd.DataFrame":
        """Return what is predicted of each raw row; of classes and labels by the model's thresholds, if any.

        Parameters
        ----------
        rows
            Raw feature columns under their names, as text or numbers; other columns are ignored.

        Returns
        -------
        DataFrame
            With the index of `rows`. Of a class: column `prediction`, then `probability of <class>` of each.
            Of labels: a column with the text of each, then `probability of <label>=<text>` of its second
            value. Of numbers: a column of each, in the table's units. A single one is `prediction`.
        """
        import pandas as pd

        features = self.preprocessing.transform(rows)  # (rows, features) float32
        outputs = np.asarray(self.model.predict(features, batch_size=4096, verbose=0))  # (rows, outputs)
        targets = self.preprocessing.targets
        names: tuple[str, ...] = ()
        if targets.task is Task.CLASSIFICATION:
            codes = decided(targets.task, outputs, self.thresholds)
            table = pd.DataFrame({"prediction": targets.decode(codes)}, index=rows.index)
            names = targets.classes[0].names
        else:
            labels = targets.names if len(targets.names) > 1 else ("prediction",)
            given = outputs
            if targets.task is Task.MULTILABEL:
                given = decided(targets.task, outputs, self.thresholds)
                pairs = zip(targets.names, targets.classes, strict=True)
                names = tuple(f"{label}={classes.names[1]}" for label, classes in pairs)
            table = pd.DataFrame(targets.decode(given), columns=list(labels), index=rows.index)
        for place, name in enumerate(names):
            table[f"probability of {name}"] = outputs[:, place]
        return table


def read_about(path: Path) -> dict[str, Any]:
    """Return what a `.keras` file that a study saved says of itself, without building its model.

    Raises
    ------
    NotFoundError
        If there is no such file.
    DataError
        If it is no model of ours.
    """
    if not path.is_file():
        raise NotFoundError(f"a model must be a .keras file that a study saved, got {path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read(MEMBER))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DataError(
            f"a model must be a .keras file that a study saved (it carries its preprocessing), got {path}"
        ) from error
    return dict(about)


def load_model(path: Path) -> SavedModel:
    """Read a `.keras` file that a study saved; raises as `read_about`."""
    about = read_about(path)
    import_tensorflow()
    import keras

    return SavedModel(
        model=keras.saving.load_model(path, compile=False, safe_mode=True),
        preprocessing=Preprocessing.from_dict(about["preprocessing"]),
        class_names=tuple(about["class_names"]),
        about={key: value for key, value in about.items() if key not in _OWN_FIELDS},
        reading=about.get("reading", {}),
    )
