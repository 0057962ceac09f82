"""What stands above a table, what separates its values, and how it is encoded is found out, and told."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.errors import DataError
from dnnflow.run.models.saved_model import NOTE, SavedModel
from dnnflow.table.columns.kinds import looks_like_values
from dnnflow.table.columns.preprocess import Preprocessing
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest
from dnnflow.table.text.csv_reader import read_rows
from dnnflow.table.text.first_lines import sniff
from dnnflow.table.text.source_text import shows_encoding

ROWS = [(f"{i % 9}.5", f"{i % 4}", "no" if i % 3 else "yes") for i in range(45)]


def body(delimiter: str = ",", decimal: str = ".") -> str:
    rows = [delimiter.join((a.replace(".", decimal), b, c)) for a, b, c in ROWS]
    return "\n".join(rows) + "\n"


def made(folder: Path, content: str | bytes, *, label: str = "late", recipe: dict | None = None,
         **reading) -> Dataset:  # fmt: skip
    table = folder / "table.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = Source(url=str(table), **reading)
    return ingest(source, Recipe(label=label, **recipe or {}), folder / "datasets", block_bytes=100)


HEADER = "speed,lanes,late\n"
ABOVE = {
    "sep": 'sep=;\nspeed;lanes;late\n{";"}',
    "sep in quotes": '"SEP=|"\r\nspeed|lanes|late\n{"|"}',
    "two byte order marks": "\ufeff\ufeff" + HEADER + '{","}',
    "a comment": "# counted by hand\n" + HEADER + '{","}',
    "comments with delimiters": "# one, two\n# three, four, five, six\n" + HEADER + '{","}',
    "comments as wide as the table": "# one, two, three\n" + HEADER + '{","}',
    "a title": "Traffic of May\n" + HEADER + '{","}',
    "titles and blanks": "Traffic of May\n\nall roads\n\n" + HEADER + '{","}',
    "a title in a sheet": "Traffic of May,,\n,,\n" + HEADER + '{","}',
    "units": HEADER + 'km/h,-,\n{","}',
    "units in brackets": HEADER + '[km/h],[1],\n{","}',
    "everything": "\ufeff\ufeff# by hand\nspeed;lanes;late\n(m/s);;\n" + '{";"}',
}


def written(template: str) -> str:
    for delimiter in (",", ";", "|"):
        template = template.replace(f'{{"{delimiter}"}}', body(delimiter))
    return template


@pytest.mark.parametrize("name", ABOVE)
def test_what_is_no_row_is_left_out_and_told(tmp_path: Path, name: str):
    dataset = made(tmp_path, written(ABOVE[name]))
    assert dataset.feature_names == ("speed", "lanes")
    assert dataset.class_names == ("no", "yes")
    assert sum(dataset.rows.values()) == len(ROWS)
    assert dataset.notes[0].startswith("lines that are no rows are left out: '")
    (tmp_path / "plain").mkdir()
    assert made(tmp_path / "plain", HEADER + body()).notes == ()


def test_lines_of_errors_count_what_was_left_out(tmp_path: Path):
    rows = body().splitlines()
    rows[20] = "fast,1,no"
    with pytest.raises(DataError, match=r"^row 21 \(line 24\), column 'speed': 'fast' is not a number"):
        made(tmp_path, "Traffic\n\n" + HEADER + "\n".join(rows) + "\n")


@pytest.mark.parametrize(
    "content",
    [
        HEADER + "NA,NA,no\n" + body(),
        HEADER + ",,yes\n" + body(),
        "#speed,lanes,late\n" + body(),
        "speed,,late\n" + body(),
        "#speed,lanes,late\n" + "".join(f"#{i % 3},{line[4:]}\n" for i, line in enumerate(body().split())),
        '"speed\nand more",lanes,late\n' + body(),
    ],
)
def test_rows_and_headers_that_look_odd_are_kept(tmp_path: Path, content: str):
    dataset = made(tmp_path, content)
    assert not any("no rows" in note for note in dataset.notes)
    assert (len(dataset.schema), sum(dataset.rows.values()) >= len(ROWS)) == (2, True)


def test_a_comment_above_a_header_that_begins_with_a_hash(tmp_path: Path):
    dataset = made(tmp_path, "# by hand\n#" + HEADER + body())
    assert dataset.feature_names == ("#speed", "lanes")
    assert dataset.notes == ("lines that are no rows are left out: '# by hand'",)


def test_a_header_with_a_name_less_is_refused(tmp_path: Path):
    rows = "".join(f'"{i}",{line}\n' for i, line in enumerate(body().splitlines()))
    with pytest.raises(DataError, match="has 4 values, but the table has 3 columns"):
        made(tmp_path, HEADER + rows)


# ---- delimiters and headers


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("1,5;2,5;x\n3,5;4,5;y\n", ";"),
        ("1,5;2,5\n3,5;4,5\n", ";"),
        ("1,5\t2,5\tx\n3,5\t4,5\ty\n", "\t"),
        ("1,5|2|x\n3,5|4|z\n", "|"),
        ("1;2,3;4\n5;6,7;8\n", ";"),
        ("a,b;c\nd,e;f\n", ","),
        ("a,b\nc,d\n", ","),
        ("only\none\n", ","),
    ],
)
def test_a_comma_that_begins_fractions_separates_nothing(text: str, delimiter: str):
    assert sniff(text.encode(), '"', whole=True) == delimiter


@settings(derandomize=True)
@given(
    st.lists(st.lists(st.decimals(-999, 999, places=2), min_size=3, max_size=3), min_size=2, max_size=8),
    st.sampled_from(";\t|"),
)
def test_decimal_commas_never_become_columns(rows: list[list], delimiter: str):
    lines = [delimiter.join(str(value).replace(".", ",") for value in row) for row in rows]
    assert sniff("\n".join(lines).encode(), '"', whole=True) == delimiter


def test_a_headerless_table_of_decimal_commas(tmp_path: Path):
    dataset = made(tmp_path, body(";", ","), label="column_3", header=False)
    assert dataset.feature_names == ("column_1", "column_2")
    assert dataset.class_names == ("no", "yes")
    assert sum(dataset.rows.values()) == len(ROWS)


def test_a_first_row_that_is_taken_for_names_is_told(tmp_path: Path):
    dataset = made(tmp_path, body(), label="yes")
    assert dataset.notes[0].startswith("the first line, '0.5', '0', 'yes', is taken for names; if the first")
    assert "set header to false (--no-header)" in dataset.notes[0]
    with pytest.raises(DataError, match=r"got '1' as columns 1 and 2; rename one of them; if the first line"):
        made(tmp_path, "1,1,x\n" + body())
    with pytest.raises(DataError, match=r"got 'column_3'; there are: .*; if the first line has values and"):
        made(tmp_path, body(), label="column_3")


def test_a_first_row_of_texts_that_is_taken_for_names_is_told(tmp_path: Path):
    rows = "".join(f"{'vhigh' if i % 2 else 'low'},{i % 5},{'good' if i % 3 else 'bad'}\n" for i in range(30))
    dataset = made(tmp_path, f"vhigh,some,good\n{rows}", label="good")
    [note] = dataset.notes
    assert note.startswith(
        "the first line is taken for names, but 'vhigh', 'good' are values of their columns"
    )
    assert "set header to false (--no-header)" in note
    named = made(tmp_path, f"price,some,good\n{rows}", label="good")
    assert not named.notes, "one value that is a name is chance"
    with pytest.raises(
        DataError, match="got 'low' as columns 1 and 2; rename one of them; if the first line"
    ):
        made(tmp_path, f"low,low,x\n{rows}", label="x")


@pytest.mark.parametrize(
    ("names", "is_so"),
    [
        (("1.5", "2", "a"), True),
        (("7", "7"), True),
        (("0", "1", "2", "label"), False),
        (("1999", "2001", "place"), False),
        (("a", "b", "3"), False),
        (("5.1", "a"), True),
    ],
)
def test_a_header_of_values_is_told_from_one_of_names(names: tuple[str, ...], is_so: bool):
    assert looks_like_values(names) is is_so


def test_names_are_quoted_so_that_what_is_invisible_is_seen(tmp_path: Path):
    with pytest.raises(DataError, match=r"got 'late'; nearest: '\\u200blate', 'lanes'"):
        made(tmp_path, "speed,lanes,\u200blate\n" + body())


# ---- encodings

CITIES = [("Málaga", "Łódź", "Køge")[i % 3] for i in range(60)]
TOWNS = "city,n,y\n" + "".join(f"{city},{i % 5},{'ab'[i % 2]}\n" for i, city in enumerate(CITIES))


def test_one_wrong_byte_in_utf_8_is_refused_where_it_stands(tmp_path: Path):
    content = TOWNS.encode() + b"caf\xe9,1,a\n"
    with pytest.raises(DataError) as refused:
        made(tmp_path, content, label="y")
    assert str(refused.value) == (
        "the text must be in one encoding, but line 62 has the byte 0xe9, which is no UTF-8, where 100 other "
        "letters are; correct it, or set encoding (e.g. cp1252) if those are wrong"
    )
    rows = tmp_path / "rows.csv"
    rows.write_bytes(content)
    with pytest.raises(DataError, match="line 62 has the byte 0xe9"):
        read_rows(Source(url=str(rows)))
    assert made(tmp_path, content, label="y", encoding="latin-1").rows["train"] > 40


def test_latin_1_is_told_and_remembered(tmp_path: Path):
    content = TOWNS.replace("Łódź", "Cádiz").encode("latin-1")
    dataset = made(tmp_path, content, label="y")
    assert dataset.notes[0] == (
        "the text is not UTF-8 and was read as latin-1; if letters are wrong, set encoding"
    )
    assert dataset.reading["encoding"] == "latin-1"
    assert made(tmp_path, content.decode("latin-1"), label="y").id == dataset.id


def test_an_encoding_that_was_said_is_that_of_new_rows_unless_they_show_another(tmp_path: Path):
    dataset = made(tmp_path, TOWNS.replace("Køge", "Kraków").encode("iso-8859-2"), label="y",
                   encoding="iso-8859-2")  # fmt: skip
    assert "city=Łódź" in dataset.feature_names
    assert "encoding" not in dataset.manifest["reading"]
    saved = SavedModel(None, dataset.fitted, dataset.class_names, {}, dataset.reading)
    for encoding in ("iso-8859-2", "utf-8", "utf-16"):
        rows = tmp_path / f"{encoding}.csv"
        rows.write_text("city,n\nŁódź,1\n", encoding=encoding)
        assert read_rows(saved.source(str(rows)))["city"].tolist() == ["Łódź"]
    assert not shows_encoding(Source(url=str(tmp_path / "iso-8859-2.csv")))


# ---- markers of missing values


def marked(folder: Path, values: list[str], **recipe) -> Dataset:
    rows = "".join(f"{value},{i % 5},{'ab'[i % 2]}\n" for i, value in enumerate(values * 8))
    return made(folder, "x,n,y\n" + rows, label="y", recipe=recipe)


@pytest.mark.parametrize("value", ["-999", "-999.0", "-999.000", "-9.99e+02", " -999 "])
def test_a_number_that_means_missing_is_found_however_it_is_written(tmp_path: Path, value: str):
    dataset = marked(tmp_path, [value, "1.5", "2.5", "4"], missing_values=("-999",))
    assert dataset.missing_share["x"] == 0.25
    assert dataset.notes == ()
    saved = Preprocessing.from_dict(dataset.preprocessing())
    frame = pd.DataFrame({"x": [value, "2.5"], "n": ["1", "1"]})
    assert saved.transform(frame).tolist() == dataset.transform(frame.astype(float)).tolist()


def test_a_marker_that_stands_nowhere_is_told(tmp_path: Path):
    dataset = marked(tmp_path, ["1.5", "n.k.", "3", "4"], missing_values=("n.k.", "-99", "n.a"))
    assert dataset.notes == (
        "missing_values: '-99', 'n.a' stands nowhere in the table; check how it is written",
    )


def test_a_code_that_is_text_is_compared_as_text(tmp_path: Path):
    dataset = marked(tmp_path, ["07", "7", "x", "y"], missing_values=("7",), text_columns=("x",))
    assert dataset.missing_share["x"] == 0.25
    assert "x=07" in dataset.feature_names


@pytest.mark.parametrize("share", [3, 5, 7])
@pytest.mark.parametrize("mark", [".", "--", "n.a.", "unknown"])
def test_marks_among_numbers_are_refused_whatever_their_share(tmp_path: Path, mark: str, share: int):
    values = [mark] * share + [str(20 + i) for i in range(10 - share)]
    with pytest.raises(
        DataError, match=r"^row 1 \(line 2\), column 'x': '.*' is not a number.*missing_values"
    ):
        marked(tmp_path, values)
    assert marked(tmp_path, values, missing_values=(mark,)).missing_share["x"] == pytest.approx(share / 10)


def test_without_the_standard_markers_only_an_empty_field_is_missing(tmp_path: Path):
    dataset = marked(tmp_path, ["none", "NA", "", "red"], standard_missing=False)
    assert dataset.feature_names == ("x=NA", "x=none", "x=red", "n")
    assert dataset.missing_share["x"] == 0.25


# ---- columns that count rows


@pytest.mark.parametrize("begin", [0, 1])
def test_a_column_that_counts_rows_is_told(tmp_path: Path, begin: int):
    rows = "".join(f"{i + begin},{line}\n" for i, line in enumerate(body().splitlines()))
    dataset = made(tmp_path, "," + HEADER + rows)
    assert dataset.notes == (
        f"column 'column_1' has no name and counts the rows, {begin} to {44 + begin}: it looks like a row "
        "number; if it is, drop it: drop: [column_1]",
    )
    assert made(tmp_path, "," + HEADER + rows, recipe={"drop": ("column_1",)}).notes == ()


# ---- new rows


def test_what_a_row_has_that_training_rows_had_not_is_told_of_that_row(tmp_path: Path):
    fitted = made(tmp_path, TOWNS, label="y").fitted
    rows = pd.DataFrame({"n": [1, 2, 3, 4], "city": ["Łódź", "Oslo", None, "MÃ¡laga"]})
    assert fitted.notes(rows) == [
        "",
        "column 'city': 'Oslo' is none of the categories of the training rows (there are: 'Køge', 'Málaga', "
        "'Łódź')",
        "",
        "column 'city': 'MÃ¡laga' is none of the categories of the training rows, where 'Málaga' stands: the "
        "text is of another encoding",
    ]

    class Model:
        def predict_on_batch(self, features):
            return np.full((len(features), 2), 0.5)

    saved = SavedModel(Model(), fitted, ("a", "b"), {})
    assert saved.predict(rows)[NOTE].tolist() == fitted.notes(rows)
    assert NOTE not in saved.predict(rows.iloc[[0, 2]])
    with pytest.raises(DataError, match=r"must have the column 'city' once \(neither 'n'\), got it 0 times"):
        fitted.transform(pd.DataFrame({"town": ["Łódź"]}))


def test_lines_with_fewer_values_than_the_header_are_left_out(tmp_path: Path):
    rows = "".join(f"{i}.5,{i},{'ab'[i % 2]}\n" for i in range(20))
    (tmp_path / "t.csv").write_text("Sales, 2024\nby us, and you\n\nsize,count,y\n" + rows)
    dataset = ingest(Source(url=str(tmp_path / "t.csv")), Recipe(label="y"), tmp_path / "d")
    assert dataset.feature_names == ("size", "count")
    assert any("'Sales, 2024', 'by us, and you'" in note for note in dataset.notes)


@pytest.mark.parametrize("mark", [":", "^", "~"])
def test_a_mark_that_may_separate_values_is_named(mark: str, tmp_path: Path):
    rows = "".join(mark.join((f"{i}.5", str(i), "ab"[i % 2])) + "\n" for i in range(20))
    (tmp_path / "t.csv").write_text(mark.join(("size", "count", "y")) + "\n" + rows)
    source = Source(url=str(tmp_path / "t.csv"))
    with pytest.raises(DataError, match="separates the values, set delimiter to it"):
        ingest(source, Recipe(label="y"), tmp_path / "d")
    assert ingest(source.replace(delimiter=mark), Recipe(label="y"), tmp_path / "d").n_features == 2
