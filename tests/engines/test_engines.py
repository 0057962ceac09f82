"""The contract of engines, for each of those that come with dnnflow; and what finds them by name."""

import dataclasses
import gc
from collections.abc import Sequence

import keras
import numpy as np
import pytest

from dnnflow.design import layers as design_layers
from dnnflow.design.layers import Design, EarlyStopping, Layer, Optimizer, Reference, Schedule
from dnnflow.engines.compiled import compiled_engine
from dnnflow.engines.epoch_rows import TrainingRows
from dnnflow.engines.keras.build import build_model, compile_model
from dnnflow.engines.keras.keras_engine import KerasEngine
from dnnflow.engines.loop import Deadline
from dnnflow.engines.records import TrainingSettings, Trial, TrialState
from dnnflow.engines.registry import find_engine
from dnnflow.engines.seam import Engine, Fitted, TrainingContext, check_training
from dnnflow.engines.sklearn_engine import SklearnEngine
from dnnflow.errors import DataError, DesignError, NotFoundError
from dnnflow.table.columns.split import Part
from dnnflow.table.store.dataset import Dataset

ON_TEST = TrainingSettings(select_on="test")
SMALL = Design((Layer(16),), optimizer=Optimizer("adam", 0.02), epochs=6)
DIVERGES = Design((Layer(16),), optimizer=Optimizer("sgd", 1e30), epochs=2)


def lstm(n_features: int, n_classes: int, units: int = 4) -> keras.Model:
    inputs = keras.Input((n_features,))
    steps = keras.layers.Reshape((n_features, 1))(inputs)
    flow = keras.layers.LSTM(units)(steps)
    return keras.Model(inputs, keras.layers.Dense(n_classes, activation="softmax")(flow))


def one_hot(n_features: int, n_classes: int) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((n_features,)), keras.layers.Dense(n_classes, activation="softmax")]
    )
    model.compile(keras.optimizers.Adam(0.1), loss="categorical_crossentropy")
    return model


def broken(n_features: int, n_classes: int) -> keras.Model:
    raise KeyError("no such table")


@pytest.fixture(scope="module", params=["auto", "compiled", "keras", "sklearn", "stacked"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return find_engine(request.param)


def train(engine: Engine, designs: Sequence[Design], dataset: Dataset, **settings: object) -> list[Trial]:
    """Train designs and return their trials in the same order; engines may finish them in another."""
    context = TrainingContext(dataset, TrainingSettings(**{"select_on": "test"} | settings))  # type: ignore[arg-type]
    trials = [fitted.trial for fitted in engine.train(designs, context)]
    assert sorted(trial.design_id for trial in trials) == sorted(design.design_id for design in designs)
    by_id = {trial.design_id: trial for trial in trials}
    return [by_id[design.design_id] for design in designs]


def train_one(engine: Engine, design: Design, context: TrainingContext) -> Fitted:
    (fitted,) = engine.train([design], context)
    return fitted


def numbers(trial: Trial) -> dict[str, object]:
    """What must be the same when a trial is repeated: all but who, when and how long."""
    told = dataclasses.asdict(trial)
    return {name: told[name] for name in told if name not in ("started_at", "training_s", "total_s")}


@pytest.mark.parametrize("name", ["compiled", "keras", "stacked"])
def test_what_a_process_makes_once_is_made_before_the_clock_starts(
    name: str, iris: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[bool]()
    clock = list[int]()
    monkeypatch.setattr(compiled_engine, "_compiled", set())
    begun = Deadline.__init__

    def begin(self: Deadline, *given: object, **named: object) -> None:
        clock.append(len(told))
        begun(self, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Deadline, "__init__", begin)
    context = TrainingContext(iris, ON_TEST, compiling=told.append)
    engine = find_engine(name)
    first, again = (train_one(engine, SMALL, context).trial for _ in range(2))
    assert told == [True, False]
    assert clock == [2, 2]
    assert numbers(first) == numbers(again)


@pytest.mark.parametrize("select_on", ["validation", "test"])
def test_what_is_counted_is_what_is_predicted_for_the_rows_compared_on(
    engine: Engine, iris: Dataset, select_on: str
) -> None:
    settings = TrainingSettings(select_on=select_on)  # type: ignore[arg-type]
    fitted = train_one(engine, SMALL, TrainingContext(iris, settings))
    truth = TrainingRows(iris, settings).measured_labels()
    assert len(truth) == (24 if select_on == "validation" else 30)
    assert fitted.predicted is not None
    assert fitted.predicted.dtype == np.uint8
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (truth, fitted.predicted), 1)
    assert counts.tolist() == [list(row) for row in fitted.trial.confusion]
    assert fitted.trial.score == pytest.approx(np.trace(counts) / len(truth))
    watched = fitted.trial.validation_score
    assert watched == (fitted.trial.score if select_on == "validation" else None)


def test_engines_agree_on_validation_rows(iris: Dataset) -> None:
    """Which designs are best does not depend on who trains them."""
    context = TrainingContext(iris, TrainingSettings())
    found = [train_one(find_engine(name), SMALL, context) for name in ("compiled", "stacked", "keras")]
    losses = [one.trial.loss for one in found]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    assert [one.trial.score for one in found] == [found[0].trial.score] * 3


def test_rows_in_shuffled_blocks_are_the_same_rows(digits: Dataset) -> None:
    """A table that does not fit the memory has the same validation rows, and no prediction row by row."""
    context = TrainingContext(digits, TrainingSettings(), memory_bytes=900_000)
    fitted = train_one(find_engine("keras"), SMALL, context)
    truth = TrainingRows(digits, TrainingSettings()).measured_labels()
    assert fitted.predicted is None
    assert [sum(row) for row in fitted.trial.confusion] == np.bincount(truth).tolist()


def test_it_learns_and_records_what_it_did(engine: Engine, digits: Dataset) -> None:
    (trial,) = train(engine, [SMALL], digits, holdout=0.1)
    assert trial.state is TrialState.COMPLETED
    assert trial.score is not None
    assert trial.score > 0.85
    assert trial.engine == ("compiled" if engine.name == "auto" else engine.name)
    assert trial.epochs_run == 6
    assert trial.parameters == 65 * 16 + 17 * 10
    assert trial.flops == 2 * 64 * 16 + 2 * 16 + 2 * 16 * 10 + 4 * 10
    assert {name: len(values) for name, values in trial.history.items()} == dict.fromkeys(
        ("loss", "accuracy", "val_loss", "val_accuracy"), 6
    )
    assert trial.history["loss"][-1] < trial.history["loss"][0] / 2
    assert trial.train_loss == trial.history["loss"][-1]
    assert trial.validation_score == trial.history["val_accuracy"][-1]
    assert 0 < trial.training_s <= trial.total_s


def test_the_confusion_counts_every_test_row(engine: Engine, iris: Dataset) -> None:
    (trial,) = train(engine, [SMALL], iris)
    counts = np.array(trial.confusion)
    np.testing.assert_array_equal(counts.sum(axis=1), iris.class_counts["test"])
    assert trial.score == np.trace(counts) / iris.rows["test"]


def test_a_design_has_the_same_numbers_again_and_in_any_company(engine: Engine, iris: Dataset) -> None:
    other = dataclasses.replace(SMALL, optimizer=Optimizer("adam", 0.1), batch_size=7, seed=5)
    alone = train(type(engine)(), [SMALL], iris)[0]
    wider = dataclasses.replace(SMALL, layers=(Layer(24),))
    company = train(
        engine, [other, SMALL, DIVERGES, wider, dataclasses.replace(DIVERGES, epochs=3), SMALL], iris
    )
    again = train(type(engine)(), [wider], iris)[0]
    if engine.name == "stacked":  # a sum over a stack is rounded otherwise than over one design
        for one, same in ((company[1], alone), (company[5], alone), (company[3], again)):
            assert one.confusion == same.confusion
            np.testing.assert_allclose(one.history["loss"], same.history["loss"], rtol=1e-6)
    else:
        assert numbers(company[1]) == numbers(company[5]) == numbers(alone)
        assert numbers(company[3]) == numbers(again)
    assert company[0].loss != company[1].loss


@pytest.mark.parametrize("table", ["iris", "breast_cancer"])
def test_returned_weights_give_the_recorded_accuracy(
    engine: Engine, table: str, request: pytest.FixtureRequest
) -> None:
    dataset: Dataset = request.getfixturevalue(table)
    design = Design((Layer(8, "tanh"), Layer(5, "tanh")), optimizer=Optimizer("adam", 0.02))
    fitted = train_one(engine, design, TrainingContext(dataset, ON_TEST))
    assert fitted.weights is not None
    model = build_model(design, dataset.n_features, dataset.n_classes)
    model.set_weights(list(fitted.weights()))
    features, labels = dataset.arrays("test")
    predicted = np.asarray(model(features)).argmax(axis=1)
    counts = np.zeros((dataset.n_classes,) * 2, int)
    np.add.at(counts, (labels, predicted), 1)
    assert counts.tolist() == [list(row) for row in fitted.trial.confusion]


def test_a_loss_that_is_no_number_fails_its_design_alone(engine: Engine, iris: Dataset) -> None:
    diverged, fine = train(engine, [DIVERGES, SMALL], iris)
    assert diverged.state is TrialState.FAILED
    assert diverged.error is not None
    assert diverged.error.type == "DivergedError"
    assert "lower the learning rate" in diverged.error.message
    assert "Traceback" in diverged.error.traceback
    assert fine.state is TrialState.COMPLETED


def test_an_impossible_design_fails_before_it_takes_memory(engine: Engine, iris: Dataset) -> None:
    huge, fine = train(engine, [Design((Layer(10**9),)), SMALL], iris)
    assert huge.error is not None
    assert huge.error.type == "OutOfMemoryError"
    assert "8,000,000,003 parameters; take fewer units" in huge.error.message
    assert fine.state is TrialState.COMPLETED


def test_a_design_over_its_time_limit_fails(engine: Engine, iris: Dataset) -> None:
    (trial,) = train(engine, [SMALL], iris, time_limit_s=1e-6)
    assert trial.error is not None
    assert trial.error.type == "TimeLimitError"
    assert "must end within time_limit_s=1e-06, got" in trial.error.message


def test_early_stopping_ends_with_the_best_weights(engine: Engine, iris: Dataset) -> None:
    design = Design(
        (Layer(16),), optimizer=Optimizer("adam", 0.3), epochs=60, early_stopping=EarlyStopping(3)
    )
    context = TrainingContext(iris, TrainingSettings(select_on="test", holdout=0.25))
    fitted = train_one(engine, design, context)
    losses = fitted.trial.history["val_loss"]
    best = int(np.argmin(losses))
    assert fitted.trial.epochs_run == best + 1 + 3 < 60
    # training just to that epoch gives the same network
    shorter = train_one(engine, dataclasses.replace(design, epochs=best + 1, early_stopping=None), context)
    assert fitted.trial.loss == shorter.trial.loss
    trial = fitted.trial
    # What is recorded belongs to the weights that were kept, not to the last epoch
    assert trial.validation_loss == trial.history["val_loss"][best]
    assert trial.validation_score == trial.history["val_accuracy"][best]
    assert trial.train_score == trial.history["accuracy"][best]


def test_watching_without_a_validation_part_is_refused(engine: Engine, iris: Dataset) -> None:
    for design, what in ((Design(early_stopping=EarlyStopping()), "early stopping"),
                         (Design(schedule=Schedule("plateau")), "a plateau schedule")):  # fmt: skip
        with pytest.raises(DesignError, match=f"{what} needs validation rows, got none"):
            check_training(design, holds_rows=False)
        (trial,) = train(engine, [design], iris)
        assert trial.error is not None
        assert trial.error.type == "DesignError"


def test_both_engines_train_alike(iris: Dataset, digits: Dataset) -> None:
    for dataset in (iris, digits):
        design = Design((Layer(16, "tanh"),), optimizer=Optimizer("sgd", 0.1, {"momentum": 0.9}), epochs=3)
        (one,), (other,) = (train(engine, [design], dataset) for engine in (KerasEngine(), SklearnEngine()))
        np.testing.assert_allclose(one.history["loss"], other.history["loss"], rtol=1e-4)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


REAL_KERAS = {
    "plain": Design((Layer(8), Layer(6, "tanh")), epochs=2, batch_size=32),
    "everything": Design(
        (Layer(6, "gelu", dropout=0.3, batch_norm=True, l2=0.01), Layer(6, dropout=0.2)),
        residual=1, optimizer=Optimizer("nadam", 0.01), epochs=2, batch_size=50, seed=4,
    ),
    "momentum": Design((Layer(8, "sigmoid"),), optimizer=Optimizer("sgd", 0.2, {"momentum": 0.9}), epochs=2),
    "nesterov": Design(
        (Layer(8),), optimizer=Optimizer("sgd", 0.1, {"momentum": 0.5, "nesterov": True}), epochs=2
    ),
    "decay": Design(
        (Layer(6, l2=0.1), Layer(6)), residual=1,
        optimizer=Optimizer("adamw", 0.02, {"weight_decay": 0.5}), epochs=2,
    ),
    "bare": Design(
        (Layer(8, "tanh", dropout=0.4),), optimizer=Optimizer("sgd", 0.05), batch_size=9, epochs=2, seed=2
    ),
    "other betas": Design(
        (Layer(8, "silu"),), optimizer=Optimizer("adam", 0.01, {"beta_1": 0.5, "epsilon": 0.001}), epochs=2
    ),
    "amsgrad": Design((Layer(8),), optimizer=Optimizer("adam", 0.01, {"amsgrad": True}), epochs=2),
    "all activations": Design(
        tuple(Layer(6, one) for one in design_layers.ACTIVATIONS), optimizer=Optimizer("sgd", 0.01), epochs=1
    ),
    **{
        name: Design((Layer(8, "tanh"),), optimizer=Optimizer(name, 0.01), epochs=2)
        for name in sorted(design_layers.OPTIMIZERS)
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_KERAS)
def test_the_keras_engine_does_what_model_fit_does(name: str, iris: Dataset) -> None:
    design = REAL_KERAS[name]
    fitted = train_one(KerasEngine(), design, TrainingContext(iris, ON_TEST))
    model = compile_model(build_model(design, iris.n_features, iris.n_classes), design)
    history = []
    for epoch in range(design.epochs):
        (features, labels) = (np.concatenate(part) for part in zip(
            *iris.batches("train", design.batch_size, epoch=epoch), strict=True))  # fmt: skip
        told = model.fit(features, labels, batch_size=design.batch_size, shuffle=False, verbose=0)
        history.append((told.history["loss"][0], told.history["accuracy"][0]))
    assert fitted.weights is not None
    for ours, theirs in zip(fitted.weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)
    learned = list(zip(fitted.trial.history["loss"], fitted.trial.history["accuracy"], strict=True))
    np.testing.assert_allclose(learned, history, rtol=1e-4)
    loss, score = model.evaluate(*iris.arrays("test"), verbose=0)
    assert fitted.trial.loss == pytest.approx(loss, rel=1e-4)
    assert fitted.trial.score == pytest.approx(score, abs=1e-6)


def test_widths_share_a_trace_where_the_optimizer_allows(iris: Dataset) -> None:
    engine = KerasEngine()
    depths = [Design((Layer(units), Layer(7)), epochs=1) for units in (3, 7, 12)]
    train(engine, depths, iris)
    assert len(engine._programs) == 1
    residual = [dataclasses.replace(design, residual=2) for design in depths]  # 4 features: nothing to add
    train(engine, [*residual, Design((Layer(7), Layer(4)), residual=2, epochs=1)], iris)
    assert len(engine._programs) == 2  # but the last one adds its input


def test_blocks_of_an_evaluation_add_up(iris: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(KerasEngine(), [SMALL], iris, holdout=0.3)[0]
    monkeypatch.setattr("dnnflow.engines.keras.keras_program._EVALUATE_ROWS", 7)
    blocks = train(KerasEngine(), [SMALL], iris, holdout=0.3)[0]
    assert blocks.confusion == whole.confusion
    np.testing.assert_allclose(blocks.history["val_loss"], whole.history["val_loss"], rtol=1e-5)


@pytest.mark.slow
def test_models_by_reference_train(iris: Dataset) -> None:
    designs = [
        Design(reference=Reference(f"{__name__}:{name}"), epochs=3) for name in ("lstm", "one_hot", "broken")
    ]
    recurrent, compiled, failed, again = train(KerasEngine(), [*designs, designs[0]], iris)
    assert recurrent.parameters == 4 * 4 * (1 + 4 + 1) + 5 * 3
    assert recurrent.flops is None
    assert numbers(recurrent) == numbers(again)
    assert compiled.history["loss"][-1] < compiled.history["loss"][0]
    assert failed.error is not None
    assert (failed.error.type, failed.error.message) == ("KeyError", "'no such table'")
    assert "in broken" in failed.error.traceback


@pytest.mark.slow
def test_a_dropped_engine_leaves_no_traced_graph_behind(iris: Dataset) -> None:
    def graphs() -> int:
        gc.collect()
        return sum(type(thing).__name__ == "FuncGraph" for thing in gc.get_objects())

    # silu has a gradient of its own, as every optimizer has: TensorFlow keeps their graphs for ever
    designs = [Design((Layer(3, "silu"),) * depth, epochs=1) for depth in (1, 2, 3)]
    before = graphs()
    assert [trial.state for trial in train(KerasEngine(), designs, iris)] == [TrialState.COMPLETED] * 3
    assert graphs() <= before


def test_a_split_too_large_to_keep_is_read_in_blocks(digits: Dataset) -> None:
    dataset = Dataset.open(digits.path)
    context = TrainingContext(dataset, TrainingSettings(select_on="test", holdout=0.1), memory_bytes=900_000)
    fitted = train_one(KerasEngine(), SMALL, context)
    assert fitted.trial.score is not None
    assert fitted.trial.score > 0.85
    assert np.sum(fitted.trial.confusion) == dataset.rows["test"]
    assert "_arrays" not in vars(dataset)  # the split was never held in whole


def test_sklearn_refuses_a_split_too_large_to_keep(digits: Dataset) -> None:
    context = TrainingContext(digits, ON_TEST, memory_bytes=900_000)
    with pytest.raises(
        DataError, match="at most a third of 900,000 bytes, got 373,880 and 93,340; take engine keras"
    ):
        SklearnEngine().train([SMALL], context)


@pytest.mark.parametrize(
    ("design", "reason"),
    [
        (Design((Layer(8, dropout=0.1),)), "dropout"),
        (Design((Layer(8, batch_norm=True),)), "batch normalisation"),
        (Design((Layer(8, l2=0.1),)), "L2 penalties"),
        (Design((Layer(8), Layer(8)), residual=1), "residual connections"),
        (Design((Layer(8), Layer(8, "tanh"))), "different activations"),
        (Design((Layer(8, "gelu"),)), "activations but relu"),
        (Design(optimizer=Optimizer("lion")), "optimizers but adam and sgd"),
        (Design(optimizer=Optimizer("adam", parameters={"amsgrad": True})), "all parameters"),
        (Design(reference=Reference("m:f")), "designs by reference"),
    ],
)
def test_sklearn_says_why_it_cannot_train_a_design(design: Design, reason: str) -> None:
    assert f"no {reason}" in str(SklearnEngine().refuse(design))
    assert KerasEngine().refuse(design) is None


def test_sklearn_takes_what_it_can_train() -> None:
    assert SklearnEngine().refuse(SMALL) is None
    assert SklearnEngine().refuse(Design()) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "keros",
            r"auto, compiled, keras, sklearn, stacked or module:Class, got 'keros'; did you mean keras\?",
        ),
        ("no.such.module:Engine", "an engine must be importable, got 'no.such.module:Engine'"),
        ("dnnflow.engines.keras.keras_engine:Missing", "must be importable"),
    ],
)
def test_an_unknown_engine_is_refused_with_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(NotFoundError, match=message):
        find_engine(name)


def test_an_engine_is_found_by_module_and_class() -> None:
    assert isinstance(find_engine("dnnflow.engines.keras.keras_engine:KerasEngine"), KerasEngine)


@pytest.mark.parametrize("engine", ["stacked", "compiled", "keras", "auto"])
def test_a_design_that_is_fitted_to_all_rows_has_weights_and_no_score(engine: str, iris: Dataset) -> None:
    context = TrainingContext(iris, TrainingSettings(), part=Part(holdout=0.0))
    designs = [Design((Layer(8),), epochs=2, seed=seed) for seed in (0, 1)]
    for fitted in find_engine(engine).train(designs, context):
        assert fitted.trial.state is TrialState.COMPLETED
        assert (fitted.trial.score, fitted.trial.confusion, fitted.predicted) == (None, (), None)
        assert fitted.weights is not None
        assert len(fitted.weights()) == 4


@pytest.mark.parametrize("engine", ["stacked", "compiled", "keras", "auto"])
def test_a_design_is_measured_on_the_fold_that_it_was_not_fitted_to(engine: str, iris: Dataset) -> None:
    part = Part(folds=5, fold=2)
    fitted, held = iris.part(part)
    labels = iris.labels("train")[held]
    (found,) = find_engine(engine).train(
        [Design((Layer(8),), epochs=2)], TrainingContext(iris, TrainingSettings(), part=part)
    )
    assert found.predicted is not None
    assert found.predicted.dtype == np.dtype(np.float16)
    assert found.predicted.shape == (len(held), 3)
    assert (found.predicted.argmax(axis=1) == labels).mean() == pytest.approx(found.trial.score)
    assert len(held) + len(fitted) == iris.rows["train"]
