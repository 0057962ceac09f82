"""What the web server's routes work with; made once by `create_app`."""

from dataclasses import dataclass, field

from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.contract.limits import Limits
from dnnflow.web.jobs.launching import Launcher
from dnnflow.web.uploads.uploads import Uploads


@dataclass(frozen=True)
class WebConfig:
    """How a web server is reached, and what it takes."""

    host: str = "127.0.0.1"
    port: int = 8050
    hosts: tuple[str, ...] = ()
    """Further names that a `Host` header may have; loopback names and `host` always may."""
    token: str | None = None
    """What a person logs in with and a program sends as bearer; required where `host` is not loopback."""
    prefect_url: str | None = None
    """Of a Prefect server; with it jobs are runs of its deployments, without it children of this machine."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Services:
    """Found at `request.app.state.services`."""

    config: WebConfig
    settings: Settings
    store: Store
    uploads: Uploads
    launcher: Launcher
