"""Keep on the scheduler what runs tell of themselves, and add a page of them to the Dask dashboard.

Adding a page is nothing that Dask promises to allow: what goes wrong with it is logged once, and told to who
asks.
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin

from dnnflow.show.live.board import Board

if TYPE_CHECKING:
    from distributed import Scheduler

PATH = "dnnflow"
LOG = logging.getLogger("dnnflow.live")


class LivePage(SchedulerPlugin):  # type: ignore[misc]  # distributed has no types
    """Registered by each run (`client.register_plugin`); only the first does anything."""

    name = "dnnflow-live"
    idempotent = True

    def __init__(self) -> None:
        self._board = Board()
        self._path: str | None = None
        self._why = ""

    async def start(self, scheduler: "Scheduler") -> None:
        """Take calls from drivers and add the page."""
        scheduler.handlers.update({"dnnflow_page": self._page, "dnnflow_show": self._show})
        try:
            add_page(scheduler, self._board)
            self._path = PATH
        except Exception as error:  # the dashboard's inside is Dask's own, and may change in any way
            self._why = f"{type(error).__name__}: {error}"
            LOG.warning("the Dask dashboard takes no page of dnnflow: %s", self._why)

    async def _page(self) -> tuple[str | None, str]:
        """Return the page's path, or None and why there is none."""
        return self._path, self._why

    async def _show(self, run: str, kind: str, name: str, state: str, numbers: Mapping[str, Any]) -> None:
        self._board.show(run, kind, name, state, numbers)


def add_page(scheduler: "Scheduler", board: Board) -> None:
    """Add the page to a scheduler's dashboard.

    Raises
    ------
    Exception
        Whatever Dask's or Bokeh's inside raises where it is not as it was; LookupError without a dashboard.
    """
    from bokeh.server.tornado import BokehTornado
    from distributed.dashboard.core import BokehApplication
    from distributed.dashboard.scheduler import template_variables
    from tornado.ioloop import IOLoop

    from dnnflow.show.live.page import show_page

    served = [one for one in scheduler.http_application.applications if isinstance(one, BokehTornado)]
    if not served:
        raise LookupError("the scheduler has no dashboard")
    variables = template_variables(scheduler)
    application = BokehApplication(
        {f"/{PATH}": partial(show_page, board)},
        scheduler,
        prefix=served[0].prefix,
        template_variables=variables,
    )
    scheduler.http_application.add_application(application)
    application.initialize(IOLoop.current())
    application.start()
    if PATH not in variables["pages"]:  # the same list that Dask's own pages make their links of
        variables["pages"].append(PATH)
