"""Where the best designs lie at the edge of their space, it says so and can be widened."""

from dataclasses import replace
from typing import Any

import pytest

from dnnflow.design.edges import Edge, edges_of, widened
from dnnflow.design.layers import Design, EarlyStopping, Layer, Optimizer
from dnnflow.design.space import Space

SPACE: dict[str, Any] = {
    "depth": {"int": [1, 4]}, "units": {"choice": [16, 32, 64]},
    "learning_rate": {"loguniform": [0.001, 0.01]}, "epochs": 8,
}  # fmt: skip


def design(depth: int = 2, units: int = 32, rate: float = 0.003) -> Design:
    return Design((Layer(units),) * depth, optimizer=Optimizer(learning_rate=rate), epochs=8)


@pytest.mark.parametrize(
    ("best", "found"),
    [
        ([design()], []),
        ([design(units=64), design(units=64), design()], [("units", "high", 64)]),
        ([design(depth=1)] * 5 + [design()] * 5, [("depth", "low", 1)]),
        ([design(depth=1)] * 4 + [design()] * 6, []),
        ([design(rate=0.0099), design(rate=0.0095)], [("learning_rate", "high", 0.01)]),
        ([design(rate=0.00101)], [("learning_rate", "low", 0.001)]),
        ([design(depth=4, units=16)], [("depth", "high", 4), ("units", "low", 16)]),
        ([design(units=64)] * 3 + [design()] * 9, []),
    ],
)
def test_an_edge_is_where_half_of_the_best_are(
    best: list[Design], found: list[tuple[str, str, float]]
) -> None:
    edges = edges_of(Space.from_dict(SPACE), best)
    assert [(one.parameter, one.side, one.value) for one in edges] == found


def test_what_ends_by_itself_is_no_edge() -> None:
    space = Space.from_dict({"depth": {"int": [0, 2]}, "units": 8, "dropout": {"choice": [0.0, 0.3]}})
    assert edges_of(space, [Design((Layer(8),)), Design()]) == ()
    assert edges_of(Space.from_dict({"designs": [Design().to_dict()]}), [Design()]) == ()


def test_curves_that_still_rise_ask_for_epochs() -> None:
    space = Space.from_dict(SPACE)
    (edge,) = edges_of(space, [design(), design()], [True, False])
    assert str(edge) == "learning curves of the best still rise at the last of 8 epochs"
    assert edges_of(space, [design()] * 3, [True, False, False]) == ()
    wider = widened(SPACE, [edge])
    assert (wider["epochs"], wider["early_stopping"]) == (32, {"patience": 10})
    kept = widened({**SPACE, "early_stopping": {"patience": 3}}, [edge])
    assert kept["early_stopping"] == {"patience": 3}


@pytest.mark.parametrize(
    ("parameter", "written", "side", "wider"),
    [
        ("depth", {"int": [1, 4]}, "high", {"int": [1, 16]}),
        ("depth", {"int": [2, 6, 2]}, "low", {"int": [0, 6, 2]}),
        ("units", {"choice": [16, 32, 64]}, "high", {"choice": [16, 32, 64, 128, 256]}),
        ("units", {"choice": [16, 32]}, "low", {"choice": [4, 8, 16, 32]}),
        ("learning_rate", {"loguniform": [0.001, 0.01]}, "high", {"loguniform": [0.001, 0.04]}),
        ("learning_rate", {"loguniform": [0.001, 0.01]}, "low", {"loguniform": [0.00025, 0.01]}),
        ("dropout", {"uniform": [0.0, 0.4]}, "high", {"uniform": [0.0, 0.9]}),
        ("units", {"log_int": [1, 100, 20]}, "high", {"log_int": [1, 400, 30]}),
        ("batch_size", {"choice": [16, 32]}, "high", {"choice": [16, 32, 64, 128]}),
    ],
)
def test_a_space_goes_on_beyond_its_edge(parameter: str, written: Any, side: Any, wider: Any) -> None:
    space = {**SPACE, parameter: written}
    found = widened(space, [Edge(parameter, side, 0.0)])
    assert found[parameter] == wider
    assert Space.from_dict(found)
    assert {key: value for key, value in found.items() if key != parameter} == {
        key: value for key, value in space.items() if key != parameter
    }


def test_widening_twice_goes_on() -> None:
    space = SPACE
    for _ in range(4):
        space = widened(space, [Edge("units", "high", 0.0)])
    assert max(space["units"]["choice"]) == 4096
    assert edges_of(Space.from_dict(space), [design(units=4096)]) == ()
    stopped = replace(design(), early_stopping=EarlyStopping(3))
    assert edges_of(Space.from_dict(space), [stopped]) == ()
