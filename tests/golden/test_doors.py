"""The same job through every door ends with the same numbers, the same files and the same states.

Whoever starts on the command line, goes on in the browser and schedules it with Prefect relies on that.
"""

import csv
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.golden.doors import Door, ProcessDoor, Rest, wait_for
from tests.golden.outcomes import (
    DESIGNS,
    TRAINING,
    Gate,
    assert_same_weights,
    comparable,
    files_of,
    finals_of,
    small,
    study_of,
    trials_of,
    with_refit,
)

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.timeout(900)]

EXPECTED = json.loads((Path(__file__).parent / "expected.json").read_text())
"""Numbers of today's version, to four decimals: the same with oneDNN on, off, and held to SSE 4.1."""
FILES = [
    *(f"models/{name}.keras" for name in ("best-1", "ensemble", "final")), "report.html",
    f"weights/{EXPECTED['best']}.npz",
    *(f"{of}predictions/{name}" for of in ("", "finalists/")
      for name in ("zarr.json", *(f"{array}/zarr.json" for array in ("classes", "designs", "truth")),
                   "designs/c/0/0", "truth/c/0")),
    "predictions/classes/c/0/0", "finalists/predictions/classes/c/0/0/0",
    *(f"finalists/weights/{design}.npz" for design in EXPECTED["finals"]),
]  # fmt: skip
"""Of a finished study; with a refit there is one more."""


def wait_for_files(door: Door, study_id: str, expected: list[str]) -> None:
    """Check that a study has these files and no others; by REST, it is finished before they are written."""
    if isinstance(door, Rest):
        wait_for(lambda: files_of(door.home, study_id) == sorted(expected), f"the files are {expected}")
    assert files_of(door.home, study_id) == sorted(expected)


def outputs_of(door: Door, name: str) -> Path | None:
    """Return where a report is asked for; by REST no place may be named."""
    return None if isinstance(door, Rest) else door.home / f"{name}.html"


@pytest.fixture(scope="session")
def fresh(doors: dict[str, Door]) -> dict[str, str]:
    """The studies with a refit that doors have run, by door: each is run when it is first asked for."""
    return {}


def run_fresh(door: Door, fresh: dict[str, str]) -> str:
    """Run a door's study with a refit, if it has not been, and return its id."""
    if door.name not in fresh:
        fresh[door.name] = door.run(with_refit("fresh", outputs_of(door, "fresh")))
    return fresh[door.name]


@pytest.fixture
def ran(door: Door, fresh: dict[str, str]) -> str:
    """The id of this door's study with a refit."""
    return run_fresh(door, fresh)


@pytest.fixture(scope="session")
def reference(doors: dict[str, Door], fresh: dict[str, str]) -> tuple[Path, str]:
    """Home and id of the study that all others are held against: the command line's."""
    door = doors["cli"]
    return door.home, run_fresh(door, fresh)


# ---- fresh


def test_a_study_is_as_it_was(reference: tuple[Path, str]) -> None:
    """No number that a user has seen changes with a new version."""
    trials = trials_of(*reference)
    assert len(trials) == DESIGNS
    assert sorted(trials) == sorted(EXPECTED["trials"])
    for design, trial in trials.items():
        for name, value in EXPECTED["trials"][design].items():
            assert trial[name] == pytest.approx(value, abs=5e-4), (design, name)
    study = study_of(*reference)
    assert (study.key, study.dataset.id) == (EXPECTED["key"], EXPECTED["dataset_id"])
    assert study.best["design_id"] == EXPECTED["best"]
    tested = {one.name: round(one.score, 4) for one in study.view().tested}
    assert tested == EXPECTED["tested"]
    finals = finals_of(study)
    assert sorted(finals) == sorted(EXPECTED["finals"])
    for design, trial in finals.items():
        assert trial == pytest.approx(EXPECTED["finals"][design], abs=5e-4), design


def test_a_study_is_the_same_by_every_door(door: Door, ran: str, reference: tuple[Path, str]) -> None:
    """Who changes the door would compare numbers that mean something else."""
    assert comparable(trials_of(door.home, ran)) == comparable(trials_of(*reference))
    ours, theirs = study_of(door.home, ran), study_of(*reference)
    assert ours.is_finished
    if isinstance(door, Rest):  # where it is finished before its models are measured
        wait_for(lambda: ours.view().tested, "the models are measured")
    assert ours.view().tested == theirs.view().tested
    assert finals_of(ours) == finals_of(theirs)
    assert ours.view().finals == theirs.view().finals
    assert ours.key == theirs.key, "a study begun by one door could not go on by another"


def test_a_study_leaves_the_same_files_by_every_door(
    door: Door, ran: str, reference: tuple[Path, str]
) -> None:
    """What is opened, sent on and predicted with lies where it lay, whoever asked for it."""
    wait_for_files(door, ran, [*FILES, "models/refit.keras"])
    for name in ("best-1.keras", "ensemble.keras", "final.keras", "refit.keras"):
        theirs = reference[0] / "studies" / reference[1] / "models" / name
        assert_same_weights(door.home / "studies" / ran / "models" / name, theirs)
    report = outputs_of(door, "fresh")
    assert report is None or report.is_file()


def test_every_door_shows_the_same_leaderboard(door: Door, ran: str, reference: tuple[Path, str]) -> None:
    """What a door says itself, and not only what is stored."""
    if isinstance(door, Rest):
        places = door.get(f"/studies/{ran}/leaderboard")["places"]
        listed = door.get(f"/studies/{ran}/trials")["trials"]
        stored = trials_of(door.home, ran)
        assert {row["design_id"]: row["score"] for row in listed} == {
            design: trial["score"] for design, trial in stored.items()
        }
    else:
        shown = json.loads(door.cli("show", ran, "--json"))
        assert (shown["state"], shown["trials"]) == ("finished", EXPECTED["counts"])
        places = shown["leaderboard"]
    study = study_of(*reference)
    folds = [one for one in finals_of(study).values() if one["stage"] == "folds"]
    means = pd.DataFrame(folds).groupby("finalist")["score"].mean().rename("mean")
    frame = study.trials().join(means, on="design_id")  # finalists first, by the mean of their folds
    columns = ["mean", "score", "parameters", "design_id"]
    order = frame.sort_values(columns, ascending=[False, False, True, True], na_position="last")
    assert [place["design_id"] for place in places] == list(order["design_id"])
    assert sorted(place["design_id"] for place in places if place["is_finalist"]) == sorted(means.index)


# ---- parallel training


@pytest.fixture(scope="session")
def trained(reference: tuple[Path, str]) -> dict[str, Path]:
    """Where each door has written its parallel training to."""
    return {}


def train(door: Door, trained: dict[str, Path], reference: tuple[Path, str], fresh: dict[str, str]) -> Path:
    """Train the best model of the door's study once more, if it has not been done; return where it lies."""
    if door.name not in trained:
        home, study_id = (door.home, fresh[door.name]) if isinstance(door, Rest) else reference
        trained[door.name] = door.train(TRAINING, home / "studies" / study_id / "models" / "best-1.keras")
    return trained[door.name]


def test_a_training_is_the_same_by_every_door(
    door: Door, doors: dict[str, Door], ran: str, trained: dict[str, Path], reference: tuple[Path, str],
    fresh: dict[str, str],
) -> None:  # fmt: skip
    theirs = train(doors["cli"], trained, reference, fresh)
    ours = train(door, trained, reference, fresh)
    assert last_row(ours) == pytest.approx(last_row(theirs), abs=1e-5)
    assert_same_weights(ours / "model.keras", theirs / "model.keras")
    assert {path.name for path in ours.iterdir()} >= {"model.keras", "history.csv", "report.html"}


def test_a_training_is_as_it_was(
    doors: dict[str, Door], trained: dict[str, Path], reference: tuple[Path, str], fresh: dict[str, str]
) -> None:
    row = last_row(train(doors["cli"], trained, reference, fresh))
    assert row == pytest.approx(EXPECTED["training"], abs=5e-4)


def last_row(folder: Path) -> dict[str, float]:
    """Return what was measured at the end; rows before depend on when there was time to measure."""
    with (folder / "history.csv").open(newline="") as file:
        *_, row = csv.DictReader(file)
    return {name: float(value) for name, value in row.items() if not name.endswith("_s")}


# ---- interrupted


@dataclass(frozen=True)
class Life:
    """What was stored of a study, by design, from interruption to interruption."""

    study_id: str
    killed: dict[str, Any]
    cancelled: dict[str, Any]
    cancelled_state: str
    last_id: str
    """Of the newest study at the end."""


def live(door: Door, gate: Gate) -> Life:
    """Kill a study midway and go on, cancel it midway and go on."""
    pipeline = small("broken", outputs_of(door, "broken"), training=gate.training)
    gate.close_after(3)
    find_id = door.begin_new(pipeline)
    gate.wait(3)
    study_id = wait_for(find_id, "the study is stored")
    killed = wait_for(lambda: trials_of(door.home, study_id), "a trial is stored")
    gate.kill_trainer()
    if isinstance(door, ProcessDoor):
        door.wait_stopped(study_id)
    gate.close_after(5)
    door.after_kill(pipeline, study_id)
    gate.wait(5)
    door.cancel(study_id)
    door.wait_stopped(study_id)
    state = study_of(door.home, study_id).record.state.value
    cancelled = trials_of(door.home, study_id)
    gate.open()
    door.go_on(pipeline, study_id)
    door.wait()
    return Life(study_id, killed, cancelled, state, find_id())


@pytest.fixture(scope="module")
def lives(
    doors: dict[str, Door], new_gate: Callable[[], Gate], reference: tuple[Path, str]
) -> Iterator[dict[str, Future[Life]]]:
    """An interrupted study of every door, two at a time: they mostly import."""
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(live, door, new_gate()) for name, door in doors.items()}


def test_a_study_that_was_killed_and_cancelled_ends_as_if_nothing_had_been(
    door: Door, lives: dict[str, Future[Life]], reference: tuple[Path, str]
) -> None:
    """kill -9 midway, on again, cancelled midway, on again: no trial is lost, and none has changed."""
    life = lives[door.name].result()
    assert life.last_id == life.study_id, "it was begun anew"
    assert 0 < len(life.killed) <= len(life.cancelled) < DESIGNS, "it was not interrupted midway"
    assert life.cancelled_state == "stopped"
    assert life.cancelled.items() >= life.killed.items()
    trials = trials_of(door.home, life.study_id)
    assert {design: trials[design] for design in life.cancelled} == life.cancelled, "a trial has changed"
    assert comparable(trials) == comparable(trials_of(*reference))
    assert study_of(door.home, life.study_id).is_finished
    wait_for_files(door, life.study_id, FILES)
    report = outputs_of(door, "broken")
    assert report is None or report.is_file()
    theirs = reference[0] / "studies" / reference[1] / "models" / "best-1.keras"
    assert_same_weights(door.home / "studies" / life.study_id / "models" / "best-1.keras", theirs)


def begin_and_cancel(door: Door, gate: Gate, pipeline: dict[str, Any]) -> str:
    """Begin a study, cancel it midway and return its id; what is missing may be trained from now on."""
    gate.close_after(3)
    find_id = door.begin_new(pipeline)
    gate.wait(3)
    study_id = wait_for(find_id, "the study is stored")
    wait_for(lambda: trials_of(door.home, study_id), "a trial is stored")
    door.cancel(study_id)
    door.wait_stopped(study_id)
    gate.open()
    return str(study_id)


@pytest.fixture(scope="module")
def by_id(doors: dict[str, Door], new_gate: Callable[[], Gate]) -> tuple[Door, str]:
    """A study with a refit that was cancelled midway, after `dnnflow resume ID`."""
    door, gate = doors["cli"], new_gate()
    pipeline = with_refit("by-id", outputs_of(door, "by-id"), training=gate.training)
    study_id = begin_and_cancel(door, gate, pipeline)
    door.cli("resume", study_id, "--json")
    return door, study_id


def test_a_study_resumed_by_its_id_has_the_same_trials(
    by_id: tuple[Door, str], reference: tuple[Path, str]
) -> None:
    """On the Dask cluster, what is missing is trained to the same numbers."""
    door, study_id = by_id
    assert comparable(trials_of(door.home, study_id)) == comparable(trials_of(*reference))
    assert set(files_of(door.home, study_id)) >= set(FILES)


def test_a_study_resumed_by_its_id_is_refitted(by_id: tuple[Door, str]) -> None:
    door, study_id = by_id
    wait_for_files(door, study_id, [*FILES, "models/refit.keras"])


def test_a_study_resumed_by_its_id_writes_the_report_where_it_is_asked_for(by_id: tuple[Door, str]) -> None:
    report = outputs_of(by_id[0], "by-id")
    assert report is not None
    assert report.is_file()


def test_a_study_resumed_by_rest_is_refitted(
    doors: dict[str, Door], new_gate: Callable[[], Gate], reference: tuple[Path, str]
) -> None:
    door, gate = doors["rest"], new_gate()
    pipeline = with_refit("by-rest", training=gate.training)
    study_id = begin_and_cancel(door, gate, pipeline)
    door.go_on(pipeline, study_id)
    door.wait()
    assert comparable(trials_of(door.home, study_id)) == comparable(trials_of(*reference))
    wait_for_files(door, study_id, [*FILES, "models/refit.keras"])


def test_a_study_of_the_command_line_is_resumed_by_rest(
    doors: dict[str, Door], new_gate: Callable[[], Gate]
) -> None:
    """Who closed the terminal goes on in the browser: with the report that was asked for, too."""
    rest, gate = doors["rest"], new_gate()
    cli = doors["cli"].at(rest.home)
    study_id = begin_and_cancel(
        cli, gate, small("from-cli", outputs_of(cli, "from-cli"), training=gate.training)
    )
    assert isinstance(rest, Rest)
    rest.go_on({}, study_id)
    rest.wait_for("finished", study_id)
    wait_for_files(rest, study_id, FILES)
    report = outputs_of(cli, "from-cli")
    assert report is not None
    wait_for(report.is_file, "the report is written")
