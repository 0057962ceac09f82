"""Hold what the web server's routes work with; made once by its entry point."""

from dataclasses import dataclass

from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.contract.web_config import WebConfig
from dnnflow.web.jobs.launching import Launcher
from dnnflow.web.uploads.uploads import Uploads


@dataclass(frozen=True)
class Services:
    """Found at `request.app.state.services`."""

    config: WebConfig
    settings: Settings
    store: Store
    uploads: Uploads
    launcher: Launcher
