"""Settings of a process, read once by an entry point and passed down."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dnnflow.paths import Workspace


@dataclass(frozen=True)
class Settings:
    """What an installation sets, as opposed to what a pipeline says."""

    workspace: Workspace
    """Where datasets, studies and reports are kept (`DNNFLOW_HOME`, default `./dnnflow-home`)."""
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
        workspace = Workspace(Path(env.get("DNNFLOW_HOME") or "dnnflow-home"))
        tls = env.get("DNNFLOW_TLS")
        return cls(
            workspace=workspace,
            store_url=env.get("DNNFLOW_STORE") or workspace.store_url,
            cluster=env.get("DNNFLOW_CLUSTER") or None,
            tls_directory=Path(tls) if tls else None,
        )
