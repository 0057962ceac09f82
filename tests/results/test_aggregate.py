"""Leaderboard, marginals and depth: numbers that people choose networks by."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnnflow.design.layers import Design, EarlyStopping, Layer, Optimizer, Reference
from dnnflow.engines.metrics import METRICS
from dnnflow.engines.records import Trial, TrialError, TrialState
from dnnflow.errors import NotFoundError
from dnnflow.results.store.run_record import RunRecord
from dnnflow.results.store.store import Store
from dnnflow.results.view import tested
from dnnflow.results.view.depth import (
    Band,
    Flatness,
    Verdict,
    bands,
    flatness,
    linear_fit,
    spectrum,
    time_fit,
    timed_alike,
)
from dnnflow.results.view.export import export_trials
from dnnflow.results.view.intervals import (
    equal_within_noise,
    luck_of_the_first,
    mean_interval,
    student_t,
    wilson_interval,
)
from dnnflow.results.view.leaderboard import ComparedBy, Noise, told_apart_on
from dnnflow.results.view.marginals import marginal
from dnnflow.results.view.paired import Corrected
from dnnflow.results.view.study_view import StudyView, load_view

# ---- intervals


@pytest.mark.parametrize(
    ("score", "rows", "low", "high"),
    [
        (0.9, 100, 0.8256343, 0.9447708),
        (1.0, 30, 0.8864829, 1.0),
        (0.0, 30, 0.0, 0.1135171),
        (0.5, 1, 0.0546, 0.9454),
    ],
)
def test_wilson_interval_is_the_published_one(score: float, rows: int, low: float, high: float) -> None:
    assert wilson_interval(score, rows) == pytest.approx((low, high), abs=1e-4)


def test_wilson_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    measured = rng.binomial(360, 0.95, 4000) / 360
    covered = [low <= 0.95 <= high for low, high in (wilson_interval(float(a), 360) for a in measured)]
    assert 0.93 < np.mean(covered) < 0.98


def test_without_test_rows_nothing_is_known() -> None:
    assert wilson_interval(0.9, 0) == (0.0, 1.0)
    assert equal_within_noise(0.9, 0.1, 0)
    assert luck_of_the_first(0.9, 0, 5) == 0.0


@pytest.mark.parametrize(
    ("degrees", "published"),
    [(1, 12.706), (2, 4.303), (10, 2.228), (11, 2.201), (12, 2.179), (30, 2.042), (120, 1.980)],
)
def test_students_t_is_the_published_one(degrees: int, published: float) -> None:
    assert student_t(degrees) == pytest.approx(published, abs=1e-3)


def test_interval_of_a_mean() -> None:
    low, high = mean_interval(np.array([1.0, 2.0, 3.0])) or (0, 0)
    assert (low, high) == pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)))
    assert mean_interval(np.array([1.0])) is None


def test_noise_is_the_two_proportion_test() -> None:
    # z = 0.05 / sqrt(2 · 0.925 · 0.075 / 360) = 2.55 and 0.02 / sqrt(2 · 0.94 · 0.06 / 360) = 1.13
    assert not equal_within_noise(0.95, 0.90, 360)
    assert equal_within_noise(0.95, 0.93, 360)
    assert equal_within_noise(1.0, 1.0, 360)


def test_luck_of_the_first_is_what_a_simulation_says() -> None:
    rng = np.random.default_rng(2)
    best = (rng.binomial(1000, 0.9, (2000, 50)) / 1000).max(axis=1).mean()
    assert luck_of_the_first(0.9, 1000, 50) == pytest.approx(best - 0.9, rel=0.1)
    assert luck_of_the_first(0.9, 1000, 1) == 0.0


def test_the_reader_is_told_that_the_best_is_optimistic() -> None:
    text = str(Noise(designs=40, rows=360, kind="test", equal=3, luck=0.011))
    assert text.startswith(
        "3 of 40 designs are within noise of the first (two-proportion z-test at 5 % on 360 test"
    )
    assert "chance alone would put the first about 1.1 points too high. The best of 40 is chosen" in text
    assert text.endswith("better than it is: set evaluation.select_on to validation.")
    assert str(Noise(designs=40, rows=360, kind="validation", equal=1, luck=0.0)).startswith(
        "No other of the 40 designs is within"
    )


# ---- marginals


def test_variance_explained_is_eta_squared() -> None:
    score = np.array([0.1, 0.2, 0.5, 0.6])
    found = marginal("activation", pd.Series(["relu", "relu", "tanh", "tanh"]), score)
    assert found is not None
    # between: 4 · 0.2² = 0.16; within: 4 · 0.05² = 0.01
    assert found.explained == pytest.approx(0.16 / 0.17)
    assert found.by_chance == pytest.approx(1 / 3)
    assert [(g.label, g.n, g.best) for g in found.groups] == [("relu", 2, 0.2), ("tanh", 2, 0.6)]
    for averages in ([g.mean for g in found.groups], [g.median for g in found.groups]):
        assert averages == pytest.approx([0.15, 0.55])


def test_a_parameter_without_effect_explains_what_chance_does() -> None:
    rng = np.random.default_rng(3)
    found = [
        marginal("x", pd.Series(rng.integers(0, 10, 200)), rng.normal(0.9, 0.01, 200)) for _ in range(200)
    ]
    explained = [item.explained - item.by_chance for item in found if item]
    assert np.mean(explained) == pytest.approx(0.0, abs=0.005)


def test_a_continuous_parameter_is_cut_into_ranges_of_equal_counts() -> None:
    rates = pd.Series(np.geomspace(1e-4, 1e-1, 80))
    found = marginal("learning_rate", rates, np.linspace(0, 1, 80))
    assert found is not None
    assert found.binned
    assert [group.n for group in found.groups] == [10] * 8
    assert found.groups[0].label == "0.0001 – 0.00022"
    assert [group.mean for group in found.groups] == sorted(group.mean for group in found.groups)


def test_values_stand_in_their_order_and_a_constant_is_no_parameter() -> None:
    score = np.array([0.1, 0.2, 0.3, 0.4])
    found = marginal("units", pd.Series([128, 8, 64, 8], dtype="Int64"), score)
    assert found is not None
    assert [group.label for group in found.groups] == ["8", "64", "128"]
    assert marginal("units", pd.Series([8, 8, pd.NA, 8], dtype="Int64"), score) is None


def test_equal_accuracies_leave_nothing_to_explain() -> None:
    found = marginal("units", pd.Series([1, 2, 1, 2]), np.full(4, 0.5))
    assert found is not None
    assert found.explained == 0.0


def test_the_rarest_of_many_texts_are_put_together() -> None:
    texts = pd.Series([f"t{i:02}" for i in range(30)] + [f"t{i:02}" for i in range(10)])
    found = marginal("reference", texts, np.linspace(0, 1, 40))
    assert found is not None
    assert len(found.groups) == 21
    assert sum(group.n for group in found.groups) == 40


# ---- depth


def band(depth: int, mean: float) -> Band:
    return Band(depth=depth, n=1, mean=mean, interval=None, quantiles=(mean,) * 5, largest=mean)


def test_a_line_is_found_with_its_r2() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    exact = linear_fit(x, 0.5 + 0.25 * x)
    assert exact is not None
    assert (exact.slope, exact.intercept, exact.r2) == pytest.approx((0.25, 0.5, 1.0))
    noisy = linear_fit(x, np.array([1.0, 3.0, 2.0, 4.0]))
    assert noisy is not None
    assert (noisy.slope, noisy.intercept, noisy.r2) == pytest.approx((0.8, 0.5, 0.64))
    assert linear_fit(np.ones(4), x) is None
    assert linear_fit(x[:2], x[:2]) is None


def test_the_spectrum_finds_a_wave_and_its_amplitude() -> None:
    depths = range(1, 17)
    found = spectrum(tuple(band(d, 0.9 + 0.03 * math.cos(2 * math.pi * d / 4)) for d in depths))
    assert found is not None
    peak = int(np.argmax(found.magnitude))
    assert (found.frequency[peak], found.magnitude[peak]) == pytest.approx((0.25, 0.03))
    assert found.magnitude[0] == pytest.approx(0.0, abs=1e-12)
    assert sum(found.magnitude) == pytest.approx(0.03)


def test_the_fastest_wave_has_its_full_amplitude_once() -> None:
    found = spectrum(tuple(band(d, 0.9 + 0.02 * (-1) ** (d // 2)) for d in range(0, 16, 2)))
    assert found is not None
    assert (found.first, found.last, found.step) == (0, 14, 2)
    assert (found.frequency[-1], found.magnitude[-1]) == pytest.approx((0.25, 0.02))


@pytest.mark.parametrize("depths", [(1, 2, 3), (1, 2, 3, 5), (), (4,)])
def test_few_or_uneven_depths_have_no_spectrum(depths: Sequence[int]) -> None:
    assert spectrum(tuple(band(d, 0.5) for d in depths)) is None


def test_bands_hold_the_spread_of_each_depth() -> None:
    frame = pd.DataFrame({"depth": pd.array([2, 1, 2, None], dtype="Int64"), "score": [0.2, 0.9, 0.4, 0.1]})
    one, two = bands(frame, "score")
    assert (one.depth, one.n, one.mean, one.interval) == (1, 1, 0.9, None)
    assert (two.depth, two.n, two.largest) == (2, 2, 0.4)
    assert two.mean == pytest.approx(0.3)
    assert two.quantiles == pytest.approx((0.21, 0.25, 0.3, 0.35, 0.39))


def deep_trials(score: Sequence[float], depths: Sequence[int], amortised: bool = False) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "depth": pd.array(depths, dtype="Int64"),
            "score": score,
            "training_s": [0.1 * depth for depth in depths],
            "amortised": amortised,
        }
    )


def flat(score: Sequence[float], depths: Sequence[int], **more: float) -> Flatness:
    found = flatness(deep_trials(score, depths), **more)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_the_slope_beyond_a_depth_has_the_interval_of_least_squares() -> None:
    found = flat([0.1, 0.50, 0.52, 0.51], [499, 512, 1024, 2048])
    # x = 9, 10, 11; residuals -0.005, 0.01, -0.005; t(1) = 12.706
    half = 12.706 * math.sqrt(1.5e-4 / 1 / 2)
    assert found.slope == pytest.approx(0.005)
    assert found.interval == pytest.approx((0.005 - half, 0.005 + half))
    assert (found.n, found.depths, found.deepest) == (3, 3, 2048)
    assert found.mean == pytest.approx(0.51)


DEEP = [547, 636, 740, 860, 1000]


def test_flatness_is_shown_refuted_or_left_open() -> None:
    noise = [0.001, -0.001, 0.0, -0.001, 0.001]
    assert flat([0.5 + e for e in noise], DEEP).verdict is Verdict.FLAT
    falling = [0.5 - 0.04 * i + e for i, e in enumerate(noise)]
    assert flat(falling, DEEP).verdict is Verdict.NOT_FLAT
    assert flat([0.5 + 100 * e for e in noise], DEEP).verdict is Verdict.UNKNOWN
    assert flat([0.5, 0.5, 0.5], [500, 500, 600]).verdict is Verdict.UNKNOWN
    assert flatness(deep_trials([0.5], [499])) is None
    assert flatness(deep_trials([0.5], [499]), beyond=100) is not None


def test_a_slow_change_over_many_doublings_is_not_flat() -> None:
    depths = [500, 1000, 2000, 4000, 8000, 16000]
    score = [0.5 + 0.004 * doubling for doubling in range(6)]  # 2 points in all, 0.4 a doubling
    assert flat(score, depths).verdict is Verdict.NOT_FLAT
    assert flat(score[:3], depths[:3]).verdict is Verdict.FLAT


def test_a_change_of_one_point_is_seldom_called_flat() -> None:
    rng = np.random.default_rng(5)
    depths = np.repeat(DEEP, 5)
    changing = 0.5 + 0.01 * np.log2(depths / 500)
    found = [flat((changing + rng.normal(0, 0.005, 25)).tolist(), depths.tolist()) for _ in range(1000)]
    assert np.mean([item.verdict is Verdict.FLAT for item in found]) < 0.04  # 2.5 % by design
    covered = [item.interval[0] <= 0.01 <= item.interval[1] for item in found if item.interval]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)


def test_a_flat_line_of_guesses_is_told_as_such() -> None:
    guessing = flat([0.333, 0.336, 0.334, 0.333, 0.334], DEEP, majority=1 / 3)
    assert guessing.at_majority
    assert str(guessing).startswith("Flat beyond 500 hidden layers: yes (5 trials of 5 depths; -0.")
    assert str(guessing).endswith("accuracy, 0.3340, is that of always guessing the largest class.")
    learning = flat([0.93, 0.94, 0.93, 0.94, 0.935], DEEP, majority=1 / 3)
    assert not learning.at_majority
    assert "guessing" not in str(learning)
    assert not flat([1 / 3], [600], majority=1 / 3).at_majority
    assert "; +0.00 points a doubling, 95 %: +0.00 to +0.00)" in str(flat([1 / 3] * 5, DEEP))


def test_shares_of_a_stacks_time_are_not_mixed_with_times_measured_alone() -> None:
    shared = deep_trials([0.5] * 4, [10, 20, 30, 40], amortised=True).assign(training_s=0.001)
    alone = deep_trials([0.5] * 3, [10, 20, 30])
    both = time_fit(pd.concat([shared, alone], ignore_index=True))
    assert both is not None
    assert (both.n, both.amortised) == (3, False)
    assert (both.slope, both.r2) == pytest.approx((0.1, 1))
    assert str(both).endswith("R² = 1.000, 3 trials, measured alone")
    few = time_fit(pd.concat([shared, alone.head(2)], ignore_index=True))
    assert few is not None
    assert (few.n, few.amortised) == (4, True)
    assert few.slope == pytest.approx(0)
    assert str(few).endswith("4 trials, share of a stack's time")
    assert timed_alike(alone.head(2)).equals(alone.head(2))


# ---- a whole study


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store of this module."""
    with Store(f"sqlite:///{tmp_path_factory.mktemp('store')}/results.db") as opened:
        yield opened


def add(
    store: Store, trials: Sequence[tuple[Design, Trial]], *, waiting: int = 0, test_rows: int = 200
) -> str:
    designs = [design for design, _ in trials] + [Design(seed=10**6 + i) for i in range(waiting)]
    record = RunRecord(
        key="k", name="n", dataset_id="d", dataset_path="p", n_designs=len(designs),
        dataset={"rows": {"train": 800, "test": test_rows}, "class_names": ["no", "yes"]},
    )  # fmt: skip
    store.add_study(record, designs)
    store.add_trials(record.study_id, list(trials))
    return record.study_id


def completed(design: Design, score: float, **more: object) -> tuple[Design, Trial]:
    fields = {"state": TrialState.COMPLETED, "engine": "keras", "score": score, **more}
    return design, Trial(design_id=design.design_id, **fields)  # type: ignore[arg-type]


def failed(
    design: Design, kind: str, message: str, state: TrialState = TrialState.FAILED
) -> tuple[Design, Trial]:
    error = TrialError(kind, message, "")
    return design, Trial(design_id=design.design_id, state=state, engine="keras", error=error)


@pytest.fixture(scope="module")
def view(store: Store) -> StudyView:
    """Thirty designs of six depths, two activations, and six failures."""
    trials = [
        completed(
            Design(layers=(Layer(16, activation),) * depth, batch_size=32 + size),
            0.95 - 0.02 * depth - (0.1 if activation == "sigmoid" else 0) - 0.005 * size,
            training_s=0.5 + 0.25 * depth,
            parameters=100 * depth + 10,
            flops=200 * depth,
            epochs_run=2,
            history={"loss": (1.0, 0.5), "accuracy": (0.5, 0.6)},
            confusion=((90, 10), (20, 80)),
        )
        for depth in (1, 2, 3, 4, 5)
        for activation in ("relu", "sigmoid")
        for size in (0, 1, 2)
    ]
    errors = [failed(Design(seed=100 + i), "MemoryError", "too big") for i in range(3)]
    errors += [failed(Design(seed=200), "MemoryError", "far too big")]
    errors += [failed(Design(seed=300), "DivergedError", "loss became nan")]
    errors += [failed(Design(seed=400), "WorkerLost", "its worker died 3 times", TrialState.LOST)]
    return load_view(store, add(store, [*trials, *errors], waiting=4))


def test_counts_are_of_the_whole_study(view: StudyView) -> None:
    assert view.counts == {TrialState.COMPLETED: 30, TrialState.FAILED: 5, TrialState.LOST: 1}
    assert view.waiting == 4
    assert view.measured_rows == 200


def test_the_leaderboard_is_ordered_and_says_how_sure_it_is(view: StudyView) -> None:
    first, second = view.leaderboard[:2]
    assert len(view.leaderboard) == 30
    assert (first.rank, first.depth, first.parameters) == (1, 1, 110)
    assert first.score == pytest.approx(0.93)
    assert first.design == "1 x 16 relu, adam 0.001, batch 32"
    assert (first.low, first.high) == pytest.approx(wilson_interval(0.93, 200))
    assert second.score == pytest.approx(0.925)
    equal = [place for place in view.leaderboard if place.within_noise]
    assert view.noise is not None
    assert (view.noise.designs, view.noise.rows, view.noise.equal) == (30, 200, len(equal))
    assert all(equal_within_noise(first.score, place.score, 200) for place in equal)
    assert 1 < len(equal) < 30


def test_a_place_is_json(view: StudyView) -> None:
    place = view.leaderboard[0].to_dict()
    assert (place["rank"], place["depth"], place["train_score"]) == (1, 1, None)
    assert type(place["parameters"]) is int
    assert type(place["score"]) is float


def test_of_equal_designs_the_smaller_is_first(store: Store) -> None:
    trials = [completed(Design(batch_size=8 + i), 0.5, parameters=p) for i, p in enumerate((30, 10, 20))]
    places = load_view(store, add(store, trials)).leaderboard
    assert [place.parameters for place in places] == [10, 20, 30]


def test_seeds_repeat_one_design_whose_value_is_their_mean(store: Store) -> None:
    found = {(8, 0): 0.9, (8, 1): 0.5, (16, 0): 0.8, (16, 2): 0.7, (32, 4): 0.6}
    trials = [
        completed(Design(batch_size=size, seed=seed), score, train_score=None if seed == 0 else 1.0)
        for (size, seed), score in found.items()
    ]
    shown = load_view(store, add(store, [*trials, failed(Design(batch_size=16, seed=3), "MemoryError", "")]))
    first, second, third = shown.leaderboard
    assert [place.design for place in shown.leaderboard] == [
        f"no hidden layer, adam 0.001, batch {size}" for size in (16, 8, 32)
    ]
    assert [place.score for place in shown.leaderboard] == pytest.approx([0.75, 0.7, 0.6])
    assert [place.trainings for place in shown.leaderboard] == [2, 2, 1]
    assert first.design_id == Design(batch_size=16).design_id
    assert first.spread == pytest.approx(0.1 / math.sqrt(2))
    assert (first.train_score, third.spread, second.is_finalist) == (None, None, False)
    assert shown.noise is not None
    assert (shown.noise.designs, len(shown.trials)) == (3, 5)


def test_marginals_are_ranked_by_what_they_explain(view: StudyView) -> None:
    assert [item.parameter for item in view.marginals] == ["activation", "depth", "batch_size"]
    activation, depth, _ = view.marginals
    assert activation.explained > depth.explained
    assert sum(item.explained for item in view.marginals) == pytest.approx(
        1.0
    )  # a full grid without interaction
    assert [group.label for group in depth.groups] == ["1", "2", "3", "4", "5"]


def test_depth_is_seen_in_accuracy_time_and_spectrum(view: StudyView) -> None:
    assert [item.depth for item in view.score_by_depth] == [1, 2, 3, 4, 5]
    assert view.time_fit is not None
    assert (view.time_fit.slope, view.time_fit.intercept, view.time_fit.r2) == pytest.approx((0.25, 0.5, 1.0))
    assert not view.time_fit.amortised
    assert view.flatness is None
    assert view.spectrum is not None
    assert (view.spectrum.first, view.spectrum.last) == (1, 5)


def test_the_best_are_shown_in_detail(view: StudyView) -> None:
    assert [curve.rank for curve in view.curves] == list(range(1, 11))
    assert view.curves[0].history == {"loss": (1.0, 0.5), "accuracy": (0.5, 0.6)}
    assert view.best is not None
    assert view.best.confusion == ((90, 10), (20, 80))
    assert view.class_names == ("no", "yes")


def test_failures_are_grouped_by_kind_with_the_most_frequent_message(view: StudyView) -> None:
    kinds = [(kind.type, kind.count, kind.message) for kind in view.failures]
    assert kinds == [
        ("MemoryError", 4, "too big"),
        ("DivergedError", 1, "loss became nan"),
        ("WorkerLost", 1, "its worker died 3 times"),
    ]
    assert view.failures[0].design_id in {Design(seed=100 + i).design_id for i in range(3)}
    assert view.failures[0].design == "no hidden layer, adam 0.001, batch 32"


def test_a_study_without_a_completed_trial_can_be_looked_at(store: Store) -> None:
    empty = load_view(store, add(store, [failed(Design(), "MemoryError", "too big")], waiting=2))
    assert (empty.leaderboard, empty.noise, empty.best, empty.marginals) == ((), None, None, ())
    assert (empty.time_fit, empty.spectrum, empty.score_by_depth, empty.curves) == (None, None, (), ())
    assert len(empty.failures) == 1


def test_designs_by_reference_are_compared_by_their_parameters(store: Store) -> None:
    trials = [
        completed(Design(reference=Reference("m:f", {"width": width, "kind": kind})), 0.5 + width / 100)
        for width in (4, 8)
        for kind in ("lstm", "gru")
    ]
    shown = load_view(store, add(store, trials))
    assert shown.score_by_depth == ()
    assert shown.leaderboard[0].depth is None
    assert [item.parameter for item in shown.marginals] == ["reference.width", "reference.kind"]
    assert shown.marginals[0].explained == pytest.approx(1.0)


def test_layers_that_differ_are_compared_by_narrowest_and_widest(store: Store) -> None:
    rng = np.random.default_rng(4)
    trials = [
        completed(
            Design(layers=tuple(Layer(int(units)) for units in rng.choice([4, 8, 16], 3)), seed=seed), 0.5
        )
        for seed in range(12)
    ]
    names = {item.parameter for item in load_view(store, add(store, trials)).marginals}
    assert {"units_min", "units_max"} <= names
    assert "units" not in names


def test_only_designs_that_have_a_parameter_are_compared_by_it(store: Store) -> None:
    trials = [
        completed(Design(optimizer=Optimizer("sgd", 0.1, {"momentum": m})), 0.5 + m / 10) for m in (0.0, 0.9)
    ]
    trials += [completed(Design(seed=i), 0.9) for i in range(3)]
    trials += [completed(Design(early_stopping=EarlyStopping(2)), 0.7)]
    found = {item.parameter: item for item in load_view(store, add(store, trials)).marginals}
    assert [group.n for group in found["optimizer.momentum"].groups] == [1, 1]
    assert [group.label for group in found["early_stopping"].groups] == ["2", "none"]


def test_an_exported_trial_says_how_its_time_was_found(store: Store, tmp_path: Path) -> None:
    designs = [Design(batch_size=size) for size in (16, 32)]
    trials = [completed(one, 0.5, training_s=0.1, amortised=one.batch_size == 32) for one in designs]
    study_id = add(store, trials)
    export_trials(store.frame(study_id), tmp_path / "trials.csv")
    exported = pd.read_csv(tmp_path / "trials.csv").set_index("batch_size")
    assert exported["amortised"].to_dict() == {16: False, 32: True}
    shown = load_view(store, study_id)
    assert [place.design_id for place in shown.leaderboard if place.amortised] == [designs[1].design_id]


def test_a_deep_study_is_tested_for_flatness(store: Store) -> None:
    trials = [
        completed(Design((Layer(4),) * depth, seed=seed), 0.5)
        for depth in (10, 500, 700, 1000)
        for seed in (0, 1)
    ]
    found = load_view(store, add(store, trials)).flatness
    assert found is not None
    assert (found.verdict, found.n, found.majority) == (Verdict.FLAT, 6, None)


def test_an_unknown_study_is_an_error(store: Store) -> None:
    with pytest.raises(NotFoundError, match="nothing"):
        load_view(store, "nothing")


def test_rows_that_accuracies_are_measured_on_are_counted(store: Store, tmp_path: Path) -> None:
    design, trial = completed(Design(), 0.5, confusion=((2, 1), (0, 4)))
    record = RunRecord(key="k", name="n", dataset_id="d", dataset_path="p", n_designs=1)
    store.add_study(record, [design])
    store.add_trials(record.study_id, [(design, trial)])
    shown = load_view(store, record.study_id)
    assert shown.measured_rows == 7
    assert shown.class_names == ("0", "1")


def test_what_is_said_of_the_first_is_in_the_words_of_the_metric() -> None:
    corrected = Corrected(score=-0.35, low=-0.41, high=-0.3, naive=-0.31, bootstraps=1000)
    loss = Noise(designs=40, rows=360, kind="validation", equal=3, luck=0.0, corrected=corrected,
                 metric=METRICS["log_loss"], test=ComparedBy.PAIRED)  # fmt: skip
    assert "is expected to have 0.350 (0.300 to 0.410) on others by BBC-CV, not 0.310." in str(loss)
    auc = Noise(designs=40, rows=360, kind="validation", equal=3, luck=0.0, metric=METRICS["roc_auc"],
                test=ComparedBy.PAIRED)  # fmt: skip
    assert str(auc).startswith("3 of 40 designs cannot be told from the first (paired tests on the same 360 ")
    assert str(auc).endswith("makes it look better than it is: the test rows say what it is worth.")
    none = Noise(designs=40, rows=360, kind="validation", equal=38, luck=0.0, finalists=5,
                 metric=METRICS["average_precision"], test=ComparedBy.NONE)  # fmt: skip
    assert str(none).startswith(
        "40 designs are ordered by average precision on 360 validation rows, and no test tells them from the "
        "first; a paired bootstrap tells 2 of the 5 finalists from it. The best of 40 "
    )


def test_without_row_scores_no_design_is_told_from_the_first_by_another_metric() -> None:
    scores = np.array([-0.1, -0.9])
    assert told_apart_on(None, scores, 1000, METRICS["log_loss"]).tolist() == [False, False]
    assert told_apart_on(None, 1 + scores, 1000).tolist() == [False, True]


def test_the_sentence_tells_an_error_as_it_is_written() -> None:
    best = tested.Tested(kind="design", name="a network", score=-3.2, selected=-3.0, low=-3.9, high=-2.8,
                         rows=50, measures={"rmse": 3.2})  # fmt: skip
    other = tested.Tested(kind="baseline", name="a line", score=-4.5, rows=50, measures={"rmse": 4.5})
    said = tested.sentence([best, other], 1, 10, metric=METRICS["rmse"])
    assert said == "a network: RMSE 3.20 on 50 test rows kept for this (2.80 to 3.90); a line 4.50."
    assert other.interval is None


def test_an_outcome_of_an_older_study_is_read() -> None:
    plain = {"kind": "design", "name": "n", "rank": 1, "design_id": "d", "accuracy": 0.9, "rows": 100}
    assert tested.Tested.from_dict({**plain, "selected": None}).interval == wilson_interval(0.9, 100)
    new = tested.Tested(
        kind="design", name="n", score=0.9, rows=100, measures={"mcc": 0.8}, thresholds=(0.3,)
    )
    assert tested.Tested.from_dict(json.loads(json.dumps(new.to_dict()))) == new
