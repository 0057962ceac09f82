"""What holds for designs that are trained as a stack, beside the contract of engines."""

import dataclasses
import pickle
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from dnnflow.design.layers import Design, EarlyStopping, Layer, Optimizer, Reference, Schedule
from dnnflow.engines.auto_engine import AutoEngine
from dnnflow.engines.keras.keras_engine import KerasEngine
from dnnflow.engines.loop import Deadline
from dnnflow.engines.records import TrainingSettings, TrialState
from dnnflow.engines.seam import Fitted, TrainingContext
from dnnflow.engines.stacked import stacked_engine
from dnnflow.engines.stacked.stack_plan import TableShape, plan_stacks
from dnnflow.engines.stacked.stack_program import StackProgram
from dnnflow.engines.stacked.stack_run import StackRun, staying
from dnnflow.engines.stacked.stacked_engine import StackedEngine
from dnnflow.table.store.dataset import Dataset

ON_TEST = TrainingSettings(select_on="test")
ADAM = Optimizer("adam", 0.02)
DIVERGES = Optimizer("adam", 1e30)


def designs(count: int, **given: object) -> list[Design]:
    """Designs of one stack, equal but for their seeds."""
    first = Design((Layer(9, "tanh"), Layer(7)), optimizer=ADAM, epochs=3)
    return [dataclasses.replace(first, seed=seed, **given) for seed in range(count)]  # type: ignore[arg-type]


def train(
    some: Sequence[Design], dataset: Dataset, engine: StackedEngine | KerasEngine | AutoEngine | None = None,
    **settings: object,
) -> list[Fitted]:  # fmt: skip
    """Train designs and return what came of them, in their order; weights are taken at once."""
    context = TrainingContext(dataset, TrainingSettings(**{"select_on": "test"} | settings))  # type: ignore[arg-type]
    found = {}
    for fitted in (engine or StackedEngine()).train(some, context):
        weights = fitted.weights() if fitted.weights else ()
        found[fitted.trial.design_id] = Fitted(fitted.trial, partial(tuple, weights))
    return [found[design.design_id] for design in some]


def bits(fitted: Fitted) -> list[bytes]:
    assert fitted.weights is not None
    assert fitted.trial.state is TrialState.COMPLETED, fitted.trial.error
    return [weight.tobytes() for weight in fitted.weights()]


def test_a_stack_that_was_planned_is_not_planned_again_and_has_the_same_bits(
    iris: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan of a study travels with its portions; a part of a stack has none and is planned."""
    some = [*designs(5, epochs=2), *designs(4, layers=(Layer(30, "relu"),), epochs=2)]
    shape = TableShape.of(iris, 0.0)
    wanted = {fitted.trial.design_id: bits(fitted) for fitted in train(some, iris)}
    stacks = pickle.loads(pickle.dumps(plan_stacks(some, shape)))
    assert len(stacks) > 1
    monkeypatch.setattr(stacked_engine, "plan_stacks", lambda *_: pytest.fail("a stack is planned once"))
    for stack in stacks:
        context = TrainingContext(iris, ON_TEST, plan=stack)
        for fitted in StackedEngine().train(stack.designs, context):
            assert bits(fitted) == wanted[fitted.trial.design_id]
    monkeypatch.undo()
    part = TrainingContext(iris, ON_TEST, plan=stacks[0])
    (fitted,) = StackedEngine().train(stacks[0].designs[:1], part)
    assert fitted.trial.state is TrialState.COMPLETED


def test_a_diverging_design_changes_no_bit_of_its_neighbours(iris: Dataset) -> None:
    sound = designs(5, epochs=4)
    ill = [*sound[:2], dataclasses.replace(sound[2], optimizer=DIVERGES), *sound[3:]]
    alone, beside = train(sound, iris), train(ill, iris)
    assert beside[2].trial.error is not None
    assert beside[2].trial.error.type == "DivergedError"
    assert beside[2].trial.epochs_run == 0
    for index in (0, 1, 3, 4):
        assert bits(beside[index]) == bits(alone[index])
        assert beside[index].trial.history == alone[index].trial.history


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "gelu", "sigmoid"])
@pytest.mark.parametrize("widths", [(17, 13), (24, 16)])
def test_the_last_numbers_of_an_array_are_not_rounded_otherwise_when_neighbours_diverge(
    activation: str, widths: tuple[int, int], digits: Dataset
) -> None:
    """Most of a stack diverges and leaves it; batches and widths fill no vector register."""
    layers = tuple(Layer(width, activation) for width in widths)
    sound = designs(21, layers=layers, batch_size=37, epochs=3)
    ill = [one if one.seed in (4, 11) else dataclasses.replace(one, optimizer=DIVERGES) for one in sound]
    alone = train(sound, digits, holdout=0.2)
    beside = train(ill, digits, holdout=0.2)
    for index in (4, 11):
        assert bits(beside[index]) == bits(alone[index])
        assert beside[index].trial.history == alone[index].trial.history
        assert beside[index].trial.loss == alone[index].trial.loss


def test_those_who_stay_are_as_many_modulo_eight_and_include_the_last() -> None:
    for count in range(2, 60):
        for edge in (1, 3):
            running = [place % 9 == 3 for place in range(count)]
            stays = staying(running, min(edge, count))
            assert len(stays) % 8 == count % 8
            assert len(stays) >= 2
            assert stays == sorted(set(stays))
            assert {place for place in range(count) if running[place]} <= set(stays)
            assert set(range(count - min(edge, count), count)) <= set(stays)
    assert len(staying([False] * 63 + [True], 1)) == 8


def test_a_trained_stack_holds_no_memory_in_its_program(iris: Dataset) -> None:
    engine = StackedEngine()
    train(designs(3), iris, engine)
    (program,) = engine._programs.values()
    assert sum(variable.numpy().nbytes for variable in program._update.per_design) == 0


def test_designs_that_leave_early_change_no_bit_of_those_that_go_on(iris: Dataset) -> None:
    """Also not where dropout draws: each place in the stack keeps its own."""
    layers = (Layer(16, dropout=0.3), Layer(8))
    long = designs(24, epochs=8, layers=layers)
    mixed = [one if one.seed in (3, 8, 20) else dataclasses.replace(one, epochs=2) for one in long]
    for one, other in zip(train_as_one(mixed, iris), train_as_one(long, iris), strict=True):
        if one.design.epochs == 8:
            assert [x.tobytes() for x in one.weights] == [x.tobytes() for x in other.weights]
        else:
            assert len(one.history.fitted) == 2
            assert one.history.fitted == other.history.fitted[:2]


def train_as_one(some: Sequence[Design], dataset: Dataset) -> list:
    """Train designs as one stack, whatever a planner would say."""
    from dnnflow.engines.epoch_rows import TrainingRows
    from dnnflow.engines.stacked.stack_plan import StackLimits, TableShape, plan_stacks
    from dnnflow.engines.stacked.stacked_engine import layout_of
    from dnnflow.engines.tensors import Tensors

    shape = TableShape(dataset.rows["train"], dataset.n_features, dataset.n_classes)
    (stack,) = plan_stacks(some, shape, StackLimits(waste=0.9))
    layout = layout_of(stack, dataset)
    run = StackRun(
        stack, layout, StackProgram(stack.signature, layout), TrainingRows(dataset, ON_TEST), Tensors()
    )
    members = {member.design.design_id: member for member in run.fit(Deadline(None))}
    return [members[design.design_id] for design in some]


def test_early_stopping_ends_each_design_with_its_own_best_weights(iris: Dataset) -> None:
    some = designs(4, epochs=40, early_stopping=EarlyStopping(2))
    some = [
        dataclasses.replace(one, optimizer=Optimizer("adam", rate))
        for one, rate in zip(some, (0.3, 0.1, 0.03, 0.2), strict=True)
    ]
    stopped = train(some, iris, holdout=0.25)
    assert len({fitted.trial.epochs_run for fitted in stopped}) > 1
    for design, fitted in zip(some, stopped, strict=True):
        losses = fitted.trial.history["val_loss"]
        best = int(np.argmin(losses))
        assert fitted.trial.epochs_run == min(best + 1 + 2, 40)
        assert fitted.trial.validation_loss == losses[best]
        shorter = dataclasses.replace(design, epochs=best + 1, early_stopping=None)
        again, _ = train([shorter, dataclasses.replace(shorter, seed=9)], iris, holdout=0.25)
        assert bits(again) == bits(fitted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [
        Schedule("exponential", {"rate": 0.5}),
        Schedule("step", {"rate": 0.1, "every": 2}),
        Schedule("cosine"),
        Schedule("plateau", {"patience": 1, "min_delta": 0.5}),
    ],
    ids=lambda schedule: schedule.kind,
)
@pytest.mark.parametrize("optimizer", [ADAM, Optimizer("sgd", 0.1, {"momentum": 0.9})], ids=["adam", "sgd"])
def test_schedules_are_followed_as_by_the_keras_engine(
    schedule: Schedule, optimizer: Optimizer, iris: Dataset
) -> None:
    some = designs(3, epochs=5, schedule=schedule, optimizer=optimizer)
    stacked = train(some, iris, holdout=0.2)
    one_by_one = train(some, iris, KerasEngine(), holdout=0.2)
    for ours, theirs in zip(stacked, one_by_one, strict=True):
        assert ours.weights is not None
        assert theirs.weights is not None
        for name in ("loss", "val_loss"):
            np.testing.assert_allclose(ours.trial.history[name], theirs.trial.history[name], rtol=1e-4)
        for one, other in zip(ours.weights(), theirs.weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_dropout_zeroes_the_share_it_says_and_keeps_the_mean(iris: Dataset) -> None:
    from dnnflow.engines.stacked.stack_network import Options, drop

    options = Options(None, None, tf.constant([[0.0], [0.2], [0.7]]), None, tf.constant([0, 1, 2]))
    flow = tf.ones((3, 400, 50))
    first = drop(flow, options, 0, tf.constant([3, 1]))
    for index, rate in enumerate((0.0, 0.2, 0.7)):
        kept = first[index].numpy()
        # 20,000 draws: five standard deviations
        assert abs((kept == 0).mean() - rate) <= 5 * np.sqrt(rate * (1 - rate) / 20_000)
        assert np.unique(kept).tolist() == pytest.approx([1.0] if rate == 0 else [0.0, 1 / (1 - rate)])
    # Other steps, layers and places of the stack draw anew
    assert not np.array_equal(first, drop(flow, options, 0, tf.constant([3, 2])))
    assert not np.array_equal(first, drop(flow, options, 1, tf.constant([3, 1])))
    half = options._replace(dropout=tf.constant([[0.5], [0.5]]), member=tf.constant([0, 1]))
    dropped = drop(flow[:2], half, 0, tf.constant([3, 1])).numpy() == 0
    assert abs((dropped[0] & dropped[1]).mean() - 0.25) < 0.02  # one design's draws say nothing of another's
    places = drop(flow, options._replace(member=tf.constant([0, 1, 2])), 0, tf.constant([3, 1]))
    left = options._replace(member=tf.constant([1]), dropout=tf.constant([[0.2]]))
    np.testing.assert_array_equal(drop(flow[:1], left, 0, tf.constant([3, 1]))[0], places[1])


def test_dropout_trains_as_well_as_with_keras(digits: Dataset) -> None:
    some = designs(6, layers=(Layer(32, dropout=0.3), Layer(32, dropout=0.3)), epochs=6)
    ours, theirs = (
        [fitted.trial.score or 0.0 for fitted in train(some, digits, engine)]
        for engine in (StackedEngine(), KerasEngine())
    )
    assert abs(np.mean(ours) - np.mean(theirs)) < 0.02


def test_a_stack_without_memory_is_halved_until_its_designs_fit(
    iris: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    fit = StackRun.fit

    def exhausted(run: StackRun, deadline: Deadline) -> list:
        tried.append(len(run._designs))
        if len(run._designs) > 2 or any(design.seed == 4 for design in run._designs):
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return fit(run, deadline)

    monkeypatch.setattr(StackRun, "fit", exhausted)
    *fine, last = train(designs(5), iris)
    assert tried == [5, 2, 3, 1, 2, 1, 1], "5, its halves, and theirs"
    assert [fitted.trial.state for fitted in fine] == [TrialState.COMPLETED] * 4
    assert last.trial.error is not None
    assert last.trial.error.type == "ResourceExhaustedError"
    assert last.trial.engine == "stacked"


def test_a_stack_past_its_members_limits_is_halved_too(iris: Dataset) -> None:
    for fitted in train(designs(3), iris, time_limit_s=1e-6):
        assert fitted.trial.error is not None
        assert fitted.trial.error.type == "TimeLimitError"
        assert "must end within time_limit_s=1e-06, got" in fitted.trial.error.message


def test_a_stack_that_cannot_fit_is_halved_before_it_takes_memory(iris: Dataset) -> None:
    wide = designs(4, layers=(Layer(300),) * 3, epochs=1)
    context = TrainingContext(iris, ON_TEST, memory_bytes=15_000_000)
    trials = [fitted.trial for fitted in StackedEngine().train(wide, context)]
    assert [trial.state for trial in trials] == [TrialState.COMPLETED] * 4
    assert [trial.amortised for trial in trials] == [False] * 4


def test_time_is_shared_by_arithmetic_and_said_to_be(iris: Dataset) -> None:
    some = [*designs(3), *designs(1, layers=(Layer(10, "tanh"), Layer(8)))]
    trials = [fitted.trial for fitted in train(some, iris)]
    assert all(trial.amortised for trial in trials)
    assert trials[0].training_s == pytest.approx(trials[1].training_s)
    assert trials[3].training_s > trials[0].training_s
    alone = [fitted.trial for fitted in train(some, iris, measured_alone=True)]
    assert not any(trial.amortised for trial in alone)
    assert len({trial.training_s for trial in alone}) == 4


def test_stacks_of_all_widths_and_depths_share_a_trace(iris: Dataset) -> None:
    engine = StackedEngine()
    some = [
        Design((Layer(units, "tanh"),) * depth, optimizer=ADAM, epochs=1)
        for depth in (20, 40, 200) for units in (3, 12)
    ]  # fmt: skip
    assert all(fitted.trial.state is TrialState.COMPLETED for fitted in train(some, iris, engine))
    assert len(engine._programs) == 1


def test_auto_gives_each_design_to_the_fastest_engine_that_can_train_it(iris: Dataset) -> None:
    odd = Design(tuple(Layer(3 + index % 2, "gelu") for index in range(40)), epochs=1)
    by_code = Design(reference=Reference(f"{__name__}:by_code"), epochs=1)
    some = [*designs(2), designs(1, layers=(Layer(9, dropout=0.1),))[0], odd, by_code]
    engines = [fitted.trial.engine for fitted in train(some, iris, AutoEngine())]
    assert engines == [*["compiled"] * 4, "keras"]
    assert [AutoEngine().refuse(design) for design in some] == [None] * 5
    assert "alike" in str(StackedEngine().refuse(odd))
    assert "reference" in str(StackedEngine().refuse(by_code))


def by_code(n_features: int, n_classes: int) -> object:
    """A network given by code."""
    import keras

    return keras.Sequential([keras.Input((n_features,)), keras.layers.Dense(n_classes, activation="softmax")])
