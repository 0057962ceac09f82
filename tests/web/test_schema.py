"""The OpenAPI document is the contract: whatever it allows is answered as it says, and never by a fault."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

from dnnflow.results.store.run_record import RunState
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.app import create_app
from dnnflow.web.contract.web_config import Limits, WebConfig
from dnnflow.web.jobs.services import Services
from dnnflow.web.uploads.uploads import Uploads
from tests.web.recording import RecordingLauncher, insert_study
from tests.web.served import serving

EXAMPLES = int(os.environ.get("DNNFLOW_SCHEMA_EXAMPLES", "6"))
"""Requests a resource and method; more are made by hand."""


@dataclass(frozen=True)
class Target:
    """A served app with studies of all kinds."""

    url: str
    known: Mapping[str, Sequence[object]]
    """Ids that are there, by the name of the parameter."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """An app over a socket, without a limit of its rate."""
    home = tmp_path_factory.mktemp("schema")
    config = WebConfig(limits=Limits(requests_s=1e6, burst=10**6))
    own = Settings.from_environment({"DNNFLOW_HOME": str(home)})
    with Store(own.store_url) as store:
        uploads = Uploads(home / "uploads", config.limits.upload)
        with serving(create_app(Services(config, own, store, uploads, RecordingLauncher(store)))) as served:
            yield Target(served.url, known_ids(served.url, store))


def known_ids(url: str, store: Store) -> dict[str, Sequence[object]]:
    """Insert studies of all kinds, upload a table, and return their ids by the name of the parameter."""
    iris = (Path(__file__).parents[2] / "pipelines" / "data" / "iris.csv").read_bytes()
    made = httpx.post(f"{url}/api/v1/datasets", content=iris, headers={"Content-Type": "text/csv"})
    upload_id = made.json()["upload_id"]
    studies = [
        insert_study(store, 24, failed=3),
        insert_study(store, 5, designs=20, state=RunState.RUNNING),
        insert_study(store, 0, designs=4, state=RunState.STOPPED),
    ]
    designs = [one.design_id for one in store.designs(studies[0])[:4]]
    return {"study_id": studies, "upload_id": [upload_id], "design_id": designs, "a": studies,
            "b": studies, "name": ["score", "confusion", "marginal-0", "live-time"],
            "model": ["1", "ensemble", "final"],
            "run_id": []}  # fmt: skip


def document() -> dict[str, object]:
    """Return the document; what it says depends on no service."""
    with TemporaryDirectory() as home:
        own = Settings.from_environment({"DNNFLOW_HOME": home})
        return create_app(Services(WebConfig(), own, None, None, None)).openapi()  # type: ignore[arg-type]  # none is asked


SCHEMA = schemathesis.openapi.from_dict(document())


def operations() -> Iterator[APIOperation]:
    for operation in SCHEMA.get_all_operations():
        assert isinstance(operation, Ok), operation
        yield operation.ok()


OPERATIONS = {operation.label: operation for operation in operations()}


RIGHT, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
NOTHING_TO_BREAK = ("/health", "/metrics", "/events", "/estimate")
"""Without parameters; or streams that a wrong one makes endless; or told in the answer what is wrong."""
KINDS = [(label, RIGHT) for label in OPERATIONS]
KINDS += [(label, WRONG) for label in OPERATIONS if not label.endswith(NOTHING_TO_BREAK)]


@pytest.mark.slow
@pytest.mark.parametrize(("label", "mode"), KINDS)
def test_every_answer_is_as_the_document_says(label: str, mode: GenerationMode, target: Target) -> None:
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=PHASES,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    def check(case: schemathesis.Case) -> None:
        if mode is RIGHT:
            aim(case, target.known)
        left_out = [schemathesis.checks.positive_data_acceptance] if label in MORE_RULES else []
        case.call_and_validate(base_url=target.url, excluded_checks=left_out, timeout=60)

    check()


MORE_RULES = (
    "POST /api/v1/datasets",
    "PUT /api/v1/datasets/{upload_id}/reading",
    "POST /api/v1/studies",
    "POST /api/v1/runs",
    "POST /api/v1/studies/{study_id}/models/{model}/predict",
    "POST /api/v1/studies/{study_id}/models/{model}/score",
    "GET /api/v1/studies",
    "GET /api/v1/runs",
    "GET /api/v1/studies/{study_id}/trials",
    "PATCH /api/v1/studies/{study_id}",
    "POST /api/v1/studies/{study_id}/clone",
)
"""Have rules that JSON schema cannot say, of a table, a pipeline, a cursor; broken, they are 422 as well."""
PHASES = (Phase.explicit, Phase.generate)


def aim(case: schemathesis.Case, known: Mapping[str, Sequence[object]]) -> None:
    """Have three of four requests name something that is there; streams end at once."""
    if case.method == "DELETE":  # the others need them
        return
    if isinstance(case.body, dict) and "older_than_days" in case.body:
        case.body["dry_run"] = True
    for place in (case.path_parameters, case.query):
        for name in list(place or ()):
            drawn = crc32(repr(place[name]).encode())
            if known.get(name) and drawn % 4:
                place[name] = known[name][drawn // 4 % len(known[name])]
    pipeline = case.body.get("pipeline") if isinstance(case.body, dict) else None
    if isinstance(pipeline, dict) and isinstance(dataset := pipeline.get("dataset"), dict):
        dataset |= {"source": f"upload:{known['upload_id'][0]}", "label": "species"}
    if case.path.endswith("/events"):
        case.query = {**(case.query or {}), "max_s": 0}
