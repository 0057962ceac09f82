"""The report of a parallel training: its numbers, what a page says of them, and figures in a browser."""

import re
from pathlib import Path

import numpy as np
import pytest

from dnnflow.api import ReportedHistory
from dnnflow.parallel.driver.history import History, ReplicaTotals, WorkerLoss
from dnnflow.parallel.model.batch_totals import BatchTotals
from dnnflow.parallel.rows.coordinator import Report
from dnnflow.parallel.server.messages import ServerStatistics
from dnnflow.parallel.spec.algorithm import Algorithm, Kind
from dnnflow.show.report import render_report
from dnnflow.show.run_numbers import (
    LEAST_LOSSES,
    MOST_LATE,
    ReplicaNumbers,
    mean_staleness,
    measures,
    pace_now,
    replica_rows,
    staleness_shown,
    time_shares,
    training_headline,
    training_numbers,
)
from tests.browser import browser

EVIL = "<script>alert(1)</script>"


def report(replica: int, loss: float) -> Report:
    return Report(
        replica=replica, tallies=((0, BatchTotals(100, 100 * loss, np.zeros(0))),), pushes=2, compute_s=0.3,
        exchange_s=0.1, data_s=0.1, resident_bytes=(replica + 1) * 10**8, processor_s=0.4,
        gpu_bytes=replica * 10**9,
    )  # fmt: skip


def statistics(version: int) -> ServerStatistics:
    return ServerStatistics(
        version=version, samples=100, pushes=version, dropped=3, repeated=4,
        staleness={0: version - 20, 1: 20}, waited_s=1.5, replicas=(0, 1),
    )  # fmt: skip


@pytest.fixture
def history() -> History:
    """Two replicas that each report 40 times, once a quarter of a second."""
    found = History(
        replicas={0: ReplicaTotals(), 1: ReplicaTotals(starts=2)},
        about={"Model": EVIL, "Algorithm": "downpour, asynchronous"},
        total=10_000,
    )
    for step in range(40):
        for replica in range(2):
            found.add(report(replica, loss=2.0 / (step + 1)), (step + 1) / 4)
        if step % 4 == 3:
            found.note((statistics(4 * (step + 1)),), (step + 1) / 4)
    found.rows = [
        {
            "epoch": 0.4,
            "samples": 4000.0,
            "elapsed_s": 5.0,
            "loss": 1.0,
            "val_loss": 0.9,
            "val_accuracy": 0.7,
        },
        {
            "epoch": 0.8,
            "samples": 8000.0,
            "elapsed_s": 10.0,
            "loss": 0.2,
            "val_loss": 0.3,
            "val_accuracy": 0.9,
        },
    ]
    found.lost.append(WorkerLoss(3.25, 1, "tcp://10.0.0.7:4000"))
    found.seconds_s, found.startup_s, found.ended_by = 10.0, 4.0, "target"
    return found


def test_numbers_of_a_training(history: History) -> None:
    numbers = training_numbers(history, {0: "tcp://a:1"})
    assert (numbers.samples, numbers.total, numbers.elapsed_s, numbers.updates) == (8000, 10_000, 10.0, 160)
    first, second = numbers.replicas
    assert (first.worker, second.worker, second.starts) == ("tcp://a:1", "", 2)
    assert (first.samples, first.pushes, second.resident_bytes) == (4000, 80, 200_000_000)
    assert (first.gpu_bytes, second.gpu_bytes) == (0, 10**9)
    assert first.losses == pytest.approx([2.0 / (step + 1) for step in range(40)])
    assert first.seen == tuple(200 * step + 100 for step in range(40))  # of both replicas
    assert [value for _, value in numbers.samples_pace] == pytest.approx([800.0] * 5)
    assert [value for _, value in numbers.updates_pace] == pytest.approx([16.0] * 4)
    assert numbers.staleness == ((0, 140), (1, 20))
    assert numbers.mean_staleness == pytest.approx(20 / 160)
    assert numbers.lost == ((3.25, 1, "tcp://10.0.0.7:4000"),)


def test_losses_are_divided_among_replicas() -> None:
    many = History(replicas={number: ReplicaTotals() for number in range(400)})
    for _ in range(LEAST_LOSSES * 2):
        for number in range(400):
            many.add(report(number, 1.0), 1.0)
    numbers = training_numbers(many)
    assert {len(one.losses) for one in numbers.replicas} == {LEAST_LOSSES}
    assert {len(one.seen) for one in numbers.replicas} == {LEAST_LOSSES}


def test_a_training_that_has_not_begun_has_numbers() -> None:
    numbers = training_numbers(History(replicas={0: ReplicaTotals()}))
    assert (numbers.samples, numbers.staleness, numbers.mean_staleness) == (0, (), None)
    assert training_headline(numbers) == [("samples", "0", "")]
    assert "No replica has reported" in render_report(History(replicas={0: ReplicaTotals()}))


def test_a_long_tail_of_staleness_is_counted_together() -> None:
    assert staleness_shown({0: 990, 1: 6, 7: 3, 90: 1}) == ((0, 990), (1, 6), (7, 4))
    even = staleness_shown(dict.fromkeys(range(100), 1))
    assert even[-1] == (MOST_LATE, 100 - MOST_LATE)
    assert sum(count for _, count in even) == 100
    assert mean_staleness({0: 1, 3: 1}) == 1.5


def test_validation_losses_and_other_measures_are_apart(history: History) -> None:
    numbers = training_numbers(history)
    assert [one.name for one in measures(numbers, losses=True)] == ["val_loss"]
    (accuracy,) = measures(numbers, losses=False)
    assert (accuracy.name, accuracy.samples, accuracy.values) == (
        "val_accuracy",
        (4000.0, 8000.0),
        (0.7, 0.9),
    )


def test_time_is_shared_out() -> None:
    assert time_shares(ReplicaNumbers(replica=0, compute_s=6, exchange_s=3, data_s=1)) == (0.6, 0.3, 0.1)
    assert time_shares(ReplicaNumbers(replica=0)) == (0.0, 0.0, 0.0)


def test_how_fast_it_is_now_is_of_the_last_seconds() -> None:
    assert pace_now([(5.0, 1.0), (50.0, 10.0), (55.0, 30.0)]) == 20.0
    assert pace_now([]) is None


def test_a_training_that_goes_on_says_how_far_it_is_in_all(history: History) -> None:
    history.restored = 1_000
    assert training_headline(training_numbers(history))[0] == ("samples", "8,000", "90 % of 10,000")


def test_an_algorithm_in_words() -> None:
    algorithm = Algorithm(kind=Kind.DOWNPOUR, synchronous=True, quorum=0.9, sync_every=4)
    assert algorithm.in_words() == "downpour, synchronous, a push every 4 batches, quorum 0.9"


def test_the_page_holds_what_matters_and_nothing_from_afar(history: History, tmp_path: Path) -> None:
    path = ReportedHistory(**vars(history)).report(tmp_path / "report.html")
    page = path.read_text()
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)" in page
    for word in ("8,000", "80 % of 10,000", "0.9000", "0.12", "Ended by", "target", "tcp://10.0.0.7:4000",
                 "3.2 s", "10.0 s, and 4.0 s of start-up", "1.5 s"):  # fmt: skip
        assert word in page, word
    assert "200 MB, GPU 1,000 MB" in page
    for value in replica_rows(training_numbers(history).replicas)[0]:
        assert f">{value}<" in page
    assert "default-src 'none'" in page
    tags = re.sub(
        r"<script.*?</script>", "", page, flags=re.DOTALL
    )  # where Bokeh names what it does not load
    assert "src=" not in tags
    assert "<link" not in tags
    assert "http" not in tags.replace("http-equiv", "")


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_draws_every_figure(history: History, tmp_path: Path) -> None:
    path = ReportedHistory(**vars(history)).report(tmp_path / "report.html")
    with browser() as tab:
        tab.open(path.as_uri())
        tab.wait("window.Bokeh && Bokeh.documents.length && Bokeh.documents.every(one => one.is_idle)")
        assert tab.value("document.querySelectorAll('.bk-Figure').length") == 6
