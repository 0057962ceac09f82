"""Dates, times and durations become parts and seconds: read alike by every door, or refused with a remedy."""

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.errors import DataError, InputError
from dnnflow.table.columns.kinds import ColumnKind
from dnnflow.table.columns.preprocess import Preprocessing
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.columns.times import TimeStyle, parts_of
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

EPOCH = datetime(1970, 1, 1)
MOMENTS = st.datetimes(datetime(1600, 1, 1), datetime(2400, 1, 1))


def read(texts: Sequence[str], folder: Path, *, block_bytes: int = 1 << 20, **fields: Any) -> Dataset:
    """Make a dataset with a column of these texts, three times over; its values are not scaled."""
    rows = [f'{i};"{text}";{"ab"[i % 2]}\n' for i, text in enumerate([*texts] * 3)]
    (folder / "table.csv").write_text("row;at;y\n" + "".join(rows), encoding="utf-8")
    recipe = Recipe(**{"label": "y", "scale": "none", **fields})
    return ingest(Source(url=str(folder / "table.csv")), recipe, folder / "datasets", block_bytes=block_bytes)


def seconds(dataset: Dataset) -> list[float]:
    """Return the first rows' seconds, in the order of the table."""
    rows = np.concatenate([dataset.arrays(split)[0] for split in ("train", "test")])
    return rows[np.argsort(rows[:, 0]), 1].tolist()


def since(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> float:
    return (datetime(year, month, day, hour, minute, second) - EPOCH).total_seconds()


def rounded(numbers: list[float]) -> list[float]:
    found: list[float] = np.array(numbers, np.float32).tolist()
    return found


INSTANTS: dict[str, tuple[list[str], list[float]]] = {
    "ISO days": (["2024-01-05", "2024-02-29"], [since(2024, 1, 5), since(2024, 2, 29)]),
    "ISO times": (["2024-01-05T07:30", "2024-01-05 07:30:15.5"],
                  [since(2024, 1, 5, 7, 30), since(2024, 1, 5, 7, 30, 15) + 0.5]),
    "zones": (["2024-01-05T07:30Z", "2024-01-05T07:30+02:00"],
              [since(2024, 1, 5, 7, 30), since(2024, 1, 5, 5, 30)]),
    "basic ISO": (["20240105T073015", "20240105T0730"],
                  [since(2024, 1, 5, 7, 30, 15), since(2024, 1, 5, 7, 30)]),
    "a zone by name": (["2024-01-05T07:30+01:00[Europe/Paris]", "Fri Jan 05 2024 07:30:00 GMT+0200 (EET)"],
                       [since(2024, 1, 5, 6, 30), since(2024, 1, 5, 5, 30)]),
    "as C writes it": (["Fri Jan  5 07:30:15 2024", "Thu Feb 29 00:00:00 2024"],
                       [since(2024, 1, 5, 7, 30, 15), since(2024, 2, 29)]),
    "months by name": (["Jan 2024", "March 2024"], [since(2024, 1, 1), since(2024, 3, 1)]),
    "the year before a month": (["2024-Jan-05", "2024 Mar 7"], [since(2024, 1, 5), since(2024, 3, 7)]),
    "weeks": (["2024-W05", "2024-W06-3"], [since(2024, 1, 29), since(2024, 2, 7)]),
    "quarters": (["2024Q1", "2024-Q3"], [since(2024, 1, 1), since(2024, 7, 1)]),
    "ends of days": (["2024-01-05 24:00", "2024-01-05 23:59:60"], [since(2024, 1, 6), since(2024, 1, 6)]),
    "Japanese": (["2024年1月5日", "2024年2月29日 07:30"], [since(2024, 1, 5), since(2024, 2, 29, 7, 30)]),
    "Arabic digits": (["\u0662\u0660\u0662\u0664-\u0660\u0661-\u0660\u0665", "2024-02-29"],
                      [since(2024, 1, 5), since(2024, 2, 29)]),
    "the day first": (["3/4/2024", "25/4/2024"], [since(2024, 4, 3), since(2024, 4, 25)]),
    "the month first": (["3/4/24 1:05 PM", "4/25/24 12:00 AM"],
                        [since(2024, 3, 4, 13, 5), since(2024, 4, 25)]),
    "points": (["03.04.2024", "05.06.2024"], [since(2024, 4, 3), since(2024, 6, 5)]),
    "both are one": (["05/05/2024", "06/06/2024"], [since(2024, 5, 5), since(2024, 6, 6)]),
    "names": (["5 Jan 2024", "February 3rd, 2024"], [since(2024, 1, 5), since(2024, 2, 3)]),
    "mail": (["Fri, 05 Jan 2024 07:30:00 +0100"] * 2, [since(2024, 1, 5, 6, 30)] * 2),
    "months": (["2024-01", "2024-03"], [since(2024, 1, 1), since(2024, 3, 1)]),
}  # fmt: skip
SPANS: dict[str, tuple[list[str], list[float]]] = {
    "clock": (["0:59:59", "25:00:00.5"], [3599, 90_000.5]),
    "hours and minutes": (["7:05", "23:59"], [25_500, 86_340]),
    "days": (["1 day, 0:00:01", "-1 days +23:59:00"], [86_401, -60]),
    "ISO": (["PT1H30M", "P1DT0.5S"], [5400, 86_400.5]),
    "whole days": (["1 days", "40 days"], [86_400, 3_456_000]),
    "letters": (["1h 30m", "2h 5m 3s"], [5400, 7503]),
}


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
@pytest.mark.parametrize("name", [*INSTANTS, *SPANS])
def test_they_are_read_and_told(tmp_path: Path, name: str, block_bytes: int):
    texts, wanted = {**INSTANTS, **SPANS}[name]
    dataset = read(texts, tmp_path, block_bytes=block_bytes)
    kind = ColumnKind.TIME if name in INSTANTS else ColumnKind.DURATION
    assert dataset.schema[1].kind is kind
    assert seconds(dataset)[:2] == rounded(wanted)
    assert any(note.startswith("column 'at' is read as d") for note in dataset.notes)
    rows = pd.DataFrame({"row": [0, 1], "at": texts})
    saved = Preprocessing.from_dict(dataset.preprocessing())
    assert saved == dataset.fitted
    assert saved.transform(rows)[:, 1].tolist() == rounded(wanted)
    as_text = read(texts, tmp_path, text_columns=("at",))
    assert as_text.schema[1].kind is ColumnKind.TEXT


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["01/02/2024", "03/04/2024"], "column 'at': '01/02/2024' may begin with the day, the month or"),
        (["31-12-24", "30-11-24"], "may begin with the day, the month or the year"),
        (["2024-01-05", "2024-01-06T10:00Z"], "some of its times have a zone and some have none"),
        ([*(f"2024-01-{day:02}" for day in range(1, 21)), "soon"], "'soon' is no date, but nearly all"),
        (["7:05", "1:02:03"], "durations are of several kinds"),
        ([*["2024-02-28", "28/02/2024"] * 9, "2024-02-30"], "'2024-02-30' is no date, but nearly all"),
    ],
)  # fmt: skip
def test_what_is_in_doubt_is_refused(tmp_path: Path, texts: list[str], reason: str):
    with pytest.raises(DataError) as refused:
        read(texts, tmp_path)
    assert reason in str(refused.value)
    assert "drop: [at]" in str(refused.value)
    assert not list((tmp_path / "datasets").iterdir())
    assert read(texts, tmp_path, drop=("at",)).n_features == 1
    assert read(texts, tmp_path, text_columns=("at",)).schema[1].kind is ColumnKind.TEXT


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_the_remedy_works(tmp_path: Path, block_bytes: int):
    texts = ["01/02/2024", "03/04/24 10:00"]
    for example, wanted in (
        ("31/12/2024", [since(2024, 2, 1), since(2024, 4, 3, 10)]),
        ("12/31/2024", [since(2024, 1, 2), since(2024, 3, 4, 10)]),
    ):
        dataset = read(texts, tmp_path, dates=(f"at={example}",), block_bytes=block_bytes)
        assert seconds(dataset)[:2] == rounded(wanted)
    with pytest.raises(
        DataError, match=r"row 2 \(line 3\), column 'at': '13/13/2024' is not written as dates"
    ):
        read(["01/02/2024", "13/13/2024"], tmp_path, dates=("at=31/12/2024",))


def test_the_option_says_what_is_wrong():
    recipe = Recipe.from_dict({"label": "y", "dates": {"a=b": "12/31/2024"}})
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.styles["a=b"] == TimeStyle.of("12/31/2024")
    with pytest.raises(InputError, match="dates must say how the last day of 2024 is"):
        Recipe.from_dict({"label": "y", "dates": {"a": "1/2/2024"}})
    with pytest.raises(InputError, match="got 'a' in text_columns and in dates; keep one"):
        Recipe.from_dict({"label": "y", "dates": {"a": "12/31/2024"}, "text_columns": ["a"]})
    with pytest.raises(InputError, match="a label must not be dates, got 'y'"):
        Recipe.from_dict({"label": "y", "dates": {"y": "12/31/2024"}})
    with pytest.raises(InputError, match="got 'a' in numbers and in dates; keep one"):
        Recipe.from_dict({"label": "y", "dates": {"a": "12/31/2024"}, "numbers": {"a": "1,234.56"}})


@pytest.mark.parametrize(
    "text", ["1.2.10", "2023-24", "1/2", "5-12-20245", "10.0.0.1", "12-05", "A-1", "may"]
)
def test_what_is_no_date_is_none(text: str):
    assert all(TimeStyle(form).read(text) is None for form in ("ymd", "dmy", "mdy", "span", "clock"))


FORMS = {
    "ymd": ["%Y-%m-%dT%H:%M:%S.%f", "%Y/%m/%d %H:%M:%S.%f"],
    "dmy": ["%d/%m/%Y %H:%M:%S.%f", "%d.%m.%Y, %H:%M:%S,%f", "%d %b %Y %H:%M:%S.%f"],
    "mdy": ["%m/%d/%Y %I:%M:%S.%f %p", "%B %d, %Y %H:%M:%S.%f"],
}


@given(MOMENTS, st.sampled_from([*FORMS]), st.integers(0, 2), st.integers(-14 * 60, 14 * 60))
@settings(max_examples=300, deadline=None)
def test_every_moment_is_what_python_says(moment: datetime, form: str, which: int, minutes: int):
    year = f"{moment.year:04}"
    text = moment.strftime(FORMS[form][which % len(FORMS[form])].replace("%Y", year))
    wanted = (moment - EPOCH) // timedelta(microseconds=1) / 1e6
    assert TimeStyle(form).read(text) == wanted
    assert TimeStyle(form, has_zone=True).read(text) is None
    sign, away = "-" if minutes < 0 else "+", abs(minutes)
    zoned = f"{text}{sign}{away // 60:02}:{away % 60:02}"
    instant = (moment - timedelta(minutes=minutes) - EPOCH) // timedelta(microseconds=1) / 1e6
    assert TimeStyle(form, has_zone=True).read(zoned) == instant


@given(st.timedeltas(timedelta(days=-9999), timedelta(days=9999)))
def test_every_duration_is_read_as_python_and_pandas_write_it(span: timedelta):
    for text in (str(span), str(pd.Timedelta(span))):
        assert TimeStyle("clock").read(text) == pytest.approx(span.total_seconds(), abs=1e-6)


@given(st.lists(MOMENTS, min_size=1, max_size=20))
def test_parts_are_those_of_the_calendar(moments: list[datetime]):
    found = parts_of(np.array([(one - EPOCH) / timedelta(seconds=1) for one in moments]))
    assert found["weekday"].tolist() == [one.weekday() for one in moments]
    assert found["day"].tolist() == [one.day - 1 for one in moments]
    assert found["year"].tolist() == [one.timetuple().tm_yday - 1 for one in moments]
    hours = [one.hour + one.minute / 60 + (one.second + one.microsecond / 1e6) / 3600 for one in moments]
    assert found["hour"] == pytest.approx(hours, abs=1e-6)


@given(st.lists(st.tuples(st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1)),
                          st.timedeltas(timedelta(), timedelta(days=400))),
                min_size=12, max_size=30))  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_every_door_gives_the_same_features_and_reads_the_same_rows(pairs: list[tuple[datetime, timedelta]]):
    at = pd.Series([pair[0] for pair in pairs]).astype("datetime64[us]")
    frame = pd.DataFrame({
        "at": at, "there": at.dt.tz_localize("UTC"), "took": pd.Series([pair[1] for pair in pairs]),
        "row": np.arange(len(pairs)) % 5, "y": ["a", "b"] * (len(pairs) // 2) + ["a"] * (len(pairs) % 2),
    })  # fmt: skip
    frame.loc[1, ["at", "took"]] = None
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        frame.to_csv(place / "t.csv", index=False)
        frame.to_parquet(place / "t.parquet")
        frame.to_feather(place / "t.feather")
        given_ = [Source(url=str(place / f"t.{kind}")) for kind in ("csv", "parquet", "feather")]
        made = [ingest(one, Recipe(label="y", indicator=True), place / "d") for one in (*given_, frame)]
        texts = pd.read_csv(place / "t.csv", dtype=str)
        first = made[0]
        wanted = first.transform(texts)
        for one in made:
            assert one.feature_names == first.feature_names
            for split in ("train", "test"):
                assert np.array_equal(one.arrays(split)[0], first.arrays(split)[0])
            assert np.array_equal(one.transform(frame), wanted)
            assert np.array_equal(one.transform(frame.astype({"at": object, "took": object})), wanted)
            assert np.array_equal(one.transform(texts), wanted)


def test_missing_instants_are_like_the_mean_without_parts(tmp_path: Path):
    dataset = read(["2024-01-01", "2024-07-01", ""], tmp_path, indicator=True, scale="standard")
    names = dataset.feature_names
    assert names[1:] == ("at", "at_missing", "at_year_sin", "at_year_cos")
    (row,) = dataset.transform(pd.DataFrame({"row": [1], "at": [None]}))
    assert np.allclose(row[1:], [0, 1, 0, 0], atol=0.3)
    assert row[3:].tolist() == [0, 0]


def test_new_rows_of_another_kind_are_refused(tmp_path: Path):
    dataset = read(["2024-01-05", "2024-02-05"], tmp_path)
    for wrong in ("2024-01-05T10:00Z", "soon", 17, datetime(2024, 1, 1, tzinfo=UTC)):
        with pytest.raises(DataError, match=r"row 1, column 'at': .* is not a date, as the training"):
            dataset.transform(pd.DataFrame({"row": [1], "at": [wrong]}, dtype=object))


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["6:00 PM", "12:05 am", "1:30:15 p.m."], [64_800, 300, 48_615]),
        (["12:34.5", "0:07.25", "90:00.0"], [754.5, 7.25, 5400]),
    ],
)
def test_clocks_of_twelve_hours_and_minutes_with_fractions(
    texts: list[str], wanted: list[float], tmp_path: Path
):
    assert seconds(read(texts, tmp_path))[:3] == wanted


@pytest.mark.parametrize("text", ["0000-00-00", "never"])
def test_one_text_among_dates_is_refused_however_often_it_stands_there(text: str, tmp_path: Path):
    days = [f"2024-03-{day:02}" for day in range(1, 15)]
    texts = [text] * 20 + days
    with pytest.raises(DataError, match=f"'{text}' is no date or duration, as all other values are"):
        read(texts, tmp_path)
    assert seconds(read(texts, tmp_path, missing_values=(text,)))[20] == since(2024, 3, 1)


def test_days_of_eight_digits_are_numbers_unless_said_otherwise(tmp_path: Path):
    texts = ["20240105", "20240229", "20231231"]
    numbers = read(texts, tmp_path)
    assert seconds(numbers)[:3] == rounded([20240105.0, 20240229.0, 20231231.0])
    assert any('set dates: {at: "2024-12-31"}' in note for note in numbers.notes)
    found = read(texts, tmp_path, dates=("at=2024-12-31",))
    assert seconds(found)[:3] == rounded([since(2024, 1, 5), since(2024, 2, 29), since(2023, 12, 31)])
    assert not [note for note in read(["20240105", "20249999"], tmp_path).notes if "may be days" in note]


TIMES_BY_TYPE: dict[str, Callable[[int], list[Any]]] = {
    "dates": lambda n: [date(2024, 1, 1) + timedelta(days=i % n) for i in range(4 * n)],
    "timestamps": lambda n: pd.date_range("2024-01-01 10:30", periods=n, freq="7min").tolist() * 4,
    "with a zone": lambda n: pd.date_range("2024-01-01", periods=n, tz="Europe/Zurich").tolist() * 4,
    "durations": lambda n: [timedelta(minutes=5 * (i % n) + 1) for i in range(4 * n)],
}


@pytest.mark.parametrize("kind", TIMES_BY_TYPE)
@pytest.mark.parametrize("door", ["frame", "parquet", "csv"])
def test_a_label_of_few_dates_has_them_for_classes(kind: str, door: str, tmp_path: Path):
    """By their ISO text, in every door; new rows with the label are known again."""
    values = TIMES_BY_TYPE[kind](3)
    frame = pd.DataFrame({"x": range(12), "y": values})
    dataset = ingest(_through(door, frame, tmp_path), Recipe(label="y"), tmp_path / "datasets")
    assert len(dataset.class_names) == 3
    if kind == "dates":
        assert [*dataset.class_names] == ["2024-01-01", "2024-01-02", "2024-01-03"]
    if kind == "timestamps":
        assert dataset.class_names[0] == "2024-01-01 10:30:00"
    if kind == "with a zone":
        assert dataset.class_names[0] == "2024-01-01 00:00:00+01:00"
    if door != "csv":  # pandas writes a duration in a way of its own there
        assert None not in dataset.fitted.labels_of(0, frame["y"])
        codes = dataset.fitted.targets.classes[0].codes(dataset.fitted.labels_of(0, frame["y"]))
        assert sorted({*codes}) == [0, 1, 2]


@pytest.mark.parametrize("kind", TIMES_BY_TYPE)
@pytest.mark.parametrize("door", ["frame", "parquet", "csv"])
def test_many_dates_are_asked_about_and_both_remedies_work(kind: str, door: str, tmp_path: Path):
    values = TIMES_BY_TYPE[kind](30)
    frame = pd.DataFrame({"x": range(120), "y": values})
    source = _through(door, frame, tmp_path)
    with pytest.raises(
        DataError, match="a label of 30 different dates or durations in 120 rows may be"
    ) as no:
        ingest(source, Recipe(label="y"), tmp_path / "datasets")
    assert "set task to classification, or make it numbers before" in str(no.value)
    dataset = ingest(source, Recipe(label="y", task="classification"), tmp_path / "datasets")
    assert len(dataset.class_names) == 30
    with pytest.raises(DataError, match=r"is not a number, as regression needs; make it numbers before"):
        ingest(source, Recipe(label="y", task="regression"), tmp_path / "datasets")
    numbers = frame.assign(y=[(value - values[0]) / timedelta(days=1) + 0.5 for value in values])
    assert ingest(numbers, Recipe(label="y", task="regression"), tmp_path / "datasets").task == "regression"


def _through(door: str, frame: pd.DataFrame, folder: Path) -> Any:
    if door == "frame":
        return frame
    path = folder / f"t.{door}"
    frame.to_parquet(path) if door == "parquet" else frame.to_csv(path, index=False)
    return Source(url=str(path))
