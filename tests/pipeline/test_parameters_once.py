"""A parameter is written once: its field, and the code that obeys it. Whoever adds one edits no door."""

import json
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import Any

import pytest

import dnnflow
from dnnflow.paths import content_id
from dnnflow.pipeline.designs import draw_designs
from dnnflow.pipeline.pipeline_file import load_any
from dnnflow.pipeline.study_pipeline import Pipeline
from tests.conftest import PIPELINES

PACKAGE = Path(dnnflow.__file__).parent
DOORS = ("api.py", "cli", "pipeline", "run", "serve", "show", "web")
NEW = {
    "parallel/spec/algorithm.py": ("class RefitExchange(Parameters):", "gossip"),
    "parallel/spec/train_options.py": ("class RefitOptions(Parameters):", "warm_up_s"),
}
"""Module → the class that gets a field in the test, and the field."""
LOOK = """
import importlib.util, inspect, json, sys
from pathlib import Path

for name, path in json.loads(sys.argv[1]).items():
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)

import yaml
from dnnflow.cli.train_command import train_options
from dnnflow.parallel.spec.algorithm import Algorithm
from dnnflow.parallel.spec.train_options import TrainOptions
from dnnflow.parameters import facts
from dnnflow.pipeline.pipeline_file import check_text
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.run.train import read_options
from dnnflow.web.pages.forms import fields_by_path

field, text, wrong = sys.argv[2], "7", "0"
names = {"model": {"source": "os:getcwd"}, "data": {"source": "x.npz"}, "parallel": {field: int(text)}}
pipeline, problems = check_text(yaml.safe_dump(names), folder=Path())
_, refused = check_text(yaml.safe_dump(names | {"parallel": {field: int(wrong)}}), folder=Path())
options = train_options()
given = {one.name: None if one.default is inspect.Parameter.empty else one.default
         for one in options.parameters()}
given |= {"model": "m.json", "data": "x.npz", f"parallel_{field}": int(text)}
(option,) = [one for one in options.parameters() if one.name == f"parallel_{field}"]
info = option.annotation.__metadata__[0]
read = read_options(type("Spec", (), {"optimizer": None}), "downpour", {field: 7})
form = fields_by_path()[f"refit.{field}"]
print(json.dumps({
    "yaml": getattr(pipeline.parallel, field),
    "problems": [str(one) for one in [*problems, *refused]],
    "option": [info.default, info.help],
    "command": getattr(options.read(given).parallel, field),
    "python": getattr(read if hasattr(read, field) else read.algorithm, field),
    "form": [form.kind, form.help, form.least],
    "schema": [model.model_json_schema()["$defs"][section]["properties"][field]["description"]
               for model, section in ((Pipeline, "RefitSection"), (TrainPipeline, "ParallelSection"))],
    "report": {**facts(read), "algorithm": read.algorithm.in_words()},
}))
"""


@pytest.mark.parametrize("path", NEW, ids=lambda path: Path(path).stem)
def test_a_field_is_all_that_a_new_parameter_is(path: str, tmp_path: Path) -> None:
    """In a copy of one module one field is added: YAML, options, Python, form, schema and reports have it."""
    place, field = NEW[path]
    source = (PACKAGE / path).read_text()
    head, body = source.split(place)
    docstring, rest = body.split('"""\n', 1)
    declared = f'\n    {field}: int = Field(default=3, ge=1)\n    """What is tried in this test."""\n'
    (tmp_path / "changed.py").write_text(f'{head}{place}{docstring}"""\n{declared}{rest}')
    module = "dnnflow." + path.removesuffix(".py").replace("/", ".")
    changed = json.dumps({module: str(tmp_path / "changed.py")})
    done = subprocess.run(
        [sys.executable, "-c", LOOK, changed, field], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    words, help_ = field.removesuffix("_s").replace("_", " "), "What is tried in this test."
    assert (seen["yaml"], seen["command"], seen["python"]) == (7, 7, 7)
    assert any(f"parallel.{field}" in one and "greater than or equal to 1" in one for one in seen["problems"])
    assert seen["option"] == [f"--{words.replace(' ', '-')}", help_]
    assert seen["form"] == ["integer", help_, 1]
    assert seen["schema"] == [help_, help_]
    told = seen["report"]
    assert f"{words} 7" in told["algorithm"] or told[words.capitalize()] == "7 s", told


def named_in(field: str) -> set[str]:
    """Return the modules whose code has a name, texts and comments apart."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        with path.open("rb") as file:
            if any(
                one.type == tokenize.NAME and one.string == field for one in tokenize.tokenize(file.readline)
            ):
                found.add(str(path.relative_to(PACKAGE)))
    return found


@pytest.mark.slow
def test_a_parameter_of_a_training_is_named_by_its_field_and_by_what_obeys_it() -> None:
    assert named_in("damping_rule") == {"parallel/spec/algorithm.py", "parallel/server/parameter_server.py"}
    for field in ("quorum", "staleness_bound", "group_every", "validate_every", "checkpoint_every_s",
                  "elastic_force", "gem_kappa", "gem_rate", "statistics_share", "reply_wire"):  # fmt: skip
        assert not {one for one in named_in(field) if one.split("/")[0] in DOORS}, field
    for field in ("storage_options", "text_columns", "indicator", "measured_alone", "residual", "l2"):
        written = {one for one in named_in(field) if one.split("/")[0] in ("api.py", "cli", "pipeline")}
        assert written <= {"pipeline/study_pipeline.py"} if field == "storage_options" else not written, field


IDENTITIES = {
    "breast-cancer": (100, "de01a5587cc8db58", "e0249dc8816e0854", "50290c8867398697"),
    "depth-batch-norm": (200, "e9f86fa9f43efb49", "5625c93aced9a1cb", "caf7770b4989b672"),
    "depth-residual": (200, "6c679b292a120ac1", "5625c93aced9a1cb", "caf7770b4989b672"),
    "depth-sweep": (200, "d15e32a8d1b34df9", "5625c93aced9a1cb", "caf7770b4989b672"),
    "iris": (54, "7c04740479ab3e71", "5625c93aced9a1cb", "50290c8867398697"),
    "quickstart": (60, "1306b275730ca63c", "dadabe2db3e835f0", "50290c8867398697"),
    "refit": (30, "de3aaa8a870c4dcc", "dadabe2db3e835f0", "50290c8867398697"),
    "wide-search": (5000, "431ad492bfb2008b", "dadabe2db3e835f0", "25709000c2ac8c15"),
}
"""Number of designs, and hashes of their ids, of the recipe and of the training settings: as ever, where
designs are compared on test rows."""


@pytest.mark.parametrize("name", IDENTITIES)
def test_designs_datasets_and_studies_keep_their_ids(name: str) -> None:
    """What was trained with an older version is found again."""
    pipeline = load_any(PIPELINES / f"{name}.yaml")
    assert isinstance(pipeline, Pipeline)
    designs = draw_designs(pipeline)
    parts = ([design.design_id for design in designs], pipeline.recipe.to_dict(),
             pipeline.training_settings.identity())  # fmt: skip
    assert (len(designs), *(content_id(part)[:16] for part in parts)) == IDENTITIES[name]
