"""Codes with leading zeros that are read as numbers are told, with a remedy that keeps them."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.table.columns.kinds import ColumnKind
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest
from dnnflow.web.contract.web_config import UploadLimits
from dnnflow.web.uploads.text_profile import GrowingFile, SentSource, profile_file


def read(texts: list[str], folder: Path, *, block_bytes: int = 1 << 20, **fields) -> Dataset:
    lines = [f"{text},{n % 7}.5,{'ab'[n % 2]}" for n, text in enumerate(texts)]
    (folder / "table.csv").write_text("\n".join(["zip,size,kind", *lines]) + "\n")
    source = Source(url=str(folder / "table.csv"))
    return ingest(source, Recipe(label="kind", **fields), folder / "datasets", block_bytes=block_bytes)


def told(notes: tuple[str, ...]) -> list[str]:
    return [note for note in notes if "begin with 0" in note]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 9).flatmap(lambda n: st.lists(st.text("0123456789", min_size=n, max_size=n), min_size=8)),
    st.booleans(),
)
def test_numbers_of_one_width_with_a_leading_zero_are_told(texts: list[str], is_uneven: bool):
    """Nothing is told of others: of different widths, or none of which begins with 0."""
    texts = texts * 2 + ["1" + "0" * len(texts[0])] * is_uneven
    with tempfile.TemporaryDirectory() as folder:
        found = told(read(texts, Path(folder), block_bytes=64).notes)
        assert bool(found) == (not is_uneven and any(text.startswith("0") for text in texts))


def test_the_remedy_keeps_codes_as_text(tmp_path: Path):
    texts = ["02134", "90210", "10001", "02134"] * 8
    (note,) = told(read(texts, tmp_path).notes)
    assert "'02134'" in note
    assert "text_columns: [zip] (--text-column 'zip')" in note
    kept = read(texts, tmp_path, text_columns=["zip"])
    assert not told(kept.notes)
    assert kept.schema[0].kind is ColumnKind.TEXT
    assert "zip=02134" in kept.feature_names


def test_the_first_leading_zero_may_stand_far_behind(tmp_path: Path):
    texts = [f"{10_000 + n}" for n in range(9_000)]
    assert told(read([*texts, "01234"], tmp_path, block_bytes=20_000).notes)
    assert not told(read([*texts, "1234"], tmp_path, block_bytes=20_000).notes)


@pytest.mark.parametrize("missing", [(), ("-9",), ("99999",)])
def test_missing_values_have_any_width(missing: tuple[str, ...], tmp_path: Path):
    texts = ["02134", "90210", "", "NA", *missing] * 6
    assert told(read(texts, tmp_path, missing_values=missing).notes)


@pytest.mark.parametrize(
    "texts", [["0.5", "1.5"], ["0", "1"], ["10", "20"], ["007", "12"], ["-01", "+05"], ["01:05"]]
)
def test_other_values_are_not_told(texts: list[str], tmp_path: Path):
    assert not told(read(texts * 10, tmp_path).notes)


def test_a_sent_table_is_told_alike(tmp_path: Path):
    (note,) = told(read(["02134", "90210", "10001"] * 8, tmp_path).notes)
    file = GrowingFile(tmp_path / "table.csv")
    file.grow((tmp_path / "table.csv").stat().st_size)
    file.finish()
    source = SentSource("table.csv", None, '"', None, True, {})
    assert note in profile_file(file, source, UploadLimits()).notes
