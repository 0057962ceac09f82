"""The good rules are a pipeline for any table, whose designs are all trained as machine code."""

import pytest

from dnnflow.engines.compiled.compiled_engine import CompiledEngine
from dnnflow.pipeline.good_rules import TableFacts, good_rules, in_words
from dnnflow.pipeline.study_pipeline import Pipeline

TABLES = [
    TableFacts(rows=150, numbers=4, categories=0, classes=3),
    TableFacts(rows=50_000, numbers=0, categories=900, classes=2),
    TableFacts(rows=10_000_000, numbers=500, categories=20, classes=1000),
]


@pytest.mark.parametrize("table", TABLES)
def test_the_rules_are_a_pipeline_of_designs_for_machine_code(table: TableFacts):
    rules = good_rules(table)
    pipeline = Pipeline.model_validate({"dataset": {"source": "table.csv", "label": "y"}, **rules})
    designs = list(pipeline.space.to_space().sample(200, pipeline.seed))
    assert len(designs) == 200
    assert not [design for design in designs if CompiledEngine().refuse(design)]


def test_a_larger_table_has_fewer_designs():
    small, large, huge = (good_rules(table)["designs"] for table in TABLES)
    assert small > large > huge


@pytest.mark.parametrize("table", TABLES)
def test_words_say_what_the_rules_say(table: TableFacts):
    rules = good_rules(table)
    said = in_words(rules)
    assert said.startswith(
        f"{rules['designs']} designs of 1 to 3 hidden layers with 32, 64, 128 or 256 units"
    )
    assert "relu, leaky_relu or tanh" in said
    assert "0.0005 to 0.01" in said
