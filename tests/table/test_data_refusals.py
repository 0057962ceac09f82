"""A table that cannot be used is refused with the rule, the place and the remedy, and nothing is left."""

from pathlib import Path

import pytest

from dnnflow.errors import DataError, InputError
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.ingest import ingest

GOOD = "".join(f"{i},{i % 7},{'ab'[i % 2]}\n" for i in range(40))


def refusal(tmp_path: Path, content: str | bytes, *, block_bytes: int = 1 << 22, **fields) -> str:
    """Return the message by which a table is refused, having checked that nothing was left behind."""
    table = tmp_path / "table.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    reading = {n: fields.pop(n) for n in ("delimiter", "quote", "encoding", "header") if n in fields}
    datasets = tmp_path / "datasets"
    with pytest.raises(DataError) as caught:
        ingest(
            Source(url=str(table), **reading),
            Recipe(**{"label": "label"} | fields),
            datasets,
            block_bytes=block_bytes,
        )
    assert not list(datasets.iterdir())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file(tmp_path: Path, content: str):
    assert refusal(tmp_path, content) == (
        "a table needs a header and rows, got an empty file; give a CSV with data"
    )


def test_a_header_without_rows(tmp_path: Path):
    assert refusal(tmp_path, "a,b,label\n\n") == (
        "a table needs rows, got a header only; give a CSV with data, or say it has no header"
    )


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.csv; check the path"):
        ingest(Source(url=str(tmp_path / "nowhere.csv")), Recipe(label="label"), tmp_path / "datasets")


def test_a_directory(tmp_path: Path):
    (tmp_path / "table").mkdir()
    with pytest.raises(DataError, match=r"a glob or directory must hold at least one table, got"):
        ingest(Source(url=str(tmp_path / "table")), Recipe(label="label"), tmp_path / "datasets")


def test_a_url_of_an_unknown_kind(tmp_path: Path):
    with pytest.raises(DataError, match=r"cannot read nosuch://x/y\.csv: .*; check the address"):
        ingest(Source(url="nosuch://x/y.csv"), Recipe(label="label"), tmp_path / "datasets")


@pytest.mark.parametrize("block_bytes", [64, 1 << 22])
@pytest.mark.parametrize(("row", "width"), [("1,2", 2), ("1,2,a,4", 4)])
def test_a_ragged_row_is_named_by_row_and_line(tmp_path: Path, row: str, width: int, block_bytes: int):
    content = f"a,b,label\n{GOOD}\n{row}\n{GOOD}"
    assert refusal(tmp_path, content, block_bytes=block_bytes) == (
        f"row 41 (line 43) has {width} values, but the table has 3 columns; "
        "fix the row, or check delimiter and quote"
    )


def test_a_label_that_does_not_exist(tmp_path: Path):
    assert refusal(tmp_path, f"a,b,Lable\n{GOOD}") == (
        "label must name a column of the table, got 'label'; nearest: 'Lable'"
    )


def test_a_column_to_drop_that_does_not_exist(tmp_path: Path):
    assert refusal(tmp_path, f"age,b,label\n{GOOD}", drop=("aeg",)) == (
        "drop must name a column of the table, got 'aeg'; nearest: 'age'"
    )


def test_a_label_without_values(tmp_path: Path):
    assert refusal(tmp_path, "a,label\n1,\n2,NA\n3,?\n") == (
        "a label column needs values, but all of 'label' are missing; choose another column"
    )


def test_a_label_of_one_class(tmp_path: Path):
    assert refusal(tmp_path, "a,label\n1,x\n2,x\n3,\n") == (
        "a label needs at least 2 classes, got 1 ('x') in column 'label'; choose another label column"
    )


@pytest.mark.parametrize("block_bytes", [512, 1 << 22])
def test_a_label_of_too_many_classes(tmp_path: Path, block_bytes: int):
    content = "a,label\n" + "".join(f"{i},c{i // 2}\n" for i in range(2002))
    assert refusal(tmp_path, content, block_bytes=block_bytes) == (
        "a label may have at most 1000 classes, got more in column 'label'; "
        "choose another label column or group its values first"
    )


def test_a_class_with_a_single_row(tmp_path: Path):
    assert refusal(tmp_path, "a,label\n1,x\n2,y\n3,x\n") == (
        "a class needs at least 2 rows (one to train, one to test), got 1 of 'y' in column 'label'; "
        "add rows of it, or remove that row, or set rare_classes to drop or merge"
    )


def test_a_number_with_a_single_row_may_be_an_amount(tmp_path: Path):
    assert refusal(tmp_path, "a,label\n1,7\n2,8\n3,7\n").endswith(
        "or set rare_classes to drop or merge, or task to regression if these are amounts"
    )


@pytest.mark.parametrize("content", ["label\nx\ny\nx\ny\n", "a,label\n,x\nNA,y\n?,x\nnull,y\n"])
def test_no_usable_feature(tmp_path: Path, content: str):
    assert refusal(tmp_path, content) == (
        "a table needs a feature column with values, got none besides the label 'label'; "
        "check delimiter and drop"
    )


def test_all_features_dropped(tmp_path: Path):
    assert "needs a feature column with values" in refusal(tmp_path, f"a,b,label\n{GOOD}", drop=("a", "b"))


def test_a_column_name_twice(tmp_path: Path):
    assert refusal(tmp_path, f"a,a,label\n{GOOD}").startswith(
        "column names must differ, got 'a' as columns 1 and 2; rename one of them; if the first line has"
    )


@pytest.mark.parametrize("value", ["inf", "-Infinity", "1e999"])
@pytest.mark.parametrize("block_bytes", [64, 1 << 22])
def test_an_infinite_value(tmp_path: Path, value: str, block_bytes: int):
    message = refusal(tmp_path, f"a,b,label\n{GOOD}7,{value},a\n{GOOD}", block_bytes=block_bytes)
    assert message.startswith("row 41 (line 42), column 'b': numbers must be finite, got '")
    assert message.endswith("; name it in missing_values, or drop the column")


def test_numbers_whose_comma_may_mean_two_things(tmp_path: Path):
    """One-hot encoding 1,250 and 2,500 as text would train on nonsense without a word."""
    rows = "".join(f"{n + 1},{n * 31 % 900 + 100};{n};{'ab'[n % 2]}\n" for n in range(20))
    message = refusal(tmp_path, f"x;y;label\n{rows}")
    assert message == (
        "row 1 (line 2), column 'x': '1,100' has a comma, which is no part of a number, and its commas or "
        "points may begin fractions or separate thousands; say how they are written, numbers: "
        '{x: "1,234.56"} or numbers: {x: "1.234,56"}, list the column in text_columns (\'x\'), or drop it'
    )


@pytest.mark.parametrize("block_bytes", [64, 1 << 22])
def test_text_in_a_column_of_numbers(tmp_path: Path, block_bytes: int):
    message = refusal(tmp_path, f"a,b,label\n{GOOD}7,n.a.,a\n8,oops,b\n{GOOD}", block_bytes=block_bytes)
    assert message == (
        "row 41 (line 42), column 'b': 'n.a.' is not a number; name it in missing_values, "
        "list the column in text_columns, or drop the column"
    )


def test_text_far_behind_what_a_sample_sees(tmp_path: Path):
    rows = "".join(f"{i},{i * 0.5},{'ab'[i % 2]}\n" for i in range(90_000))
    message = refusal(tmp_path, f"a,b,label\n{rows}90000,late,a\n", block_bytes=1 << 18)
    assert message.startswith("row 90001 (line 90002), column 'b': 'late' is not a number")


def test_the_line_counts_quoted_newlines_and_blank_lines(tmp_path: Path):
    content = f'"a","the\nb",label\n{GOOD}\n"8",9,"a\n\nb"\n7,x,a\n'
    message = refusal(tmp_path, content, missing_values=("a\n\nb",))
    assert message.startswith("row 42 (line 47), column 'the\\nb': 'x' is not a number")


def test_columns_that_cannot_be_used_are_told_at_once_with_a_remedy_that_works(tmp_path: Path):
    lines = (f"{day % 9 + 1}/{day % 7 + 1}/2024;{'?' if day else 'x'}{day};{1.5 if day != 7 else 'n.d.'};"
             f"{'1,250' if day % 2 else '950'};{day % 2}\n" for day in range(40))  # fmt: skip
    content = "day;code;size;cost;label\n" + "".join(lines)
    message = refusal(tmp_path, content)
    assert message.startswith("3 columns cannot be used: (1) row 2 (line 3), column 'cost': '1,250' is")
    assert "(2) row 8 (line 9), column 'day': '8/1/2024' may begin with the day" in message
    assert "'size': 'n.d.' is not a number" in message
    assert message.endswith(
        'To leave all out: drop: ["cost", "day", "size"] (--drop cost --drop day --drop size)'
    )
    (tmp_path / "t.csv").write_text(content)
    recipe = Recipe(label="label", drop=("day", "cost", "size"))
    assert ingest(Source(url=str(tmp_path / "t.csv")), recipe, tmp_path / "d").rows["train"] == 32


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"%PDF" + bytes(100), "a PDF file"),
        (bytes(range(256)) * 40, "control characters"),
        (b"a,b\n\xe9\x01\x02,1\n", "control characters"),
    ],
)
def test_a_file_that_is_not_text(tmp_path: Path, content: bytes, what: str):
    assert refusal(tmp_path, content) == (
        f"a table must be text, got {what}; export it as CSV, or give its encoding if it is text "
        "(e.g. utf-16)"
    )


def test_a_wrong_encoding(tmp_path: Path):
    message = refusal(tmp_path, "a,b,label\né,1,x\n".encode("latin-1"), encoding="utf-8")
    assert message == (
        "the text must be utf-8, but byte 0xe9 is not; give the right encoding, or leave it out to detect it"
    )


def test_a_damaged_gzip(tmp_path: Path):
    import gzip

    message = refusal(tmp_path, gzip.compress(GOOD.encode() * 50)[:-20])
    assert message.startswith("cannot read ")
    assert message.endswith("; check the address, the file and your access")


def test_a_quote_that_is_never_closed(tmp_path: Path):
    message = refusal(tmp_path, f'a,b,label\n{GOOD}1,"2,a\n{GOOD}')
    assert message.startswith('a quoted value must end, but a quote (")')
    assert message.endswith("or set the source's quote to empty if quotes are part of the values")


def test_numbers_beyond_the_arithmetic(tmp_path: Path):
    content = "a,label\n" + "".join(f"{v}e308,{i % 2}\n" for i, v in enumerate([-1.5, -1.5, 1.5, 1.5] * 9))
    message = refusal(tmp_path, content)
    assert message == (
        "numbers must fit the arithmetic, but column 'a' reaches from -1.5e+308 to 1.5e+308; "
        "scale it before, or drop the column"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": ""}, "label must name a column"),
        ({"label": ()}, r"label must be a text or a list of texts, got \(\)"),
        ({"label": 5}, "label must be a text or a list of texts, got 5"),
        ({"label": ["y", "z", "y"]}, "labels must differ, got 'y' twice"),
        ({"label": ["y", "z"], "groups": "z"}, "groups must name another column than the label, got 'z'"),
        ({"label": ["y", "z"], "task": "classification"}, "classification takes one label, got 2; name one"),
        (
            {"task": "ranking"},
            "task must be one of auto, classification, multilabel, regression, got 'ranking'",
        ),
        ({"drop": ("y",)}, "label must not be dropped, got 'y' in drop"),
        ({"drop": "abc"}, "drop must be a list of texts, got 'abc'"),
        ({"test_fraction": 1.0}, r"test_fraction must be in \(0, 1\), got 1.0"),
        ({"split_seed": -1}, "split_seed must be in"),
        ({"missing": "nought"}, "missing must be one of zero, mean, median, most_frequent, got 'nought'"),
        ({"scale": "log"}, "scale must be one of minmax, standard, none, got 'log'"),
        ({"lable": "y"}, "Recipe takes label, task, drop, .*got 'lable'"),
    ],
)
def test_a_recipe_that_breaks_a_rule(fields: dict, message: str):
    with pytest.raises(InputError, match=message):
        Recipe.from_dict({"label": "y"} | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": ""}, "url must name a file"),
        ({"delimiter": ",,"}, "delimiter must be one character, got ',,'"),
        ({"quote": "''"}, "quote must be one ASCII character or empty"),
        ({"delimiter": "|", "quote": "|"}, "quote and delimiter must differ"),
        ({"encoding": "utf-9"}, "encoding must be one that Python knows, got 'utf-9'"),
    ],
)
def test_a_source_that_breaks_a_rule(fields: dict, message: str):
    with pytest.raises(InputError, match=message):
        Source.from_dict({"url": "x.csv"} | fields)
