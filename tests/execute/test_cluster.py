"""Opening a cluster: what listens where, who is let in, and what is said when it cannot be reached."""

import json
import os
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from cryptography import x509
from distributed import Client

from dnnflow.errors import ClusterError, InputError
from dnnflow.events import ClusterReady, Event, Notice
from dnnflow.execute import cluster as cluster_module
from dnnflow.execute.certificates import make_certificates
from dnnflow.execute.cluster import ClusterSpec, open_cluster, security_of
from dnnflow.execute.gpus import claim_gpu, visible_gpus
from tests import readme

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    make_certificates(directory, ["scheduler.example", "192.0.2.7"])
    return directory


@pytest.fixture(scope="module")
def encrypted(certificates: Path) -> Iterator[tuple[Client, list[Event]]]:
    """An own cluster that speaks TLS, and the events of its opening."""
    events: list[Event] = []
    spec = ClusterSpec(workers=1, memory_limit="0", tls_directory=certificates, dashboard_port=0)
    with open_cluster(spec, events.append) as client:
        yield client, events


# An own cluster


def test_an_own_cluster_listens_on_loopback_only(encrypted: tuple[Client, list[Event]]) -> None:
    """A scheduler's port, and a dashboard without password, are open to whoever reaches them."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [
        connection.laddr.ip for process in processes for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]  # fmt: skip
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_opening_tells_the_addresses(encrypted: tuple[Client, list[Event]]) -> None:
    client, (ready,) = encrypted
    assert isinstance(ready, ClusterReady)
    assert ready.address == client.scheduler.address
    assert ready.workers == 1
    assert urlsplit(ready.dashboard).hostname == "127.0.0.1"


def test_workers_of_an_own_cluster_train_with_one_thread(encrypted: tuple[Client, list[Event]]) -> None:
    client, _ = encrypted
    (environment,) = client.run(lambda: dict(os.environ)).values()
    assert environment["TF_NUM_INTRAOP_THREADS"] == environment["OMP_NUM_THREADS"] == "1"


def test_closing_a_cluster_ends_its_processes() -> None:
    before = set(psutil.Process().children(recursive=True))
    with open_cluster(ClusterSpec(workers=1, memory_limit="0", dashboard_port=0)) as client:
        (pid,) = client.run(os.getpid).values()
        assert psutil.pid_exists(pid)
    gone = not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert gone
    left = {process.pid for process in set(psutil.Process().children(recursive=True)) - before}
    assert pid not in left


# TLS


def test_a_tls_cluster_works_and_lets_its_own_clients_in(
    encrypted: tuple[Client, list[Event]], certificates: Path
) -> None:
    client, _ = encrypted
    assert client.scheduler.address.startswith("tls://")
    events: list[Event] = []
    spec = ClusterSpec(client.scheduler.address, tls_directory=certificates)
    with open_cluster(spec, events.append) as second:
        assert second.submit(sum, [1, 2, 3]).result(timeout=30) == 6
    assert [type(event) for event in events] == [ClusterReady]


@contextmanager
def process(words: list[str], folder: Path) -> Iterator[None]:
    """Run one of the README's commands meanwhile."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = subprocess.Popen([sys.executable, "-m", *words], cwd=folder, env=environment(), **quiet)  # type: ignore[call-overload]
    try:
        yield
    finally:
        started.terminate()
        started.wait(timeout=60)


def environment(**more: str) -> dict[str, str]:
    tests = Path(__file__).parents[1]
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])} | more


def test_the_documented_commands_make_a_tls_cluster(tmp_path: Path) -> None:
    """Certificates, scheduler, workers and client as the README has them, but for the addresses."""
    block = readme.blocks("Add machines")[1]
    (flags,) = [line.split('"')[1] for line in block.splitlines() if line.startswith("TLS=")]
    address, file = "tls://127.0.0.1", tmp_path / "scheduler.json"

    def here(beginning: str) -> list[str]:
        line = " ".join(readme.command(block, beginning)).replace("$TLS", flags)
        local = line.replace("tls://10.0.0.5:8786", address).replace("tls://10.0.0.5", "tls://127.0.0.1:0")
        return local.replace("10.0.0.5", "127.0.0.1").replace(":8787", ":0").split()

    (tmp_path / "table.csv").write_text("x,y\n1,a\n2,b\n3,a\n4,b\n5,a\n6,b\n")
    (tmp_path / "FILE").write_text(
        "{name: tiny, dataset: {source: table.csv, label: y}, designs: 2, outputs: {models: 0},"
        " space: {depth: {int: [1, 2]}}, training: {engine: 'executor_engines:Instant'}}"
    )
    made = subprocess.run([sys.executable, "-m", *here("dnnflow cluster certs")], cwd=tmp_path,
                          env=environment(), capture_output=True, text=True, check=True)  # fmt: skip
    assert flags in made.stdout
    assert "DNNFLOW_TLS=certs" in made.stdout
    with ExitStack() as stack:
        stack.enter_context(process([*here("dask scheduler"), "--scheduler-file", str(file)], tmp_path))
        address = address_in(file)
        assert address.startswith("tls://127.0.0.1:")
        stack.enter_context(process([*here("dask worker"), "--local-directory", str(tmp_path)], tmp_path))
        setting, *run = here("DNNFLOW_TLS=")
        ran = subprocess.run([sys.executable, "-m", *run], cwd=tmp_path, capture_output=True, text=True,
                             env=environment(DNNFLOW_TLS=setting.removeprefix("DNNFLOW_TLS=")))  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert f"cluster {address}" in ran.stderr
    assert "2 designs trained" in ran.stderr


def address_in(file: Path) -> str:
    """Return the address in a scheduler's file once it has written one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError):
            return str(json.loads(file.read_text())["address"])
        time.sleep(0.1)
    raise TimeoutError("the scheduler did not start")


def test_a_plain_client_is_refused(
    encrypted: tuple[Client, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_S", 2.0)
    plain = ClusterSpec(encrypted[0].scheduler.address.replace("tls://", "tcp://"))
    with pytest.raises(ClusterError, match="a scheduler must answer within 2 s"), open_cluster(plain):
        pass


def test_a_client_with_other_certificates_is_refused(
    encrypted: tuple[Client, list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_S", 2.0)
    make_certificates(tmp_path)
    spec = ClusterSpec(encrypted[0].scheduler.address, tls_directory=tmp_path)
    with pytest.raises(ClusterError, match="a scheduler must answer"), open_cluster(spec):
        pass


def test_certificates_name_their_machines(certificates: Path) -> None:
    node = x509.load_pem_x509_certificate((certificates / "cert.pem").read_bytes())
    names = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "scheduler.example"} <= set(names.get_values_for_type(x509.DNSName))
    assert "192.0.2.7" in {str(address) for address in names.get_values_for_type(x509.IPAddress)}


def test_certificates_convince_a_verifying_client(certificates: Path) -> None:
    """Dask does not check host names; other clients of the same files do."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    client = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    to_server, to_client, from_client, from_server = (ssl.MemoryBIO() for _ in range(4))
    ends = [
        client.wrap_bio(from_server, to_server, server_hostname="scheduler.example"),
        server.wrap_bio(from_client, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
            from_client.write(to_server.read())
            from_server.write(to_client.read())
    assert ends[0].getpeercert()


def test_the_key_is_for_its_owner_only(certificates: Path) -> None:
    assert stat.S_IMODE((certificates / "key.pem").stat().st_mode) == 0o600


def test_certificates_are_never_overwritten(certificates: Path) -> None:
    before = (certificates / "key.pem").read_bytes()
    with pytest.raises(InputError, match=r"never overwritten, got ca\.pem, cert\.pem, key\.pem"):
        make_certificates(certificates)
    assert (certificates / "key.pem").read_bytes() == before


def test_missing_certificates_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    with pytest.raises(ClusterError, match=r"none of cert\.pem, key\.pem in .*`dnnflow cluster certs`"):
        security_of(tmp_path)


# Somebody else's cluster


def test_a_cluster_that_is_used_is_left_running(client: Client) -> None:
    events: list[Event] = []
    with open_cluster(ClusterSpec(client.scheduler.address), events.append) as second:
        assert second.submit(sum, [1, 2]).result(timeout=30) == 3
    assert client.submit(sum, [1, 3]).result(timeout=30) == 4
    assert not [event for event in events if isinstance(event, Notice)], "loopback needs no warning"


def test_a_scheduler_file_is_as_good_as_an_address(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    # `Client.write_scheduler_file` fails while workers tell of tasks: keys of their measures are tuples
    file.write_text(json.dumps({"type": "Scheduler", "address": client.scheduler.address}))
    with open_cluster(ClusterSpec(scheduler_file=str(file))) as second:
        assert second.scheduler.address == client.scheduler.address


def test_a_scheduler_that_does_not_answer_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_S", 1.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        spec = ClusterSpec(f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ClusterError, match=r"within 1 s, got none at .*start it"), open_cluster(spec):
            pass


def test_a_missing_scheduler_file_is_named(tmp_path: Path) -> None:
    spec = ClusterSpec(scheduler_file=str(tmp_path / "none.json"))
    with pytest.raises(ClusterError, match=r"no file .*none\.json"), open_cluster(spec):
        pass


@pytest.mark.parametrize(
    ("address", "warned"),
    [("tcp://10.1.2.3:8786", True), ("tcp://cluster.example:8786", True), ("tls://10.1.2.3:8786", False),
     ("tcp://127.0.0.1:8786", False), ("tcp://localhost:8786", False), ("tcp://[::1]:8786", False),
     ("tcp://localhost.example:8786", True)],
)  # fmt: skip
def test_plain_tcp_to_another_machine_is_warned_of(address: str, warned: bool) -> None:
    events: list[Event] = []
    cluster_module._warn_if_open(address, events.append)
    assert bool(events) is warned


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"address": "tcp://a:1", "scheduler_file": "f"}, "both"),
     ({"workers": 0}, "workers must be >= 1, got 0"),
     ({"address": "a:1"}, r"tcp://host:port or tls://host:port, got 'a:1'"),
     ({"address": "tls://a:1"}, "needs certificates.*DNNFLOW_TLS")],
)  # fmt: skip
def test_impossible_clusters_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClusterSpec(**fields)  # type: ignore[arg-type]


# GPUs


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """What the NVIDIA driver shows on a machine with two GPUs."""
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    return tmp_path / "gpus"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [(None, ("0", "1")), ("1", ("1",)), ("1,0", ("1", "0")), ("", ()), ("-1", ()), ("0,-1,1", ("0",)),
     ("0,1,2,3", ("0", "1"))],
)  # fmt: skip
def test_gpus_are_those_the_driver_and_the_user_allow(
    driver: Path, chosen: str | None, expected: tuple[str, ...]
) -> None:
    environment = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert visible_gpus(environment, driver) == expected


def test_no_driver_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}, tmp_path / "gpus") == ()


def test_nvidia_smi_counts_without_driver_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A'\necho 'GPU 1: B'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}, tmp_path / "gpus") == ("0", "1")


def test_two_workers_of_a_machine_take_different_gpus(tmp_path: Path) -> None:
    """Otherwise all of them would fill the memory of the first."""
    claims = [claim_gpu(("0", "1"), tmp_path) for _ in range(3)]
    assert claims == ["0", "1", None]
