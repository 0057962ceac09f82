"""Settings of a process, read once by an entry point and passed down."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dnnflow.errors import InputError
from dnnflow.paths import Workspace

LOCAL_HOME = "dnnflow-home"
"""Directory that is the home where it exists in the current directory."""


@dataclass(frozen=True)
class Settings:
    """What an installation sets, as opposed to what a pipeline says."""

    workspace: Workspace
    """Where datasets, studies and reports are kept (`DNNFLOW_HOME`; default: see `default_home`)."""
    store_url: str
    """SQLAlchemy URL of the results store (`DNNFLOW_STORE`, default SQLite in the workspace)."""
    cluster: str | None
    """Address of a Dask scheduler for pipelines that name none (`DNNFLOW_CLUSTER`)."""
    tls_directory: Path | None
    """Directory of `dnnflow cluster certs`, for `tls://` addresses (`DNNFLOW_TLS`)."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from environment variables."""
        env = os.environ if environment is None else environment
        given = env.get("DNNFLOW_HOME")
        workspace = Workspace(Path(given) if given else default_home(env))
        tls = env.get("DNNFLOW_TLS")
        return cls(
            workspace=workspace,
            store_url=env.get("DNNFLOW_STORE") or workspace.store_url,
            cluster=env.get("DNNFLOW_CLUSTER") or None,
            tls_directory=Path(tls) if tls else None,
        )

    @property
    def is_local(self) -> bool:
        """Whether the home is that of the current directory."""
        return self.workspace.home.absolute() == Path(LOCAL_HOME).absolute()


def default_home(environment: Mapping[str, str]) -> Path:
    """Return the home that nothing names: `./dnnflow-home` where it exists, else one for each user.

    That is `dnnflow` in `XDG_DATA_HOME`, by default `~/.local/share` (XDG Base Directory Specification 0.8).

    Raises
    ------
    InputError
        If the user has no home directory.
    """
    local = Path(LOCAL_HOME)
    if local.is_dir():
        return local
    data = environment.get("XDG_DATA_HOME") or ""
    if Path(data).is_absolute():  # others are to be ignored
        return Path(data) / "dnnflow"
    try:
        return Path.home() / ".local" / "share" / "dnnflow"
    except RuntimeError as error:
        raise InputError(
            f"results are kept in a user's home directory, got a user without one: {error}; set DNNFLOW_HOME"
        ) from error


def own_version() -> str:
    """Return the installed version of dnnflow."""
    try:
        return version("dnnflow")
    except PackageNotFoundError:
        return "unknown"
