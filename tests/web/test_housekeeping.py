"""What a server clears away by itself: nothing that a study still reads."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from dnnflow.events import utc_now
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store.run_record import RunState
from dnnflow.web.contract.web_config import Limits, UploadLimits, WebConfig
from dnnflow.web.jobs.intake import uploads_in_use
from dnnflow.web.jobs.services import Services
from tests.web.recording import recorder

TABLE = b"a,b,kind\n" + b"".join(b"%d,%d,%s\n" % (i, i * i, b"xy"[i % 2 :][:1]) for i in range(30))


def test_a_table_outlives_its_time_while_a_job_needs_it(make_services: Callable[..., Services]) -> None:
    """A study that waited or was stopped for a week could not go on without it."""
    limits = replace(Limits(), upload=UploadLimits(kept_s=0.0))
    services = make_services(WebConfig(limits=limits))

    async def body() -> AsyncIterator[bytes]:
        yield TABLE

    def upload() -> str:
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(lambda: asyncio.run(services.uploads.receive(body(), name="t.csv"))).result()
        return made.upload_id

    directory = services.settings.workspace.home / "uploads"
    needed = upload()
    source = directory / needed / "table.csv"
    assert source.is_file()
    pipeline = Pipeline.model_validate({"dataset": {"source": str(source), "label": "kind"}, "designs": 3})
    services.launcher.launch(pipeline, "study-0")
    forgotten = upload()
    assert uploads_in_use(services) == {needed}
    assert services.uploads.expire(keep=uploads_in_use(services)) == 1
    assert source.is_file()
    assert not (directory / forgotten).exists()
    recorder(services).set("study-0", state=RunState.FINISHED, ended_at=utc_now())
    assert uploads_in_use(services) == set()


def test_an_unfinished_study_of_the_store_keeps_its_table(
    services: Services, make_study: Callable[..., str]
) -> None:
    study_id = make_study(4, designs=8, state=RunState.STOPPED)
    plain = {"dataset": {"source": "/home/uploads/an-upload/table.csv", "label": "kind"}}
    services.store.renew(study_id, pipeline=plain, dataset_path="/data")
    assert uploads_in_use(services) == {"an-upload"}
    services.store.set_state(study_id, RunState.FINISHED)
    assert uploads_in_use(services) == set()
