"""Combine what listens to a run, and show the run on the live page of the Dask dashboard meanwhile."""

import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dnnflow.events import Event, Listener, Notice, RunEnded, StudyBegun, TrainingBegun, TrialsEnded, ignore
from dnnflow.show.live.study_tally import StudyTally
from dnnflow.show.run_numbers import Numbers, training_numbers

if TYPE_CHECKING:
    from distributed import Client

EVERY_S = 1.0
ANSWER_S = 5.0
"""How long the scheduler may take to answer; then nothing more is told."""
LOG = logging.getLogger("dnnflow.live")


@contextmanager
def listening(*listeners: Listener) -> Iterator[Listener]:
    """Yield the listener that a door hands to a run: each event goes to all that are given.

    Runs are shown on the live page of the Dask dashboard meanwhile. The events that only it reads are not
    passed on.
    """

    def hear(event: Event) -> None:
        if isinstance(event, StudyBegun | TrainingBegun | TrialsEnded | RunEnded):
            live(event)
            return
        for listener in listeners:
            listener(event)

    live = LiveRuns(hear)
    try:
        yield hear
    finally:
        live.end("failed")


class LiveRuns:
    """A listener that shows each run on the live page of the cluster it is on, and how it ended.

    Nothing here can stop a run: without a dashboard, or dnnflow on the scheduler, a notice says so. A run
    without a client is not shown.

    Parameters
    ----------
    listener
        Hears the notices.
    """

    def __init__(self, listener: Listener = ignore) -> None:
        self._listener = listener
        self._tally: StudyTally | None = None
        self._publisher: _Publisher | None = None
        self._told = ""
        """The address that a notice has told: a study by time begins in each of its rounds."""

    def __call__(self, event: Event) -> None:
        """Begin, count or end."""
        match event:
            case TrialsEnded():
                if self._tally is not None:
                    self._tally.add(event.results)
            case StudyBegun():
                if url := self._open(event.client):
                    tally = StudyTally(event.total, tuple(event.about))
                    tally.add(event.stored)
                    tally.begin()
                    self._tally = tally
                    self._publish(url, event.client, event.name, tally.numbers)
            case TrainingBegun():
                if url := self._open(event.client):
                    self._publish(url, event.client, event.name, lambda: training_numbers(*event.measured()))
            case RunEnded():
                self.end("failed" if event.failed else "finished")

    def _open(self, client: "Client | None") -> str | None:
        self.end("failed")  # a run that did not say how it ended
        return None if client is None else open_page(client, self._listener)

    def _publish(self, url: str, client: "Client", name: str, numbers: Callable[[], Numbers]) -> None:
        if url != self._told:
            self._told = url
            self._listener(Notice(f"live page {url}"))
        self._publisher = _Publisher(client, name, numbers)
        self._publisher.start()

    def end(self, state: str) -> None:
        """Tell how the run that is shown, if there is one, has ended."""
        publisher, self._publisher, self._tally = self._publisher, None, None
        if publisher is not None:
            publisher.end(state)


def open_page(client: "Client", listener: Listener = ignore) -> str | None:
    """Add the live page to a cluster's dashboard, unless it is there; return its address, or None."""
    try:
        from dnnflow.show.live.plugin import LivePage

        if not client.dashboard_link:
            raise LookupError("the scheduler has no dashboard")
        client.register_plugin(LivePage())
        path, why = client.sync(client.scheduler.dnnflow_page, callback_timeout=ANSWER_S)
    except Exception as error:  # whatever a scheduler without dnnflow, or of another version, answers
        path, why = None, str(error) or type(error).__name__
    if path is None:
        listener(Notice(f"no live page, the run goes on without: {why}"))
        return None
    return f"{client.dashboard_link.rsplit('/', 1)[0]}/{path}"


class _Publisher(threading.Thread):
    """Sends a run's numbers until it ends; the first failure is logged and the last."""

    def __init__(self, client: "Client", name: str, numbers: Callable[[], Numbers]) -> None:
        super().__init__(name="dnnflow-live", daemon=True)
        self._client, self._title, self._numbers = client, name, numbers
        self._id = secrets.token_hex(8)
        self._ended = threading.Event()
        self._failed = False

    def run(self) -> None:
        """Tell how the run is, once a second."""
        self._send("running")
        while not self._failed and not self._ended.wait(EVERY_S):
            self._send("running")

    def end(self, state: str) -> None:
        """Tell how it ended."""
        self._ended.set()
        self.join(ANSWER_S)
        if not self._failed and not self.is_alive():
            self._send(state)

    def _send(self, state: str) -> None:
        try:
            numbers = self._numbers()
            about: dict[str, Any] = {"kind": numbers.kind, "name": self._title, "state": state}
            call = self._client.scheduler.dnnflow_show
            self._client.sync(
                call, run=self._id, numbers=numbers.to_dict(), **about, callback_timeout=ANSWER_S
            )
        except Exception as error:  # whatever it is, the run matters more than what is shown of it
            self._failed = True
            LOG.warning("the live page hears no more of this run: %s", error or type(error).__name__)
