"""Databases that tests make stores in: SQLite, and a PostgreSQL server of the session."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnnflow.serve.processes import free_port


def _postgres_programs() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return places[-1] if places else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a server that was started for the session; its databases vanish with it."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb on the path or under /usr/lib/postgresql")
    home = Path(tempfile.mkdtemp(prefix="dnnflow-postgres-"))
    account = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    if account is not None:
        shutil.chown(home, account, account)
    port = free_port()
    initdb: list[str | Path] = [programs / "initdb", "-D", home / "data", "-U", "dnnflow", "-A", "trust",
                                "-E", "UTF8", "-N"]  # fmt: skip
    subprocess.run(initdb, check=True, capture_output=True, cwd=home, user=account, group=account)
    serve: list[str | Path] = [programs / "postgres", "-D", home / "data", "-p", str(port), "-k", home,
                               "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]  # fmt: skip
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(serve, stdout=log, stderr=log, cwd=home, user=account, group=account)
    try:
        url = f"postgresql://dnnflow@127.0.0.1:{port}/postgres"
        _wait_for(url, server)
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # "fast" shutdown: open connections do not delay it
        server.wait(timeout=30)
        shutil.rmtree(home)


def _wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    import psycopg

    for _ in range(300):
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, "the PostgreSQL server ended"
            time.sleep(0.1)
    raise TimeoutError("the PostgreSQL server did not answer within 30 s")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new directory/results.db"
    import psycopg

    server = request.getfixturevalue("postgres")
    name = f"test_{os.urandom(6).hex()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return str(server).replace("/postgres", f"/{name}")
