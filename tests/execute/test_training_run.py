"""What a task does on a worker: every design of a pack comes back exactly once, whatever happens to it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from dnnflow.design.layers import Design
from dnnflow.engines.records import Outcome, Pack, Portion, TrainingSettings, Trial, TrialState
from dnnflow.engines.seam import Engine, Fitted, StudyContext, TrainingContext
from dnnflow.errors import DataError, InputError, NotFoundError
from dnnflow.execute.pack_run import run_pack, training_context
from dnnflow.table.store.dataset import Dataset

DESIGNS = tuple(Design(seed=seed) for seed in range(6))
WHOLE = Pack((Portion(DESIGNS),))


class Quick(Engine):
    """Trains nothing; a design's accuracy is a tenth of its seed."""

    name = "quick"

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        for design in designs:
            trial = Trial(design_id=design.design_id, state=TrialState.COMPLETED, engine=self.name,
                          worker=context.worker, score=design.seed / 10)  # fmt: skip
            yield Fitted(trial, partial(lambda seed: (np.full(3, seed),), design.seed))


class Breaks(Quick):
    """An engine with a bug: it raises at the fourth design."""

    name = "breaks"

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        yield from super().train(designs[:3], context)
        raise IndexError("off by one")


class Stops(Quick):
    """An engine with another bug: it forgets designs."""

    name = "stops"

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        return super().train(designs[:5], context)


class Backwards(Quick):
    """Trains the last design first, and breaks at the first one."""

    name = "backwards"

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        yield from super().train(designs[:0:-1], context)
        raise IndexError("off by one")


def job(dataset: Dataset, engine: type[Quick] = Quick) -> StudyContext:
    settings = TrainingSettings(engine=f"{__name__}:{engine.__name__}")
    return StudyContext(str(dataset.path), settings, device="cpu")


def test_every_design_comes_back_in_order(iris: Dataset) -> None:
    outcomes = run_pack(WHOLE, job(iris))
    assert [outcome.trial.design_id for outcome in outcomes] == [design.design_id for design in DESIGNS]
    assert all(outcome.weights is None for outcome in outcomes)
    assert {":" in outcome.trial.worker for outcome in outcomes} == {True}


class Counts(Quick):
    """Says in a design's weights how many rows it would be fitted to."""

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        rows = len(context.dataset.arrays("train")[1])
        for fitted in super().train(designs, context):
            yield replace(fitted, weights=lambda: (np.array(rows),))


def test_a_portion_says_whether_test_rows_are_training_rows(iris: Dataset) -> None:
    portions = tuple(Portion((design,), all_rows=design.seed % 2 == 1) for design in DESIGNS)
    outcomes = run_pack(Pack(portions, keep_above=-1.0), job(iris, Counts))
    assert [int(one.weights[0]) for one in outcomes if one.weights] == [120, 150] * 3


def test_weights_come_along_from_the_threshold_on(iris: Dataset) -> None:
    outcomes = run_pack(Pack((Portion(DESIGNS),), keep_above=0.4), job(iris))
    kept = [outcome.weights[0].tolist() for outcome in outcomes if outcome.weights]
    assert kept == [[4, 4, 4], [5, 5, 5]]


def test_what_is_reported_is_not_returned_again(iris: Dataset) -> None:
    reported: list[list[Outcome]] = []
    rest = run_pack(WHOLE, job(iris), report=reported.append, flush_s=0.0)
    assert [len(outcomes) for outcomes in reported] == [1] * 6
    assert rest == []


def test_nothing_is_reported_before_its_time(iris: Dataset) -> None:
    reported: list[list[Outcome]] = []
    assert len(run_pack(WHOLE, job(iris), report=reported.append, flush_s=3600)) == 6
    assert reported == []


@pytest.mark.parametrize(
    ("engine", "trained", "kind", "message"),
    [
        (Breaks, 3, "IndexError", "off by one"),
        (Stops, 5, "RuntimeError", "must yield a trial a design, got 5"),
    ],
)
def test_an_engine_with_a_bug_fails_what_it_did_not_train(
    iris: Dataset, engine: type[Quick], trained: int, kind: str, message: str
) -> None:
    trials = [outcome.trial for outcome in run_pack(WHOLE, job(iris, engine))]
    assert [trial.design_id for trial in trials] == [design.design_id for design in DESIGNS]
    assert [trial.state is TrialState.COMPLETED for trial in trials] == [True] * trained + [False] * (
        6 - trained
    )
    errors = [trial.error for trial in trials if trial.error]
    assert {error.type for error in errors} == {kind}
    assert all(message in error.message for error in errors)


def test_every_design_has_one_trial_in_whatever_order_an_engine_trains(iris: Dataset) -> None:
    trials = [outcome.trial for outcome in run_pack(WHOLE, job(iris, Backwards))]
    assert sorted(trial.design_id for trial in trials) == sorted(design.design_id for design in DESIGNS)
    assert [trial.design_id for trial in trials if trial.error] == [DESIGNS[0].design_id]


def test_a_portion_that_breaks_leaves_the_next_one_alone(iris: Dataset) -> None:
    """The engine breaks at the fourth design that it is given at once."""
    pack = Pack((Portion(DESIGNS[:4]), Portion(DESIGNS[4:])))
    trials = [outcome.trial for outcome in run_pack(pack, job(iris, Breaks))]
    assert [trial.design_id for trial in trials] == [design.design_id for design in DESIGNS]
    assert [trial.state is TrialState.COMPLETED for trial in trials] == [True, True, True, False, True, True]


def test_what_is_wrong_with_the_job_is_raised(iris: Dataset, tmp_path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        run_pack(WHOLE, StudyContext(str(tmp_path / "nowhere"), job(iris).settings))
    with pytest.raises(NotFoundError, match="did you mean keras"):
        run_pack(WHOLE, StudyContext(str(iris.path), TrainingSettings(engine="kears")))
    with pytest.raises(InputError, match="device must be auto, cpu or gpu, got 'tpu'"):
        StudyContext(str(iris.path), device="tpu")  # type: ignore[arg-type]


def test_a_dataset_is_opened_once_a_process(iris: Dataset) -> None:
    one, other = (
        training_context(job(iris)),
        training_context(job(iris), worker="tcp://w", device="gpu", memory_bytes=5),
    )
    assert one.dataset is other.dataset
    assert (one.device, other.device, other.worker, other.memory_bytes) == ("cpu", "gpu", "tcp://w", 5)
