"""The split and the order of rows are a function of seed and row number, and of nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnnflow.errors import DataError, InputError
from dnnflow.table.columns.split import (
    Marks,
    Part,
    divide,
    epoch_order,
    exact_rule,
    row_keys,
    threshold_rule,
)


@pytest.mark.parametrize("first", [0, 1, 4, 1023, 10**12])
def test_a_row_has_the_same_key_in_every_block(first: int):
    whole = row_keys(7, first, 500)
    for cut in (1, 3, 250):
        assert np.array_equal(
            np.concatenate([row_keys(7, first, cut), row_keys(7, first + cut, 500 - cut)]), whole
        )


def test_keys_differ_by_seed_and_row():
    keys = np.concatenate([row_keys(seed, 0, 10_000) for seed in range(4)])
    assert len(np.unique(keys)) == 40_000
    assert keys.astype(np.float64).mean() / 2.0**64 == pytest.approx(0.5, abs=0.01)


def test_the_keys_stay_what_they_are():
    """A change here would split every dataset anew under the same id."""
    assert row_keys(0, 0, 3).tolist() == [213000021201967259, 4455796210202625458, 2055444239878205049]
    assert epoch_order(8, 0, 0).tolist() == [3, 2, 1, 7, 4, 0, 5, 6]


@pytest.mark.parametrize("fraction", [0.2, 0.01, 0.5, 0.99])
def test_the_smallest_keys_of_each_class_are_test(fraction: float):
    rng = np.random.default_rng(0)
    classes = rng.choice([-1, 0, 1, 2], p=[0.1, 0.6, 0.29, 0.01], size=3001)
    test = exact_rule(3, fraction, classes).is_test(0, classes)
    keys = row_keys(3, 0, len(classes))
    for code in range(3):
        mine, n = classes == code, int((classes == code).sum())
        assert (test & mine).sum() == min(max(round(fraction * n), 1), n - 1)
        assert keys[test & mine].max() < keys[~test & mine].min()
    assert not test[classes == -1].any()


def test_two_rows_of_a_class_are_one_on_each_side():
    classes = np.array([0, 1, 0, 1])
    test = exact_rule(0, 0.2, classes).is_test(0, classes)
    assert np.bincount(classes[test]).tolist() == [1, 1]


def test_a_rule_may_be_applied_to_any_part():
    classes = np.random.default_rng(1).integers(0, 3, 1000)
    rule = exact_rule(5, 0.2, classes)
    parts = [rule.is_test(at, classes[at : at + 77]) for at in range(0, 1000, 77)]
    assert np.array_equal(np.concatenate(parts), rule.is_test(0, classes))


def test_large_tables_are_split_by_the_key_alone():
    classes = np.zeros(200_000, dtype=np.int16)
    test = threshold_rule(1, 0.2, 1).is_test(0, classes)
    assert np.array_equal(test, row_keys(1, 0, 200_000) < int(0.2 * 2.0**64))
    assert test.mean() == pytest.approx(0.2, abs=0.005)


def test_each_epoch_visits_every_row_in_an_order_of_its_own():
    orders = [epoch_order(1000, seed, epoch) for seed in range(3) for epoch in range(3)]
    assert all(np.array_equal(np.sort(order), np.arange(1000)) for order in orders)
    assert len({order.tobytes() for order in orders}) == 9
    assert orders[0].dtype == np.int64
    assert np.array_equal(orders[0], epoch_order(1000, 0, 0))


SEEDS = st.integers(0, 2**63 - 1)
CLASSES = st.lists(st.integers(0, 4), min_size=2, max_size=60).map(np.array)


@given(classes=CLASSES, seed=SEEDS, share=st.floats(0.0, 0.99), repeat=st.integers(0, 3))
def test_a_holdout_has_the_share_of_each_class(classes: np.ndarray, seed: int, share: float, repeat: int):
    fit, held = divide(Part(holdout=share, repeat=repeat), seed, classes)
    assert np.array_equal(np.sort(np.concatenate([fit, held])), np.arange(len(classes)))
    assert fit.dtype == held.dtype == np.int64
    assert (np.diff(fit) > 0).all()
    assert (np.diff(held) > 0).all()
    if share == 0:
        assert not len(held)
        return
    sizes = np.bincount(classes)
    wanted = np.array([min(round(share * n), max(n - 1, 0)) for n in sizes.tolist()])
    got = np.bincount(classes[held], minlength=len(sizes))
    assert np.array_equal(got, wanted) if wanted.any() else got.sum() == 1


@given(classes=CLASSES, seed=SEEDS, folds=st.integers(2, 6), repeat=st.integers(0, 3))
def test_folds_hold_every_row_once(classes: np.ndarray, seed: int, folds: int, repeat: int):
    if len(classes) < folds:
        return
    parts = [divide(Part(folds=folds, fold=f, repeat=repeat), seed, classes) for f in range(folds)]
    assert all(np.array_equal(np.sort(np.concatenate(p)), np.arange(len(classes))) for p in parts)
    assert np.array_equal(np.sort(np.concatenate([held for _, held in parts])), np.arange(len(classes)))
    assert np.ptp([len(held) for _, held in parts]) <= 1
    counts = np.array([np.bincount(classes[held], minlength=5) for _, held in parts])
    assert np.ptp(counts, axis=0).max() <= 1


@given(
    groups=st.lists(st.integers(0, 8), min_size=2, max_size=60).map(np.array),
    seed=SEEDS,
    folds=st.sampled_from([None, 2, 3]),
    repeat=st.integers(0, 2),
)
def test_a_group_is_on_one_side(groups: np.ndarray, seed: int, folds: int | None, repeat: int):
    marks, classes = Marks(groups=groups), np.zeros(len(groups), dtype=np.int32)
    if len(np.unique(groups)) < (folds or 2):
        with pytest.raises(InputError, match=r"groups|rows"):
            divide(Part(folds=folds, repeat=repeat), seed, classes, marks)
        return
    every = []
    for fold in range(folds or 1):
        fit, held = divide(Part(folds=folds, fold=fold, repeat=repeat), seed, classes, marks)
        assert np.array_equal(np.sort(np.concatenate([fit, held])), np.arange(len(groups)))
        assert len(fit)
        assert len(held)
        assert not set(groups[fit]) & set(groups[held])
        every.append(held)
    if folds:
        assert np.array_equal(np.sort(np.concatenate(every)), np.arange(len(groups)))


def test_groups_come_near_the_share_and_leave_each_class_rows():
    rng = np.random.default_rng(2)
    groups, classes = rng.integers(0, 200, 5000), rng.integers(0, 3, 5000)
    classes[:3] = 3
    groups[:3] = 7  # one group has all rows of a class
    for seed in range(20):
        fit, held = divide(Part(holdout=0.3), seed, classes, Marks(groups=groups))
        assert len(held) == pytest.approx(1500, abs=15)
        assert set(classes[fit]) == {0, 1, 2, 3}


def test_a_group_of_most_rows_is_not_held_out():
    groups = np.repeat([0, 1, 2, 3], [700, 100, 100, 100])
    for seed in range(20):
        _, held = divide(Part(holdout=0.2), seed, np.zeros(1000, dtype=int), Marks(groups=groups))
        assert 100 <= len(held) <= 200
        assert 0 not in groups[held]


@pytest.mark.parametrize(("sizes", "held"), [((90, 10), 10), ((60, 40), 40), ((50, 50), 50)])
def test_of_two_groups_the_smaller_is_held_out(sizes: tuple[int, int], held: int):
    for seed in range(10):
        parts = divide(Part(), seed, np.arange(100) % 2, Marks(groups=np.repeat([0, 1], sizes)))
        assert len(parts[1]) == held


def test_a_group_without_a_class_of_its_own_is_found():
    """Whatever the keys: group 0 alone has class 1, so that only group 1 can be spared."""
    for seed in range(10):
        _, held = divide(Part(), seed, np.array([0, 1, 0, 0]), Marks(groups=np.array([0, 0, 1, 1])))
        assert held.tolist() == [2, 3]


def test_groups_that_cannot_be_divided():
    with pytest.raises(DataError, match="each class must keep rows to train on, but each of the 2 groups"):
        divide(Part(), 0, np.array([0, 0, 1]), Marks(groups=np.array([4, 4, 5])))


@given(
    times=st.lists(st.integers(-5, 5) | st.integers(-(2**60), 2**60), min_size=2, max_size=60).map(np.array),
    share=st.floats(0.01, 0.99),
    folds=st.sampled_from([None, 2, 4]),
)
def test_what_is_held_out_by_time_comes_after_what_is_fitted(
    times: np.ndarray, share: float, folds: int | None
):
    marks, classes = Marks(times=times), np.zeros(len(times), dtype=np.int32)
    instants = len(np.unique(times))
    if instants < (folds or 1) + 1:
        with pytest.raises(InputError, match=r"instants|rows"):
            divide(Part(holdout=share, folds=folds), 0, classes, marks)
        return
    before = None
    for fold in range(folds or 1):
        fit, held = divide(Part(holdout=share, folds=folds, fold=fold), 0, classes, marks)
        assert len(fit)
        assert len(held)
        assert times[fit].max() < times[held].min()
        assert before is None or np.array_equal(np.sort(np.concatenate(before)), fit)
        before = fit, held
    assert before is not None
    assert sum(map(len, before)) == len(times)  # the last window reaches to the end
    if folds is None and instants == len(times):
        assert len(held) == pytest.approx(np.clip(share * len(times), 1, len(times) - 1), abs=0.51)


def test_windows_of_time_are_even():
    times = np.random.default_rng(0).permutation(1000)
    parts = [divide(Part(folds=4, fold=f), 0, times * 0, Marks(times=times)) for f in range(4)]
    assert [len(fit) for fit, _ in parts] == [200, 400, 600, 800]
    assert [len(held) for _, held in parts] == [200] * 4


def test_rows_marked_for_validation_are_the_holdout():
    marks = Marks(validation=np.array([False, True, False, False, True]))
    classes = np.array([0, 0, 1, 1, 1])
    for share in (0.1, 0.9):
        fit, held = divide(Part(holdout=share), 0, classes, marks)
        assert (fit.tolist(), held.tolist()) == ([0, 2, 3], [1, 4])
    assert divide(Part(holdout=0), 0, classes, marks)[0].tolist() == [0, 1, 2, 3, 4]
    folds = [divide(Part(folds=2, fold=f), 0, classes, marks)[1] for f in range(2)]
    assert sorted(np.concatenate(folds)) == [0, 1, 2, 3, 4]


def test_repeats_and_seeds_draw_anew():
    classes = np.arange(400) % 2
    drawn = {
        divide(Part(repeat=repeat), seed, classes)[1].tobytes() for repeat in range(3) for seed in range(3)
    }
    assert len(drawn) == 9


def test_the_parts_stay_what_they_are():
    """A change here would give studies that go on other validation rows than they began with."""
    classes = np.arange(12) % 2
    assert divide(Part(), 0, classes)[1].tolist() == [6, 7]
    assert divide(Part(folds=3, fold=1, repeat=1), 0, classes)[1].tolist() == [2, 3, 5, 8]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"holdout": 1.0}, r"holdout must be in \[0, 1\), got 1.0"),
        ({"holdout": -0.1}, r"holdout must be in \[0, 1\), got -0.1"),
        ({"folds": 1}, "folds must be >= 2, or left out, got 1"),
        ({"folds": 3, "fold": 3}, "fold must be a number of a fold, 0 to 2, got 3"),
        ({"fold": 1}, "fold must be a number of a fold, 0 to 0, got 1"),
        ({"repeat": -1}, "repeat must be in"),
    ],
)
def test_a_part_that_breaks_a_rule(fields: dict, message: str):
    with pytest.raises(InputError, match=message):
        Part(**fields)


@pytest.mark.parametrize(
    ("part", "rows", "message"),
    [
        (Part(), 1, "a validation part needs at least 2 training rows, got 1"),
        (Part(folds=3), 2, "3 folds need at least 3 training rows, got 2"),
    ],
)
def test_too_few_rows_for_a_part(part: Part, rows: int, message: str):
    with pytest.raises(InputError, match=message):
        divide(part, 0, np.zeros(rows, dtype=int))
