"""Designs are plain data: resuming a study rests on their ids, plots and limits on their counts."""

import json

import pytest

from dnnflow.design import layers as design_layers
from dnnflow.design.layers import Design, EarlyStopping, Layer, Optimizer, Reference, Schedule
from dnnflow.errors import DesignError

RICH = Design(
    layers=(Layer(32, "tanh", dropout=0.2), Layer(16, batch_norm=True, l2=1e-4, initializer="he_normal")),
    residual=2,
    optimizer=Optimizer("sgd", 0.1, {"momentum": 0.9, "nesterov": True}),
    schedule=Schedule("step", {"rate": 0.5, "every": 3}),
    batch_size=16,
    epochs=4,
    early_stopping=EarlyStopping(2),
    seed=7,
)


def test_a_design_survives_json() -> None:
    again = Design.from_dict(json.loads(json.dumps(RICH.to_dict())))
    assert again == RICH
    assert again.design_id == RICH.design_id


def test_a_design_by_reference_survives_json() -> None:
    design = Design(reference=Reference("shop.models:conv", {"width": 3, "deep": True}))
    assert Design.from_dict(json.loads(json.dumps(design.to_dict()))) == design


def test_fields_at_their_default_are_not_in_the_id() -> None:
    # A later version's new field, at its default, must not change ids: resuming would train all again.
    assert Design().to_dict() == {}
    assert Design((Layer(8),)).to_dict() == {"layers": [{"units": 8}]}


def test_a_stored_id_stays_what_it_was() -> None:
    # of an earlier version's results: results are found again by it
    assert Design((Layer(8),)).design_id == "ae809d86159aae3c9a0d2f56b60d47d0635ce187818cbcc622f2ff3a6c6c1c85"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Optimizer("adam", 1), Optimizer("adam", 1.0)),
        (Optimizer("sgd", parameters={"momentum": 0}), Optimizer("sgd", parameters={"momentum": 0.0})),
        (Schedule("step", {"every": 5.0}), Schedule("step", {"every": 5})),
        (Schedule("cosine", {"floor": 0}), Schedule("cosine", {"floor": 0.0})),
    ],
)
def test_one_and_one_point_zero_give_one_id(one: object, other: object) -> None:
    field = "optimizer" if isinstance(one, Optimizer) else "schedule"
    assert Design(**{field: one}).design_id == Design(**{field: other}).design_id  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"layers": [{"units": 0}]}, r"units must be a whole number in \[1, .*\], got 0"),
        ({"layers": [{"units": 2.5}]}, "units must be a whole number .*, got 2.5"),
        ({"layers": [{"units": 8, "activation": "rlu"}]}, "activation must be one of relu, .*, got 'rlu'"),
        ({"layers": [{"units": 8, "dropout": 1.0}]}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"layers": [{"units": 8, "batch_norm": "yes"}]}, "batch_norm must be true or false, got 'yes'"),
        ({"layers": [{"units": 8, "l2": -1}]}, "l2 must be >= 0, got -1.0"),
        ({"layers": [{"unit": 8}]}, "a layer takes .*units, got unit"),
        (
            {"optimizer": {"name": "sgd", "parameters": {"beta_1": 0.9}}},
            "takes momentum, nesterov, got 'beta_1'",
        ),
        ({"optimizer": {"parameters": {"beta_1": 1.0}}}, r"beta_1 must be in \[0, 1\), got 1.0"),
        ({"optimizer": {"parameters": {"amsgrad": 1}}}, "amsgrad must be true or false, got 1"),
        ({"optimizer": {"learning_rate": 0}}, "learning_rate must be > 0, got 0.0"),
        ({"schedule": {"kind": "warm"}}, "schedule must be one of constant, .*, got 'warm'"),
        (
            {"schedule": {"kind": "step", "parameters": {"every": 0}}},
            "every must be a whole number >= 1, got 0",
        ),
        ({"schedule": {"kind": "step", "parameters": {"rate": "x"}}}, "rate must be a number, got 'x'"),
        ({"early_stopping": {"patience": 0}}, "patience must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"epochs": True}, "epochs must be >= 1, got True"),
        ({"seed": -1}, r"seed must be in \[0, 2\^63\), got -1"),
        ({"reference": {"function": "models.conv"}}, "must be written module:function, got 'models.conv'"),
        ({"layers": [{"units": 8}], "reference": {"function": "m:f"}}, "either layers or a reference"),
        ({"dropout": 0.5}, "a design takes .*, got dropout"),
    ],
)
def test_what_is_no_network_is_refused_with_rule_and_value(data: dict[str, object], message: str) -> None:
    with pytest.raises(DesignError, match=message):
        Design.from_dict(data)


def test_residual_groups_of_different_width_are_left_out() -> None:
    design = Design((Layer(8), Layer(4), Layer(6), Layer(4), Layer(5)), residual=2)
    assert design_layers.residual_sources(design, n_features=4) == {1: 0, 3: 2}
    assert design_layers.residual_sources(design, n_features=5) == {3: 2}


def test_counts_by_hand() -> None:
    design = Design((Layer(3, batch_norm=True), Layer(2)))
    # (4+1)*3 + 4*3, (3+1)*2, (2+1)*3
    assert design_layers.count_parameters(design, n_features=4, n_outputs=3) == 15 + 12 + 8 + 9
    # 2*4*3 + 3 * (bias, activation, 2 of batch norm); 2*3*2 + 2*2; 2*2*3 + 4*3
    assert design_layers.count_flops(design, n_features=4, n_outputs=3) == (24 + 12) + (12 + 4) + (12 + 12)


def test_a_design_says_itself_in_words() -> None:
    assert Design((Layer(64),) * 3, optimizer=Optimizer("adam", 0.003)).describe() == (
        "3 x 64 relu, adam 0.003, batch 32"
    )
    assert Design(reference=Reference("m:f", {"width": 3})).describe() == "m:f(width=3)"
