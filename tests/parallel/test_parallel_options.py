"""What a parallel training can be told: checked before any worker is asked."""

from typing import Any

import pytest

from dnnflow.errors import InputError
from dnnflow.parallel.spec.algorithm import Algorithm, PushKind
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec
from dnnflow.parallel.spec.train_options import Target, TrainOptions
from dnnflow.run.train import with_optimizer


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": 0},
        {"replicas": True},
        {"servers": 0},
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": -1},
        {"validate_every": 0},
        {"time_limit_s": 0},
        {"checkpoint_every_s": -1.0},
        {"wait_s": 0.0},
        {"wait_s": float("nan")},
        {"seed": -1},
        {"seed": 1.0},
    ],
    ids=str,
)
def test_a_wrong_option_is_named_with_its_value(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(InputError, match=f"^{name} must be .* got {value}"):
        TrainOptions(**wrong)


def test_restore_needs_a_checkpoint() -> None:
    with pytest.raises(InputError, match="set checkpoint"):
        TrainOptions(restore=True)
    assert TrainOptions(restore=True, checkpoint="somewhere").restore


def test_a_target_ends_a_training_past_its_value() -> None:
    target = Target.parse(" val_accuracy, > ,0.97")
    assert target == Target("val_accuracy", ">", 0.97)
    assert target.is_reached({"val_accuracy": 0.98})
    assert not target.is_reached({"val_accuracy": 0.97})
    assert not target.is_reached({"accuracy": 1.0})
    assert not target.is_reached({"val_accuracy": float("nan")})
    assert Target.parse("loss,<,1e-3").is_reached({"loss": 0.0})


@pytest.mark.parametrize("text", ["", "loss", "loss,<", "loss,=,1", "loss,<,low", "loss,<,1,2"])
def test_a_target_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"e\.g\. val_accuracy,>,0\.97"):
        Target.parse(text)


# Whose optimizer the model's is

GIVEN = OptimizerSpec("rmsprop", 0.05)


def test_gradients_are_applied_by_the_models_optimizer_on_the_server() -> None:
    found = with_optimizer(Algorithm(), GIVEN)
    assert (found.server_optimizer, found.replica_optimizer) == (GIVEN, None)
    assert found.push_kind is PushKind.GRADIENT


@pytest.mark.parametrize(
    "algorithm",
    [
        Algorithm(sync_every=3),
        Algorithm(kind="easgd"),  # type: ignore[arg-type]
        Algorithm(kind="diloco", sync_every=3),  # type: ignore[arg-type]
        Algorithm(kind="gem", sync_every=3),  # type: ignore[arg-type]
    ],
    ids=lambda algorithm: f"{algorithm.kind}-{algorithm.sync_every}",
)
def test_local_steps_are_taken_with_the_models_optimizer(algorithm: Algorithm) -> None:
    found = with_optimizer(algorithm, GIVEN)
    assert (found.server_optimizer, found.replica_optimizer) == (None, GIVEN)


def test_what_the_algorithm_names_stays() -> None:
    own = OptimizerSpec("sgd", 0.5)
    assert with_optimizer(Algorithm(server_optimizer=own), GIVEN).server_optimizer == own
    assert with_optimizer(Algorithm(sync_every=2, replica_optimizer=own), GIVEN).replica_optimizer == own
    momentum = Algorithm(kind="easgd", momentum=0.9)  # type: ignore[arg-type]
    assert with_optimizer(momentum, GIVEN) == momentum
    assert with_optimizer(Algorithm(), None) == Algorithm()


def test_no_argument_is_left_over() -> None:
    """What is given beyond the fields must not be dropped in silence."""
    with pytest.raises(TypeError, match="OptimizerSpec takes name, learning_rate, parameters, each once"):
        OptimizerSpec("sgd", 0.1, {}, 5)
    with pytest.raises(TypeError, match="each once"):
        OptimizerSpec("sgd", name="adam")
