"""Say what a study of an upload starts from: the good rules, without the columns that carry nothing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dnnflow.errors import DnnflowError
from dnnflow.pipeline.good_rules import TableFacts, good_rules
from dnnflow.web.answers.predictions import Predictions
from dnnflow.web.contract.problems import Refusal
from dnnflow.web.jobs.intake import UPLOAD, accept_study
from dnnflow.web.jobs.services import Services
from dnnflow.web.uploads.profile import Profile
from dnnflow.web.uploads.uploads import WebUpload

ASKED = ("classification", "regression")
"""What may be said of whole numbers: classes, or amounts."""
_OF_THE_FILE = ("format", "sheet", "query")
"""Of how an upload is read, what a study takes from it in any case."""
_ENDING = re.compile(
    r"\.(csv|tsv|txt|dat|data|arff|parquet|arrow|feather|orc|jsonl?|ndjson|xlsx?|ods|sqlite3?|db|np[yz]|h5|hdf5)$",
    re.I,
)


@dataclass(frozen=True)
class ColumnsFound:
    """What was found of an upload's columns beside some labels, as a search finds it."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """Columns that the good rules leave out, and why."""
    notes: tuple[str, ...] = ()
    """What to know of the others that is not known of the upload."""
    problem: str = ""
    """Why nothing was found: the study may fail for it, or the table is large."""

    @property
    def leaks(self) -> tuple[str, ...]:
        """Notes on columns that predict a label alone."""
        return tuple(note for note in self.notes if note.startswith("LEAK?"))


def columns_found(
    services: Services, predictions: Predictions, upload: WebUpload, labels: Sequence[str], task: str = ""
) -> ColumnsFound:
    """Look at the columns of an upload as a search does before it begins."""
    try:
        pipeline = accept_study(services, starting_rules(upload, labels, task))
        found = predictions.look_at_columns({"dataset": pipeline.plain()["dataset"]})
    except (DnnflowError, Refusal) as error:
        reason = str(getattr(error, "detail", error)).replace(str(upload.path.absolute()), upload.name)
        return ColumnsFound(problem=reason)
    notes = tuple(note for note in found["notes"] if note not in upload.profile.notes)
    return ColumnsFound(found["left_out"], notes)


def base_of(upload: WebUpload, labels: Sequence[str]) -> dict[str, Any]:
    """Return what a study's dataset section says in any case."""
    return {
        "source": f"{UPLOAD}{upload.upload_id}",
        "label": labels[0] if len(labels) == 1 else list(labels),
    }


def starting_rules(
    upload: WebUpload, labels: Sequence[str], task: str = "", found: ColumnsFound | None = None
) -> dict[str, Any]:
    """Return the pipeline that a new study starts from: good for most tables."""
    said: dict[str, Any] = {"task": task} if task in ASKED else {}
    # No feature can be made of some columns, such as names
    dropped = [one.name for one in upload.profile.columns if one.feature_problem and one.name not in labels]
    dropped += [name for name in (found.left_out if found else ()) if name not in dropped]
    said |= {name: value for name, value in upload.asked.said().items() if name not in _OF_THE_FILE}
    return {
        "name": name_of(upload),
        "dataset": base_of(upload, labels) | said | ({"drop": dropped} if dropped else {}),
        **good_rules(facts_of(upload.profile, labels)),
    }


def facts_of(profile: Profile, labels: Sequence[str]) -> TableFacts:
    """Return what of a table the good rules depend on."""
    features = [one for one in profile.columns if one.name not in labels and not one.feature_problem]
    numbers = sum(one.kind == "number" for one in features)
    categories = sum(one.distinct for one in features if one.kind != "number")
    classes = sum(one.distinct for one in profile.columns if one.name in labels)
    return TableFacts(profile.rows, numbers, categories, classes)


def name_of(upload: WebUpload) -> str:
    """Return a study's name: the table's without its endings."""
    name = upload.name.rpartition("/")[2]
    for ending in (".zst", ".gz", ".bz2", ".xz"):
        name = name.removesuffix(ending)
    return _ENDING.sub("", name)[:80] or "study"
