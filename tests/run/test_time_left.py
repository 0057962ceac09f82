"""The time that is left, by what each missing design costs."""

import pytest

from dnnflow.design.layers import Design, Layer
from dnnflow.run.time_left import FIRST_TRIALS, TimeLeft, expected_times
from dnnflow.table.store.dataset import Dataset


def test_large_designs_first_do_not_make_the_estimate_long() -> None:
    """A thousand designs of 1 s follow twenty of 60 s: a mean of trials would say 16 hours."""
    costs = {f"large-{number}": 60.0 for number in range(20)} | {
        f"small-{number}": 1.0 for number in range(1000)
    }
    left, elapsed_s = TimeLeft(costs), 100.0  # workers start, code is compiled
    for number in range(20):
        elapsed_s += 60.0
        left.observe([f"large-{number}"], elapsed_s)
        if number >= FIRST_TRIALS:
            truth = 60.0 * (19 - number) + 1000.0
            assert left.estimate(elapsed_s) == pytest.approx(truth)


def test_nothing_is_said_before_anything_is_known() -> None:
    left = TimeLeft({str(number): 1.0 for number in range(20)}, done=["0"])
    left.observe(["1", "2", "3"], 131.0)  # the first batch paid for the start
    assert left.estimate(131.0) is None
    left.observe([str(number) for number in range(4, 4 + FIRST_TRIALS)], 136.0)
    assert left.estimate(136.0) == pytest.approx(11.0)


def test_a_pace_that_changed_is_forgotten() -> None:
    left = TimeLeft({str(number): 1.0 for number in range(2000)})
    elapsed_s = 0.0
    for number in range(10):
        left.observe([str(number)], elapsed_s := elapsed_s + 10.0)
    for number in range(10, 1910):
        left.observe([str(number)], elapsed_s := elapsed_s + 0.1)
    assert left.estimate(elapsed_s) == pytest.approx(9.0, rel=0.05)
    left.observe([str(number) for number in range(1910, 2000)], elapsed_s)
    assert left.estimate(elapsed_s) == 0.0


def test_a_wider_design_and_one_with_more_epochs_take_longer(digits: Dataset) -> None:
    designs = [
        Design((Layer(16),), epochs=10),
        Design((Layer(256), Layer(256)), epochs=10),
        Design((Layer(256), Layer(256)), epochs=100),
    ]
    small, wide, long = expected_times(designs, digits).values()
    assert small < wide < long
