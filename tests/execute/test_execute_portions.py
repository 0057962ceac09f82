"""What a study's engine gets together, and what each shard of a study trains."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnnflow.design.layers import Design, Layer, Optimizer, Reference
from dnnflow.engines.records import Portion, TrainingSettings
from dnnflow.execute.portions import StudyPlan, alike_together, designs_of, plan_study

TABLE = SimpleNamespace(rows={"train": 1000, "test": 250}, n_features=8, n_outputs=3)
DENSE = [
    Design(layers=(Layer(units),) * depth, seed=seed)
    for depth in (1, 2, 3) for units in (8, 16) for seed in range(10)
]  # fmt: skip
BY_CODE = [Design(layers=(), reference=Reference("module:build"), seed=seed) for seed in range(3)]


def plan(designs: list[Design], **settings: Any) -> StudyPlan:
    return plan_study(designs, TrainingSettings(**settings), lambda: TABLE)  # type: ignore[arg-type,return-value]


def ids(portions: tuple[Portion, ...]) -> Counter[str]:
    return Counter(design.design_id for design in designs_of(portions))


def unread() -> Any:
    raise OSError("the dataset is not needed")


def test_an_engine_that_trains_one_by_one_gets_them_so_and_alike_ones_together() -> None:
    """Nothing of the dataset is read for it."""
    mixed = [Design(layers=(Layer(units),), seed=seed) for seed in range(3) for units in (8, 4)]
    made = plan_study(mixed, TrainingSettings(engine="keras"), unread)
    assert [[(x.layers[0].units, x.seed) for x in portion.designs] for portion in made.portions] == [
        [(8, 0)], [(8, 1)], [(8, 2)], [(4, 0)], [(4, 1)], [(4, 2)],
    ]  # fmt: skip
    assert made.summary is None


@pytest.mark.parametrize("engine", ["auto", "stacked"])
def test_what_can_be_stacked_is_and_the_rest_is_trained_one_by_one(engine: str) -> None:
    made = plan([*DENSE, *BY_CODE], engine=engine)
    assert ids(made.portions) == Counter(design.design_id for design in [*DENSE, *BY_CODE])
    assert [portion.designs for portion in made.single] == [(design,) for design in BY_CODE]
    assert max(len(portion.designs) for portion in made.stacks) > 1
    assert made.summary is not None
    assert made.summary.startswith("60 designs in ")


def test_a_study_without_anything_to_stack_is_planned_without_its_table() -> None:
    made = plan_study(BY_CODE, TrainingSettings(), unread)
    assert [portion.designs for portion in made.portions] == [(design,) for design in BY_CODE]


def test_designs_measured_alone_are_not_stacked() -> None:
    made = plan(DENSE, measured_alone=True)
    assert {len(portion.designs) for portion in made.portions} == {1}
    assert ids(made.portions) == Counter(design.design_id for design in DENSE)


def test_stacks_grow_with_the_memory_they_are_given() -> None:
    """A GPU wants larger stacks than the cache of a processor holds."""
    many = [Design(layers=(Layer(256), Layer(256)), epochs=1, seed=seed) for seed in range(3000)]
    small, large = (
        max(len(portion.designs) for portion in plan(many, engine="stacked", stack_mb=mb).stacks)
        for mb in (8.0, 800.0)
    )
    assert large >= 4 * small
    assert ids(plan(many, stack_mb=800.0).portions) == Counter(design.design_id for design in many)


def test_rows_held_back_to_watch_cost_no_training_time() -> None:
    whole = sum(portion.cost for portion in plan(DENSE, select_on="test").stacks)
    half = sum(portion.cost for portion in plan(DENSE, holdout=0.5).stacks)
    assert half == pytest.approx(whole / 2, rel=0.1)


def test_designs_of_one_network_follow_one_another() -> None:
    """A worker prepares a network once for all of them."""
    mixed = [
        Design(layers=(Layer(units),), optimizer=Optimizer(name, rate))
        for rate in (0.1, 0.2) for units in (8, 4) for name in ("sgd", "adam")
    ]  # fmt: skip
    ordered = alike_together(mixed)
    assert [(x.layers[0].units, x.optimizer.name, x.optimizer.learning_rate) for x in ordered] == [
        (8, "sgd", 0.1), (8, "sgd", 0.2), (8, "adam", 0.1), (8, "adam", 0.2),
        (4, "sgd", 0.1), (4, "sgd", 0.2), (4, "adam", 0.1), (4, "adam", 0.2),
    ]  # fmt: skip


@given(st.integers(0, 60), st.lists(st.floats(0.01, 100), max_size=40), st.integers(1, 10))
def test_shards_hold_every_portion_once_and_about_the_same_work(
    single: int, costs: list[float], count: int
) -> None:
    made = StudyPlan(
        single=tuple(Portion((Design(seed=seed),)) for seed in range(single)),
        stacks=tuple(
            Portion((Design(seed=100 + 2 * i), Design(seed=101 + 2 * i)), cost)
            for i, cost in enumerate(sorted(costs, reverse=True))
        ),
    )
    shards = [made.shard(index, count) for index in range(count)]
    assert ids(tuple(portion for shard in shards for portion in shard)) == ids(made.portions)
    work = [sum(portion.cost for portion in shard) for shard in shards]
    assert max(work) - min(work) <= max(costs, default=0.0) + 1.001
    for shard in shards:
        stacks = [portion.cost for portion in shard if len(portion.designs) > 1]
        assert stacks == sorted(stacks, reverse=True), "workers would wait for a long one at the end"


def test_portions_are_chosen_by_any_of_their_designs_and_stay_whole() -> None:
    first, second = Portion((Design(seed=1), Design(seed=2))), Portion((Design(seed=3), Design(seed=4)))
    made = StudyPlan(stacks=(first, second))
    assert made.containing([Design(seed=4)], None) == [second]
    assert made.containing([Design(seed=4), Design(seed=1)], (0, 2)) == [first]
    assert made.containing([], None) == []
