"""Samples of output in the README are what its commands print, but for the numbers in them."""

import re
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dnnflow.cli.main import app
from tests import readme

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def shape(line: str) -> str:
    """Return a line without its numbers and without the width of its gaps."""
    return re.sub(r"\s+", " ", _NUMBER.sub("#", line)).strip()


def sales(path: Path) -> None:
    """Write the table that the README tells of: dates, prices, durations, many towns, ids, and a leak."""
    rng = np.random.default_rng(2)
    lines = ["id,kind,bought,price,town,took,code"]
    for row in range(400):
        kind = ("fair", "poor")[int(rng.integers(2))]
        day = date(2021, 1, 1) + timedelta(days=int(rng.integers(900)))
        bought = f"{day} {rng.integers(8, 20):02}:{rng.integers(60):02}"
        price = f'"${rng.uniform(1000, 2000):,.2f}"'
        town = f"town {row % 112 if row < 300 else row % 40}"
        took = f"0:{rng.integers(60):02}:00"
        code = {"fair": "A", "poor": "B"}[kind]
        lines.append(f"S-{row:04}-x,{kind},{bought},{price},{town},{took},{code}")
    path.write_text("\n".join(lines) + "\n")


def test_ingest_says_of_a_table_what_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DNNFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    sales(tmp_path / "sales.csv")
    section = readme.blocks("Any table")[0]
    found = CliRunner().invoke(app, ["ingest", "sales.csv", "--label", "kind"])
    assert found.exit_code == 0, found.output
    printed = {shape(line) for line in found.output.splitlines()}
    shown = [line for line in section.splitlines() if line.strip() not in ("", "…")]
    assert not [line for line in shown if shape(line) not in printed], found.output
