"""A dataset on disk is whole or refused, and gives its rows in every form alike."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

import dnnflow.table.store.column_blocks as table_module
import dnnflow.table.store.dataset as dataset_module
import dnnflow.table.store.ingest as ingest_module
from dnnflow.errors import DataError
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.columns.split import Part, row_keys
from dnnflow.table.store import chunks
from dnnflow.table.store.chunks import Split
from dnnflow.table.store.dataset import Dataset, epoch_order, open_cached
from dnnflow.table.store.ingest import ingest
from dnnflow.table.store.stage_tasks import scratch_prefix


@pytest.fixture(scope="module")
def many_chunks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """A dataset of several chunks in each split."""
    root = tmp_path_factory.mktemp("chunks")
    rows = "".join(f"{i},{i * i % 97},{i % 3}\n" for i in range(3000))
    (root / "table.csv").write_text(f"row,b,label\n{rows}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_CHUNK_BYTES", 8 * 130)
        recipe = Recipe(label="label", scale="none")
        yield ingest(Source(url=str(root / "table.csv")), recipe, root / "datasets", block_bytes=1 << 12)


@pytest.fixture
def copy(iris: Dataset, tmp_path: Path) -> Path:
    shutil.copytree(iris.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_zarr_reads_the_same_arrays(many_chunks: Dataset):
    for split in ("train", "test"):
        features, labels = many_chunks.arrays(split)
        stored = zarr.open_array(many_chunks.path / split / "X", mode="r")
        assert stored.metadata.zarr_format == 3
        assert stored.chunks == (130, 2)
        assert np.array_equal(stored[:], features)
        assert np.array_equal(zarr.open_array(many_chunks.path / split / "y", mode="r")[:], labels)


def test_every_row_is_in_one_split_with_its_label(many_chunks: Dataset):
    splits: tuple[Split, ...] = ("train", "test")
    rows = [many_chunks.arrays(s)[0][:, 0].astype(int) for s in splits]
    assert sorted(np.concatenate(rows)) == list(range(3000))
    for mine, split in zip(rows, splits, strict=True):
        assert np.array_equal(many_chunks.arrays(split)[1], mine % 3)
    assert many_chunks.rows == {"train": 2400, "test": 600}
    assert many_chunks.class_counts == {"train": (800, 800, 800), "test": (200, 200, 200)}


def test_arrays_are_what_engines_take(iris: Dataset):
    features, labels = iris.arrays("train")
    assert (features.dtype, labels.dtype) == (np.dtype(np.float32), np.dtype(np.int32))
    assert features.flags.c_contiguous
    assert features.shape == (120, iris.n_features) == (120, 4)
    assert iris.split_bytes("train") == features.nbytes + labels.nbytes
    with pytest.raises(ValueError, match="read-only"):
        features[0, 0] = 7


def test_arrays_are_read_once_a_process_and_do_not_travel(iris: Dataset):
    assert open_cached(iris.path) is open_cached(iris.path)
    assert iris.arrays("train")[0] is iris.arrays("train")[0]
    sent = pickle.dumps(iris)
    assert len(sent) < 20_000
    assert np.array_equal(pickle.loads(sent).arrays("train")[0], iris.arrays("train")[0])


@pytest.mark.parametrize("rows", [None, np.arange(5, 100, 2)])
def test_batches_follow_the_epochs_order(iris: Dataset, rows: np.ndarray | None):
    features, labels = iris.arrays("train")
    mine = np.arange(len(labels)) if rows is None else rows
    order = mine[epoch_order(len(mine), iris.seed, 3)]
    batches = list(iris.batches("train", 32, epoch=3, rows=rows))
    assert [len(y) for _, y in batches] == [32] * (len(mine) // 32) + [len(mine) % 32]
    assert np.array_equal(np.concatenate([x for x, _ in batches]), features[order])
    assert np.array_equal(np.concatenate([y for _, y in batches]), labels[order])


@pytest.mark.parametrize("wanted", [None, np.arange(0, 2400, 7)])
def test_shuffled_blocks_hold_every_row_once_in_the_epochs_own_order(many_chunks: Dataset, wanted):
    features, _ = many_chunks.arrays("train")
    expected = features[:, 0] if wanted is None else features[wanted, 0]
    seen = []
    for epoch in (0, 1, 0):
        blocks = list(many_chunks.shuffled_blocks("train", epoch=epoch, rows=wanted))
        assert len(blocks) == 3
        seen.append(np.concatenate([x[:, 0] for x, _ in blocks]))
        assert np.array_equal(np.concatenate([y for _, y in blocks]), seen[-1].astype(int) % 3)
    assert all(np.array_equal(np.sort(rows), np.sort(expected)) for rows in seen)
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[1])
    assert np.abs(np.diff(seen[0])).mean() > 200  # far from the order of the file


def test_a_part_is_made_once_and_read_only(iris: Dataset, monkeypatch: pytest.MonkeyPatch):
    fit, held = iris.part(Part(holdout=0.25))
    assert np.bincount(iris.labels("train")[held]).tolist() == [10, 10, 10]
    assert sorted(np.concatenate([fit, held])) == list(range(120))
    assert iris.part(Part(holdout=0.25))[0] is fit
    with pytest.raises(ValueError, match="read-only"):
        held[0] = 7
    monkeypatch.setattr(dataset_module, "_KEPT_PARTS", 2)
    for repeat in range(3):
        iris.part(Part(repeat=repeat))
    assert iris.part(Part(holdout=0.25))[0] is not fit


def test_labels_are_read_without_the_features(many_chunks: Dataset):
    opened = Dataset.open(many_chunks.path)
    assert np.array_equal(opened.labels("train"), many_chunks.arrays("train")[1])
    assert not opened.__dict__.get("_arrays")


def test_describe_is_plain_json(iris: Dataset):
    said = json.loads(json.dumps(iris.describe()))
    assert said["rows"] == {"train": 120, "test": 30}
    assert said["class_names"] == ["setosa", "versicolor", "virginica"]
    assert said["columns"][0] == {"name": "sepal_length_cm", "kind": "number", "missing": 0.0}


def test_the_id_stays_what_it_is(iris: Dataset):
    """Studies are found again by it; a change here must come with a new format version."""
    assert iris.id == iris.path.name == ("fd89c50028a389ae1c284071b57ad911c9cd024fc71c5b0c0d880762a3b50de7")


def test_the_id_tells_recipes_and_readings_apart(tmp_path: Path):
    (tmp_path / "a.csv").write_text("1,0\n2,1\n" * 9)
    source = Source(url=str(tmp_path / "a.csv"), header=False)
    ids = {
        ingest(source, Recipe(label=label, **fields), tmp_path / "datasets").id
        for label in ("column_1", "column_2")
        for fields in ({}, {"scale": "none"}, {"split_seed": 1}, {"test_fraction": 0.5})
    }
    assert len(ids) == 8


def test_a_directory_without_manifest_is_refused(copy: Path):
    (copy / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"a dataset must have a valid manifest .*FileNotFoundError"):
        Dataset.open(copy)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "seal": "x"}'])
def test_another_manifest_is_refused(copy: Path, content: str):
    (copy / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="a dataset must have a valid manifest"):
        Dataset.open(copy)


def test_a_changed_manifest_is_refused(copy: Path):
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"setosa"', '"sesota"'))
    with pytest.raises(DataError, match="its manifest was changed"):
        Dataset.open(copy)


@pytest.mark.parametrize("file", ["train/X/c/0/0", "test/y/c/0"])
@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_missing_chunk_is_not_taken_for_zeros(copy: Path, file: str, damage: str):
    if damage == "gone":
        (copy / file).unlink()
    else:
        (copy / file).write_bytes((copy / file).read_bytes()[:-4])
    with pytest.raises(DataError, match=f"chunk {file} is missing or cut short"):
        Dataset.open(copy)


def test_a_damaged_chunk_is_noticed(copy: Path):
    chunk = copy / "train/X/c/0/0"
    chunk.write_bytes(bytes(1) + chunk.read_bytes()[1:-1] + b"\x7f")
    dataset = Dataset.open(copy)
    with pytest.raises(DataError, match=r"train/X/c/0/0 is not \(its checksum differs\); delete"):
        dataset.arrays("train")
    with pytest.raises(DataError, match="checksum differs"):
        dataset.verify()


@pytest.mark.slow
@pytest.mark.parametrize("exact_rows", [10**6, 100])
def test_blocks_on_disk_give_what_blocks_in_memory_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact_rows: int
):
    """A table may be larger than what is held in memory: the first blocks are held, the others are not."""
    monkeypatch.setattr(ingest_module, "EXACT_SPLIT_ROWS", exact_rows)
    rows = "".join(f"{i},{'' if i % 11 == 0 else i % 13},{'rgb'[i % 3]},{i % 2}\n" for i in range(2000))
    (tmp_path / "a.csv").write_text(f"row,n,color,label\n{rows}")
    made = []
    for held in (1 << 30, 4000, 0):
        monkeypatch.setattr(table_module, "HELD_BYTES", held)
        for missing in ("zero", "median", "most_frequent"):
            recipe = Recipe(label="label", missing=missing)
            source = Source(url=str(tmp_path / "a.csv"))
            made.append(ingest(source, recipe, tmp_path / str(held), block_bytes=1000).manifest)
    assert made[:3] == made[3:6] == made[6:]
    assert made[0]["class_counts"]["test"] == (
        [200, 200] if exact_rows > 2000 else [sum_below(0), sum_below(1)]
    )


def sum_below(code: int) -> int:
    """Return how many of 2,000 rows, whose class is row mod 2, have a key below a fifth of the range."""
    keys = row_keys(0, 0, 2000)
    return int((keys[code::2] < int(0.2 * 2.0**64)).sum())


def test_what_a_killed_process_left_is_removed(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / scratch_prefix(dead.pid).removesuffix("-")
    other = tmp_path / scratch_prefix(os.getpid()).removesuffix("-")
    for directory in (left, other):
        directory.mkdir()
        (directory / "0.arrow").write_text("rows")
    (tmp_path / "a.csv").write_text("x,y\n1,0\n2,1\n3,0\n4,1\n")
    dataset = ingest(Source(url=str(tmp_path / "a.csv")), Recipe(label="y"), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([other.name, "a.csv", dataset.id])


def test_to_ingest_loads_neither_pandas_nor_zarr(tmp_path: Path):
    """Their imports take longer than most tables."""
    (tmp_path / "a.csv").write_text("x,y\n1,0\n2,1\n3,0\n4,1\n")
    code = (
        "import sys; from pathlib import Path; from dnnflow.table.store.ingest import ingest; "
        "from dnnflow.table.columns.recipe import Recipe, Source; "
        f"ingest(Source(url={str(tmp_path / 'a.csv')!r}), Recipe(label='y'), Path({str(tmp_path)!r})); "
        "sys.exit(' '.join({'pandas', 'zarr', 'dask', 'tensorflow'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_dataset_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.csv").write_text("x,y\n1,0\n2,1\n" * 1 + "3,0\n4,1\n")

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(chunks, "_write", fail)
    with pytest.raises(OSError, match="disk full"):
        ingest(Source(url=str(tmp_path / "a.csv")), Recipe(label="y"), tmp_path / "datasets")
    assert not list((tmp_path / "datasets").iterdir())
