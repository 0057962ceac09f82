"""What a study's best is worth is said in one sentence and three numbers, the same at every door."""

import pytest

from dnnflow.engines.metrics import ACCURACY, METRICS
from dnnflow.results.view import tested as view
from dnnflow.results.view.score_words import between, width_text
from dnnflow.results.view.tested import sentence, told_numbers

WINNER = view.Tested(
    kind="design", name="4 x 64 relu, adam 0.003, batch 32", rank=1, design_id="d", score=0.931, rows=360,
    selected=0.95,
)  # fmt: skip
ENSEMBLE = view.Tested(kind="ensemble", name="an ensemble of 6 designs (30 networks)", score=0.942, rows=360)
BASELINES = [
    view.Tested(kind="baseline", name="always 'no'", score=0.501, rows=360),
    view.Tested(kind="baseline", name="gradient boosting", score=0.936, rows=360),
]


def test_one_sentence_says_what_the_best_is_worth() -> None:
    assert sentence([WINNER, ENSEMBLE, *BASELINES], 12, 2000) == (
        "4 x 64 relu: 93.1 % on 360 test rows kept for this (90.0 – 95.3); an ensemble of 6: 94.2 %; "
        "gradient boosting 93.6 %, always 'no' 50.1 %. 12 of 2,000 designs are as good, as far as their rows "
        "tell (≈)."
    )


def test_the_three_numbers_are_the_sentences() -> None:
    winner, ensemble, baseline = told_numbers([WINNER, ENSEMBLE, *BASELINES])
    assert (winner.label, winner.value, winner.note) == (
        "accuracy on test rows", "93.1 %", "4 x 64 relu; 95 %: 90.0 – 95.3"
    )  # fmt: skip
    assert (ensemble.value, baseline.value, baseline.note) == ("94.2 %", "93.6 %", "gradient boosting")


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert sentence(BASELINES, 12, 2000) == ""
    assert told_numbers(BASELINES) == ()
    assert sentence([WINNER]) == "4 x 64 relu: 93.1 % on 360 test rows kept for this (90.0 – 95.3)."


@pytest.mark.parametrize(
    ("kind", "name", "short"),
    [
        ("design", "no hidden layer, sgd 0.1, batch 8", "no hidden layer"),
        ("design", "own:network(depth=2, units=8)", "own:network(depth=2, units=8)"),
        ("ensemble", "an ensemble of one design (5 networks)", "an ensemble of one design"),
        ("baseline", "always 'a, b, batch c'", "always 'a, b, batch c'"),
    ],
)
def test_a_short_name_leaves_out_how_it_was_trained(kind, name: str, short: str) -> None:
    assert view.Tested(kind=kind, name=name, score=0.5, rows=10).short == short


def test_an_error_is_told_as_an_error() -> None:
    error = METRICS["rmse"]
    assert error.text(-3.21) == "3.21"
    assert between(error, (-3.5, -3.0)) == "3.00 – 3.50"
    assert width_text(error, 0.25) == "± 0.250"
    assert width_text(ACCURACY, 0.025) == "± 2.5 points"
