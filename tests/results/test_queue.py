"""Two who work off one queue never take the same run, on SQLite and PostgreSQL alike."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from dnnflow.errors import ConflictError
from dnnflow.events import Command
from dnnflow.results.store.run_record import Driver, RunKind, RunRecord, RunState
from dnnflow.results.store.store import Store

TAKE = """
import sys
from dnnflow.results.store.store import Store
with Store(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    while taken := store.take_next("q"):
        print(taken.run_id, flush=True)
"""


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


def take(store: Store) -> RunRecord:
    taken = store.take_next("q")
    assert taken is not None
    return taken


def ask(store: Store, run_id: str, *, queue: str | None = "q", key: str | None = None) -> None:
    store.ask(run_id, RunKind.STUDY, "a study", {"name": "a study"}, queue=queue, key=key)


def test_processes_that_take_at_once_never_get_one_run(store: Store, url: str) -> None:
    ids = [f"run-{number:03}" for number in range(120)]
    for run_id in ids:
        ask(store, run_id)
    ask(store, "of-another-queue", queue="p")
    ask(store, "of-nobodys-queue", queue=None)
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for taker in takers:
        assert taker.stdout is not None
        assert taker.stdout.readline() == "ready\n"
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write("go\n")
        taker.stdin.flush()
    taken = [taker.communicate(timeout=60)[0].split() for taker in takers]
    assert Counter(run_id for own in taken for run_id in own) == Counter(ids)
    assert all(own == sorted(own) for own in taken), "the one that has waited longest is taken first"
    assert {store.run(run_id).state for run_id in ids} == {RunState.RUNNING}
    assert store.run("of-another-queue").state is store.run("of-nobodys-queue").state is RunState.QUEUED


def test_one_process_supervises_a_queue(store: Store, url: str) -> None:
    code = (
        "import sys, time; from dnnflow.results.store.store import Store\n"
        "with Store(sys.argv[1]) as store, store.supervising('q') as is_alone:\n"
        "    print(is_alone, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert store.is_supervised("q")
        assert not store.is_supervised("p")
        with store.supervising("q") as is_alone:
            assert not is_alone
        with store.supervising("p") as is_alone:
            assert is_alone
        other.kill()
    with store.supervising("q") as is_alone:
        assert is_alone
    assert not store.is_supervised("q")


def test_what_is_given_back_waits_at_its_old_place_and_what_is_resumed_at_the_end(store: Store) -> None:
    for run_id in ("a", "b"):
        ask(store, run_id)
        time.sleep(0.01)
    assert take(store).run_id == "a"
    store.give_back("a", has_died=True)
    assert (store.waiting("q"), store.run("a").deaths) == (["a", "b"], 1)
    assert take(store).started_at is not None
    store.end("a", RunState.FAILED, error="no; mend it")
    store.enqueue("a", "q")
    record = store.run("a")
    assert (record.state, record.error, record.deaths, record.ended_at) == (RunState.QUEUED, None, 0, None)
    assert store.waiting("q") == ["b", "a"]


def test_a_run_that_waits_is_cancelled_at_once_and_never_taken(store: Store) -> None:
    ask(store, "a")
    store.send_command("a", Command.CANCEL)
    record = store.run("a")
    assert (record.state, record.ended_at is not None) == (RunState.STOPPED, True)
    assert store.take_next("q") is None
    ask(store, "b")
    store.take_next("q")
    store.send_command("b", Command.CANCEL)
    assert (store.run("b").state, store.run("b").command) == (RunState.RUNNING, Command.CANCEL)


def test_what_was_begun_and_nobody_drives_is_found(store: Store) -> None:
    for run_id in ("left", "driven", "waiting", "ended"):
        ask(store, run_id)
    for _ in range(2):
        store.take_next("q")
    store.claim("driven", Driver.this_process())
    store.end("ended", RunState.STOPPED)
    assert [record.run_id for record in store.left_behind("q")] == ["left"]
    assert store.has_work("q")
    assert not store.has_work("p")


def test_a_run_that_a_process_drives_by_itself_is_not_taken(store: Store) -> None:
    ask(store, "a")
    store.claim("a", Driver.this_process())
    assert store.take_next("q") is None


def test_an_idempotency_key_is_of_one_queue(store: Store) -> None:
    ask(store, "a", key="k")
    with pytest.raises(ConflictError, match="got a again; take a new one"):
        ask(store, "a")
    ask(store, "b", key="k", queue="p")
    assert [record.run_id for record in store.runs()] == ["b", "a"]


def test_a_driver_within_a_driver_of_one_process_changes_nothing(store: Store) -> None:
    ask(store, "a")
    with store.driving("a"):
        with store.driving("a"):
            pass
        assert store.run("a").is_driven
    assert not store.run("a").is_driven
