"""After the test all rows are training rows: those that were, then the test rows."""

import pickle
from collections.abc import Iterator

import numpy as np
import pytest

from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.columns.split import Part, divide
from dnnflow.table.store import chunks
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest
from dnnflow.table.store.whole_dataset import WholeDataset


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """A dataset of several chunks in each split, whose training rows are grouped."""
    root = tmp_path_factory.mktemp("whole")
    rows = "".join(f"{i},{i * i % 97},{i % 40},{i % 3}\n" for i in range(1500))
    (root / "table.csv").write_text(f"row,b,group,label\n{rows}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_CHUNK_BYTES", 8 * 100)
        recipe = Recipe(label="label", scale="none", groups="group")
        yield ingest(Source(url=str(root / "table.csv")), recipe, root / "datasets", block_bytes=1 << 12)


def test_its_training_rows_are_all_rows_in_the_datasets_order(divided: Dataset) -> None:
    whole = WholeDataset.of(divided)
    assert WholeDataset.of(divided) is whole
    features, labels = whole.arrays("train")
    parts = [divided.arrays("train"), divided.arrays("test")]
    np.testing.assert_array_equal(features, np.concatenate([one[0] for one in parts]))
    np.testing.assert_array_equal(labels, np.concatenate([one[1] for one in parts]))
    np.testing.assert_array_equal(whole.labels("train"), labels)
    np.testing.assert_array_equal(whole.arrays("test")[0], parts[1][0])
    assert not features.flags.writeable
    assert whole.rows == {"train": 1500, "test": divided.rows["test"]}
    assert whole.class_counts["train"] == (500, 500, 500)
    assert whole.split_bytes("train") == features.nbytes + labels.nbytes
    assert divided.rows["train"] == 1500 - divided.rows["test"]


def test_a_part_of_it_is_held_out_class_by_class(divided: Dataset) -> None:
    whole, part = WholeDataset.of(divided), Part(holdout=0.1)
    assert divided.marks().groups is not None
    fit, held = whole.part(part)
    expected = divide(part, divided.seed, whole.labels("train"))
    np.testing.assert_array_equal(fit, expected[0])
    np.testing.assert_array_equal(held, expected[1])
    assert len(held) == 150
    assert (held >= divided.rows["train"]).any()
    assert not whole.marks_validation
    assert len(whole.part(Part(holdout=0.0))[0]) == 1500


@pytest.mark.parametrize("wanted", [None, np.arange(0, 1500, 7)])
def test_its_blocks_hold_every_row_once_in_the_epochs_own_order(
    divided: Dataset, wanted: np.ndarray | None
) -> None:
    whole, orders = WholeDataset.of(divided), []
    features, labels = whole.arrays("train")
    chosen = np.arange(1500) if wanted is None else wanted
    for epoch in (0, 0, 1):
        blocks = list(whole.shuffled_blocks("train", epoch=epoch, rows=wanted))
        rows = np.concatenate([block[0] for block in blocks])
        assert len(blocks) > 1
        order = np.argsort(rows[:, 0])
        expected = np.argsort(features[chosen][:, 0])
        np.testing.assert_array_equal(rows[order], features[chosen][expected])
        found = np.concatenate([block[1] for block in blocks])
        np.testing.assert_array_equal(found[order], labels[chosen][expected])
        orders.append(rows[:, 0].tolist())
    assert orders[0] == orders[1] != orders[2]
    tests = np.concatenate([block[0] for block in whole.shuffled_blocks("test", epoch=0)])
    assert sorted(tests[:, 0]) == sorted(divided.arrays("test")[0][:, 0])


def test_it_travels_without_rows(divided: Dataset) -> None:
    whole = WholeDataset.of(divided)
    whole.arrays("train")
    sent = pickle.dumps(whole)
    assert len(sent) < 20_000
    np.testing.assert_array_equal(pickle.loads(sent).labels("train"), whole.labels("train"))
