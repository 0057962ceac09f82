"""Numbers with units, currencies and separators are read, or refused with a remedy that works."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dnnflow.errors import DataError, InputError
from dnnflow.table.columns.dressing import NumberStyle, undress
from dnnflow.table.columns.preprocess import Preprocessing
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest


def read(texts: Sequence[str], folder: Path, *, block_bytes: int = 1 << 20, **fields) -> Dataset:
    """Make a dataset with a column of these texts, three times over; its values are not scaled."""
    rows = [f'{i};"{text}";{"ab"[i % 2]}\n' for i, text in enumerate([*texts] * 3)]
    (folder / "table.csv").write_text("row;cost;y\n" + "".join(rows), encoding="utf-8")
    recipe = Recipe(**{"label": "y", "scale": "none", **fields})
    source = Source(url=str(folder / "table.csv"))
    return ingest(source, recipe, folder / "datasets", block_bytes=block_bytes)


def values(dataset: Dataset) -> list[float]:
    """Return the column's numbers in the order of the table, NaN where missing."""
    parts = [dataset.arrays(split)[0] for split in ("train", "test")]
    rows = np.concatenate(parts)[:, :2]
    return rows[np.argsort(rows[:, 0]), 1].tolist()


READ: dict[str, tuple[list[str], list[float]]] = {
    "decimal commas": (["1,5", "-20,25", "3"], [1.5, -20.25, 3]),
    "thousands and millions": (["950", "1,250", "1,250,000"], [950, 1250, 1_250_000]),
    "points for thousands": (["1.250,5", "3.000", "7"], [1250.5, 3000, 7]),
    "blanks for thousands": (["1 250", "12 000 000", "7"], [1250, 12_000_000, 7]),
    "hard blanks": (["1\u00a0250", "12\u202f000", "7"], [1250, 12_000, 7]),
    "apostrophes": (["1'250.5", "12'000", "7"], [1250.5, 12_000, 7]),
    "currency": (["$5", "$1,250.50", "-$7"], [5, 1250.5, -7]),
    "currency behind": (["5,00 €", "1.250,50 €", "0,99 €"], [5, 1250.5, 0.99]),
    "percent": (["5%", "7.5 %", "0%"], [5, 7.5, 0]),
    "units": (["5 kg", "7.5kg", "-1 kg"], [5, 7.5, -1]),
    "a word": (["5 rooms", "7 rooms", "1 room"], [5, 7, 1]),
    "exponents of Fortran": (["1.5D+02", "-2.D-1", "3.0d0"], [150, -0.2, 3]),
    "underlines for thousands": (["950", "1_250", "1_250_000"], [950, 1250, 1_250_000]),
    "hexadecimal": (["0x1f", "0XA0", "-0x10"], [31, 160, -16]),
    "Arabic digits": (
        ["\u0661\u0662", "\u0663\u066b\u0665", "\u0661\u066c\u0660\u0660\u0660"],
        [12, 3.5, 1000],
    ),
    "digits of full width": (["\uff11\uff12", "\uff0d\uff13", "7"], [12, -3, 7]),
    "negatives of accounts": (["(1,250.50)", "12.5", "(7)"], [-1250.5, 12.5, -7]),
    "a sign behind": (["12.5-", "7", "0.50-"], [-12.5, 7, -0.5]),
    "a sign behind a decimal comma": (["12,5-", "1.250,5", "7,25"], [-12.5, 1250.5, 7.25]),
    "lakhs": (["1,00,000", "12,34,567.5", "5,000"], [100_000, 1_234_567.5, 5000]),
    "thousands by a letter": (["5k", "7.5k", "12k"], [5, 7.5, 12]),
    "footnotes": (["5*", "7.5*", "12*"], [5, 7.5, 12]),
    "at least": (["10+", "50+", "100+"], [10, 50, 100]),
    "ranks": (["#3", "#14", "#15"], [3, 14, 15]),
    "a sign of its own": (["\u22125", "7", "\u22120.5"], [-5, 7, -0.5]),
}


@pytest.mark.parametrize("block_bytes", [16, 1 << 20])
@pytest.mark.parametrize("name", READ)
def test_what_is_beyond_doubt_is_read_and_told(tmp_path: Path, name: str, block_bytes: int):
    texts, numbers = READ[name]
    dataset = read(texts, tmp_path, block_bytes=block_bytes)
    assert dataset.feature_names == ("row", "cost")
    assert values(dataset) == pytest.approx(numbers * 3, rel=1e-6)
    (told,) = [note for note in dataset.notes if "is read as numbers" in note]
    assert told.startswith("column 'cost' is read as numbers, ")
    plain = read(texts, tmp_path, block_bytes=block_bytes, text_columns=("cost",))
    assert len(plain.feature_names) == 4


@pytest.mark.parametrize(
    "text",
    [
        "0x1fffffffffffffff",
        "0x",
        "1_0",
        "1__000",
        "(-3)",
        "()",
        "3\u00b2",
        "(1)(2)",
        "1,00,00",
        "-5-",
        "(5-)",
        "5-6",
        "#ff0000",
        "5k+",
    ],
)
def test_what_is_no_number_in_any_dress(text: str):
    assert undress(text) is None


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["950", "1,250", "12,500"], "may begin fractions or separate thousands; say how they are written"),
        (["1,5", "1,250.5", "7,25"], "values are no numbers; name them in missing_values"),
        (["5 kg", "7 lb", "9 kg"], "several units or currencies ('kg', 'lb'); write them in one"),
        (["5 kg", "7", "9 kg"], "some of its numbers have a unit, others none; say how they are written"),
        (
            [*(f"{i} kg" for i in range(19)), "n.v."],
            "3 of its 60 values are no numbers; name them in missing_",
        ),
        ([*"1234567", "1,250"], "'1,250' is not a number; say how its numbers are written"),
    ],
)
def test_what_is_in_doubt_is_refused(tmp_path: Path, texts: list[str], reason: str):
    with pytest.raises(DataError) as refused:
        read(texts, tmp_path)
    assert reason in str(refused.value)
    assert "text_columns" in str(refused.value)
    assert not list((tmp_path / "datasets").iterdir())


@pytest.mark.parametrize("block_bytes", [16, 1 << 20])
@pytest.mark.parametrize(
    ("texts", "example", "numbers"),
    [
        (["950", "1,250", "12,500"], "1,234.56", [950, 1250, 12_500]),
        (["950", "1,250", "12,500"], "1.234,56", [950, 1.25, 12.5]),
        (["950", "1.250", "12.500"], "1234,56", [950, 1250, 12_500]),
        (["5 kg", "7", "9 kg"], "1,234.56", [5, 7, 9]),
        (["5 kg", "n.v.", "9 kg"], "1'234.56", [5, np.nan, 9]),
        (["5,0 kg", "-9,00 kg", "9 kg"], "1 234,56", [5, np.nan, 9]),
    ],
)
def test_the_remedy_works(
    tmp_path: Path, texts: list[str], example: str, numbers: list[float], block_bytes: int
):
    fields = {"missing_values": ("n.v.", "-9"), "indicator": True}
    dataset = read(texts, tmp_path, numbers=(f"cost={example}",), block_bytes=block_bytes, **fields)
    found = dataset.inverse(np.concatenate([dataset.arrays(split)[0] for split in ("train", "test")]))
    assert found.sort_values("row")["cost"].tolist() == pytest.approx(numbers * 3, nan_ok=True)


def test_what_breaks_the_said_way_is_refused_where_it_stands(tmp_path: Path):
    message = r"row 2 \(line 3\), column 'cost': 'dear' is not a number"
    with pytest.raises(DataError, match=message):
        read(["1,5", "dear", "2,5"], tmp_path, numbers=("cost=1.234,56",))
    with pytest.raises(DataError, match="numbers must have one unit, got 'kg', 'lb'; write them in one"):
        read(["5 kg", "7 lb"], tmp_path, numbers=("cost=1,234.56",))


def test_the_option_takes_a_mapping_and_says_what_is_wrong():
    recipe = Recipe.from_dict({"label": "y", "numbers": {"a=b": "1.234,56"}})
    assert recipe.styles == {"a=b": NumberStyle(comma=True, is_asked=True)}
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    with pytest.raises(
        InputError, match=r"numbers must say how 1234\.56 is written, got '1,5'; give \"1,234"
    ):
        Recipe.from_dict({"label": "y", "numbers": {"a": "1,5"}})
    with pytest.raises(InputError, match=r"column=1\.234,56, got '1\.234,56'"):
        Recipe.from_dict({"label": "y", "numbers": ["1.234,56"]})
    with pytest.raises(InputError, match="got 'a' in text_columns and in numbers; keep one"):
        Recipe.from_dict({"label": "y", "numbers": {"a": "1.234,56"}, "text_columns": ["a"]})


def test_a_label_of_dressed_numbers(tmp_path: Path):
    rows = "".join(f"{i};{i},{i % 10}\n" for i in range(40))
    (tmp_path / "a.csv").write_text("x;cost\n" + rows)
    source = Source(url=str(tmp_path / "a.csv"))
    with pytest.raises(DataError, match=r"a label of numbers must have plain ones, .* got '0,0' in column"):
        ingest(source, Recipe(label="cost"), tmp_path / "datasets")
    dataset = ingest(source, Recipe(label="cost", numbers=("cost=1.234,56",)), tmp_path / "datasets")
    assert str(dataset.task) == "regression"
    targets = np.concatenate([dataset.targets.decode(dataset.labels(s)) for s in ("train", "test")])
    assert sorted(targets[:, 0]) == pytest.approx([i + i % 10 / 10 for i in range(40)], abs=1e-5)


@pytest.mark.parametrize(
    "texts",
    [
        ["1st", "2nd", "3rd"],
        ["5 Elm", "7 Oak", "9 Ash"],
        ["A1", "B2", "C3"],
        ["12A", "12B", "7C"],
        ["2023-24", "2024-25"],
        ["10-20", "20-30"],
        ["1.2.3", "1.2.4"],
        ["10:3", "11:4"],
        ["4wd", "2wd"],
        ["5-door", "3-door"],
    ],
)
def test_categories_with_digits_stay_categories(tmp_path: Path, texts: list[str]):
    assert len(read(texts, tmp_path).feature_names) == 1 + len(texts)


def test_new_rows_are_read_in_the_same_way(tmp_path: Path):
    dataset = read(["1.250,5 kg", "3,25 kg", "7 kg"], tmp_path)
    saved = Preprocessing.from_dict(dataset.preprocessing())
    rows = pd.DataFrame({"row": [0, 1, 2, 3], "cost": ["1.000 kg", "2,5", 2.5, "?"]}, dtype=object)
    assert saved.transform(rows)[:, 1].tolist() == [1000, 2.5, 2.5, 0]
    for wrong in ("5 lb", "heavy"):
        with pytest.raises(
            DataError, match=rf"row 1, column 'cost': '{wrong}' is not a finite number, as the "
        ):
            saved.transform(pd.DataFrame({"row": [0], "cost": [wrong]}))


def test_points_that_may_separate_thousands_are_told(tmp_path: Path):
    doubted = read(["950", "1.250", "12.500"], tmp_path).notes[0]
    assert doubted.startswith(
        "column 'cost': its points are read as beginning fractions, of three digits each"
    )
    for texts in (["0.950", "1.250"], ["1.25", "1.250", "3"], ["1.250", "2.500"]):
        assert not any("points" in note for note in read(texts, tmp_path).notes)


amounts = st.integers(-(10**9), 10**9).map(lambda n: n / 100)


def dressed(number: float, group: str, mark: str, before: str, after: str) -> str:
    digits = f"{abs(number):,.2f}".replace(",", "\0").replace(".", mark).replace("\0", group)
    return f"{'-' if number < 0 else ''}{before}{digits}{after}"


styles = st.tuples(
    st.sampled_from(["", " ", "'", ",", ".", "\u202f"]), st.sampled_from([".", ","]),
    st.sampled_from(["", "$", "€ ", "CHF "]), st.sampled_from(["", "%", " kg", " km/h", " rooms"]),
).filter(lambda style: style[0] != style[1] and not (style[2] and style[3]))  # fmt: skip


@settings(max_examples=40, derandomize=True)
@given(st.lists(amounts, min_size=4, max_size=9, unique=True), styles)
def test_whatever_the_dress_numbers_come_out_of_it(numbers: list[float], style: tuple[str, ...]):
    texts = [dressed(number, *style) for number in numbers]
    assume(style != (",", ".", "", "") or any(abs(n) >= 1000 for n in numbers))
    with tempfile.TemporaryDirectory() as folder:
        dataset = read(texts, Path(folder), block_bytes=50)
        assert dataset.feature_names == ("row", "cost")
        assert values(dataset) == pytest.approx(numbers * 3, rel=1e-5, abs=1e-5)


@given(st.text(max_size=12))
def test_no_text_breaks_the_reading(text: str):
    found = undress(text)
    assert found is None or (found.point, found.comma) != (None, None)


def test_thousands_and_millions_by_letters_are_refused_beside_each_other(tmp_path: Path):
    with pytest.raises(DataError, match="several units or currencies \\('M', 'k'\\)"):
        read(["5k", "7M", "8k"], tmp_path)
    assert read(["5k", "7M", "8k"], tmp_path, text_columns=("cost",)).n_features == 4


def test_points_are_in_doubt_where_a_comma_begins_fractions_in_another_column(tmp_path: Path):
    rows = "".join(f"{i},5;{i % 7 + 1}.{i * 37 % 1000:03};{'ab'[i % 2]}\n" for i in range(30))
    (tmp_path / "t.csv").write_text("price;sold;y\n" + rows)
    source = Source(url=str(tmp_path / "t.csv"))
    with pytest.raises(
        DataError, match="column 'sold': its points may begin fractions or separate thousands"
    ):
        ingest(source, Recipe(label="y"), tmp_path / "d")
    for said, first in (("1.234,56", 1000.0), ("1,234.56", 1.0)):
        recipe = Recipe(label="y", scale="none", numbers=(f"sold={said}",))
        found = ingest(source, recipe, tmp_path / "d").transform(
            pd.DataFrame({"price": ["0,5"], "sold": ["1.000"]})
        )
        assert found[0].tolist() == [0.5, first]


@pytest.mark.parametrize("form", ["{}th", "No. {}", "{}-{}", "Jan-{:02}", "2020-{:03}", "{}:{}:{}:{}"])
def test_values_like_amounts_in_a_form_that_is_not_read_are_told(form: str, tmp_path: Path):
    dataset = read([form.format(i, i, i, i) for i in range(1, 31)], tmp_path)
    assert sum("look like numbers or dates in a form that is not read" in note for note in dataset.notes) == 1
    told = read(["red", "blue", "A12"] * 5, tmp_path).notes
    assert not [note for note in told if "not read" in note]


def test_whole_numbers_beyond_what_a_float_keeps_are_told(tmp_path: Path):
    ids = [str(12345678901234567890 + i) for i in range(20)]
    assert any("of which 16 digits are kept" in note for note in read(ids, tmp_path).notes)
    assert not any("16 digits" in note for note in read([f"{i}e30" for i in range(20)], tmp_path).notes)
    assert read(ids, tmp_path, text_columns=("cost",)).n_features == 21


@pytest.mark.parametrize("cell", ["inf", "Inf", "-Infinity"])
def test_infinite_numbers_may_be_missing_values_for_new_rows_too(cell: str, tmp_path: Path):
    dataset = read(["1", cell, "3"], tmp_path, missing_values=("inf", "-inf"))
    rows = pd.DataFrame({"row": [1, 1], "cost": [cell, ""]})
    first, second = dataset.transform(rows)
    assert first.tolist() == second.tolist()


def test_groups_of_ages_are_categories(tmp_path: Path):
    assert read(["24-", "25-34", "35+"], tmp_path).n_features == 4
