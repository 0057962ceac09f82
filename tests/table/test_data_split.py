"""The split and the order of rows are a function of seed and row number, and of nothing else."""

import numpy as np
import pytest

from dnnflow.errors import InputError
from dnnflow.table.columns.split import exact_rule, row_keys, threshold_rule
from dnnflow.table.store.dataset import epoch_order, validation_rows


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


@pytest.mark.parametrize(
    ("rows", "fraction", "held"), [(1000, 0.1, 100), (10, 0.01, 1), (10, 0.99, 9), (2, 0.5, 1)]
)
def test_validation_rows_are_exactly_the_fraction(rows: int, fraction: float, held: int):
    train, validation = validation_rows(rows, fraction, 0)
    assert len(validation) == held
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(rows))
    assert np.array_equal(train, np.sort(train))


@pytest.mark.parametrize(("rows", "fraction"), [(1, 0.5), (10, 0.0), (10, 1.0)])
def test_validation_rows_that_cannot_be(rows: int, fraction: float):
    with pytest.raises(InputError, match="validation"):
        validation_rows(rows, fraction, 0)
