"""Tells the scheduler about once a second how a run is, for the live page of the Dask dashboard."""

import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dnnflow.events import Listener, Notice, ignore
from dnnflow.show.run_numbers import Numbers

if TYPE_CHECKING:
    from distributed import Client

EVERY_S = 1.0
ANSWER_S = 5.0
"""How long the scheduler may take to answer; then nothing more is told."""
LOG = logging.getLogger("dnnflow.live")


@dataclass(frozen=True)
class Shown:
    """A run that can be watched."""

    name: str
    """For the list of runs."""
    numbers: Callable[[], Numbers]
    """How it is now; asked in a thread beside the run."""


@contextmanager
def shown_on(client: "Client | None", shown: Shown, listener: Listener = ignore) -> Iterator[None]:
    """Show a run on the live page while the block runs, and how it ended.

    Nothing here can stop a run: without a dashboard, or dnnflow on the scheduler, a notice says so. Without a
    client there is nothing to do.
    """
    url = None if client is None else open_page(client, listener)
    if client is None or url is None:
        yield
        return
    listener(Notice(f"live page {url}"))
    told = _Publisher(client, shown)
    told.start()
    try:
        yield
    except BaseException:
        told.end("failed")
        raise
    told.end("finished")


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

    def __init__(self, client: "Client", shown: Shown) -> None:
        super().__init__(name="dnnflow-live", daemon=True)
        self._client, self._shown = client, shown
        self._id = secrets.token_hex(8)
        self._ended = threading.Event()
        self._failed = False

    def run(self) -> None:
        """Tell how the run is, once a second."""
        self._tell("running")
        while not self._failed and not self._ended.wait(EVERY_S):
            self._tell("running")

    def end(self, state: str) -> None:
        """Tell how it ended."""
        self._ended.set()
        self.join(ANSWER_S)
        if not self._failed and not self.is_alive():
            self._tell(state)

    def _tell(self, state: str) -> None:
        try:
            numbers = self._shown.numbers()
            told: dict[str, Any] = {"kind": numbers.kind, "name": self._shown.name, "state": state}
            call = self._client.scheduler.dnnflow_show
            self._client.sync(
                call, run=self._id, numbers=numbers.to_dict(), **told, callback_timeout=ANSWER_S
            )
        except Exception as error:  # whatever it is, the run matters more than what is shown of it
            self._failed = True
            LOG.warning("the live page hears no more of this run: %s", error or type(error).__name__)
