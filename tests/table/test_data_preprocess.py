"""Preprocessing is fitted on training rows only, and does to new rows what it did to those."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from dnnflow.errors import DataError
from dnnflow.table.columns import statistics
from dnnflow.table.columns.preprocess import Preprocessing
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.chunks import Split
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

BLOCK_BYTES = 2000


def table() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    n = 400
    frame = pd.DataFrame(
        {
            "row": np.arange(n),
            "normal": rng.normal(5, 2, n),
            "gaps": np.where(rng.random(n) < 0.2, np.nan, rng.integers(-5, 6, n)),
            "large": 1.7e9 + rng.random(n),
            "same": 0.1,
            "city": rng.choice(["Bern", "Rome", "Oslo", ""], n, p=[0.4, 0.3, 0.2, 0.1]),
            "flag": rng.choice(["true", "False", "TRUE"], n),
            "label": rng.choice(["a", "b"], n),
        }
    )
    frame.loc[7, "city"] = "Lone"
    return frame


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return table()


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, frame: pd.DataFrame):
    root = tmp_path_factory.mktemp("preprocess")
    frame.to_csv(root / "table.csv", index=False)

    def made(**fields) -> Dataset:
        source = Source(url=str(root / "table.csv"))
        return ingest(source, Recipe(label="label", **fields), root / "datasets", block_bytes=BLOCK_BYTES)

    return made


def split_rows(dataset: Dataset, frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the raw rows of both splits, told by the column that numbers them."""
    rows = [dataset.inverse(dataset.arrays(s)[0])["row"].round().astype(int) for s in ("train", "test")]
    assert sorted([*rows[0], *rows[1]]) == list(range(len(frame)))
    return frame.iloc[rows[0]], frame.iloc[rows[1]]


def column(dataset: Dataset, name: str, split: Split = "train") -> np.ndarray:
    return dataset.arrays(split)[0][:, dataset.feature_names.index(name)]


SPLITS: tuple[Split, Split] = ("train", "test")
NUMBERS = ["row", "normal", "gaps", "large", "same"]


@pytest.mark.parametrize(("scale", "scaler"), [("minmax", MinMaxScaler), ("standard", StandardScaler)])
def test_scaling_is_scikit_learns_fitted_on_training_rows(make, frame: pd.DataFrame, scale: str, scaler):
    dataset = make(scale=scale)
    train, test = split_rows(dataset, frame)
    fitted = scaler().fit(train[NUMBERS].fillna(0))
    for split, rows in zip(SPLITS, (train, test), strict=True):
        expected = fitted.transform(rows[NUMBERS].fillna(0))
        expected[:, NUMBERS.index("same")] = 0
        got = np.stack([column(dataset, n, split) for n in NUMBERS], axis=1)
        assert got == pytest.approx(expected, abs=2e-6)


def test_minmax_reaches_exactly_0_and_1_on_training_rows(make):
    features = make().arrays("train")[0]
    assert features.min() == 0.0
    assert features.max() == 1.0


def test_without_scaling_values_stay(make, frame: pd.DataFrame):
    dataset = make(scale="none")
    train, _ = split_rows(dataset, frame)
    assert np.array_equal(column(dataset, "normal"), train["normal"].to_numpy(np.float32))


def test_test_rows_may_be_clipped_to_the_training_range(make):
    features = make(clip=True).arrays("test")[0]
    assert features.min() >= 0.0
    assert features.max() <= 1.0


@pytest.mark.parametrize("missing", ["zero", "mean", "median", "most_frequent"])
def test_missing_numbers_are_filled_from_training_rows(make, frame: pd.DataFrame, missing: str):
    dataset = make(missing=missing, scale="none", drop=("large", "normal"))
    train, test = split_rows(dataset, frame)
    gaps = train["gaps"]
    fills = {"zero": 0.0, "mean": gaps.mean(), "median": gaps.median(), "most_frequent": gaps.mode()[0]}
    for split, rows in zip(SPLITS, (train, test), strict=True):
        assert column(dataset, "gaps", split) == pytest.approx(rows["gaps"].fillna(fills[missing]).to_numpy())


def test_missing_text_is_nothing_or_the_most_frequent(make, frame: pd.DataFrame):
    zero, frequent = make(), make(missing="most_frequent", drop=("row", "normal", "large"))
    train, _ = split_rows(zero, frame)
    gone = (train["city"] == "").to_numpy()
    cities = [n for n in zero.feature_names if n.startswith("city=")]
    hot = np.stack([column(zero, n) for n in cities], axis=1)
    assert np.array_equal(hot.sum(axis=1), 1.0 - gone)
    assert column(frequent, "city=Bern")[gone].min() == 1.0


def test_an_indicator_says_where_values_were_missing(make, frame: pd.DataFrame):
    dataset = make(indicator=True)
    train, test = split_rows(dataset, frame)
    added = [n for n in dataset.feature_names if n.endswith("_missing")]
    assert added == ["gaps_missing", "city_missing"]
    for split, rows in zip(SPLITS, (train, test), strict=True):
        assert np.array_equal(column(dataset, "gaps_missing", split), rows["gaps"].isna())
        assert np.array_equal(column(dataset, "city_missing", split), rows["city"] == "")


def test_text_and_booleans_are_one_hot(make, frame: pd.DataFrame):
    dataset = make()
    train, test = split_rows(dataset, frame)
    for split, rows in zip(SPLITS, (train, test), strict=True):
        assert np.array_equal(column(dataset, "city=Rome", split), rows["city"] == "Rome")
        assert np.array_equal(column(dataset, "flag=true", split), rows["flag"].str.lower() == "true")
    known = set(train["city"]) - {""}
    assert {n.removeprefix("city=") for n in dataset.feature_names if n.startswith("city=")} == known


def test_what_training_rows_do_not_have_is_all_zero(make, frame: pd.DataFrame):
    dataset = next(d for d in (make(split_seed=s) for s in range(20)) if "city=Lone" not in d.feature_names)
    _, test = split_rows(dataset, frame)
    cities = [i for i, n in enumerate(dataset.feature_names) if n.startswith("city=")]
    assert dataset.arrays("test")[0][(test["city"] == "Lone").to_numpy()][:, cities].sum() == 0


def test_numbers_are_text_when_the_recipe_says_so(make):
    dataset = make(text_columns=("gaps",))
    assert [n for n in dataset.feature_names if n.startswith("gaps=")][:2] == ["gaps=-1.0", "gaps=-2.0"]


@pytest.mark.parametrize("fields", [{}, {"scale": "standard", "missing": "mean"}, {"indicator": True}])
def test_new_rows_become_what_training_rows_became(make, frame: pd.DataFrame, fields: dict):
    dataset = make(**fields)
    texts = frame.astype(object).where(frame.notna(), "").astype(str)
    shuffled = texts[[*reversed(texts.columns)]].drop(columns="label").assign(extra="x")
    saved = Preprocessing.from_dict(json.loads(json.dumps(dataset.preprocessing())))
    for split, rows in zip(("train", "test"), split_rows(dataset, frame), strict=True):
        expected = dataset.arrays(split)[0]
        assert np.array_equal(dataset.transform(rows), expected)
        assert np.array_equal(saved.transform(shuffled.loc[rows.index]), expected)


def test_inverse_returns_raw_rows(make, frame: pd.DataFrame):
    dataset = make(indicator=True)
    train, _ = split_rows(dataset, frame)
    back = dataset.inverse(dataset.arrays("train")[0])
    assert back["normal"].to_numpy() == pytest.approx(train["normal"].to_numpy(), abs=1e-5)
    assert back["large"].to_numpy() == pytest.approx(train["large"].to_numpy(), abs=1e-6)
    assert back["same"].tolist() == [0.1] * len(train)
    assert np.array_equal(back["gaps"].isna(), train["gaps"].isna())
    assert back["city"].fillna("").tolist() == train["city"].tolist()
    assert back["flag"].tolist() == train["flag"].str.lower().tolist()
    assert dataset.label_names(dataset.arrays("train")[1]).tolist() == train["label"].tolist()


def test_new_rows_without_a_feature_are_refused(make, frame: pd.DataFrame):
    with pytest.raises(
        DataError, match=r"new rows must have the column 'normal' once, got it 0 times; nearest: 'Norm"
    ):
        make().transform(frame.rename(columns={"normal": "Normal"}))


@pytest.mark.parametrize("value", ["many", "inf"])
def test_new_rows_with_text_for_a_number_are_refused(make, frame: pd.DataFrame, value: str):
    rows = frame.head(3).astype(object)
    rows.loc[1, "normal"] = value
    with pytest.raises(DataError, match=f"row 2, column 'normal': '{value}' is not a finite number"):
        make().transform(rows)


def test_a_most_frequent_value_needs_few_distinct_ones(make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(statistics, "MAX_FREQUENT_VALUES", 10)
    with pytest.raises(
        DataError, match="most_frequent needs at most 100,000 different values, got more in column 'gaps'"
    ):
        make(missing="most_frequent", split_seed=99)


def test_huge_new_values_stay_finite(make, frame: pd.DataFrame):
    rows = frame.head(1).assign(gaps=1e300)
    assert np.isfinite(make().transform(rows)).all()


@pytest.mark.parametrize(
    "values", [[3.0], [2.0, 1.0], [-0.0, 0.0, 1e-300], [-1e308, 1e308, 5.0, 7.0], range(-50, 51)]
)
def test_the_median_is_exact(values):
    values = np.array(list(values) * 3 + [11.5])
    search = statistics.MedianSearch.start(np.array([len(values)]))
    while not search.finished:
        counts = [statistics.count_bits(part, search, 0) for part in np.array_split(values, 3)]
        search = search.narrow(np.sum(counts, axis=0)[None])
    assert search.medians()[0] == np.median(values)


def test_moments_merge_to_those_of_all_rows():
    values = np.random.default_rng(0).normal(1e6, 1, 1000)
    parts = [statistics.moments([part]) for part in np.split(values, [1, 10, 10, 700])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged.count[0] == 1000
    assert (merged.low[0], merged.high[0]) == (values.min(), values.max())
    assert merged.mean[0] == pytest.approx(values.mean(), rel=1e-15)
    assert merged.squares[0] / 1000 == pytest.approx(values.var(), rel=1e-9)


def test_modes_take_the_smallest_of_the_most_frequent():
    counted = (np.array([1.0, 2.0, 3.0]), np.array([1, 5, 5]))
    assert statistics.modes([counted, None]).tolist()[0] == 2.0


def test_files_of_the_shipped_tables_are_scikit_learns(breast_cancer: Dataset):
    from sklearn.datasets import load_breast_cancer

    raw = load_breast_cancer()
    train = breast_cancer.arrays("train")
    back = breast_cancer.inverse(train[0]).to_numpy()
    distance = ((raw.data[:, None, :2] - back[None, :, :2]) ** 2).sum(axis=2)
    assert distance.min(axis=0).max() < 1e-8
    assert breast_cancer.class_names == ("benign", "malignant")
