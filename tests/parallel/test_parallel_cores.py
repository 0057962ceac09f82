"""A replica's own core: taken once on a machine, let go where others use it too; nothing else is moved."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dnnflow.parallel.replica import cores
from dnnflow.parallel.replica.cores import PinnedCore, physical_first

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="needs Linux and two cores that this process may run on",
)


@pytest.fixture
def allowed() -> Iterator[set[int]]:
    before = os.sched_getaffinity(0)
    yield before
    assert os.sched_getaffinity(0) == before


def test_the_calling_thread_gets_a_core_and_has_all_again_afterwards(
    tmp_path: Path, allowed: set[int]
) -> None:
    with PinnedCore(tmp_path) as own:
        assert own.core in allowed
        assert os.sched_getaffinity(0) == {own.core}


def test_two_processes_get_two_cores_and_one_that_died_leaves_its_own(
    tmp_path: Path, allowed: set[int]
) -> None:
    code = (
        "import sys; from pathlib import Path; from dnnflow.parallel.replica.cores import PinnedCore\n"
        f"with PinnedCore(Path({str(tmp_path)!r})) as own: print(own.core, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        with PinnedCore(tmp_path) as own:
            assert own.core is not None
            assert own.core != theirs
        other.kill()
    with PinnedCore(tmp_path) as own:
        assert own.core == theirs == physical_first(allowed)[0]


def test_no_core_is_taken_where_none_is_left(tmp_path: Path, allowed: set[int]) -> None:
    files = [cores._open(tmp_path / f"dnnflow-core-{core}.lock") for core in allowed]
    assert all(file is not None and cores._lock(file) for file in files)
    with PinnedCore(tmp_path) as own:
        assert own.core is None
        assert os.sched_getaffinity(0) == allowed
    for file in files:
        assert file is not None
        file.close()


def test_one_replica_of_a_process_at_a_time(tmp_path: Path) -> None:
    """TensorFlow's threads are the process's: two cores for them would be one too many."""
    with PinnedCore(tmp_path) as first, PinnedCore(tmp_path) as second:
        assert first.core is not None
        assert second.core is None
    with PinnedCore(tmp_path) as third:
        assert third.core is not None


def test_a_core_that_others_compute_on_is_let_go(
    tmp_path: Path, allowed: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers see other locks: two replicas on one core, with others idle, would be half as fast."""
    times = iter(((1.0, 0.0), (3.0, 0.9), (4.0, 2.4)))
    clock = iter((100.0, 102.5, 105.0))
    monkeypatch.setattr(PinnedCore, "_times_s", lambda self: next(times))
    # Of its module alone: the event loops of a shared cluster ask the clock, too
    monkeypatch.setattr("dnnflow.parallel.replica.cores.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with PinnedCore(tmp_path) as own:
        own.release_if_contended()  # waited for 0.9 s, ran for 2
        assert own.core is not None
        own.release_if_contended()  # waited for 1.5 s, ran for 1
        assert own.core is None
        assert os.sched_getaffinity(0) == allowed


def test_waiting_is_measured_where_two_share_a_core(tmp_path: Path) -> None:
    code = "import time\nuntil = time.monotonic() + 60\nwhile time.monotonic() < until: pass"
    rule = "never had to wait"
    with PinnedCore(tmp_path) as own, subprocess.Popen([sys.executable, "-c", code]) as rival:  # on the core
        (_, before), count = own._times_s(), 0
        while own._times_s()[1] - before < 0.02 and count < 1_000_000:
            count += 1
        rival.kill()
        assert count < 1_000_000, rule


def test_threads_that_were_made_meanwhile_are_let_go_too(tmp_path: Path, allowed: set[int]) -> None:
    end = threading.Event()
    numbers: list[int] = []

    def run() -> None:
        numbers.append(threading.get_native_id())
        end.wait(60)

    with PinnedCore(tmp_path) as own:
        thread = threading.Thread(target=run)
        thread.start()
        while not numbers:
            pass
        assert os.sched_getaffinity(numbers[0]) == {own.core}
        own.release()
        assert os.sched_getaffinity(numbers[0]) == allowed
        end.set()
        thread.join()


def test_siblings_of_a_physical_core_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_siblings", lambda core: str(core % 4))
    assert physical_first({0, 1, 2, 4, 5, 6, 7}) == [0, 1, 2, 7, 4, 5, 6]


def test_a_lock_file_of_another_user_is_no_obstacle(tmp_path: Path) -> None:
    """A directory of temporary files is sticky: opening another user's file to write is refused there."""
    path = tmp_path / f"dnnflow-core-{physical_first(os.sched_getaffinity(0))[0]}.lock"
    path.touch(0o444)
    with PinnedCore(tmp_path) as own:
        assert own.core == physical_first(own._allowed)[0]
    target = tmp_path / "elsewhere"
    path.unlink()
    path.symlink_to(target)
    with PinnedCore(tmp_path) as own:
        assert own.core != physical_first(own._allowed)[0]
    assert not target.exists()
