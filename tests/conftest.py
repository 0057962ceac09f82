"""What tests share: one dataset a table, one Dask cluster and one Prefect server a session; and which tests
run beside which others."""

import gc
import os
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import pytest

from tests.databases import postgres, url  # noqa: F401

# Before anything imports TensorFlow: one thread, no banner
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# What names no home keeps nothing among the studies of whoever runs the tests
_HOME = tempfile.TemporaryDirectory(prefix="dnnflow-tests-")
os.environ["XDG_DATA_HOME"] = _HOME.name

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts what it runs in the background: processes that tests interrupt would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine fails no test, and a run finds what the one before found: random ones are of a profile `wide`
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("wide", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("repeatable")

ROOT = Path(__file__).parent.parent
PIPELINES = ROOT / "pipelines"


SERVICES = {
    "cluster": {"cluster", "fragile", "mixed", "encrypted", "added_worker"},
    "browser": {"chromium", "open_tab", "tab", "site"},
    "database": {"postgres"},
    "prefect": {"server"},
}
"""Markers of tests that need a service, and the fixtures that start it. `make check` leaves them out."""
SHARED = ("browser", "cluster")
"""Services of the whole session: tests that need one of them run in one process."""
FIRST = ("test_doors", "test_deployments", "cluster", "browser", "test_launch", "test_compose")
"""What takes longest: begun first, so that nothing long is left at the end."""


def services_of(item: pytest.Item) -> set[str]:
    """Return the services that a test needs: those that it is marked with, and those of its fixtures."""
    fixtures = set(getattr(item, "fixturenames", ()))
    parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
    words = {one for one in parameters if isinstance(one, str)}
    if "postgresql" in words:
        fixtures.add("postgres")
    if "web" not in item.path.parts:  # there, a client speaks HTTP to an app of this process
        fixtures |= {"cluster"} if "client" in fixtures or "dask" in words else set()
    return {
        name for name, starters in SERVICES.items() if fixtures & starters or item.get_closest_marker(name)
    }


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the services they need, and keep those of one service, or of one file, in one process."""
    for item in items:
        used = services_of(item)
        for name in used:
            item.add_marker(name)
        group = next((name for name in SHARED if name in used), item.path.stem)
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group))
    order = {name: place for place, name in enumerate(FIRST)}

    def place(item: pytest.Item) -> int:
        marker = item.get_closest_marker("xdist_group")
        return order.get(marker.args[0], len(FIRST)) if marker else len(FIRST)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Leave what was imported so far out of garbage collections: each would take a fifth of a second."""
    gc.collect()
    gc.freeze()


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


def begin_study(pipeline, settings, **asked):
    """Return the study of a pipeline on its preprocessed table; nothing is trained."""
    from dnnflow.run.execute import begin, preprocess
    from dnnflow.run.run import StudyRun

    return begin(StudyRun(pipeline, settings, **asked), preprocess(pipeline, settings))


@pytest.fixture(scope="session")
def client():
    """A client of the session's Dask cluster: two workers that tests may kill, since they come back."""
    from dnnflow.execute.cluster import ClusterSpec, open_cluster

    cluster = open_cluster(ClusterSpec(workers=2, memory_limit="0", dashboard_port=0))
    # In a thread of its own: a browser's driver may run an event loop in this one, and close it before
    with ThreadPoolExecutor(max_workers=1) as apart:
        yield apart.submit(cluster.__enter__).result()
        apart.submit(cluster.__exit__, None, None, None).result()


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
