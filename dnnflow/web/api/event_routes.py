"""/events: what changes, as server-sent events."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import StreamingResponse

from dnnflow.web.answers.request_parts import RunId, StudyId, TheViews, problems_of
from dnnflow.web.answers.training_runs import run_status
from dnnflow.web.answers.watch import LONGEST_S, EventStreams, Look, as_line
from dnnflow.web.contract.replies import StudyStatus

router = APIRouter(responses=problems_of(404, 503))

MaxS = Annotated[
    float, Query(ge=0, le=LONGEST_S, description="Seconds after which the stream ends; ask again then.")
]
HEADERS = {"X-Accel-Buffering": "no"}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`event: status` with the resource as data, when it has changed and at most once a "
        "second; `event: end` when nothing more will change; a comment every 15 seconds.",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "required": ["event", "data"],
                    "properties": {
                        "event": {"enum": ["status", "end"]},
                        "data": {"type": "string", "contentMediaType": "application/json"},
                    },
                },
                "example": 'event: status\ndata: {"state":"finished"}\n\nevent: end\ndata: {}\n\n',
            }
        },
    }
}
OVER = ("finished", "failed", "stopped")


@router.get(
    "/studies/{study_id}/events",
    operation_id="watchStudy",
    summary="Watch a study",
    tags=["studies"],
    response_class=StreamingResponse,
    responses=STREAM,
)
async def watch_study(
    request: Request, study_id: StudyId, views: TheViews, max_s: MaxS = LONGEST_S
) -> StreamingResponse:
    """Stream where a study stands."""

    def look(of: str) -> Look:
        status = views.status(of)
        return Look(as_line(status.model_dump(mode="json")), mark_of(status), status.state in OVER)

    watch: EventStreams = request.app.state.watch
    events = await watch.stream("study", look, study_id, max_s)
    return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)


@router.get(
    "/runs/{run_id}/events",
    operation_id="watchRun",
    summary="Watch a training",
    tags=["runs"],
    response_class=StreamingResponse,
    responses=STREAM,
)
async def watch_run(
    request: Request, run_id: RunId, views: TheViews, max_s: MaxS = LONGEST_S
) -> StreamingResponse:
    """Stream where a parallel training stands."""

    def look(of: str) -> Look:
        status = run_status(views, of)
        text = as_line(status.model_dump(mode="json"))
        return Look(text, text, status.state in ("finished", "failed", "cancelled"))

    watch: EventStreams = request.app.state.watch
    events = await watch.stream("run", look, run_id, max_s)
    return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)


def mark_of(status: StudyStatus) -> str:
    """Return what two looks at a study differ by, if it is worth telling: not by passing time alone."""
    rate = f"{status.rate:.1e}" if status.rate else ""
    return rate + status.model_dump_json(exclude={"elapsed_s", "eta_s", "rate"})
