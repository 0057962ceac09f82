"""The direct channel of a server: what goes through it, who may use it, and what is left of it."""

import contextlib
import gc
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import ssl
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnnflow.errors import InputError, NotFoundError, TimeLimitError
from dnnflow.execute.certificates import make_certificates
from dnnflow.parallel.channel import channel_server, handshake, link
from dnnflow.parallel.channel.channel_client import ChannelClient
from dnnflow.parallel.channel.channel_server import ChannelServer
from dnnflow.parallel.channel.connection import EXCHANGE, PULL
from dnnflow.parallel.channel.handshake import Addresses, VectorFormat
from dnnflow.parallel.channel.link import FRAME, MAGIC, ChannelError, shut_down
from dnnflow.parallel.server.messages import Push, PushReply
from dnnflow.parallel.server.parameter_server import ParameterServer
from dnnflow.parallel.spec.algorithm import WIRES, Algorithm, Kind, OptimizerSpec, PushKind

TOKEN = bytes(range(32))  # the same in processes that tests start
SGD = OptimizerSpec("sgd", 1.0)
ASYNCHRONOUS = Algorithm(server_optimizer=SGD)
SYNCHRONOUS = Algorithm(server_optimizer=SGD, synchronous=True)
WAYS = ["memory", "unix", "tcp", "tls"]
BIG = 300_000
"""Entries that no socket's buffer holds."""


def numbers(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's and a client's context of one authority of their own."""
    ca, certificate, key = make_certificates(directory)
    found = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
        found.append(context)
    return found[0], found[1]


def shared_memory() -> list[str]:
    """Return the shared memory of channels that this process holds open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(name for name in found if name.startswith("/memfd:dnnflow"))


def opened_sockets(monkeypatch: pytest.MonkeyPatch) -> "weakref.WeakSet[socket.socket]":
    """Return the sockets that the test and channels' threads make from now on.

    Other threads of this process, of a Dask cluster that tests share, open theirs when they like.
    """
    found: weakref.WeakSet[socket.socket] = weakref.WeakSet()
    make = socket.socket.__init__

    def remember(self: socket.socket, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        thread = threading.current_thread()
        if thread is threading.main_thread() or thread.name.startswith("dnnflow-"):
            found.add(self)

    monkeypatch.setattr(socket.socket, "__init__", remember)
    return found


def left_over() -> tuple[list[str], list[Path], int]:
    """Return what channels must not leave behind: threads, directories, shared memory."""
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("dnnflow-")]
    directories = list(Path(os.environ["TMPDIR"]).glob("dnnflow-*"))
    return threads, directories, Path("/proc/self/maps").read_text().count("memfd:dnnflow")


@pytest.fixture(autouse=True)
def _leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    sockets, before = opened_sockets(monkeypatch), shared_memory()
    yield
    if left_over() != ([], [], 0):
        gc.collect()  # errors that a test caught hold frames, and those hold vectors
    assert left_over() == ([], [], 0)
    assert [found for found in sockets if found.fileno() >= 0] == []
    assert set(shared_memory()) <= set(before)


class Way:
    """A server and its channel, reached in one of the ways."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.tls = contexts(directory) if name == "tls" else (None, None)
        self.opened: list[ChannelServer | ChannelClient] = []

    def channel(self, server: Any, **options: Any) -> ChannelServer:
        host = "127.0.0.1" if self.name in ("tcp", "tls") else None
        channel = ChannelServer(server, TOKEN, host, tls=self.tls[0], **options)
        self.opened.append(channel)
        return channel

    def client(self, channel: ChannelServer, **options: Any) -> ChannelClient:
        client = ChannelClient(self.addresses(channel), TOKEN, tls=self.tls[1], **options)
        self.opened.append(client)
        return client

    def addresses(self, channel: ChannelServer) -> Addresses:
        found = channel.addresses
        if self.name in ("tcp", "tls"):
            return Addresses(None, found.host, found.port, found.encrypted)
        return found

    def end(self) -> None:
        for opened in reversed(self.opened):
            (opened.stop if isinstance(opened, ChannelServer) else opened.close)()


def make_way(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    if name == "unix":
        monkeypatch.setattr(handshake, "_can_share", lambda: False)
    found = Way(name, tmp_path / "certificates")
    yield found
    found.end()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """Each way to a server."""
    yield from make_way(request.param, tmp_path, monkeypatch)


@pytest.fixture
def near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """The usual way on one machine."""
    yield from make_way("memory", tmp_path, monkeypatch)


@pytest.mark.parametrize("size", [1, 3000, BIG])
def test_a_push_through_the_channel_does_what_it_does_on_the_server(way: Way, size: int) -> None:
    behind, beside = (ParameterServer(numbers(size), ASYNCHRONOUS) for _ in range(2))
    client = way.client(way.channel(behind))
    assert client.is_shared == (way.name == "memory")
    step = client.join(0)
    assert step == beside.join(0)
    out = np.empty(size, np.float32)
    for index in range(5):
        push = Push(0, step + index, max(index - 1, 0), 32, numbers(size, seed=index))
        found, wanted = client.exchange(push, out), beside.exchange(push)
        assert found.vector is out
        np.testing.assert_array_equal(out, wanted.vector)
        assert (found.version, found.staleness, found.samples) == (index + 1, min(index, 1), 32 * (index + 1))
    version, weights = client.pull(0)
    assert version == 5
    np.testing.assert_array_equal(weights, beside.pull()[1])


@pytest.mark.parametrize("name", WIRES)
def test_every_wire_goes_every_way(way: Way, name: str) -> None:
    server = ParameterServer(np.zeros(BIG, np.float32), ASYNCHRONOUS)
    reply_wire = name if name != "int8" else "float32"
    client = way.client(
        way.channel(server, vectors=VectorFormat(BIG, exact=7)), wire=name, reply_wire=reply_wire
    )
    step, given = client.join(0), numbers(BIG)
    weights = client.exchange(Push(0, step, 0, 1, given)).vector
    assert np.abs(weights + given).max() <= 0.02 * np.abs(given).max()
    np.testing.assert_array_equal(weights[-7:], -given[-7:])


def test_float64_weights_keep_their_digits(way: Way) -> None:
    server = ParameterServer(np.zeros(3), ASYNCHRONOUS)
    client = way.client(way.channel(server))
    third = np.full(3, 1 / 3)
    reply = client.exchange(Push(0, client.join(0), 0, 1, third))
    np.testing.assert_array_equal(reply.vector, -third)


def test_a_vector_written_in_place_is_not_copied(near: Way) -> None:
    client = near.client(near.channel(ParameterServer(np.zeros(10, np.float32), ASYNCHRONOUS)))
    step = client.join(0)
    client.vector[:] = 2.0
    assert (client.exchange(Push(0, step, 0, 1, client.vector)).vector == -2.0).all()


def assert_refusals(channel: Any, push: Push, join_replica_0: Callable[[], Any]) -> None:
    """What a synchronous server raises is raised at replica 1."""
    with pytest.raises(NotFoundError, match="join"):
        channel.exchange(push)
    join_replica_0()
    push.step = channel.join(1)
    with pytest.raises(TimeLimitError, match="got no push of replica 0"):
        channel.exchange(push)


def test_what_the_server_raises_is_raised_at_the_replica(way: Way) -> None:
    server = ParameterServer(np.zeros(3, np.float32), SYNCHRONOUS, wait_s=0.2)
    client = way.client(way.channel(server))
    push = Push(1, 0, 0, 1, np.ones(3, np.float32))
    assert_refusals(client, push, lambda: server.join(0))
    server.leave(0)
    assert client.exchange(push).version == 1  # over the same connection


def test_a_fault_of_the_server_itself_reaches_the_replica_as_a_sentence(near: Way) -> None:
    class Faulty(ParameterServer):
        def exchange(self, push: Push, out: Any = None) -> PushReply:
            raise ZeroDivisionError("by zero " + 2000 * "!")

    client = near.client(near.channel(Faulty(np.zeros(3, np.float32), ASYNCHRONOUS)))
    with pytest.raises(RuntimeError, match="the server failed with ZeroDivisionError: by zero"):
        client.exchange(Push(0, client.join(0), 0, 1, np.ones(3, np.float32)))


def test_a_model_of_another_size_is_refused_before_anything_is_sent(near: Way) -> None:
    server = ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS)
    client = near.client(near.channel(server))
    for size in (1, 4):  # numpy would spread a vector of one entry
        with pytest.raises(InputError, match=r"3 entries.*same model"):
            client.exchange(Push(0, client.join(0), 0, 1, np.ones(size, np.float32)))
    assert server.statistics().pushes == 0


# Who may connect


def test_without_the_token_nobody_gets_in_and_the_others_go_on(way: Way) -> None:
    channel = way.channel(ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS))
    client = way.client(channel)
    step = client.join(0)
    stranger = ChannelClient(way.addresses(channel), secrets.token_bytes(32), tls=way.tls[1])
    with pytest.raises(ChannelError, match="token"):
        stranger.connect()
    assert channel.refused == 1
    assert client.exchange(Push(0, step, 0, 1, np.ones(3, np.float32))).version == 1


def test_a_replica_does_not_send_its_work_to_whoever_took_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pretend() -> None:
            taken, _ = listener.accept()
            with taken:
                taken.sendall(handshake.GREETING + bytes(handshake.NONCE_BYTES))
                taken.recv(1000)
                taken.sendall(bytes(handshake._FORMAT.size + handshake.MAC_BYTES))
                taken.recv(1000)

        thread = threading.Thread(target=pretend)
        thread.start()
        client = ChannelClient(Addresses(None, "127.0.0.1", listener.getsockname()[1]), TOKEN)
        with pytest.raises(ChannelError, match="a server must know the token"):
            client.connect()
        thread.join()


@pytest.mark.parametrize(
    "noise", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(72), secrets.token_bytes(4096)], ids=len
)
def test_noise_on_the_port_is_refused_and_harms_nobody(way: Way, noise: bytes) -> None:
    channel = way.channel(ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS))
    found = way.addresses(channel)
    family, target = (
        (socket.AF_UNIX, found.unix) if found.unix else (socket.AF_INET, (found.host, found.port))
    )
    with socket.socket(family) as sock:
        sock.connect(target)
        with contextlib.suppress(OSError):  # it may have been refused by now
            sock.sendall(noise)
            sock.shutdown(socket.SHUT_WR)
        sock.settimeout(10)
        while _received(sock):
            pass
    assert way.client(channel).join(0) == 0


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1000)
    except ConnectionResetError:
        return b""


def test_a_connection_that_says_nothing_is_closed(near: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "HANDSHAKE_S", 0.1)
    channel = near.channel(ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS))
    with socket.socket(socket.AF_UNIX) as sock:
        assert channel.addresses.unix is not None
        sock.connect(channel.addresses.unix)
        sock.settimeout(10)
        while sock.recv(1000):
            pass
    assert channel.refused == 1


FRAMES = {
    "another magic number": (MAGIC + 1, PULL, 0, 0, 0, 0, 0, 0, 0),
    "an absurd length": (MAGIC, EXCHANGE, 0, 0, 0, 0, 0, 0, 2**62),
    "a negative length": (MAGIC, EXCHANGE, 0, 0, 0, 0, 0, 0, -1),
    "a short vector": (MAGIC, EXCHANGE, 0, 0, 0, 0, 0, 0, 8),
    "a pull with a vector": (MAGIC, PULL, 0, 0, 0, 0, 0, 0, 12),
    "an unknown operation": (MAGIC, 99, 0, 0, 0, 0, 0, 0, 0),
    "an unknown kind": (MAGIC, EXCHANGE, 99, 0, 0, 0, 0, 0, 12),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_a_malformed_frame_ends_its_own_connection_only(way: Way, frame: tuple[int, ...]) -> None:
    server = ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS)
    channel = way.channel(server)
    client, bad = way.client(channel), way.client(channel)
    step = client.join(0)
    bad.connect()
    end = bad._link
    assert end is not None
    end._sock.sendall(FRAME.pack(*frame) + bytes(100))
    with contextlib.suppress(ChannelError):  # it may be closed before all is out
        assert end.receive(10) is None
    assert client.exchange(Push(0, step, 0, 1, np.ones(3, np.float32))).version == 1
    assert server.statistics().pushes == 1


def test_a_frame_that_stops_half_way_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "FRAME_S", 0.1)
    monkeypatch.setattr(link, "POLL_S", 0.05)
    for way in make_way("tcp", tmp_path, monkeypatch):
        channel = way.channel(ParameterServer(np.zeros(BIG, np.float32), ASYNCHRONOUS))
        bad = way.client(channel)
        bad.connect()
        assert bad._link is not None
        sock = bad._link._sock
        sock.sendall(FRAME.pack(MAGIC, EXCHANGE, 0, 0, 0, 0, 0, 1, 4 * BIG) + bytes(1000))
        assert bad._link.receive(10) is None
        assert way.client(channel).join(0) == 0


def test_a_frame_that_comes_in_part_does_not_keep_the_others_waiting(near: Way) -> None:
    channel = near.channel(ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS))
    client, bad = near.client(channel), near.client(channel)
    step = client.join(0)
    bad.connect()
    assert bad._link is not None
    bad._link._sock.sendall(FRAME.pack(MAGIC, PULL, 0, 0, 0, 0, 0, 0, 0)[:7])
    assert bad._link.receive(10) is None
    assert client.exchange(Push(0, step, 0, 1, np.ones(3, np.float32))).version == 1


def test_one_thread_answers_replicas_that_never_wait_for_each_other(near: Way) -> None:
    channel = near.channel(ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS))
    clients = [near.client(channel) for _ in range(5)]
    for replica, client in enumerate(clients):
        client.join(replica)
    deadline_s = time.monotonic() + 10
    while len(left_over()[0]) > 2 and time.monotonic() < deadline_s:  # the threads of the handshakes end
        time.sleep(0.01)
    assert sorted(left_over()[0]) == ["dnnflow-channel-accept", "dnnflow-channel-epoll"]
    assert channel.connections == 5
    clients[2].close()
    while channel.connections > 4 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert channel.connections == 4


def test_a_connection_that_sleeps_too_long_is_closed_and_made_again(
    near: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_server, "_POLL_S", 0.02)
    server = ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS)
    channel = near.channel(server, idle_s=0.1)
    client = near.client(channel)
    step = client.join(0)
    deadline_s = time.monotonic() + 10
    while channel.connections and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert channel.connections == 0
    assert server.statistics().replicas == ()
    assert client.exchange(Push(0, step, 0, 1, np.ones(3, np.float32))).version == 1


def test_the_socket_lies_where_no_other_user_looks(near: Way) -> None:
    channel = near.channel(ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS))
    directory = Path(channel.addresses.unix or "").parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert channel.addresses.host is None  # nothing listens for other machines unless it is asked for


def test_a_long_path_of_the_temporary_directory_is_no_obstacle(near: Way, tmp_path: Path) -> None:
    long = tmp_path / ("d" * 100)
    long.mkdir()
    channel = near.channel(ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS), directory=long)
    assert near.client(channel).join(0) == 0


def test_shared_memory_cannot_be_cut_under_the_server(near: Way) -> None:
    channel = near.channel(ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS))
    received: list[int] = []
    original = handshake._map

    def keep(descriptor: int, nbytes: int) -> Any:
        received.append(os.dup(descriptor))
        return original(descriptor, nbytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handshake, "_map", keep)
        client = near.client(channel)
        client.connect()
    for descriptor in received:
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)
    assert client.join(0) == 0


def test_a_short_token_is_refused() -> None:
    with pytest.raises(InputError, match="at least 16 bytes, got 3"):
        ChannelServer(ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS), b"abc")


def test_tls_lets_in_only_who_has_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnnflow.parallel.channel.channel_server.HANDSHAKE_S", 0.5)
    for way in make_way("tls", tmp_path, monkeypatch):
        channel = way.channel(ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS))
        found = way.addresses(channel)
        with pytest.raises(ChannelError, match="speaks TLS, got no context"):
            ChannelClient(found, TOKEN).connect()
        plain = Addresses(None, found.host, found.port)
        with pytest.raises(ChannelError):
            ChannelClient(plain, TOKEN).connect()
        _, other = contexts(tmp_path / "other")
        with pytest.raises(ChannelError, match="certificate"):
            ChannelClient(found, TOKEN, tls=other).connect()
        assert way.client(channel).join(0) == 0


# What breaks


def test_a_connection_that_was_cut_is_made_again(way: Way) -> None:
    server = ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS)
    channel = way.channel(server)
    client = way.client(channel)
    step = client.join(0)
    for index in range(3):
        for sock in list(channel._open.values()):
            shut_down(sock)
        assert client.exchange(Push(0, step + index, index, 1, np.ones(3, np.float32))).version == index + 1


class CutsBeforeItAnswers(ParameterServer):
    """Applies the first push, then loses the connection."""

    channel: ChannelServer
    has_cut = False

    def exchange(self, push: Push, out: Any = None) -> PushReply:
        reply = super().exchange(push, out)
        if not self.has_cut:
            self.has_cut = True
            for sock in list(self.channel._open.values()):
                shut_down(sock)
        return reply


@pytest.mark.parametrize("name", WIRES)
def test_a_push_whose_answer_was_lost_counts_once(way: Way, name: str) -> None:
    server = CutsBeforeItAnswers(np.zeros(BIG, np.float32), ASYNCHRONOUS)
    server.channel = way.channel(server)
    client = way.client(server.channel, wire=name)
    step, given = client.join(0), numbers(BIG)
    for index in range(2):
        reply = client.exchange(Push(0, step + index, index, 1, given))
    assert reply.version == 2
    assert server.statistics().repeated == 1
    error = np.abs(reply.vector + 2 * given).max()  # int8: what the first push lost came with the second
    assert error <= 0.01 * np.abs(given).max()


def test_a_server_that_has_gone_is_an_error_at_once_and_one_that_is_back_is_found(way: Way) -> None:
    first = ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS)
    channel = way.channel(first)
    client = way.client(channel)
    push = Push(0, client.join(0), 0, 1, np.ones(3, np.float32))
    client.exchange(push)
    state = first.snapshot()
    channel.stop()
    push.step += 1
    with pytest.raises(ChannelError, match=r"must listen at .* got"):
        client.exchange(push)
    second = ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS)
    second.restore(state)
    client.connect(way.addresses(way.channel(second)))
    reply = client.exchange(push)  # joins by itself
    assert (reply.version, reply.vector.tolist()) == (2, [-2.0, -2.0, -2.0])


def _serve_until_killed(pipe: Any) -> None:
    channel = ChannelServer(ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS), TOKEN)
    pipe.send(channel.addresses)
    threading.Event().wait()


def _join_and_wait(pipe: Any, addresses: Addresses) -> None:
    client = ChannelClient(addresses, TOKEN)
    client.join(0)
    pipe.send("joined")
    threading.Event().wait()


@pytest.fixture
def process() -> Iterator[Any]:
    """Starts processes that the test kills."""
    context, started = multiprocessing.get_context("spawn"), []

    def start(target: Any, *arguments: Any) -> tuple[Any, Any]:
        here, there = context.Pipe()
        started.append(context.Process(target=target, args=(there, *arguments)))
        started[-1].start()
        there.close()
        value = here.recv()
        here.close()
        return started[-1], value

    yield start
    for found in started:
        found.kill()
        found.join()
        found.close()


def kill(process: Any) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_a_killed_server_is_noticed_by_its_replicas(process: Any) -> None:
    server, addresses = process(_serve_until_killed)
    with ChannelClient(addresses, TOKEN) as client:
        step = client.join(0)
        kill(server)
        with pytest.raises(ChannelError):
            client.exchange(Push(0, step, 0, 1, np.ones(3, np.float32)))
    shutil.rmtree(Path(addresses.unix).parent)  # nobody was left to do it


def test_a_killed_replica_is_not_waited_for(near: Way, process: Any) -> None:
    server = ParameterServer(np.zeros(3, np.float32), SYNCHRONOUS, wait_s=60.0)
    channel = near.channel(server)
    replica, _ = process(_join_and_wait, channel.addresses)
    client = near.client(channel)
    step = client.join(1)
    found: list[PushReply] = []
    waiting = threading.Thread(
        target=lambda: found.append(client.exchange(Push(1, step, 0, 1, np.ones(3, np.float32))))
    )
    waiting.start()
    kill(replica)
    waiting.join()
    assert found[0].version == 1
    assert server.statistics().replicas == (1,)


def test_a_replica_that_connects_again_does_not_leave_with_its_old_connection(near: Way) -> None:
    server = ParameterServer(np.zeros(3, np.float32), ASYNCHRONOUS)
    channel = near.channel(server)
    old, new = near.client(channel), near.client(channel)
    old.join(0)
    step = new.join(0)
    old.close()
    while channel.connections > 1:
        pass
    assert new.exchange(Push(0, step, 0, 1, np.ones(3, np.float32))).version == 1


def test_two_replicas_meet_in_a_round(way: Way) -> None:
    server = ParameterServer(np.zeros(BIG, np.float32), SYNCHRONOUS)
    channel = way.channel(server)
    clients = [way.client(channel) for _ in range(2)]
    steps = [client.join(replica) for replica, client in enumerate(clients)]
    replies: dict[int, np.ndarray] = {}

    def work(replica: int) -> None:
        given = np.full(BIG, replica + 1.0, np.float32)
        reply = clients[replica].exchange(Push(replica, steps[replica], 0, 10 * (replica + 1), given))
        replies[replica] = reply.vector.copy()

    threads = [threading.Thread(target=work, args=(replica,)) for replica in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mean = (10 * 1.0 + 20 * 2.0) / 30
    for replica in range(2):
        np.testing.assert_allclose(replies[replica], -mean, rtol=1e-6)


def test_elastic_weights_are_not_mended_with_what_other_weights_lost(near: Way) -> None:
    algorithm = Algorithm(kind=Kind.EASGD, elastic_force=1.0)
    server = ParameterServer(np.zeros(2, np.float32), algorithm)
    client = near.client(near.channel(server), wire="int8")
    step, given = client.join(0), np.array([100.0, 0.3], np.float32)
    for index in range(5):
        client.exchange(Push(0, step + index, index, 1, given, PushKind.WEIGHTS))
    assert abs(client.pull()[1][1] - given[1]) <= 100.0 / 127


def test_stopping_lets_go_of_replicas_that_wait_for_each_other(near: Way) -> None:
    server = ParameterServer(np.zeros(3, np.float32), SYNCHRONOUS, wait_s=60.0)
    channel = near.channel(server)
    waits, idle = near.client(channel), near.client(channel)
    step = waits.join(0)
    idle.join(1)
    errors: list[Exception] = []

    def push() -> None:
        try:
            waits.exchange(Push(0, step, 0, 1, np.ones(3, np.float32)))
        except ChannelError as error:
            errors.append(error)

    thread = threading.Thread(target=push)
    thread.start()
    while not server._round.pushes:
        pass
    channel.stop()
    channel.stop()  # as often as one likes
    thread.join()
    assert len(errors) == 1
    assert channel.connections == 0
    assert not os.path.exists(Path(channel.addresses.unix or "").parent)
