"""What the terminal says fits its width, and progress says when machine code is being made."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dnnflow.engines.records import TrialState
from dnnflow.events import Compiling, TrialsStored
from dnnflow.results.store.run_record import RunRecord
from dnnflow.results.view import tested
from dnnflow.show import terminal
from dnnflow.show.study_tables import PlaceRow, PlaceSection
from dnnflow.show.terminal import Progress, _fitting, _table, show_dataset, show_studies, show_survey
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.ingest import ingest
from dnnflow.table.store.survey import survey


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Callable[[], list[str]]]:
    """Have consoles of a width; returns what gives the lines that were printed."""

    def of_width(width: int) -> Callable[[], list[str]]:
        out = io.StringIO()
        monkeypatch.setattr(terminal, "Console", lambda **_: Console(width=width, file=out))
        return lambda: out.getvalue().splitlines()

    return of_width


@pytest.mark.parametrize("width", [60, 80])
def test_a_list_of_large_studies_keeps_ids_and_names_whole(
    lines: Callable[[int], Callable[[], list[str]]], width: int
) -> None:
    shown = lines(width)
    name = "a study of handwritten digits"
    record = RunRecord(run_id="AL8V9nHvGFpBC4t1", name=name, n_designs=50_000, key="k")
    show_studies([(record, {TrialState.COMPLETED: 49_000, TrialState.FAILED: 1_000})])
    text = shown()
    assert max(map(len, text)) <= width
    (row,) = [line for line in text if "AL8V9nHvGFpBC4t1" in line]
    assert "50,000 of 50,000" in row
    assert "stopped" in row  # nobody drives it
    assert "a study of" in row


def test_a_list_of_studies_says_what_was_measured_and_of_what(
    lines: Callable[[int], Callable[[], list[str]]],
) -> None:
    shown = lines(120)
    winner = tested.Tested(kind="design", name="a", score=0.9, rows=50, rank=1, selected=0.95).to_dict()
    mean = tested.Tested(kind="ensemble", name="b", score=0.92, rows=50, selected=0.96).to_dict()
    told: list[Any] = [{"tested": [winner, mean]}, {"tested": [winner]}, None, {"tested": [winner]}]
    selected = [{}, {}, {}, {"evaluation": {"select_on": "test"}}]
    records = [
        RunRecord(run_id=f"s{at}", name="s", n_designs=2, key="k", outcome=outcome, pipeline=pipeline)
        for at, (outcome, pipeline) in enumerate(zip(told, selected, strict=True))
    ]
    show_studies([(record, {TrialState.COMPLETED: 2}) for record in records])
    rows = [line for line in shown() if "2 of 2" in line]
    assert "ensemble 92.0 %" in rows[0]
    assert "winner 90.0 %" in rows[1]
    assert all("%" not in row for row in rows[2:])  # not measured, or chosen by it


def test_a_leaderboard_leaves_out_columns_before_it_folds_designs_to_letters() -> None:
    row = PlaceRow(
        rank="≈ 12,345", name="12 x 1024 leaky_relu, adamw 0.00123", score="1,234,567.89 USD",
        spread="± 123,456.78", interval="1,234,000.00 – 1,235,000.00", bar=None,
    )  # fmt: skip
    section = PlaceSection("Finalists", "trained 5 times each", (row,), 1)
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(_table(section, "RMSE", 80))
    text = console.export_text()
    assert "12 x 1024" in text
    assert "leaky_relu" in text
    assert "1,234,567.89 USD" in text


def test_columns_are_left_out_in_their_order() -> None:
    names, rows = ["id", "made", "failed", "name"], [("a" * 16, "b" * 16, "0", "c" * 50)]

    def shown(width: int) -> list[str]:
        return [
            names[place] for place in _fitting(names, rows, width, folds="name", spare=("failed", "made"))
        ]

    assert shown(120) == names
    assert shown(60) == ["id", "made", "name"]
    assert shown(41) == ["id", "name"]


def test_progress_says_compiling_while_it_lasts(capsys: pytest.CaptureFixture[str]) -> None:
    stored = TrialsStored(10, 1, 0, 1.0, 1.0, None, None, None)
    with Progress() as progress:
        for event in (Compiling(1), Compiling(2), stored, Compiling(1), Compiling(0)):
            progress(event)
    assert capsys.readouterr().err.splitlines() == [
        "  compiling on 1 worker, once a process", "  1 of 10 designs, 1.0/s, compiling on 2",
    ]  # fmt: skip


def test_names_with_brackets_are_no_markup(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, names = tmp_path / "[t] table.csv", ("[/u]", "[bold]v")
    path.write_text("[/x],y [red]\n" + "".join(f"{i}.5,{names[i % 2]}\n" for i in range(20)))
    show_dataset(ingest(Source(url=str(path)), Recipe(label="y [red]"), tmp_path / "[d]"))
    show_survey(survey(Source(url=str(path))), str(path), {})
    told = capsys.readouterr().out
    assert "classes   2: [/u], [bold]v" in told
    assert all(text in told for text in ("[/x]", "y [red]", "[t] table.csv: 20 rows", "/[d]/"))
