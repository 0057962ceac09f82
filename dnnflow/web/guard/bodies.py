"""Limit how large and how slow a request's body may be."""

import asyncio
import re

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from dnnflow.web.contract.problems import Refusal
from dnnflow.web.contract.web_config import MIB, Limits

UPLOADS = re.compile(r"/api/v1/datasets/?")
"""Bodies that are checked as they arrive, by `Uploads.receive`."""
PREDICTIONS = re.compile(r"/api/v1/studies/[^/]+/models/[^/]+/predict/?")
BODY_S = 60.0
"""For the whole body of a request that is no upload."""


def most_bytes(path: str, limits: Limits) -> int | None:
    """Return how large the body of a request may be; None where its route decides."""
    if UPLOADS.fullmatch(path):
        return None
    return limits.predict_bytes if PREDICTIONS.fullmatch(path) else limits.body_bytes


def limited(scope: Scope, receive: Receive, limits: Limits) -> Receive:
    """Return a `receive` that refuses what is too large or too slow.

    Raises
    ------
    Refusal
        From the call that reads the part which is too much.
    """
    most = most_bytes(scope["path"], limits)
    if most is None:
        return receive
    declared = Headers(scope=scope).get("content-length", "")
    taken, is_whole, deadline_s = 0, False, asyncio.get_running_loop().time() + BODY_S

    async def receive_limited() -> Message:
        nonlocal taken, is_whole
        if declared.isdigit() and int(declared) > most:
            raise _too_large(most, int(declared))
        if is_whole:  # what comes now is the client's going away
            return await receive()
        try:
            async with asyncio.timeout_at(deadline_s):
                message = await receive()
        except TimeoutError:
            raise Refusal(
                408, f"a request's body must arrive within {BODY_S:g} s, got a slower one; send it again"
            ) from None
        taken += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        if taken > most:
            raise _too_large(most, taken)
        return message

    return receive_limited


def _too_large(most: int, got: int) -> Refusal:
    return Refusal(
        413,
        f"a request of this kind must have {most / MIB:g} MiB or less, got {got:,} bytes or more; "
        "send less, or tables to /api/v1/datasets",
    )
