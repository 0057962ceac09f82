"""What tests share: one dataset a table, one Dask cluster and one Prefect server a session."""

import os
import time
from pathlib import Path

import pytest

from tests.databases import postgres, url  # noqa: F401

# Before anything imports TensorFlow: one thread, no banner
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

ROOT = Path(__file__).parent.parent
PIPELINES = ROOT / "pipelines"


@pytest.fixture
def settings(tmp_path: Path):
    """Settings of an installation of its own."""
    from dnnflow.settings import Settings

    return Settings.from_environment({"DNNFLOW_HOME": str(tmp_path / "home")})


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory that holds the session's datasets."""
    return tmp_path_factory.mktemp("datasets")


def _ingest(name: str, label: str, datasets: Path):
    from dnnflow.table.columns.recipe import Recipe, Source
    from dnnflow.table.store.ingest import ingest

    return ingest(Source(url=str(PIPELINES / "data" / name)), Recipe(label=label), datasets)


@pytest.fixture(scope="session")
def iris(datasets: Path):
    """The iris table, preprocessed."""
    return _ingest("iris.csv", "species", datasets)


@pytest.fixture(scope="session")
def digits(datasets: Path):
    """The digits table, preprocessed."""
    return _ingest("digits.csv", "digit", datasets)


@pytest.fixture(scope="session")
def breast_cancer(datasets: Path):
    """The breast-cancer table, preprocessed: two classes."""
    return _ingest("breast-cancer.csv", "diagnosis", datasets)


@pytest.fixture(scope="session")
def client():
    """A client of the session's Dask cluster: two workers that tests may kill, since they come back."""
    from dnnflow.execute.cluster import ClusterSpec, open_cluster

    with open_cluster(ClusterSpec(workers=2, memory_limit="0", dashboard_port=0)) as opened:
        yield opened


@pytest.fixture
def cluster(client):
    """The session's cluster with both its workers."""
    from dnnflow.execute.cluster import respawn, workers_of

    deadline = time.monotonic() + 60
    while len(workers_of(client)) < 2 and time.monotonic() < deadline:
        respawn(client)
        time.sleep(0.2)
    client.wait_for_workers(2, timeout=1)
    return client


@pytest.fixture
def fragile():
    """A cluster of a test's own, whose workers it kills."""
    from dnnflow.execute.cluster import ClusterSpec, open_cluster

    with open_cluster(ClusterSpec(workers=2, memory_limit="0", dashboard_port=0)) as opened:
        yield opened
