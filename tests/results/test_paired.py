"""What the best of a study is worth, and which designs are truly worse: claims that people act on."""

import math
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from statistics import NormalDist, fmean

import numpy as np
import pytest
from scipy.stats import ttest_rel
from threadpoolctl import threadpool_limits  # of scikit-learn

from dnnflow.errors import InputError
from dnnflow.results.view import paired
from dnnflow.results.view.paired import bias_corrected, smallest_equal, told_apart


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small wait for each other's threads: ten times as long where processors are busy."""
    with threadpool_limits(1):
        yield


def simulated(
    generator: np.random.Generator, accuracies: list[float], rows: int, *, shared: float = 0.0
) -> np.ndarray:
    """Draw which rows designs of known accuracies are right on; `shared`: how far they err together."""
    noise = generator.standard_normal((len(accuracies), rows), dtype=np.float32)
    hard = generator.standard_normal(rows, dtype=np.float32)
    limits = np.array([NormalDist().inv_cdf(accuracy) for accuracy in accuracies], np.float32)
    return (math.sqrt(shared) * hard + math.sqrt(1 - shared) * noise) < limits[:, None]


def best_first(right: np.ndarray) -> np.ndarray:
    return right[np.argsort(-right.sum(axis=1), kind="stable")]


def brute_force(right: list[list[bool]], seed: int, bootstraps: int) -> list[float]:
    """Return the accuracy, on rows not drawn, of the design that is best on rows drawn, of each bootstrap."""
    generator = np.random.default_rng(seed)
    rows = len(right[0])
    measured: list[float] = []
    while len(measured) < bootstraps:
        drawn = generator.integers(rows, size=rows).tolist()
        out = set(range(rows)) - set(drawn)
        if out:
            best = max(right, key=lambda design: sum(design[row] for row in drawn))  # of equals the first
            measured.append(sum(best[row] for row in out) / len(out))
    return measured


@pytest.mark.parametrize(("designs", "rows"), [(1, 2), (3, 2), (4, 5), (30, 40), (7, 300)])
def test_bias_corrected_is_what_a_bootstrap_in_plain_python_says(designs: int, rows: int) -> None:
    right = simulated(np.random.default_rng(designs), [0.7] * designs, rows)
    wanted = brute_force(right.tolist(), 5, 60)
    got = bias_corrected(right, seed=5, bootstraps=60)
    assert got.score == pytest.approx(fmean(wanted))
    assert (got.low, got.high) == pytest.approx(np.percentile(wanted, [2.5, 97.5]))
    assert got.naive == max(map(fmean, right.tolist()))
    assert got.bootstraps == 60


@pytest.mark.parametrize("block", [1, 50, 333, 4000])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equals are many here, and in different blocks: the first must win wherever it stands."""
    right = simulated(np.random.default_rng(1), [0.8] * 60, 25)
    whole = bias_corrected(right, bootstraps=50), told_apart(right)
    monkeypatch.setattr(paired, "BLOCK", block)
    assert (bias_corrected(right, bootstraps=50), told_apart(right)) == whole


def test_of_equals_the_first_is_chosen() -> None:
    """Each is right where the other is wrong; where as many rows of either are drawn, order decides."""
    right = np.array([[True, False] * 3, [False, True] * 3])
    assert bias_corrected(right, bootstraps=80).score == pytest.approx(
        fmean(brute_force(right.tolist(), 0, 80))
    )
    assert bias_corrected(right, bootstraps=80) != bias_corrected(right[::-1], bootstraps=80)


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    right = simulated(np.random.default_rng(2), [0.8] * 20, 50)
    assert bias_corrected(right, seed=3) == bias_corrected(right, seed=3)
    assert bias_corrected(right, seed=3) != bias_corrected(right, seed=4)


def test_hopeless_designs_are_left_out_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    right = simulated(np.random.default_rng(3), [0.9] * 5 + [0.85] * 5 + [0.6] * 90, 400)
    best = int(right.sum(axis=1).argmax())
    kept = paired._hopeful(right, best, 1000)
    assert set(kept.tolist()) >= set(range(10))
    assert len(kept) < 20
    without = bias_corrected(right)
    monkeypatch.setattr(paired, "HOPELESS", 1e-300)
    assert len(paired._hopeful(right, best, 1000)) == 100
    assert bias_corrected(right) == without


def test_bootstraps_are_fewer_where_they_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    right = simulated(np.random.default_rng(4), [0.8] * 10, 100)
    monkeypatch.setattr(paired, "MOST_PRODUCTS", 300 * right.size)
    assert bias_corrected(right).bootstraps == 300
    assert bias_corrected(right, bootstraps=250).bootstraps == 250
    monkeypatch.setattr(paired, "MOST_PRODUCTS", right.size)
    assert bias_corrected(right).bootstraps == paired.FEWEST_BOOTSTRAPS
    assert bias_corrected(right, bootstraps=30).bootstraps == 30


@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_of_equally_good_designs_the_leaderboard_is_biased_and_the_corrected_is_not(shared: float) -> None:
    """250 studies of 200 designs on 200 rows, all of accuracy 0.85."""
    generator = np.random.default_rng(6)
    every = [
        bias_corrected(simulated(generator, [0.85] * 200, 200, shared=shared), seed=study, bootstraps=60)
        for study in range(250)
    ]
    assert fmean(one.naive for one in every) > 0.89
    assert fmean(one.score for one in every) == pytest.approx(0.85, abs=0.003)
    assert fmean(one.low <= 0.85 <= one.high for one in every) >= 0.95


def test_of_unequal_designs_the_corrected_errs_downwards_and_less() -> None:
    """200 studies of 200 designs on 200 rows, of accuracies 0.6 to 0.9; the truth is the chosen design's."""
    generator = np.random.default_rng(7)
    truths = np.linspace(0.9, 0.6, 200)
    naive, corrected, covered = [], [], []
    for study in range(200):
        right = simulated(generator, truths.tolist(), 200, shared=0.5)
        one, truth = bias_corrected(right, seed=study, bootstraps=60), truths[right.sum(axis=1).argmax()]
        naive.append(one.naive - truth)
        corrected.append(one.score - truth)
        covered.append(one.low <= truth <= one.high)
    assert fmean(naive) > 0.02
    assert -0.01 < fmean(corrected) < 0.003
    assert fmean(covered) >= 0.95


def test_one_design_has_no_selection_bias() -> None:
    right = simulated(np.random.default_rng(8), [0.8], 500)
    one = bias_corrected(right)
    assert one.score == pytest.approx(one.naive, abs=0.003)
    assert one.low < one.naive < one.high
    assert told_apart(right) == ()
    assert smallest_equal(right, [7]) == 0


@pytest.mark.parametrize("value", [True, False])
def test_designs_that_say_the_same_are_equal(value: bool) -> None:
    right = np.full((5, 30), value)
    one = bias_corrected(right, bootstraps=20)
    assert {one.score, one.low, one.high, one.naive} == {float(value)}
    assert told_apart(right) == (False,) * 4
    assert smallest_equal(right, [5, 3, 3, 9, 4]) == 1


def worse_in_plain_python(right: list[list[bool]], alpha: float) -> tuple[bool, ...]:
    """Test with exact fractions, then Holm's step-down from the smallest p-value at alpha / designs."""
    first, *others = right
    p = []
    for other in others:
        b = sum(x and not y for x, y in zip(first, other, strict=True))
        c = sum(y and not x for x, y in zip(first, other, strict=True))
        p.append(Fraction(sum(math.comb(b + c, k) for k in range(c + 1)), 2 ** (b + c)))
    told = [False] * len(p)
    for done, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[place] > Fraction(alpha) / len(right) / (len(p) - done):
            break
        told[place] = True
    return tuple(told)


@pytest.mark.parametrize("rows", [1, 30, 300, 3000])
def test_told_apart_is_what_exact_fractions_say(rows: int) -> None:
    accuracies = np.linspace(0.95, 0.6, 40).tolist()
    random.Random(rows).shuffle(accuracies)
    right = best_first(simulated(np.random.default_rng(rows), accuracies, rows, shared=0.3))
    assert told_apart(right) == worse_in_plain_python(right.tolist(), 0.05)
    assert any(told_apart(right)) == (rows > 100)


def test_p_values_hold_far_out() -> None:
    """Of 50,000 designs a p-value must be below 0.05 / 50,000 / 49,999: 36 rows, where 35 are not enough."""
    right = np.ones((50_000, 60), bool)
    right[1, :36] = right[2, :35] = False
    assert [place for place, told in enumerate(told_apart(right), start=1) if told] == [1]


def test_shares_of_right_predictions_are_compared_by_a_paired_t_test() -> None:
    generator = np.random.default_rng(4)
    good = generator.choice([0.0, 1 / 3, 2 / 3, 1.0], (6, 200)).astype(np.float32)
    good[0] = np.minimum(good[0] + generator.choice([0.0, 0.2], 200), 1.0)
    expected = [float(ttest_rel(good[0], other, alternative="greater").pvalue) for other in good[1:]]
    assert paired._by_mean(good) == pytest.approx(expected, rel=1e-4)
    ahead = np.stack([np.full(9, 0.75), np.full(9, 0.5), np.full(9, 0.75)])
    assert told_apart(ahead) == (True, False)


def first_by_order(right: np.ndarray) -> np.ndarray:
    return right


@pytest.mark.parametrize("order", [best_first, first_by_order])
@pytest.mark.parametrize("designs", [10, 100])
def test_of_equally_good_designs_hardly_a_study_tells_one_apart(
    designs: int, order: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Also where the first is the maximum. Errors go together, as those of networks on one table do."""
    generator = np.random.default_rng(9)
    studies = 400
    wrong = sum(
        any(told_apart(order(simulated(generator, [0.85] * designs, 400, shared=0.7))))
        for _ in range(studies)
    )
    assert wrong / studies <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)


def test_designs_that_are_worse_are_told_apart_on_enough_rows() -> None:
    """Three points worse: with few rows that is not known, with many it is; those as good stay."""
    generator = np.random.default_rng(10)
    accuracies = [0.9] * 50 + [0.87] * 50
    found = {}
    for rows in (300, 12_000):
        right = simulated(generator, accuracies, rows, shared=0.7)
        first = int(right[:50].sum(axis=1).argmax())
        told = np.array([False, *told_apart(np.concatenate([right[first : first + 1], right]))][1:])
        assert not told[:50].any()
        found[rows] = told[50:].mean()
    assert found[300] < 0.1
    assert found[12_000] == 1.0


def test_smallest_equal_is_the_smallest_of_those_not_told_apart() -> None:
    accuracies = [0.95, 0.95, 0.95, 0.5, 0.95]
    right = best_first(simulated(np.random.default_rng(11), accuracies, 2000))
    assert told_apart(right) == (False, False, False, True)
    assert smallest_equal(right, [50, 40, math.inf, 30, 1]) == 3
    assert smallest_equal(right, [10, 40, 10, 30, 1]) == 0
    assert smallest_equal(right, [math.inf] * 4 + [1]) == 0


@pytest.mark.parametrize(
    ("right", "message"),
    [
        (np.ones((3, 0), bool), r"rows must be >= 1, got 0; hold out"),
        (np.ones((0, 3), bool), r"designs must be >= 1, got 0; wait"),
        (np.ones((2, 3), int), r"right must be a bool or float array .*got int64 of shape \(2, 3\); compare"),
        (np.ones(3, bool), r"right must be .*got bool of shape \(3,\); compare"),
    ],
)
def test_what_cannot_be_compared_is_refused(right: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        told_apart(right)
    with pytest.raises(InputError, match=message.replace(">= 1, got 0; hold", ">= 2, got 0; hold")):
        bias_corrected(right)


def test_what_has_no_answer_is_refused() -> None:
    right = np.ones((3, 4), bool)
    with pytest.raises(InputError, match="rows must be >= 2, got 1; hold out"):
        bias_corrected(right[:, :1])
    with pytest.raises(InputError, match="bootstraps must be >= 1, got 0; leave"):
        bias_corrected(right, bootstraps=0)
    with pytest.raises(InputError, match="sizes must be one a design, got 2 of 3; use inf"):
        smallest_equal(right, [1, 2])
