"""The command `dnnflow web`: studies from a browser, and over REST."""

import os
import secrets
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from dnnflow.settings import Settings

if TYPE_CHECKING:
    from dnnflow.web.jobs.launching import Launcher

TOKEN_BYTES = 24


Host = Annotated[str, typer.Option(help="Address to listen at; where others reach it, people log in.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 for a free one.")]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="DNNFLOW_WEB_TOKEN",
        show_envvar=True,
        help="What people log in with; default: none on this machine, else a random one. Other users of "
        "this machine can read a command line: prefer the variable.",
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        envvar="DNNFLOW_WEB_HOSTS", show_envvar=True, help="A name under which browsers reach it. Repeatable."
    ),
]
Server = Annotated[
    str | None, typer.Option(help="URL of a Prefect server: jobs are runs of its deployments.", metavar="URL")
]


def web(
    host: Host = "127.0.0.1", port: Port = 8050, token: Token = None, allow_host: Names = None,
    prefect: Server = None,
) -> None:  # fmt: skip
    """Serve the web page and the REST API until Ctrl-C; studies go on without it."""
    from dnnflow.web.contract.web_config import WebConfig
    from dnnflow.web.guard.security import is_loopback
    from dnnflow.web.server import serve

    made = None if token or is_loopback(host) else secrets.token_urlsafe(TOKEN_BYTES)
    settings = Settings.from_environment()
    names = tuple(allow_host or ())
    config = WebConfig(host=host, port=port, hosts=names, token=token or made, prefect_url=prefect)
    with suppress(KeyboardInterrupt):
        serve(
            config,
            settings,
            launcher_of(prefect, settings),
            announce=lambda address: announce(address if made else address.partition("?")[0]),
        )
    sys.stdout.write("stopped; studies that were started go on\n")


def launcher_of(prefect_url: str | None, settings: Settings) -> "Launcher":
    """Return what runs jobs: a Prefect server, or children of this machine."""
    if prefect_url is None:
        from dnnflow.web.jobs.embedded_launcher import EmbeddedLauncher

        return EmbeddedLauncher(settings.workspace.launches, settings)
    from dnnflow.web.jobs.prefect_launcher import PrefectLauncher

    return PrefectLauncher(
        prefect_url,
        settings.workspace.launches,
        settings,
        auth=os.environ.get("PREFECT_API_AUTH_STRING"),
        pages=os.environ.get("PREFECT_UI_URL"),
    )


def announce(address: str) -> None:
    """Say where the page is; a token that was made is shown here, once, as a part of the link."""
    sys.stdout.write(f"dnnflow is at {address}\nCtrl-C ends the page; studies go on without it\n")
    sys.stdout.flush()
