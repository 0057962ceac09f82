"""A file is predicted in blocks, as it is whole, and nothing is written of one that cannot be."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnnflow.errors import DataError
from dnnflow.run.models.predict_file import predict_file
from dnnflow.run.models.saved_model import NOTE, SavedModel
from dnnflow.table.columns import preprocess, raw_values
from dnnflow.table.columns.kinds import Markers
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.formats import rows_file
from dnnflow.table.formats.rows_file import read_rows
from dnnflow.table.store.ingest import ingest
from dnnflow.table.text import csv_reader, source_text

ROWS = 3000


class SumModel:
    """Says of a row's second class how large its features are."""

    def predict_on_batch(self, features: np.ndarray) -> np.ndarray:
        share = features.mean(axis=1)
        return np.stack([1 - share, share], axis=1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    root = tmp_path_factory.mktemp("trained")
    rows(200).to_csv(root / "t.csv", index=False)
    source = Source(url=str(root / "t.csv"))
    dataset = ingest(source, Recipe(label="kind", drop=("id",), missing_values=("-999",)), root)
    return SavedModel(SumModel(), dataset.fitted, dataset.class_names, {}, dataset.reading)


def rows(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    values = rng.normal(20, 5, n).round(4).astype(str)
    values[::50] = "-999.0"
    return pd.DataFrame(
        {
            "id": np.arange(n),
            "heat": values,
            "town": rng.choice(["Bern", "Oslo"], n),
            "kind": rng.choice(["a", "b"], n),
        }
    )


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_file, "_BATCH_ROWS", 700)
    cut = source_text.open_text
    monkeypatch.setattr(csv_reader, "open_text", lambda *args: cut(*args, block_bytes=20_000))


@pytest.mark.usefixtures("in_blocks")
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_blocks_are_predicted_as_the_whole(saved: SavedModel, tmp_path: Path, suffix: str) -> None:
    table = rows(ROWS)
    table.loc[2500, "town"] = "Rome"  # a note, in a late block only
    source = Source(url=str(tmp_path / f"rows{suffix}"))
    write, read = ("to_csv", pd.read_csv) if suffix == ".csv" else ("to_parquet", pd.read_parquet)
    getattr(table, write)(source.url, index=False)
    assert predict_file(saved, saved.blocks(source.url), tmp_path / f"out{suffix}", ["id"]) == ROWS
    whole = saved.predict_beside(read_rows(source), ["id"])
    getattr(whole, write)(tmp_path / f"whole{suffix}", index=False)
    pd.testing.assert_frame_equal(read(tmp_path / f"out{suffix}"), read(tmp_path / f"whole{suffix}"))
    assert whole[NOTE].astype(bool).sum() == 1


@pytest.mark.usefixtures("in_blocks")
def test_a_wrong_row_is_named_and_nothing_is_written(saved: SavedModel, tmp_path: Path) -> None:
    table = rows(ROWS)
    table.loc[2800, "heat"] = "warm"
    table.to_csv(tmp_path / "rows.csv", index=False)
    out = tmp_path / "out" / "p.csv"
    with pytest.raises(DataError, match=r"row 2801, column 'heat': 'warm'"):
        predict_file(saved, saved.blocks(str(tmp_path / "rows.csv")), out)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    "text",
    ["+3", "1_0", "0x10", "1,5", "inf", "1e400", "NaN", "NA", " 4 ", "-999.0", "\u22125", "9007199254740993"],
)
def test_texts_read_at_once_are_the_numbers_that_they_are_one_by_one(text: str) -> None:
    markers = Markers(("-999",))
    fast = raw_values.plain_numbers(pd.Series([text, "1", None]), markers)
    if fast is not None:
        column = preprocess.NumberColumn("x", 0.0, 0.0, 1.0, 0.0, 1.0, False)
        slow = preprocess._number(column, text, markers)
        if fast[0] not in markers.numbers:  # these are found once all are read
            np.testing.assert_array_equal(fast[0], slow)
        assert fast[1] == 1
        assert np.isnan(fast[2])
    else:
        assert text in {"1_0", "0x10", "1,5", "inf", "1e400", "\u22125"}
