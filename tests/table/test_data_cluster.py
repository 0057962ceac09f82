"""On a Dask cluster a dataset is the same as in this process."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnnflow.errors import DataError
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest
from tests.conftest import PIPELINES


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=str(tmp_path_factory.mktemp("workers")),
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_a_cluster_divides_rows_alike(client, tmp_path: Path):
    rows = "".join(f"{i},{i * i % 31},{i % 3}\n" for i in range(400))
    (tmp_path / "a.csv").write_text(f"a,group,label\n{rows}")
    (tmp_path / "b.csv").write_text("label,group,a\n0,1,2\n1,2,3\n")
    source = Source(url=str(tmp_path / "a.csv"))
    for field, value in (("groups", "group"), ("test_source", str(tmp_path / "b.csv"))):
        recipe = Recipe.from_dict({"label": "label", field: value})
        there = ingest(source, recipe, tmp_path / "there", client=client, block_bytes=500)
        assert there.manifest == ingest(source, recipe, tmp_path / "here").manifest


@pytest.mark.parametrize(("label", "task"), [(["x", "y"], "regression"), (["p", "q"], "multilabel")])
def test_a_cluster_encodes_targets_alike(client, tmp_path: Path, label: list[str], task: str):
    rows = "".join(f"{i},{i % 37 / 8},{i * i % 31},{i % 2},{'yn'[i % 3 == 0]}\n" for i in range(400))
    (tmp_path / "a.csv").write_text(f"a,x,y,p,q\n{rows}")
    source = Source(url=str(tmp_path / "a.csv"))
    recipe = Recipe.from_dict({"label": label, "drop": [n for n in "xypq" if n not in label]})
    there = ingest(source, recipe, tmp_path / "there", client=client, block_bytes=500)
    assert there.task == task
    assert there.manifest == ingest(source, recipe, tmp_path / "here", block_bytes=500).manifest


def test_a_cluster_reads_typed_tables_alike(client, tmp_path: Path):
    frame = pd.DataFrame({"a": range(400), "b": ["u", "v", None, "w"] * 100, "label": ["x", "y"] * 200})
    (tmp_path / "parts").mkdir()
    for part in range(2):
        frame[part::2].to_parquet(tmp_path / "parts" / f"{part}.parquet", row_group_size=90)
    for source in (Source(url=str(tmp_path / "parts")), frame):
        there = ingest(source, Recipe(label="label"), tmp_path / "there", client=client, block_bytes=2000)
        assert there.manifest == ingest(source, Recipe(label="label"), tmp_path / "here").manifest


def test_a_cluster_makes_the_same_dataset(client, digits: Dataset, tmp_path: Path):
    source = Source(url=str(PIPELINES / "data" / "digits.csv"))
    dataset = ingest(source, Recipe(label="digit"), tmp_path, client=client, block_bytes=20_000)
    assert dataset.id == digits.id
    assert np.array_equal(dataset.arrays("train")[0], digits.arrays("train")[0])
    assert [p.name for p in tmp_path.iterdir()] == [dataset.id]


def test_tasks_are_named_for_the_task_stream(client, tmp_path: Path):
    def keys(dask_scheduler) -> list[str]:
        return [str(t[0]) for t in dask_scheduler.transition_log]

    source = Source(url=str(PIPELINES / "data" / "iris.csv"))
    ingest(source, Recipe(label="species"), tmp_path, client=client)
    mine = {key.rsplit("-", 1)[0] for key in client.run_on_scheduler(keys) if key.startswith("ingest-")}
    assert {"ingest-parse", "ingest-fit", "ingest-write"} <= mine


def test_errors_come_back_as_they_are(client, tmp_path: Path):
    (tmp_path / "table.csv").write_text("a,label\n" + "1,x\n2,y\n" * 40 + "1,2,3\n")
    with pytest.raises(DataError, match=r"row 81 \(line 82\) has 3 values"):
        ingest(
            Source(url=str(tmp_path / "table.csv")),
            Recipe(label="label"),
            tmp_path / "datasets",
            client=client,
            block_bytes=64,
        )
    assert not list((tmp_path / "datasets").iterdir())
