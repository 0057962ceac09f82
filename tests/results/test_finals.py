"""The order of finalists, what they are worth by every metric, and the ensemble: for each task."""

import numpy as np
import pytest

from dnnflow.design.layers import Design
from dnnflow.engines.metric import Outputs, Truth
from dnnflow.engines.metrics import METRICS, measures
from dnnflow.engines.records import Trial, TrialState
from dnnflow.results.predictions.prediction_matrix import KeptPredictions
from dnnflow.results.store.final_trials import FinalTrial
from dnnflow.results.view.finals import Finals, finals_of, fit_of
from dnnflow.table.columns.kinds import Task
from tests.engines.test_metrics import rows_of

CLASSIFICATION, MULTILABEL, REGRESSION = Task
FOLDS = 3


def trained(
    task: Task, name: str, errors: list[float], rows: int = 90
) -> tuple[Finals | None, Truth, Outputs]:
    """Return finalists of three folds each, whose outputs are worse by so much noise."""
    metric, rng = METRICS[name], np.random.default_rng(1)
    truth, good = rows_of(task, n_rows=rows, width=2 if task is CLASSIFICATION else 3)
    fold_of = np.arange(rows) % FOLDS
    found, kept, ids, whole = [], [], [], []
    for number, error in enumerate(errors):
        outputs = good + error * rng.random(good.shape).astype(np.float32)
        if task is CLASSIFICATION:
            outputs /= outputs.sum(axis=1, keepdims=True)
        outputs = np.clip(outputs, 0, 1) if task is MULTILABEL else outputs
        whole.append(outputs)
        for fold in range(FOLDS):
            design = Design(seed=10 * number + fold)
            held = fold_of == fold
            kept.append(np.where(held[:, None], outputs, np.nan).astype(np.float32))
            ids.append(design.design_id)
            score = metric.score(truth[held], outputs[held])
            trial = Trial(design_id=design.design_id, state=TrialState.COMPLETED, engine="keras",
                          epochs_run=3, parameters=10 - number, score=score)  # fmt: skip
            found.append(FinalTrial("folds", str(number), design, fold, 0, trial))
    predictions = KeptPredictions(truth, np.stack(kept), tuple(ids))
    return finals_of(found, predictions, metric=metric, task=task), truth, np.stack(whole)


@pytest.mark.parametrize(
    ("task", "name"),
    [(CLASSIFICATION, "log_loss"), (CLASSIFICATION, "balanced_accuracy"),
     (CLASSIFICATION, "average_precision"), (MULTILABEL, "accuracy"), (MULTILABEL, "macro_f1"),
     (REGRESSION, "rmse"), (REGRESSION, "r2")],
)  # fmt: skip
def test_finalists_have_all_measures_of_their_task(task: Task, name: str) -> None:
    finals, truth, outputs = trained(task, name, [0.1, 0.6, 5.0])
    assert finals is not None
    assert [one.score for one in finals.finalists] == sorted(
        (x.score for x in finals.finalists), reverse=True
    )
    for one in finals.finalists:
        assert one.measures == pytest.approx(measures(task, truth, outputs[int(one.design_id)]), rel=1e-5)
        assert (one.error is None) == (name == "average_precision")
        assert one.error is None or one.error > 0
    assert finals.ensemble
    assert finals.ensemble_score is not None
    assert finals.ensemble_measures[name] == pytest.approx(METRICS[name].value(finals.ensemble_score))
    assert finals.apart[0] is False
    assert finals.rows == 90


def test_the_worst_by_far_is_told_from_the_first() -> None:
    for task, name in (
        (CLASSIFICATION, "log_loss"),
        (REGRESSION, "rmse"),
        (CLASSIFICATION, "average_precision"),
    ):
        finals, *_ = trained(task, name, [0.05, 20.0], rows=600)
        assert finals is not None
        assert finals.apart == (False, True)


def test_what_an_ensemble_is_chosen_by_is_what_networks_are_trained_for() -> None:
    truth = np.array([0, 1])
    shares = np.array([[0.9, 0.1], [0.4, 0.6]])
    assert fit_of(shares, truth, CLASSIFICATION) == pytest.approx(np.log([0.9, 0.6]).mean())
    labels = np.array([[1.0, 0.0]])
    assert fit_of(np.array([[0.8, 0.3]]), labels, MULTILABEL) == pytest.approx(np.log([0.8, 0.7]).mean())
    numbers = np.array([[0.0, 0.0], [2.0, 200.0]])
    assert fit_of(numbers + np.array([1.0, 100.0]), numbers, REGRESSION) == pytest.approx(-1.0)
