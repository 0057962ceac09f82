"""Stream events: one look a second at what is watched, shared by all who watch it."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from dnnflow.errors import DnnflowError, NotFoundError
from dnnflow.web.contract.problems import Refusal

LOOK_S = 1.0
"""Between two looks."""
BYTES_S = 12_000
"""What one stream sends a second at most, on average: below 1 MB a minute."""
HEARTBEAT_S = 15.0
RETRY_MS = 2000
LONGEST_S = 86400.0
_LOG = logging.getLogger("dnnflow.web")


@dataclass(frozen=True)
class Snapshot:
    """What was seen."""

    text: str
    """JSON of one line."""
    mark: str
    """Equal marks: nothing has changed that is worth telling."""
    is_over: bool
    """Whether nothing more will change by itself."""


Read = Callable[[str], Snapshot]
"""Looks at a resource by its id; called in a thread."""


@dataclass
class Topic:
    """One resource that is watched."""

    watchers: int = 0
    look: Snapshot | None = None
    is_over: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Wake all who wait."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def changes_within(self, seconds_s: float) -> bool:
        """Wait for a change; return whether there was one."""
        try:
            await asyncio.wait_for(self.changed.wait(), seconds_s)
        except TimeoutError:
            return False
        return True


class EventStreams:
    """Looks at resources while somebody watches them. Belongs to one event loop.

    Parameters
    ----------
    most
        Streams that may be open at the same time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._topics: dict[tuple[str, str], Topic] = {}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="watch")
        self._is_closing = False
        self.open = 0
        """Streams that are open now."""

    def close(self) -> None:
        """End all streams; from the loop's thread."""
        self._is_closing = True
        for topic in self._topics.values():
            topic.is_over = True
            topic.wake()

    def reopen(self) -> None:
        """Take streams again, in another event loop."""
        self._is_closing = False

    async def stream(self, kind: str, read: Read, resource_id: str, max_s: float) -> AsyncIterator[bytes]:
        """Return the stream of a resource's events, after the first look.

        Raises
        ------
        NotFoundError
            If there is no such resource.
        Refusal
            If too many streams are open.
        """
        if self.open >= self._most or self._is_closing:
            raise Refusal(
                503,
                f"{self._most} event streams may be open at the same time, got one more; "
                "close one, or ask for the status instead",
                headers={"Retry-After": "10"},
            )
        first = await self._look(read, resource_id)
        return self._events(kind, read, resource_id, first, max_s)

    async def _look(self, read: Read, resource_id: str) -> Snapshot:
        return await asyncio.get_running_loop().run_in_executor(self._threads, read, resource_id)

    async def _events(
        self, kind: str, read: Read, resource_id: str, look: Snapshot, max_s: float
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + min(max_s, LONGEST_S)
        with self._watching(kind, read, resource_id) as topic:
            yield f"retry: {RETRY_MS}\n\n".encode()
            mark, pause_until_s = None, 0.0
            while True:
                look = topic.look or look
                if look.mark != mark:
                    data = f"event: status\ndata: {look.text}\n\n".encode()
                    mark, pause_until_s = look.mark, loop.time() + max(LOOK_S, len(data) / BYTES_S)
                    yield data
                if topic.is_over or look.is_over:
                    yield b"event: end\ndata: {}\n\n"
                    return
                left_s = end_s - loop.time()
                if left_s <= 0:
                    return
                if not await topic.changes_within(min(HEARTBEAT_S, left_s)) and left_s > HEARTBEAT_S:
                    yield b": still here\n\n"
                await _sleep_until(min(pause_until_s, end_s), topic)

    @contextmanager
    def _watching(self, kind: str, read: Read, resource_id: str) -> Iterator[Topic]:
        key = (kind, resource_id)
        topic = self._topics.setdefault(key, Topic())
        topic.watchers += 1
        self.open += 1
        if topic.task is None or topic.task.done():
            topic.task = asyncio.create_task(self._follow(topic, read, resource_id))
        try:
            yield topic
        finally:
            topic.watchers -= 1
            self.open -= 1
            if not topic.watchers:
                topic.task.cancel()
                self._topics.pop(key, None)

    async def _follow(self, topic: Topic, read: Read, resource_id: str) -> None:
        while not topic.is_over:
            try:
                look = await self._look(read, resource_id)
            except NotFoundError:
                topic.is_over = True
            except DnnflowError as error:  # a store that is briefly away
                _LOG.warning("an event stream waits: %s", error)
            else:
                is_new = topic.look is None or topic.look.mark != look.mark
                topic.look, topic.is_over = look, look.is_over
                if is_new:
                    topic.wake()
            if not topic.is_over:
                await asyncio.sleep(LOOK_S)
        topic.wake()


async def _sleep_until(moment_s: float, topic: Topic) -> None:
    """Let so much time pass that a stream stays within its share; the end is told at once."""
    loop = asyncio.get_running_loop()
    while not topic.is_over and (left_s := moment_s - loop.time()) > 0:
        await asyncio.sleep(min(left_s, 0.25))


def as_line(value: object) -> str:
    """Return JSON of one line."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
