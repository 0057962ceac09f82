"""Spaces: a study's designs must come at once, in full, without repeats, and the same ones each time."""

from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.design.draws import LogIntRange
from dnnflow.design.layers import Design
from dnnflow.design.space import Space
from dnnflow.errors import DesignError

PIPELINES = [
    path
    for path in sorted((Path(__file__).parents[2] / "pipelines").glob("*.yaml"))
    if "space" in yaml.safe_load(path.read_text())
]

REPEATABLE = settings(max_examples=40, deadline=None, derandomize=True)
small_spaces = st.fixed_dictionaries(
    {
        "depth": st.sampled_from([0, 2, {"int": [0, 2]}, {"choice": [0, 1, 3]}, {"int": [1, 3, 2]}]),
        "units": st.sampled_from([8, {"choice": [8, 16, 8]}, {"int": [1, 2]}, {"log_int": [1, 9, 3]}]),
        "activation": st.sampled_from(["relu", {"choice": ["relu", "tanh"]}]),
        "optimizer": st.sampled_from(["adam", {"choice": ["sgd", "adam"]}]),
        "optimizer_parameters": st.sampled_from([{}, {"epsilon": {"choice": [1e-7, 1e-8]}}]),
        "schedule": st.sampled_from(["constant", {"choice": ["constant", {"kind": "cosine"}, "cosine"]}]),
        "seed": st.sampled_from([0, {"int": [0, 2]}]),
        "per_layer": st.sampled_from([[], ["units"], ["units", "activation"]]),
    }
)


@REPEATABLE
@given(small_spaces)
def test_a_grid_has_every_design_once_and_knows_how_many(data: dict[str, Any]) -> None:
    space = Space.from_dict(data)
    ids = [design.design_id for design in space.grid()]
    designs = {design.unseeded_id for design in space.grid()}
    assert len(designs) == space.length()
    assert len(set(ids)) == len(ids) == len(designs) * space.repetitions


@REPEATABLE
@given(small_spaces, st.integers(1, 2000), st.integers(0, 3))
def test_a_sample_has_no_repeats_and_ends_when_the_space_does(
    data: dict[str, Any], n: int, seed: int
) -> None:
    space = Space.from_dict(data)
    everything = {design.design_id for design in space.grid()}
    ids = [design.design_id for design in space.sample(n, seed)]
    assert len(set(ids)) == len(ids) == min(n, space.length() or 0) * space.repetitions
    assert set(ids) <= everything
    assert len({design.unseeded_id for design in space.sample(n, seed)}) * space.repetitions == len(ids)


@REPEATABLE
@given(small_spaces)
def test_a_space_survives_its_dict(data: dict[str, Any]) -> None:
    space = Space.from_dict(data)
    assert Space.from_dict(space.to_dict()) == space


def test_the_same_seed_draws_the_same_designs() -> None:
    space = Space.from_dict({"depth": {"int": [1, 5]}, "learning_rate": {"loguniform": [1e-3, 1e-2]}})
    first, again = list(space.sample(20, 3)), list(space.sample(20, 3))
    assert first == again
    assert list(space.sample(20, 4)) != first


def test_drawn_designs_do_not_change_with_versions() -> None:
    # The key of a study is made of its designs: another drawing would end the resuming of old studies.
    space = Space.from_dict({"depth": {"int": [1, 5]}, "learning_rate": {"loguniform": [1e-3, 1e-2]}})
    design = next(space.sample(5, 0))
    assert len(design.layers) == 5
    assert design.optimizer.learning_rate == pytest.approx(0.00383161654121774, rel=1e-12)


def test_a_huge_grid_starts_at_once() -> None:
    space = Space.from_dict({"depth": {"int": [1, 3]}, "units": {"int": [1, 10**9]}, "per_layer": ["units"]})
    assert space.length() == 10**9 + 10**18 + 10**27
    assert [design.layers[0].units for design in islice(space.grid(), 3)] == [1, 2, 3]


def test_a_range_includes_both_ends_and_keeps_its_step() -> None:
    space = Space.from_dict({"depth": 1, "units": {"int": [16, 48, 16]}})
    assert [design.layers[0].units for design in space.grid()] == [16, 32, 48]


def test_depths_spread_evenly_in_their_logarithms() -> None:
    depths = [len(design.layers) for design in Space(depth={"log_int": [1, 1000, 40]}).grid()]
    assert len(set(depths)) == len(depths) == 40
    assert depths[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14]
    assert [depth for depth in depths if depth >= 500] == [547, 636, 740, 860, 1000]
    ratios = [after / before for before, after in pairwise(depths) if before >= 50]
    assert max(ratios) / min(ratios) < 1.02


@REPEATABLE
@given(st.integers(1, 50), st.integers(1, 2000), st.data())
def test_a_log_range_has_as_many_values_as_it_says(low: int, more: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(2, more + 1))
    values = LogIntRange(log_int=(low, low + more, count)).values
    assert len(values) == count
    assert (values[0], values[-1]) == (low, low + more)
    assert all(before < after for before, after in pairwise(values))


def test_a_log_range_is_drawn_from_and_written_as_it_was_read() -> None:
    space = Space.from_dict(
        {"depth": {"log_int": [1, 100, 5]}, "learning_rate": {"loguniform": [1e-3, 1e-2]}}
    )
    assert {len(design.layers) for design in space.sample(100)} == {1, 3, 10, 32, 100}
    assert space.to_dict()["depth"] == {"log_int": [1, 100, 5]}


def test_draws_fill_their_ranges() -> None:
    space = Space.from_dict(
        {
            "depth": {"int": [0, 4]},
            "dropout": {"uniform": [0.1, 0.5]},
            "learning_rate": {"loguniform": [1e-4, 1]},
        }
    )
    designs = list(space.sample(2000, 1))
    depths = [len(design.layers) for design in designs]
    rates = sorted(design.optimizer.learning_rate for design in designs)
    dropouts = [design.layers[0].dropout for design in designs if design.layers]
    assert {depth: depths.count(depth) > 300 for depth in range(5)} == dict.fromkeys(range(5), True)
    assert 0.1 <= min(dropouts) < 0.12
    assert 0.48 < max(dropouts) <= 0.5
    assert rates[0] >= 1e-4
    assert rates[-1] <= 1
    assert rates[1000] == pytest.approx(1e-2, rel=0.3)  # the middle of the logarithms


def test_per_layer_fields_differ_between_layers_and_others_do_not() -> None:
    space = Space.from_dict(
        {
            "depth": 30,
            "units": {"choice": [8, 16]},
            "dropout": {"uniform": [0, 0.5]},
            "activation": {"choice": ["relu", "tanh"]},
            "per_layer": ["units"],
        }
    )
    (design,) = space.sample(1)
    assert {layer.units for layer in design.layers} == {8, 16}
    assert len({(layer.activation, layer.dropout) for layer in design.layers}) == 1


def test_a_parameter_goes_to_the_optimizers_that_take_it() -> None:
    space = Space.from_dict(
        {"optimizer": {"choice": ["sgd", "adam"]}, "optimizer_parameters": {"momentum": {"choice": [0, 0.9]}}}
    )
    assert [(d.optimizer.name, dict(d.optimizer.parameters)) for d in space.grid()] == [
        ("sgd", {"momentum": 0.0}),
        ("sgd", {"momentum": 0.9}),
        ("adam", {}),
    ]


def test_seeds_repeat_designs_the_seed_fastest() -> None:
    space = Space.from_dict({"depth": 0, "batch_size": {"choice": [8, 16]}, "seed": {"int": [3, 5]}})
    assert (space.length(), space.repetitions) == (2, 3)
    assert [(d.batch_size, d.seed) for d in space.grid()] == [(b, s) for b in (8, 16) for s in (3, 4, 5)]
    (size,) = {design.batch_size for design in space.sample(1)}
    assert [(d.batch_size, d.seed) for d in space.sample(1)] == [(size, seed) for seed in (3, 4, 5)]
    assert len({design.unseeded_id for design in space.grid()}) == 2


def test_ranges_that_do_not_matter_leave_a_space_countable() -> None:
    assert Space.from_dict({"depth": 0, "dropout": {"uniform": [0, 0.5]}}).length() == 1


def test_a_list_of_designs_is_a_space() -> None:
    designs = [Design(seed=1).to_dict(), Design(seed=2).to_dict(), Design(seed=1).to_dict()]
    space = Space.from_dict({"designs": designs})
    assert [design.seed for design in space.grid()] == [1, 2]
    assert {design.seed for design in space.sample(5)} == {1, 2}
    assert len(list(space.sample(1))) == space.length() - 1  # type: ignore[operator]


def test_parameters_of_a_reference_are_drawn() -> None:
    space = Space.from_dict(
        {
            "reference": {
                "function": "shop.models:conv",
                "parameters": {"width": {"choice": [3, 5]}, "deep": True},
            },
            "learning_rate": {"choice": [0.01, 0.1]},
        }
    )
    found = [(dict(d.reference.parameters), d.optimizer.learning_rate) for d in space.grid() if d.reference]
    assert found == [({"width": w, "deep": True}, rate) for w in (3, 5) for rate in (0.01, 0.1)]


def test_a_list_is_a_choice_of_what_is_in_it() -> None:
    written = Space.from_dict({"units": [16, 32], "activation": ["relu"], "schedule": ["constant", "cosine"]})
    assert written == Space.from_dict(
        {"units": {"choice": [16, 32]}, "activation": "relu", "schedule": {"choice": ["constant", "cosine"]}}
    )
    assert [design.layers[0].units for design in written.grid()] == [16, 16, 32, 32]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"width": 3}, "a space takes depth, units, .*, got width"),
        ({"units": []}, r"units: choice takes a list, got \[\]"),
        ({"units": [16, [32]]}, r"units: units must be a whole number .*, got \[32\]"),
        ({"units": {"choice": []}}, r"units: choice takes a list, got \[\]"),
        ({"units": {"choice": [16, 0]}}, "units: units must be a whole number .*, got 0"),
        ({"activation": {"choice": ["rlu"]}}, "activation: activation must be one of .*, got 'rlu'"),
        ({"depth": {"int": [3, 1]}}, r"depth: int takes .* low <= high, got \[3, 1\]"),
        ({"depth": {"int": [1, 5, 0]}}, "depth: int takes whole numbers"),
        ({"depth": {"log_int": [0, 9, 3]}}, r"depth: log_int takes whole numbers .* 1 <= low < high"),
        ({"depth": {"log_int": [1, 9]}}, r"depth: log_int takes whole numbers .*, got \[1, 9\]"),
        ({"depth": {"log_int": [1, 10**400, 3]}}, "depth: log_int takes whole numbers .* <= 2\\^53"),
        ({"depth": {"log_int": [1, 9, 10]}}, r"depth: log_int takes a count in \[2, 9\].*, got 10"),
        ({"depth": {"log_int": [1, 10**9, 9]}}, "depth: depth must be a whole number in .*, got 1000000000"),
        ({"units": {"uniform": [8, 16]}}, "units: units must be a whole number .*, got 8.0"),
        ({"learning_rate": {"loguniform": [0, 1]}}, "learning_rate: loguniform needs low > 0"),
        ({"learning_rate": {"uniform": [1, 1]}}, "learning_rate: uniform takes .* low < high"),
        ({"dropout": {"uniform": [0, 1]}}, r"dropout: dropout must be in \[0, 1\), got 1.0"),
        ({"per_layer": ["depth"]}, "per_layer takes units, .*, got depth"),
        ({"optimizer_parameters": {"momentum": 0.9}}, "optimizer_parameters takes amsgrad, .*, got momentum"),
        ({"early_stopping": {"patience": 0}}, "early_stopping: patience must be >= 1, got 0"),
        ({"designs": [{}], "depth": 3}, "a space of designs takes nothing else, got depth"),
        ({"reference": {"function": "m:f"}, "units": 3}, "by reference has no layers of its own, got units"),
        ({"seed": {"int": [0, 100]}}, r"seed repeats .*, at most 100 times, got .*; write \{int: \[0, 4\]\}"),
        ({"reference": {"name": "m:f"}}, "reference takes function and parameters, got name"),
    ],
)
def test_what_is_no_space_is_refused_before_anything_runs(data: dict[str, Any], message: str) -> None:
    with pytest.raises(DesignError, match=message):
        Space.from_dict(data)


def test_a_grid_over_a_continuous_range_names_the_remedy() -> None:
    space = Space.from_dict({"learning_rate": {"loguniform": [1e-3, 1e-2]}})
    assert space.length() is None
    with pytest.raises(DesignError, match=r"counted, got .*0.001.* for learning_rate; write a choice"):
        space.grid()


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_the_spaces_of_shipped_pipelines_can_be_drawn_from(path: Path) -> None:
    data = yaml.safe_load(path.read_text())["space"]
    space = Space.from_dict({"designs" if key == "explicit" else key: value for key, value in data.items()})
    drawn = list(space.sample(3))
    assert len({design.unseeded_id for design in drawn}) == 3
    assert len(drawn) == 3 * space.repetitions
