"""The page of all keys is made of the fields, and its file is a pipeline."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from dnnflow.pipeline.pipeline_file import check_text
from dnnflow.pipeline.study_pipeline import Pipeline, RefitSection

MAKER = Path(__file__).parents[2] / "docs" / "make_pipeline_page.py"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pipeline_page", MAKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_as_the_fields_are(maker: ModuleType) -> None:
    written = maker.PAGE.read_text(encoding="utf-8")
    assert written == maker.page(), "python docs/make_pipeline_page.py writes it anew"


def test_the_file_of_the_page_has_every_key_at_its_default(maker: ModuleType, tmp_path: Path) -> None:
    text = maker.commented()
    pipeline, problems = check_text(text, folder=tmp_path)
    assert problems == []
    assert pipeline is not None
    short = {"dataset": {"source": str(tmp_path / "measurements.csv"), "label": "kind"}, "designs": 100}
    assert pipeline == Pipeline.model_validate(short)
    assert pipeline.model_fields_set == {name for name in Pipeline.model_fields if name != "refit"}
    shown = re.sub(r"^# (refit:|  .*)$", r"\1", text, flags=re.M)
    whole, problems = check_text(shown, folder=tmp_path)
    assert problems == []
    assert isinstance(whole, Pipeline)
    assert whole.refit is not None
    assert whole.refit.model_fields_set == set(RefitSection.model_fields)
