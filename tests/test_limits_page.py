"""The page of limits says the numbers that the code obeys."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from dnnflow.pipeline.study_pipeline import Pipeline

PAGE = Path(__file__).parents[1] / "docs" / "limits.md"
ROWS = re.findall(r"^\| [^|]+ \| ([\d,]+) \| [^|]+ \| `([\w.]+)` \|$", PAGE.read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize(("number", "name"), ROWS)
def test_a_limit_is_that_of_the_code(number: str, name: str) -> None:
    module, *inside = name.split(".")
    while inside[0].islower() and hasattr(importlib.import_module(module), "__path__"):
        module += f".{inside.pop(0)}"
    found: Any = importlib.import_module(module)
    for part in inside:
        found = getattr(found, part)
    assert int(number.replace(",", "")) == found


def test_a_study_has_as_many_designs_as_the_page_says() -> None:
    assert len(ROWS) >= 12
    (limit,) = [rule.le for rule in Pipeline.model_fields["designs"].metadata if hasattr(rule, "le")]
    assert limit == 1_000_000
