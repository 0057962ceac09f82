"""Files of every format give their rows alike, a range at a time, or say which file is at fault and why."""

import json
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.errors import DataError, InputError
from dnnflow.events import Event, Notice
from dnnflow.table.rows import file_names
from dnnflow.table.rows.array_source import ArraySource, DatasetSource
from dnnflow.table.rows.files import FileList
from dnnflow.table.rows.source import Chunk, Field, RowSource
from dnnflow.table.rows.sources import Reading, open_source
from dnnflow.table.rows.user_source import Data, UserSource

Arrays = dict[str, np.ndarray]
ENDINGS = {"hdf5": ".h5", "zarr": ".zarr", "npz": ".npz", "parquet": ".parquet"}
FORMATS = sorted(ENDINGS)
GROUPED = ("hdf5", "npz", "zarr")


def write_hdf5(path: Path, arrays: Arrays) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def write_zarr(path: Path, arrays: Arrays) -> None:
    group = zarr.open_group(path, mode="w")
    for name, array in arrays.items():
        stored = group.create_array(
            name, shape=array.shape, dtype=array.dtype, chunks=(64, *array.shape[1:]), compressors=None
        )
        stored[...] = array


def write_npz(path: Path, arrays: Arrays) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]  # a name may be that of an option


def write_parquet(path: Path, arrays: Arrays) -> None:
    columns = {
        name: array if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(array.ravel(), array.shape[1])
        for name, array in arrays.items()
    }
    pq.write_table(pa.table(columns), path, row_group_size=64)


WRITERS = {"hdf5": write_hdf5, "zarr": write_zarr, "npz": write_npz, "parquet": write_parquet}


def write(form: str, folder: Path, name: str, arrays: Arrays) -> Path:
    path = folder / f"{name}{ENDINGS[form]}"
    WRITERS[form](path, arrays)
    return path


def some_rows(rows: int, first: int = 0, width: int = 3) -> Arrays:
    """Rows that know their number."""
    numbers = np.arange(first, first + rows, dtype=np.float32)
    return {"features": numbers[:, None] + np.arange(width, dtype=np.float32) / 8, "labels": numbers % 5}


def write_list(form: str, folder: Path, counts: tuple[int, ...] = (200, 0, 130)) -> list[Path]:
    firsts = np.cumsum([0, *counts])
    return [
        write(form, folder, f"part{i}", some_rows(count, int(firsts[i]))) for i, count in enumerate(counts)
    ]


def all_rows(source: RowSource, rows: int = 50) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Read a source to its end, chunk by chunk."""
    with source.reader() as read:
        parts = [read(chunk) for chunk in source.chunks(rows)]
    inputs = [np.concatenate(arrays) for arrays in zip(*(part[0] for part in parts), strict=True)]
    return inputs, [np.concatenate(arrays) for arrays in zip(*(part[1] for part in parts), strict=True)]


# Every format


@pytest.mark.parametrize("form", FORMATS)
def test_a_list_gives_every_row_with_its_label(form: str, tmp_path: Path):
    files = FileList.open(write_list(form, tmp_path))
    assert files.counts == (200, 0, 130)
    assert (files.rows, files.format) == (330, form)
    assert [(f.shape, f.dtype) for f in (*files.inputs, *files.targets)] == [
        ((3,), "float32"),
        ((), "float32"),
    ]
    (features,), (labels,) = all_rows(files)
    assert np.array_equal(features, some_rows(330)["features"])
    assert np.array_equal(labels, some_rows(330)["labels"])


@pytest.mark.parametrize("form", FORMATS)
def test_any_range_is_what_a_slice_gives(form: str, tmp_path: Path):
    files = FileList.open([write(form, tmp_path, "one", some_rows(300))])
    whole = some_rows(300)
    ranges = [(0, 1), (1, 70), (70, 71), (71, 140), (10, 20), (299, 300), (0, 300), (130, 130)]
    with files.reader() as read:
        for start, stop in ranges:
            (features,), (labels,) = read(Chunk(0, start, stop))
            assert np.array_equal(features, whole["features"][start:stop]), (start, stop)
            assert np.array_equal(labels, whole["labels"][start:stop])
    assert np.array_equal(files.read(Chunk(0, 5, 9))[0][0], whole["features"][5:9])


def read_bytes() -> int:
    """Bytes that this process has read so far, from the page cache too."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(lines[0].removeprefix("rchar: "))


@pytest.mark.parametrize("form", FORMATS)
def test_a_few_rows_cost_no_whole_file(form: str, tmp_path: Path):
    values = np.random.default_rng(0).random((20_000, 64), dtype=np.float32)  # 5 MB
    path = write(form, tmp_path, "one", {"features": values, "labels": values[:, 0]})
    FileList.open([path]).read(Chunk(0, 0, 1))  # libraries are loaded before it counts
    before = read_bytes()
    files = FileList.open([path])
    (features,), _ = files.read(Chunk(0, 10_000, 10_050))
    assert read_bytes() - before < 700_000
    assert np.array_equal(features, values[10_000:10_050])


@pytest.mark.parametrize("form", FORMATS)
def test_names_can_be_others(form: str, tmp_path: Path):
    rows = some_rows(20)
    path = write(form, tmp_path, "one", {"x": rows["features"], "y": rows["labels"], "z": rows["labels"]})
    files = FileList.open([path], features="x", labels=["y", "z"])
    (features,), targets = all_rows(files)
    assert np.array_equal(features, rows["features"])
    assert np.array_equal(np.stack([t for t in targets]).reshape(-1)[:20], rows["labels"][:20]) or (
        form == "parquet" and np.array_equal(targets[0], np.stack([rows["labels"]] * 2, axis=1))
    )


@pytest.mark.parametrize("form", GROUPED)
def test_a_group_is_several_inputs_in_alphabetical_order(form: str, tmp_path: Path):
    rng = np.random.default_rng(0)
    arrays = {
        "features/b": rng.random((30, 2)),
        "features/a/z": rng.random((30, 4, 5)),
        "features/a/c": rng.integers(0, 9, (30,)),
        "labels/two": rng.random((30, 1)),
        "labels/one": rng.random((30, 6)),
    }
    files = FileList.open([write(form, tmp_path, "one", arrays)])
    assert [field.name for field in files.inputs] == ["features/a/c", "features/a/z", "features/b"]
    assert [field.name for field in files.targets] == ["labels/one", "labels/two"]
    inputs, targets = all_rows(files, 7)
    for field, got in zip((*files.inputs, *files.targets), (*inputs, *targets), strict=True):
        assert np.array_equal(got, arrays[field.name])
        assert (got.dtype.name, got.shape[1:]) == (field.dtype, field.shape)
    (only,), _ = all_rows(FileList.open(files.paths, features="features/a/c", labels="labels"))
    assert np.array_equal(only, arrays["features/a/c"])


# Which files are meant


def test_a_text_file_lists_paths_relative_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "data").mkdir()
    paths = write_list("hdf5", tmp_path / "data")
    (tmp_path / "lists").mkdir()
    text = tmp_path / "lists" / "train_files"
    text.write_text(f"# training\n../data/part0.h5\n\n{paths[1]}\n  ../data/part2.h5  \n")
    monkeypatch.chdir("/")
    assert FileList.open(text).paths == tuple(map(str, paths))


def test_a_glob_a_single_file_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = write_list("npz", tmp_path)
    assert FileList.open(tmp_path / "part*.npz").paths == tuple(map(str, paths))
    assert FileList.open(str(paths[0])).paths == (str(paths[0]),)
    monkeypatch.chdir(tmp_path)
    assert FileList.open(["part2.npz", "part0.npz"]).paths == (str(paths[2]), str(paths[0]))
    assert FileList.open(f"file://{paths[0]}").paths == (str(paths[0]),)


def test_a_zarr_directory_is_one_file(tmp_path: Path):
    path = write("zarr", tmp_path, "one", some_rows(20))
    path.rename(tmp_path / "plain")
    assert FileList.open(tmp_path / "plain").rows == 20


@pytest.mark.parametrize("form", ["hdf5", "npz", "parquet"])
def test_a_file_without_its_ending_is_known_by_its_first_bytes(form: str, tmp_path: Path):
    path = write(form, tmp_path, "one", some_rows(20))
    path.rename(tmp_path / "plain")
    assert FileList.open(tmp_path / "plain").format == form


@pytest.fixture
def bucket():
    """A folder of fsspec's in-memory file system, as URL."""
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    fsspec.filesystem("memory").rm(url.removeprefix("memory:/"), recursive=True)


def upload(paths: list[Path], url: str) -> list[str]:
    remote = fsspec.filesystem("memory")
    for path in paths:
        remote.put(str(path), f"{url}/{path.name}", recursive=True)
    return [f"{url}/{path.name}" for path in paths]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_urls_are_read_in_place_or_from_a_copy(form: str, cached: bool, tmp_path: Path, bucket: str):
    urls = upload(write_list(form, tmp_path), bucket)
    copies = tmp_path / "copies" if cached else None
    (features,), (labels,) = all_rows(FileList.open(urls, cache_dir=copies))
    assert np.array_equal(features, some_rows(330)["features"])
    assert np.array_equal(labels, some_rows(330)["labels"])
    if copies is not None:
        made = [path for path in copies.iterdir() if not path.name.startswith(".")]
        assert len(made) == 2  # the empty file is never read


def test_urls_in_globs_and_text_files(tmp_path: Path, bucket: str):
    urls = upload(write_list("hdf5", tmp_path), bucket)
    fsspec.filesystem("memory").pipe(f"{bucket}/list.txt", b"part0.h5\npart2.h5\n")
    assert all_rows(FileList.open(f"{bucket}/part*.h5"))[0][0].shape == (330, 3)
    assert FileList.open(f"{bucket}/list.txt").paths == (urls[0], urls[2])


def refused(match: str, files: object, **options: object) -> str:
    with pytest.raises(DataError, match=match) as caught:
        FileList.open(files, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_what_is_no_list_of_files_is_refused(tmp_path: Path):
    h5, npz = (write(form, tmp_path, "one", some_rows(5)) for form in ("hdf5", "npz"))
    refused("one format, got hdf5 .*one.h5.* and npz .*one.npz", [h5, npz])
    refused("each file once, got .*one.h5 twice", [h5, h5])
    refused("at least one file", [])
    refused("must exist, got .*nothing", tmp_path / "nothing")
    refused("glob must match", tmp_path / "*.none")
    refused("all files of a directory", tmp_path)
    refused("h5 is not .FileNotFoundError", [tmp_path / "gone.h5"])
    (tmp_path / "words").write_bytes(b"\xff\xfe\xfa")
    refused("text file of paths, got .*words", tmp_path / "words")
    refused("must be HDF5, zarr, npz or Parquet, got .*words", [tmp_path / "words"])
    refused("at least 1 row, got 0", [write("hdf5", tmp_path, "empty", some_rows(0))])


@pytest.mark.parametrize("form", FORMATS)
def test_files_that_differ_are_refused_by_name(form: str, tmp_path: Path):
    good = write(form, tmp_path, "good", some_rows(5))
    wide = write(form, tmp_path, "wide", some_rows(5, width=4))
    double = {name: array.astype("float64") for name, array in some_rows(5).items()}
    message = refused("same inputs", [good, wide])
    assert str(good) in message
    assert str(wide) in message
    assert "(4,)" in message
    assert "float64" in refused("same inputs", [good, write(form, tmp_path, "double", double)])


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_lacks_a_name_says_what_it_has(form: str, tmp_path: Path):
    path = write(form, tmp_path, "one", some_rows(5))
    message = refused("got target, it has", [path], labels="target")
    assert str(path) in message
    assert "labels" in message


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("form", FORMATS)
def test_words_are_refused(form: str, tmp_path: Path):
    rows = some_rows(5) | {"labels": np.array(["a", "b", "c", "d", "e"])}
    if form == "hdf5":
        rows["labels"] = rows["labels"].astype("S1")
    path = write(form, tmp_path, "one", rows)
    assert "labels" in refused("must be numbers", [path])


@pytest.mark.parametrize("form", GROUPED)
def test_arrays_of_unequal_length_are_refused(form: str, tmp_path: Path):
    rows = some_rows(5) | {"labels": np.zeros(6)}
    refused("as many rows, got .*'labels': 6", [write(form, tmp_path, "one", rows)])


@pytest.mark.parametrize("form", ["hdf5", "npz", "parquet"])
def test_a_damaged_file_is_named(form: str, tmp_path: Path):
    path = write(form, tmp_path, "one", some_rows(500))
    files = FileList.open([path])
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"readable and whole, but .*one"):
        files.read(Chunk(0, 400, 500))
    refused("readable and whole, but .*one", [path])


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_became_shorter_is_not_taken_for_whole(form: str, tmp_path: Path):
    path = write(form, tmp_path, "one", some_rows(100))
    files = FileList.open([path])
    write(form, tmp_path, "one", some_rows(60))
    with pytest.raises(DataError, match="rows 50 to 100 are no longer there"):
        files.read(Chunk(0, 50, 100))


# What is particular to a format


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (7, 3)},
        {"chunks": (40, 2), "compression": "gzip", "shuffle": True},
        {"dtype": ">f4"},
        {"dtype": "f2"},
        {"maxshape": (None, 3)},
    ],
)
def test_hdf5_datasets_of_every_layout(options: dict, tmp_path: Path):
    with h5py.File(tmp_path / "one.h5", "w", userblock_size=512) as file:
        file.create_dataset("features", data=some_rows(90)["features"] // 1, **options)
        file["labels"] = np.arange(90) % 2 == 0
    (features,), (labels,) = all_rows(FileList.open(tmp_path / "one.h5"), 20)
    assert np.array_equal(features, some_rows(90)["features"] // 1)
    assert features.dtype.isnative
    assert np.array_equal(labels, np.arange(90) % 2 == 0)


def test_hdf5_links_and_values_that_were_never_written(tmp_path: Path):
    write("hdf5", tmp_path, "other", some_rows(40))
    layout = h5py.VirtualLayout((40, 3), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "features", (40, 3))
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file.create_virtual_dataset("features/a", layout)
        file["features/b"] = h5py.ExternalLink("other.h5", "features")
        file.create_dataset("labels", shape=(40,), dtype="i4", fillvalue=7)
    inputs, (labels,) = all_rows(FileList.open(tmp_path / "one.h5"))
    assert all(np.array_equal(array, some_rows(40)["features"]) for array in inputs)
    assert labels.tolist() == [7] * 40


def test_hdf5_bfloat16_is_converted_by_hdf5(tmp_path: Path):
    bfloat16 = h5py.h5t.IEEE_F32LE.copy()
    bfloat16.set_fields(15, 7, 8, 0, 7)
    bfloat16.set_size(2)
    bfloat16.set_ebias(127)
    with h5py.File(tmp_path / "one.h5", "w") as file:
        made = h5py.h5d.create(file.id, b"features", bfloat16, h5py.h5s.create_simple((40, 3)))
        h5py.Dataset(made)[...] = some_rows(40)["features"] // 1
        file["labels"] = np.zeros(40)
    (features,), _ = all_rows(FileList.open(tmp_path / "one.h5"))
    assert np.array_equal(features, some_rows(40)["features"] // 1)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_arrays_of_every_layout(save: Callable, tmp_path: Path):
    cube = np.arange(50 * 2 * 3, dtype=">i4").reshape(50, 2, 3)
    save(
        tmp_path / "one.npz",
        **{"features/a": np.asfortranarray(cube), "features/b": cube, "labels": cube[:, 0]},
    )
    files = FileList.open(tmp_path / "one.npz")
    with files.reader() as read:
        for start, stop in ((10, 30), (0, 50), (49, 50)):
            inputs, _ = read(Chunk(0, start, stop))
            for array in inputs:
                assert np.array_equal(array, cube[start:stop])
                assert array.dtype == np.int32


def write_columns(path: Path, rows: int, **columns: object) -> None:
    numbers = np.arange(rows)
    table = {"a": numbers * 0.5, "b": numbers.astype("f4"), "c": numbers % 2 == 1, **columns}
    pq.write_table(pa.table(table), path, row_group_size=16)


def test_parquet_columns_become_one_input(tmp_path: Path):
    write_columns(tmp_path / "one.parquet", 100, label=np.arange(100) % 3, other=np.arange(100))
    files = FileList.open(tmp_path / "one.parquet", labels="label")
    (features,), (labels,) = all_rows(files, 30)
    assert features.shape == (100, 4)
    assert np.array_equal(features[:, 0], np.arange(100) / 2)
    assert np.array_equal(features[:, 2], np.arange(100) % 2)
    assert np.array_equal(labels, np.arange(100) % 3)
    chosen = FileList.open(files.paths, features=("b", "a"), labels=("label", "c"))
    (features,), (labels,) = all_rows(chosen, 30)
    assert np.array_equal(features, np.arange(100)[:, None] * [1, 0.5])
    assert labels.shape == (100, 2)
    (features,), (labels,) = all_rows(FileList.open(files.paths, features=["b"], labels=["label"]))
    assert features.shape == labels.shape == (100, 1)


def test_parquet_missing_values_and_mixed_columns_are_refused(tmp_path: Path):
    write_columns(tmp_path / "one.parquet", 40, label=pa.array([None, *range(39)]))
    with pytest.raises(DataError, match="no missing values, but label has 1"):
        all_rows(FileList.open(tmp_path / "one.parquet", labels="label"))
    pairs = pa.FixedSizeListArray.from_arrays(np.arange(80), 2)
    write_columns(tmp_path / "two.parquet", 40, label=np.arange(40), pairs=pairs)
    refused("all numbers or all fixed-size lists, got pairs", tmp_path / "two.parquet", labels="label")
    lists = pa.array([[1.0]] * 40)
    write_columns(tmp_path / "three.parquet", 40, label=np.arange(40), lists=lists)
    refused("but lists is list", tmp_path / "three.parquet", labels="label")


# Chunks


class Counts(ArraySource):
    """A source of which only counts matter."""

    def __init__(self, counts: list[int], grains: list[int]) -> None:
        field = (Field("x", (2,), "float32"),)
        super().__init__(
            inputs=field,
            targets=field,
            counts=tuple(counts),
            grains=tuple(grains),
            arrays=(),
        )


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), max_size=6),
    st.integers(1, 100),
)
def test_chunks_hold_every_row_once_and_end_where_storage_does(files: list[tuple[int, int]], rows: int):
    source = Counts([count for count, _ in files], [grain for _, grain in files])
    chunks = source.chunks(rows)
    assert [(c.file, row) for c in chunks for row in range(c.start, c.stop)] == [
        (file, row) for file, (count, _) in enumerate(files) for row in range(count)
    ]
    for chunk in chunks:
        count, grain = files[chunk.file]
        assert chunk.rows <= max(rows, grain)
        assert chunk.stop % grain == 0 or chunk.stop == count


def test_chunks_are_nearly_equal_and_travel_as_json(tmp_path: Path):
    assert [chunk.rows for chunk in Counts([100], [1]).chunks(40)] == [33, 33, 34]
    with pytest.raises(InputError, match="at least 1 row"):
        Counts([100], [1]).chunks(0)
    chunk = Chunk(3, 5, 9)
    assert Chunk(*json.loads(json.dumps(astuple(chunk)))) == pickle.loads(pickle.dumps(chunk)) == chunk


@pytest.mark.parametrize("form", ["hdf5", "parquet", "zarr"])
def test_no_storage_chunk_is_decoded_for_two_replicas(form: str, tmp_path: Path):
    path = write(form, tmp_path, "one", some_rows(300))
    if form == "hdf5":
        with h5py.File(path, "w") as file:
            file.create_dataset("features", data=some_rows(300)["features"], chunks=(64, 3))
            file.create_dataset("labels", data=some_rows(300)["labels"], chunks=(32,))
    assert all(chunk.start % 64 == 0 for chunk in FileList.open(path).chunks(100))


def test_a_trainings_chunks_are_many_but_not_small(tmp_path: Path):
    source = Counts([100_000], [1])
    assert source.chunk_rows(readers=4, batch_size=32) == 1563
    assert source.chunk_rows(readers=4, batch_size=5000) == 5000
    assert source.chunk_rows(readers=1, batch_size=1, chunk_bytes=1600) == 100
    assert Counts([10], [1]).chunk_rows(readers=4, batch_size=32) == 10


# Copies


def copies_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_is_copied_once_until_it_changes(form: str, tmp_path: Path):
    paths = write_list(form, tmp_path, (40, 30))
    files = FileList.open(paths, cache_dir=tmp_path / "copies")
    assert all_rows(files)[0][0].shape == (70, 3)
    made = copies_in(tmp_path / "copies")
    stamps = [path.stat().st_mtime_ns for path in made]
    all_rows(files)
    assert [path.stat().st_mtime_ns for path in copies_in(tmp_path / "copies")] == stamps
    assert len(made) == 2
    if form == "zarr":
        (paths[0] / "zarr.json").unlink()
    write(form, tmp_path, "part0", some_rows(40, first=1000))
    assert all_rows(files)[0][0].max() > 1000


def test_two_at_once_copy_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = write_list("hdf5", tmp_path, (40,))
    calls = []
    copy = file_names._copy

    def slow(*args: Any) -> None:
        calls.append(args)
        time.sleep(0.1)  # the others come to the lock
        copy(*args)

    monkeypatch.setattr(file_names, "_copy", slow)
    files = FileList.open(paths, cache_dir=tmp_path / "copies")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: all_rows(files)[0][0].shape, range(8)))
    assert found == [(40, 3)] * 8
    assert len(calls) == 1


def test_without_a_copy_files_are_read_where_they_are(tmp_path: Path):
    paths = write_list("hdf5", tmp_path, (40, 30))
    (tmp_path / "no folder").write_text("")
    files = FileList.open(paths, cache_dir=tmp_path / "no folder")
    heard: list[Event] = []
    with files.reader(heard.append) as read:
        assert [len(read(Chunk(file, 0, 30))[0][0]) for file in (0, 1)] == [30, 30]
    (notice,) = heard  # not once a file
    assert isinstance(notice, Notice)
    assert "could not be copied" in notice.message


def test_a_copy_that_hangs_elsewhere_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (path,) = write_list("hdf5", tmp_path, (40,))
    copy = file_names.local_copy(str(path), tmp_path / "copies")
    with file_names._alone(tmp_path / "copies" / f".{copy.stem}.lock", 1.0):
        copy.unlink()
        with pytest.raises(TimeoutError, match="another process holds"):
            file_names.local_copy(str(path), tmp_path / "copies", patience_s=0.1)


# Sources travel


def test_a_source_is_plain_data_that_another_process_reads(tmp_path: Path):
    files = FileList.open(write_list("npz", tmp_path))
    with files.reader() as read:
        read(Chunk(0, 0, 5))
        text = pickle.dumps(files)  # in use, and still without a file
    assert pickle.loads(text) == files
    (tmp_path / "source").write_bytes(text)
    code = (
        "import pickle, sys; s = pickle.load(open(sys.argv[1], 'rb')); "
        "print(s.read(s.chunks(9)[1])[0][0].sum())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "source")], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) == files.read(files.chunks(9)[1])[0][0].sum()
    assert "h5py" not in text.decode("latin-1")


# What is not a file


def test_a_dataset_is_a_source(digits):
    for split in ("train", "test"):
        source = open_source(digits, Reading(split=split))
        (features,), (labels,) = all_rows(source, 100)
        assert np.array_equal(features, digits.arrays(split)[0])
        assert np.array_equal(labels, digits.arrays(split)[1])
        assert (features.dtype.name, labels.dtype.name) == (source.inputs[0].dtype, source.targets[0].dtype)
    start, stop = 300, 333
    (part,), _ = source.read(Chunk(0, start, stop))
    assert np.array_equal(part, digits.arrays("test")[0][start:stop])
    assert "_arrays" not in pickle.dumps(source).decode("latin-1")
    assert isinstance(open_source(str(digits.path)), DatasetSource)
    with pytest.raises(InputError, match="split must be one of train, test"):
        Reading(split="all")  # type: ignore[arg-type]


def test_arrays_are_a_source():
    rows = some_rows(50)
    source = open_source(({"b": rows["features"], "a": rows["labels"]}, rows["labels"]))
    (a, b), (labels,) = all_rows(source, 20)
    assert np.array_equal(a, labels)
    assert np.array_equal(b, rows["features"])
    with pytest.raises(DataError, match=r"as many rows, got \[50, 49\]"):
        ArraySource.open(rows["features"], rows["labels"][1:])
    with pytest.raises(DataError, match="at least 1 row"):
        ArraySource.open(np.zeros((0, 2)), np.zeros(0))
    with pytest.raises(DataError, match="must be numbers"):
        ArraySource.open(np.array(["a"]), np.zeros(1))


OWN_CODE = """
import numpy as np
from dnnflow.table.rows.user_source import Data

loads = []

class Squares(Data):
    def __init__(self, parts=3):
        self.parts = parts
    def chunks(self):
        return [f"part-{i}" for i in range(self.parts)]
    def load(self, key):
        loads.append(key)
        first = 10 * int(key.split("-")[1])
        x = np.arange(first, first + 10, dtype="float32")
        return {"x": x[:, None]}, [x**2, x]

class Counted(Squares):
    def rows(self, key):
        return 10

class Lying(Squares):
    def rows(self, key):
        return 11

class Nothing:
    pass

def made(parts):
    return Counted(parts)

def blocks(parts=3):
    for key in Squares(parts).chunks():
        yield Squares().load(key)

def no_pair():
    yield np.zeros(3)
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module of a user's."""
    name = f"own_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(OWN_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["Squares", "Counted", "made", "blocks"])
def test_own_code_is_a_source(name: str, own_code: str, tmp_path: Path):
    reading = Reading(parameters={"parts": 4}, cache_dir=str(tmp_path / "kept"))
    source = pickle.loads(pickle.dumps(open_source(f"{own_code}:{name}", reading)))
    assert source.counts == (10, 10, 10, 10)
    (x,), (squares, same) = all_rows(source, 3)
    assert np.array_equal(x[:, 0], np.arange(40))
    assert np.array_equal(squares, np.arange(40) ** 2)
    assert np.array_equal(same, np.arange(40))


def test_a_part_is_loaded_once_for_chunks_in_a_row(own_code: str):
    source = UserSource.open(f"{own_code}:Counted")
    loads = sys.modules[own_code].loads
    assert loads == ["part-0"]  # for its fields; the others' rows were said
    with source.reader() as read:
        for start in (0, 4, 8):
            read(Chunk(2, start, min(start + 4, 10)))
    assert loads == ["part-0", "part-2"]


def test_own_code_that_is_not_as_said_is_refused(own_code: str, tmp_path: Path):
    with pytest.raises(DataError, match=r"10 rows of .*load\('part-0'\), not 11"):
        all_rows(open_source(f"{own_code}:Lying"))
    with pytest.raises(InputError, match="need the methods chunks"):
        open_source(f"{own_code}:Nothing")
    with pytest.raises(InputError, match="module:name and be importable"):
        open_source(f"{own_code}:Missing")
    with pytest.raises(InputError, match="module:name and be importable"):
        open_source("no_such_module_at_all:x")
    assert open_source(f"{own_code}:blocks").rows == 30  # in memory
    with pytest.raises(DataError, match="must be a pair"):
        open_source(f"{own_code}:no_pair", Reading(cache_dir=str(tmp_path / "kept")))
    assert not copies_in(tmp_path / "kept")


class Ones(Data):
    def chunks(self):
        return [2, 0, 3]

    def load(self, key):
        return np.ones((key, 2)), np.ones(key)


def test_an_object_with_the_methods_is_a_source():
    source = open_source(Ones())
    assert source.counts == (2, 0, 3)
    assert all_rows(source)[0][0].shape == (5, 2)
    with pytest.raises(InputError, match="must come from a dataset, files, arrays"):
        open_source(3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 299), st.integers(0, 299)), max_size=6), st.sampled_from(FORMATS))
def test_ranges_in_any_order(ranges: list[tuple[int, int]], form: str):
    files = FileList.open([_prepared(form)])
    with files.reader() as read:
        for start, stop in map(sorted, ranges):
            assert np.array_equal(read(Chunk(0, start, stop))[0][0], some_rows(300)["features"][start:stop])


@pytest.fixture(scope="module", autouse=True)
def prepared(tmp_path_factory: pytest.TempPathFactory):
    """A file of each format, for tests that draw."""
    folder = tmp_path_factory.mktemp("prepared")
    _files.update({form: write(form, folder, "one", some_rows(300)) for form in FORMATS})
    yield
    _files.clear()


_files: dict[str, Path] = {}


def _prepared(form: str) -> Path:
    return _files[form]
