"""What is deleted is gone, from the database and from the disk; what others need stays."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from dnnflow.errors import InputError, NotFoundError, StoreError, StudyError
from dnnflow.paths import Workspace, disk_bytes, remove_directory
from dnnflow.results.store.deletion import (
    carry_out,
    disk_uses,
    old_runs,
    plan_deletion,
    unused_datasets,
)
from dnnflow.results.store.final_trials import FinalTrial
from dnnflow.results.store.run_record import Driver, RunKind, RunState, own_host
from dnnflow.results.store.schema import final_trials, runs, study_designs, trials
from dnnflow.results.store.store import Store
from tests.web.recording import design, insert_study, trial

OTHER = "e" * 64


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


def with_files(workspace: Workspace, study_id: str) -> None:
    predicted, log = workspace.predictions(study_id) / "0.0", workspace.launch(study_id) / "log.txt"
    made = workspace.model(study_id, 1), workspace.weights(study_id, "a"), workspace.report(study_id)
    for path in (predicted, log, *made):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10_000)


def with_dataset(store: Store, workspace: Workspace, study_id: str, dataset_id: str) -> Path:
    path = workspace.dataset(dataset_id)
    path.mkdir(parents=True, exist_ok=True)
    (path / "rows").write_bytes(b"x" * 50_000)
    store._update(study_id, dataset_id=dataset_id, dataset_path=str(path))
    return path


def delete(store: Store, workspace: Workspace, *study_ids: str, datasets: bool = False):
    plan = plan_deletion(store, workspace, [store.run(one) for one in study_ids], datasets=datasets)
    carry_out(plan, store, workspace)
    return plan


def test_nothing_of_a_deleted_study_is_left(store: Store, workspace: Workspace) -> None:
    gone, stays = insert_study(store, 6), insert_study(store, 4)
    for study_id in (gone, stays):
        with_files(workspace, study_id)
        made = design(1)
        store.add_final_trials(study_id, [FinalTrial("folds", made.design_id, made, 0, 0, trial(made, 1))])
    plan = delete(store, workspace, gone)
    assert plan.freed_bytes >= 50_000
    assert not workspace.study(gone).exists()
    assert not workspace.launch(gone).exists()
    with store.reading() as connection:
        for table, key in ((runs, "run_id"), (study_designs, "study_id"), (trials, "study_id"),
                           (final_trials, "study_id")):  # fmt: skip
            assert set(connection.execute(sa.select(table.c[key])).scalars()) == {stays}
    assert workspace.report(stays).is_file()
    assert len(store.frame(stays)) == 4
    assert [path.name for path in workspace.study(stays).parent.iterdir()] == [stays]
    with pytest.raises(NotFoundError):
        store.run(gone)


@pytest.mark.parametrize("state", ["driven", "queued", "taken"])
def test_what_waits_or_runs_is_not_deleted(store: Store, workspace: Workspace, state: str) -> None:
    if state == "driven":
        study_id = insert_study(store, 3, state=RunState.RUNNING)
        mine = Driver(own_host(), psutil.Process().pid, psutil.Process().create_time())
        store.claim(study_id, mine)
    else:
        study_id = store.ask("waiting", RunKind.STUDY, "waiting", {"designs": 3}, queue="a queue").run_id
        if state == "taken":
            assert store.take_next("a queue") is not None
    with_files(workspace, study_id)
    with pytest.raises(StudyError, match=rf"got {study_id}, .*; dnnflow cancel {study_id} first"):
        plan_deletion(store, workspace, [store.run(study_id)])
    with pytest.raises(StudyError, match=f"dnnflow cancel {study_id} first"):  # begun after it was looked at
        store.delete(study_id)
    assert workspace.report(study_id).is_file()
    assert store.run(study_id).run_id == study_id


def test_what_has_ended_is_deleted_whoever_ran_it(store: Store, workspace: Workspace) -> None:
    run_id = store.ask("failed", RunKind.TRAINING, "a training", {"model": {}}, queue="a queue").run_id
    store.take_next("a queue")
    store.end(run_id, RunState.FAILED, error="too large")
    with_files(workspace, run_id)
    delete(store, workspace, run_id)
    assert store.runs() == []
    assert not workspace.launch(run_id).exists()


def test_a_dataset_goes_only_when_it_is_asked_for_and_nobody_uses_it(
    store: Store, workspace: Workspace
) -> None:
    first, second, third = (insert_study(store, 2) for _ in range(3))
    path, *_ = (with_dataset(store, workspace, one, "d" * 64) for one in (first, second, third))
    delete(store, workspace, first)
    assert path.is_dir()
    plan = delete(store, workspace, second, datasets=True)
    assert plan.kept == {second: f"study {third} uses it"}
    assert path.is_dir()
    plan = delete(store, workspace, third, datasets=True)
    assert plan.kept == {}
    assert list(plan.datasets) == [path]
    assert not path.exists()


def test_the_dataset_of_studies_that_go_together_goes(store: Store, workspace: Workspace) -> None:
    both = insert_study(store, 2), insert_study(store, 2)
    path, _ = (with_dataset(store, workspace, one, OTHER) for one in both)
    plan = delete(store, workspace, *both, datasets=True)
    assert list(plan.datasets) == [path]
    assert not path.exists()


def test_a_dataset_stays_while_a_run_reads_a_table_that_may_be_it(store: Store, workspace: Workspace) -> None:
    study_id = insert_study(store, 2)
    path = with_dataset(store, workspace, study_id, OTHER)
    store.ask("coming", RunKind.TRAINING, "coming", {}, queue="a queue")
    plan = delete(store, workspace, study_id, datasets=True)
    assert "coming is being prepared" in plan.kept[study_id]
    assert path.is_dir()
    assert unused_datasets(store, workspace) == []


def test_a_dataset_elsewhere_is_never_touched(store: Store, workspace: Workspace, tmp_path: Path) -> None:
    study_id = insert_study(store, 2)
    workspace.dataset(OTHER).mkdir(parents=True)
    elsewhere = tmp_path / "mine"
    elsewhere.mkdir()
    store._update(study_id, dataset_id=OTHER, dataset_path=str(elsewhere))
    plan = delete(store, workspace, study_id, datasets=True)
    assert plan.kept == {study_id: "it lies elsewhere"}
    assert elsewhere.is_dir()


def with_frame(store: Store, workspace: Workspace, study_id: str, sign: str) -> Path:
    path = workspace.frames / f"{sign * 64}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        path.write_bytes(b"x" * 50_000)
        os.utime(path, (0, 0))
    pipeline = {"dataset": {"source": str(path)}}
    store._update(study_id, pipeline=pipeline)
    return path


def test_a_table_given_in_memory_goes_with_the_last_study_that_names_it(
    store: Store, workspace: Workspace
) -> None:
    one, two, three = (insert_study(store, 1) for _ in range(3))
    shared = with_frame(store, workspace, one, "a")
    assert with_frame(store, workspace, two, "a") == shared
    own = with_frame(store, workspace, three, "b")
    assert all(use.dataset_bytes >= 50_000 for use in disk_uses(store, workspace, store.runs()))
    assert delete(store, workspace, one, datasets=True).datasets == {}
    assert delete(store, workspace, two).datasets == {}
    assert (shared.is_file(), unused_datasets(store, workspace)) == (True, [shared])
    os.utime(own)  # a search of it has begun
    assert delete(store, workspace, three, datasets=True).datasets == {}
    assert own.is_file()
    plan = plan_deletion(store, workspace, [], unused_before=datetime.now(UTC) - timedelta(days=1))
    assert plan.freed_bytes >= 50_000
    carry_out(plan, store, workspace)
    assert [path for path in workspace.frames.iterdir()] == [own]


def test_old_is_what_nothing_has_changed_in(store: Store) -> None:
    old, tagged, new = (insert_study(store, 2) for _ in range(3))
    long_ago = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    for one in (old, tagged):
        store._update(one, created_at=long_ago, updated_at=long_ago)
    store._update(new, created_at=long_ago)  # it went on since
    store.tag(tagged, add=["trial"])
    store._update(old, updated_at="2020-01-01T00:00:00")  # of another program, without a zone
    before = datetime.now(UTC) - timedelta(days=30)
    assert {one.run_id for one in old_runs(store, before)} == {old, tagged}
    assert [one.run_id for one in old_runs(store, before, "trial")] == [tagged]


def test_sizes_are_those_of_the_disk(store: Store, workspace: Workspace) -> None:
    large, small = insert_study(store, 40), insert_study(store, 2)
    with_files(workspace, large)
    with_dataset(store, workspace, large, "d" * 64)
    first, second = disk_uses(store, workspace, [store.run(large), store.run(small)])
    assert first.files_bytes == disk_bytes(workspace.study(large)) + disk_bytes(workspace.launch(large))
    assert first.rows_bytes > 5 * second.rows_bytes > 0
    assert first.dataset_bytes >= 50_000
    assert second.files_bytes == 0
    (alone,) = disk_uses(store, workspace, [store.run(large)])
    assert alone == first


@pytest.mark.parametrize("is_old", [False, True])
def test_the_file_of_a_store_shrinks(tmp_path: Path, is_old: bool) -> None:
    """A file of an older version has another kind of free pages."""
    file = tmp_path / "results.db"
    if is_old:
        import sqlite3

        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE older (x)")
        connection.close()
    with Store(f"sqlite:///{file}") as store:
        gone, stays = insert_study(store, 400), insert_study(store, 5)
        store.shrink()
        full = file.stat().st_size
        store.delete(gone)
        store.shrink()
        assert file.stat().st_size < 0.6 * full
        assert not (wal := file.with_name("results.db-wal")).exists() or wal.stat().st_size == 0
        assert len(store.frame(stays)) == 5


def test_a_store_that_somebody_writes_to_is_shrunk_another_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'results.db'}"
    with Store(url) as store, Store(url) as other:
        study_id = insert_study(store, 20)
        store.delete(study_id)
        with other._write():
            store.shrink()
        store.shrink()


def test_a_directory_that_somebody_began_to_remove_is_removed_with_the_next(tmp_path: Path) -> None:
    for name in (".deleted-1", "next", "other"):
        (tmp_path / name / "deep").mkdir(parents=True)
    remove_directory(tmp_path / "next")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    remove_directory(tmp_path / "next")  # there is none


def test_what_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr("shutil.rmtree", lambda *given, **more: None)
    with pytest.raises(StoreError, match="of which some is left; remove it by hand"):
        remove_directory(tmp_path / "kept")


# ---- names, notes, tags


def test_a_study_is_found_by_its_name(store: Store) -> None:
    first = insert_study(store, 2, name="flowers", study_id="Aaa1")
    insert_study(store, 2, name="Aaa1-like", study_id="Aab2")
    assert store.study("flowers").run_id == first
    assert store.study("Aaa1").run_id == first, "an id counts before a name"
    assert store.study("Aab").run_id == "Aab2"
    store.describe("Aab2", name="flowers")
    with pytest.raises(NotFoundError, match=r"fits Aa\w+ \(flowers\), Aa\w+ \(flowers\); type one"):
        store.study("flowers")
    with pytest.raises(NotFoundError, match="did you mean flowers"):
        store.study("flower")


def test_a_name_that_begins_another_studys_id_stands_for_neither(store: Store) -> None:
    """What is deleted must not be a guess."""
    insert_study(store, 2, name="trial", study_id="first")
    insert_study(store, 2, name="other", study_id="trial-2")
    with pytest.raises(NotFoundError, match="type one of these ids"):
        store.run("trial")


def test_an_id_is_found_among_many_that_begin_so_and_are_called_so(store: Store) -> None:
    insert_study(store, 2, study_id="abc")
    for number in range(6):
        insert_study(store, 2, name="abc", study_id=f"abc{number}")
    assert store.run("abc").run_id == "abc"


def test_marks_are_kept_and_leave_the_rest(store: Store) -> None:
    study_id = insert_study(store, 2)
    before = store.run(study_id)
    store.describe(study_id, note="  looks\ngood ", tags=["b", "a", "b"])
    found = store.describe(study_id, name=" two  words ")
    assert (found.name, found.note, found.tags) == ("two words", "looks\ngood", ["b", "a"])
    assert found.updated_at == before.updated_at
    assert store.tag(study_id, add=["c"], remove=["b"]) == ["a", "c"]
    found = store.describe(study_id, note="", tags=[])
    assert (found.note, list(found.tags)) == (None, [])


@pytest.mark.parametrize(
    ("marks", "rule"),
    [
        ({"name": "  "}, "a study's name has 1 to 80 characters, got 0"),
        ({"name": "x" * 81}, "got 81; shorten it"),
        ({"note": "x" * 10_001}, "a note has 10,000 characters or less, got 10,001"),
        ({"tags": ["two words"]}, "a tag has 1 to 40 characters without blanks and commas, got 'two words'"),
        ({"tags": [""]}, "got ''"),
        ({"tags": ["a,b"]}, "got 'a,b'"),
        ({"tags": [str(number) for number in range(51)]}, "at most 50 tags, got 51"),
    ],
)
def test_wrong_marks_are_refused(store: Store, marks: dict[str, object], rule: str) -> None:
    study_id = insert_study(store, 2, name="as it was")
    with pytest.raises(InputError, match=rule):
        store.describe(study_id, **marks)  # type: ignore[arg-type]
    assert store.run(study_id).name == "as it was"
    with pytest.raises(NotFoundError):
        store.describe("nobody", name="x")
    with pytest.raises(NotFoundError):
        store.tag("nobody", add=["x"])
