"""Rules of a study that is made in the browser: its label, what it starts from, its faults, its cost."""

from collections.abc import Mapping
from typing import Any

from dnnflow.errors import DnnflowError
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.show.wording import duration
from dnnflow.web.answers.estimation import estimate_of
from dnnflow.web.contract.problems import FieldProblem, Refusal
from dnnflow.web.jobs.intake import UPLOAD, accept
from dnnflow.web.jobs.services import Services
from dnnflow.web.pages.forms import Trouble
from dnnflow.web.uploads.profile import Profile
from dnnflow.web.uploads.uploads import Upload

USUAL_LABELS = (
    "label",
    "class",
    "target",
    "y",
    "species",
    "diagnosis",
    "outcome",
    "category",
    "digit",
    "quality",
)
"""Names of columns that are guessed to be the label, the most telling first."""
IN_WORDS = (
    "100 designs of 1 to 5 hidden layers with 16, 32 or 64 units, relu or tanh, Adam with a learning rate "
    "from 0.001 to 0.02, 10 epochs, the fastest engine."
)
"""`starting_rules` for a person."""


def guess_label(profile: Profile) -> int | None:
    """Return the place of the column that is most likely the label, None where none can be."""
    fit = [index for index, column in enumerate(profile.columns) if not column.label_problem]
    names = {profile.columns[index].name.strip().lower(): index for index in reversed(fit)}
    usual = next((names[name] for name in USUAL_LABELS if name in names), None)
    return usual if usual is not None else fit[-1] if fit else None


def label_problem(profile: Profile, label: str) -> str:
    """Say why a column cannot be the label; empty where it can."""
    column = next((one for one in profile.columns if one.name == label), None)
    if column is None:
        return f"a label must be one of the table's columns, got {label!r}; choose one below"
    return column.label_problem or ""


def base(upload: Upload, label: str) -> dict[str, Any]:
    """Return what a study's dataset section says in any case."""
    return {"source": f"{UPLOAD}{upload.upload_id}", "label": label}


def unusable(profile: Profile, label: str) -> list[str]:
    """Return the columns that no feature can be made of, such as names; the label is none of them."""
    return [one.name for one in profile.columns if one.feature_problem and one.name != label]


def starting_rules(upload: Upload, label: str) -> dict[str, Any]:
    """Return the pipeline that a new study starts from: good for most tables."""
    dropped = unusable(upload.profile, label)
    return {
        "name": name_of(upload),
        "dataset": base(upload, label) | ({"drop": dropped} if dropped else {}),
        "space": {
            "depth": {"int": [1, 5]},
            "units": {"choice": [16, 32, 64]},
            "activation": {"choice": ["relu", "tanh"]},
            "learning_rate": {"loguniform": [0.001, 0.02]},
            "batch_size": 32,
            "epochs": 10,
        },
        "designs": 100,
        "strategy": "random",
    }


def name_of(upload: Upload) -> str:
    """Return a study's name: the table's without its endings."""
    name = upload.name.rpartition("/")[2]
    for ending in (".zst", ".gz", ".csv", ".tsv", ".txt"):
        name = name.removesuffix(ending)
    return name[:80] or "study"


def with_table(data: Any, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pasted pipeline with this table for its own.

    Raises
    ------
    Refusal
        If it is none, or none of a study.
    """
    if not isinstance(data, dict):
        raise Refusal(
            422, f"a pipeline is a mapping of sections, got {type(data).__name__}; paste a whole one"
        )
    if "model" in data:
        raise Refusal(422, "a study has a space of designs, got a pipeline with a model; use `dnnflow run`")
    dataset = data.get("dataset")
    return {**data, "dataset": {**(dataset if isinstance(dataset, dict) else {}), **base}}


def check(services: Services, plain: Mapping[str, Any]) -> tuple[Pipeline | None, list[Trouble]]:
    """Validate a pipeline; return it with the server's own places, or None and what is wrong with it."""
    try:
        pipeline = accept(services, plain)
    except Refusal as refusal:
        found = refusal.errors or (FieldProblem(where="", message=str(refusal.detail)),)
        return None, [Trouble("" if one.where == "pipeline" else one.where, one.message) for one in found]
    return (pipeline, []) if isinstance(pipeline, Pipeline) else (None, [Trouble("", "a study has no model")])


def estimate(upload: Upload, pipeline: Pipeline | None) -> dict[str, str] | None:
    """Return designs, weights and time in words, None where a pipeline is not right."""
    if pipeline is None:
        return None
    try:
        found = estimate_of(pipeline, upload.profile)
    except DnnflowError:
        return None
    size = found.parameters
    return {
        "designs": "–" if found.designs is None else f"{found.designs:,}",
        "parameters": "–" if size is None else f"{size.least:,.0f} – {size.median:,.0f} – {size.most:,.0f}",
        "time": "–" if found.seconds_s is None else duration(found.seconds_s),
    }
