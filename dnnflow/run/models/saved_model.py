"""Models of the best designs: kept while a study runs, saved as `.keras`, applied to raw rows.

A saved file is an ordinary Keras archive with one more member, `dnnflow.json`: the design, the class names,
how the table was written and the preprocessing fitted on the training rows, targets included, so that the
file alone turns raw rows into classes, or numbers in the table's units.
"""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnnflow.engines.metric import decided
from dnnflow.engines.process_setup import import_tensorflow
from dnnflow.errors import DataError, InputError, NotFoundError, ReadingWarning
from dnnflow.paths import write_file
from dnnflow.results.view.model_score import ModelScore, score_of, truth_of
from dnnflow.table.columns.kinds import Task, in_a_list, nearest, to_number
from dnnflow.table.columns.preprocess import Preprocessing
from dnnflow.table.columns.recipe import Source
from dnnflow.table.formats.open_table import find_tables
from dnnflow.table.formats.rows_file import first_block, read_rows, row_blocks
from dnnflow.table.text.source_text import shows_encoding

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from dnnflow.table.store.dataset import Dataset

OPTIONS = {
    "csv": ("delimiter", "quote", "header", "encoding", "format"),
    "fwf": ("quote", "header", "encoding", "format"),
    "excel": ("sheet", "header"),
    "sql": ("query",),
    "arff": ("encoding",),
}
"""By which options of the training's table new rows are read, by kind."""
RECORDS = ("csv", "keel", "arff", "jsonl")
"""Kinds that may be text with delimiters where that was said."""
MEMBER = "dnnflow.json"
"""Name of our member in a Keras archive."""
PROBABILITY = "probability of "
"""Beginning of the names of predicted columns that hold probabilities."""
NOTE = "note on row"
"""Column of predictions that says what to know of a row."""
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

    Of a design with several seeds, whose value is the mean over them, these are the weights of the lowest
    seed that completed; until all its seeds have ended, each is kept. Not safe for several threads.
    """

    def __init__(self, directory: Path, keep: int, repeated: Mapping[str, Sequence[str]]) -> None:
        """Keep nothing yet.

        Parameters
        ----------
        repeated
            By the id of each design that is trained with several seeds: the ids of it with all of them, the
            lowest seed first.
        """
        self._directory, self._keep, self._repeated = directory, keep, repeated
        self._best: list[LeaderboardKey] = []
        self._open: dict[str, dict[str, LeaderboardKey | None]] = {}
        """What has ended of designs whose other seeds have not."""

    def threshold(self) -> float:
        """Return the score from which on a trial may be among the best; infinite if none are kept."""
        if self._keep == 0:
            return float("inf")
        is_full = len(self._best) == self._keep and not self._repeated
        return -self._best[-1].minus_score if is_full else -float("inf")

    def count(
        self, design_id: str, key: LeaderboardKey | None, weights: Sequence[np.ndarray] | None = None
    ) -> None:
        """Count a trial; write its weights if it may be among the best, and drop those that no longer are.

        Parameters
        ----------
        key
            None of a trial that did not complete.
        weights
            Left out of a trial that was counted before, in another process.
        """
        seeds = self._repeated.get(design_id)
        if seeds is None:
            if key is not None:
                self._offer(key, weights)
            return
        self._write(design_id, weights)
        ended = self._open.setdefault(seeds[0], {})
        ended[design_id] = key
        if len(ended) == len(seeds):
            del self._open[seeds[0]]
            completed = [found for one in seeds if (found := ended[one])]
            for other in completed[1:]:
                self._drop(other.design_id)
            if completed:
                mean = fmean(one.minus_score for one in completed)
                self._offer(completed[0]._replace(minus_score=mean), None)

    def _offer(self, key: LeaderboardKey, weights: Sequence[np.ndarray] | None) -> None:
        ranked = sorted([*self._best, key])
        if key in ranked[: self._keep]:
            self._write(key.design_id, weights)
        self._best = ranked[: self._keep]  # after the write, which may be tried again
        for other in ranked[self._keep :]:
            self._drop(other.design_id)

    def _write(self, design_id: str, weights: Sequence[np.ndarray] | None) -> None:
        if weights and self._keep:
            write_weights(self._directory / f"{design_id}.npz", weights)

    def _drop(self, design_id: str) -> None:
        (self._directory / f"{design_id}.npz").unlink(missing_ok=True)


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
    about = None if dataset is None else {
        "class_names": list(dataset.class_names),
        "preprocessing": dataset.preprocessing(),
        "reading": dict(dataset.reading),
        "complete": [column.name for column in dataset.schema if not column.missing],
        **(record or {}),
    }  # fmt: skip
    write_archive(path, model, about)


def write_archive(path: Path, model: "keras.Model", about: Mapping[str, Any] | None) -> None:
    """Write a Keras model as a `.keras` file with what is to be said of it, whole or not at all."""
    if model.compiled and not model.optimizer.built:  # else Keras warns when it reads the file
        model.optimizer.build(model.trainable_variables)
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "model.keras"
        model.save(archive)
        if about is not None:
            with zipfile.ZipFile(archive, "a") as file:
                file.writestr(MEMBER, json.dumps(about))
        write_file(path, archive.read_bytes())


_BATCH = 4096
"""Rows that are predicted at a time."""


@dataclass(frozen=True)
class SavedModel:
    """A model of ours, ready to be applied."""

    model: "keras.Model"
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    about: Mapping[str, Any]
    """Design, study, recorded accuracy."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """How the table that it was trained on was read, as of `Dataset`; empty if the file does not say."""

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Probability of the second of two classes above which it is predicted; None: the likeliest is."""
        found = self.about.get("thresholds")
        return None if found is None else tuple(found)

    def with_thresholds(self, thresholds: Sequence[float]) -> "SavedModel":
        """Return the model with other thresholds: one of two classes, or one of each label.

        Raises
        ------
        InputError
            If it decides by none, or by another number of them, or one is no probability.
        """
        targets = self.preprocessing.targets
        wanted = len(targets.names) if targets.task is Task.MULTILABEL else 1
        if targets.task is Task.REGRESSION or (
            targets.task is Task.CLASSIFICATION and len(self.class_names) != 2
        ):
            what = "numbers" if targets.task is Task.REGRESSION else f"{len(self.class_names)} classes"
            raise InputError(f"a threshold is for two classes, got a model of {what}; leave it out")
        if len(thresholds) != wanted:
            raise InputError(
                f"this model takes {wanted} threshold{'s' * (wanted > 1)} ({', '.join(targets.names)}), "
                f"got {len(thresholds)}"
            )
        if wrong := [value for value in thresholds if not 0 <= value <= 1]:
            raise InputError(f"a threshold is a probability in [0, 1], got {wrong[0]:g}")
        return replace(self, about={**self.about, "thresholds": list(thresholds)})

    def with_missing_values(self, markers: Sequence[str]) -> "SavedModel":
        """Return the model for new rows in which other texts, too, stand for a missing value.

        Raises
        ------
        InputError
            If they are no list of texts.
        """
        if isinstance(markers, str) or not all(isinstance(one, str) for one in markers):
            raise InputError(f"missing_values must be a list of texts, got {markers!r}; write it as ['-999']")
        known = self.preprocessing
        more = tuple(one for one in dict.fromkeys(markers) if one not in known.missing_values)
        changed = replace(known, missing_values=(*known.missing_values, *more))
        return replace(self, preprocessing=changed) if more else self

    def source(self, url: str, **given: Any) -> Source:
        """Return how a table of raw rows is read: as that of the training, besides what is given.

        Parameters
        ----------
        url
            Path or URL of the table.
        given
            Fields of `Source`; those that are None are as in the training.

        Raises
        ------
        InputError
            If a field breaks its rule.
        """
        known = {name: value for name, value in given.items() if value is not None}
        plain = Source(url=url, **known)
        found, trained = find_tables(plain), self.reading.get("format", "csv")
        kind = found[0].kind
        if trained in ("csv", "fwf") and trained == self.reading.get("format") and kind in RECORDS:
            kind = trained  # it was said that such a file is text
        names = OPTIONS.get(kind, ())
        if kind != trained:
            names = tuple(name for name in names if name == "header")
        theirs = {name: self.reading[name] for name in names if name in self.reading and name not in known}
        if "encoding" in theirs and any(shows_encoding(one.source) for one in found):
            theirs["encoding"] = None
        return plain.replace(**theirs)

    def rows(self, url: str, **given: Any) -> "pd.DataFrame":
        """Read a table of raw rows as that of the training; a warning says where it is of another form.

        Without a header, its columns are those of the table trained on, in their order, with or without the
        labels and what is no feature.

        Parameters
        ----------
        url, given
            As `source` takes them.

        Raises
        ------
        InputError
            If a field breaks its rule.
        DataError
            If it cannot be read, or its columns cannot be told.
        """
        return self._read(url, given, read_rows)[1]

    def blocks(self, url: str, **given: Any) -> Iterator["pd.DataFrame"]:
        """Return a table of raw rows in blocks, as `rows` reads it; the first is read to see its form."""
        source, _ = self._read(url, given, first_block)
        return (self._named(block, source) for block in row_blocks(source))

    def _read(
        self, url: str, given: Mapping[str, Any], read: Callable[[Source], "pd.DataFrame"]
    ) -> tuple[Source, "pd.DataFrame"]:
        """Return how new rows are read in the end, and what was read of them."""
        source = self.source(url, **given)
        if "encoding" in self.reading and source.encoding is None:
            warnings.warn(
                f"new rows are UTF-8, the table trained on was {self.reading['encoding']}",
                ReadingWarning,
                stacklevel=4,
            )
        fault: DataError | None = None
        try:
            rows = self._named(read(source), source)
        except DataError as error:
            fault = error
        if fault is None and self._has_features(rows):
            return source, rows
        if source.delimiter is not None and given.get("delimiter") is None:
            with suppress(DataError):
                found = source.replace(delimiter=None)
                again = self._named(read(found), found)
                if self._has_features(again):
                    warnings.warn(
                        f"new rows are not separated by {source.delimiter!r} as the table trained on was; "
                        "what separates them was found anew",
                        ReadingWarning,
                        stacklevel=4,
                    )
                    return found, again
        if fault is not None:
            raise fault
        return source, rows

    def _has_features(self, rows: "pd.DataFrame") -> bool:
        return {column.name for column in self.preprocessing.columns} <= {*map(str, rows.columns)}

    def _named(self, rows: "pd.DataFrame", source: Source) -> "pd.DataFrame":
        """Return rows without a header under the names of the table trained on."""
        columns = self.reading.get("columns")
        if (
            source.header
            or columns is None
            or [*rows.columns] != [f"column_{i + 1}" for i in range(rows.shape[1])]
        ):
            return rows
        labels = {*self.preprocessing.targets.names}
        features = {column.name for column in self.preprocessing.columns}
        kept = ({*columns}, {*columns} - labels, features, features | labels)
        ways = {tuple(name for name in columns if name in names) for names in kept}
        fitting = [way for way in ways if len(way) == rows.shape[1]]
        if len(fitting) != 1:
            how = "in several ways" if fitting else "in no way"
            raise DataError(
                f"rows without a header must have the columns of the table trained on, in their order "
                f"({in_a_list(columns)}), all or without {in_a_list(sorted({*columns} - features))}, got "
                f"{rows.shape[1]} columns, which are some of these {how}; give the file a header"
            )
        return rows.set_axis([*fitting[0]], axis=1)

    def _said(self, outputs: np.ndarray) -> np.ndarray:
        """Return numbers as they are, and of labels 1 where their second value is predicted."""
        task = self.preprocessing.targets.task
        return decided(task, outputs, self.thresholds) if task is Task.MULTILABEL else outputs

    def predict(self, rows: "pd.DataFrame", *, first_row: int = 0) -> "pd.DataFrame":
        """Return what is predicted of each raw row; classes by the model's thresholds, if it has some.

        Parameters
        ----------
        rows
            Raw feature columns under their names, as text or numbers; other columns are ignored.
        first_row
            From where messages count rows, where these are a part of a table.

        Returns
        -------
        DataFrame
            With the index of `rows`. Of a class: column `prediction`, then `probability of <class>` of each.
            Of labels: a column with the text of each, then `probability of <label>=<text>` of its second
            value. Of numbers: a column of each, in the table's units. A single one is `prediction`. Where a
            row has a value unlike those trained on (another category, one missing where none was),
            `note on row` is the last column and says so.
        """
        import pandas as pd

        read = self.preprocessing.read(rows, first_row=first_row)
        outputs = self._outputs(read)
        targets = self.preprocessing.targets
        names: tuple[str, ...] = ()
        if targets.task is Task.CLASSIFICATION:
            codes = decided(targets.task, outputs, self.thresholds)
            table = pd.DataFrame({"prediction": targets.decode(codes)}, index=rows.index)
            names = targets.classes[0].names
        else:
            labels = targets.names if len(targets.names) > 1 else ("prediction",)
            table = pd.DataFrame(targets.decode(self._said(outputs)), columns=list(labels), index=rows.index)
            pairs = zip(targets.names, targets.classes, strict=False)  # no classes of numbers
            names = tuple(f"{label}={classes.names[1]}" for label, classes in pairs)
        for place, name in enumerate(names):
            table[f"{PROBABILITY}{name}"] = outputs[:, place]
        if any(notes := self._notes(rows, read)):
            table[NOTE] = notes
        return table

    def predict_beside(
        self, rows: "pd.DataFrame", keep: Sequence[str], *, first_row: int = 0
    ) -> "pd.DataFrame":
        """Return what `predict` gives, with some columns of the rows before it, as they are.

        Raises
        ------
        InputError
            If a column is not there, or what is predicted has the same name.
        """
        names = [str(name) for name in rows.columns]
        for name in keep:
            if names.count(name) != 1:
                raise InputError(
                    f"a column to keep is one of the rows, got {name!r}, which is there {names.count(name)} "
                    f"times; {nearest(name, names)}"
                )
        table = self.predict(rows, first_row=first_row)
        for place, name in enumerate(dict.fromkeys(keep)):
            if name in table:
                raise InputError(
                    f"a column to keep has a name that nothing predicted has, got {name!r}; rename it"
                )
            table.insert(place, name, rows.iloc[:, names.index(name)])
        return table

    def score(self, rows: "pd.DataFrame") -> ModelScore:
        """Return how well raw rows are predicted that have the label, too.

        Parameters
        ----------
        rows
            As `predict` takes them, with the label's column; rows without a label are left out.

        Raises
        ------
        DataError
            If there is no label, or one that the model does not know.
        """
        truth, known = truth_of(self.preprocessing, rows)
        metric_name, read = self.about.get("metric"), self.preprocessing.read(rows)
        found = score_of(truth, known, self._outputs(read), self.preprocessing,
                         metric_name=metric_name, thresholds=self.thresholds)  # fmt: skip
        noted = unlike_in_words(self._notes(rows, read))
        return replace(found, fitted_rows=self.about.get("rows"), notes=(noted,) if noted else ())

    def _notes(self, rows: "pd.DataFrame", read: Sequence[NDArray[Any]]) -> list[str]:
        return self.preprocessing.notes(rows, read, self.about.get("complete", ()))

    def _outputs(self, read: Sequence[NDArray[Any]]) -> NDArray[np.floating]:
        """Return probabilities or numbers, (rows, outputs)."""
        features = self.preprocessing.encode(read)  # (rows, features) float32
        # As `predict` does in batches, to the bit, without its pipeline of data, which takes longer
        starts = range(0, max(1, len(features)), _BATCH)
        found = [self.model.predict_on_batch(features[start : start + _BATCH]) for start in starts]
        return np.concatenate(found)


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


def load_model(path: str | Path) -> SavedModel:
    """Read a `.keras` file that a study saved; raises as `read_about`."""
    path = Path(path)
    about = read_about(path)
    import_tensorflow()
    import keras

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    return SavedModel(
        model=model.get_layer("network") if about.get("raw") else model,
        preprocessing=Preprocessing.from_dict(about["preprocessing"]),
        class_names=tuple(about["class_names"]),
        about={key: value for key, value in about.items() if key not in _OWN_FIELDS},
        reading=about.get("reading", {}),
    )


LabelType = Literal["text", "truth"]
"""What a label holds by its type, where that is neither numbers nor unknown."""


def predicted(
    model: SavedModel, rows: "pd.DataFrame", label_type: LabelType | None = None
) -> "pd.Series[Any] | pd.DataFrame":
    """Return what a model predicts of raw rows, one value each; of several labels a column for each.

    Classes are what they are in the table: numbers if all are plain numbers, truth values or text if they are
    so by the label's type. A warning says where a row has a value that the training rows did not have.
    """
    targets = model.preprocessing.targets
    found = warned(model.predict(rows))
    if len(targets.names) > 1:
        return found[list(targets.names)]
    values = found["prediction"].rename(targets.names[0])
    return values.map(_class_values(model, label_type)) if targets.task is Task.CLASSIFICATION else values


def probabilities(
    model: SavedModel, rows: "pd.DataFrame", label_type: LabelType | None = None
) -> "pd.DataFrame":
    """Return the probability of each class, or of each label's second value, for raw rows: a column each.

    Raises
    ------
    InputError
        If the model predicts numbers.
    """
    task = model.preprocessing.targets.task
    if task is Task.REGRESSION:
        raise InputError("probabilities are of classes, got a model of numbers; take predict")
    found = warned(model.predict(rows))
    shares = found[[name for name in found.columns if name.startswith(PROBABILITY)]]
    shares = shares.set_axis([name.removeprefix(PROBABILITY) for name in shares.columns], axis=1)
    if task is not Task.CLASSIFICATION:
        return shares
    return shares.rename(columns=_class_values(model, label_type))


def warned(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return predictions without notes on rows; a warning says what these are."""
    if NOTE not in table:
        return table
    warnings.warn(unlike_in_words(table[NOTE].tolist()), stacklevel=3)
    return table.drop(columns=NOTE)


def unlike_in_words(notes: Sequence[str]) -> str:
    """Return how many rows have a note, and the first of them; nothing where none has."""
    noted = [(place, note) for place, note in enumerate(notes, 1) if note]
    if not noted:
        return ""
    place, note = noted[0]
    return f"{len(noted):,} of {len(notes):,} rows have a value unlike those trained on, row {place}: {note}"


def _class_values(model: SavedModel, label_type: LabelType | None) -> dict[str, Any]:
    """Return each class by its name: the number or truth value that it is, else the name."""
    names = model.preprocessing.classes.names
    if label_type == "truth":
        return {name: name == "true" for name in names}
    numbers = [_plain_number(name) for name in names]
    known = [number for number in numbers if number is not None]
    if label_type == "text" or len(known) < len(names):
        return {name: name for name in names}
    is_whole = all(isinstance(number, int) for number in known)
    return dict(zip(names, known if is_whole else map(float, known), strict=True))


def _plain_number(name: str) -> int | float | None:
    """Return the number that a class is called after; None where it is not written plainly."""
    if re.fullmatch(r"-?[1-9][0-9]*|0", name):
        return int(name)
    number = to_number(name)
    return number if number is not None and name == repr(number) else None
