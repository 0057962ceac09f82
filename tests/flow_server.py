"""What tests of flows share: a look into a Prefect server's API, and commands of Prefect's command line."""

import base64
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class PrefectServer:
    """A running Prefect server."""

    environment: Mapping[str, str]
    """What a client of it has in its environment."""
    home: Path
    """Workspace of the runs it starts."""
    auth: str | None = None
    """user:password."""
    ports: Mapping[str, int] = field(default_factory=dict)

    def call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Return what the server's REST API answers: POST with a body, GET without."""
        request = urllib.request.Request(
            f"{self.environment['PREFECT_API_URL']}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        if self.auth:
            request.add_header("Authorization", f"Basic {base64.b64encode(self.auth.encode()).decode()}")
        for wait_s in (1.0, 2.0, 4.0, 0.0):
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    text = response.read()
                    return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                # Its database is busy: Prefect's own client tries again, too.
                if error.code != 503 or not wait_s:
                    raise
                time.sleep(wait_s)
        return None

    def prefect(self, *arguments: str, timeout_s: float = 180.0) -> subprocess.CompletedProcess[str]:
        """Run a command of Prefect's command line, as a user of this server would."""
        return subprocess.run(
            (sys.executable, "-m", "prefect", "--no-prompt", *arguments),
            cwd=ROOT,
            env={**os.environ, **self.environment, "COLUMNS": "400"},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def deployment(self, name: str, flow: str = "study") -> dict[str, Any]:
        """Return a deployment of a flow."""
        return dict(self.call(f"/deployments/name/{flow}/{name}"))

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Return a deployment's flow runs, the oldest first."""
        chosen = {"name": {"any_": [deployment]}}
        return list(self.call("/flow_runs/filter", {"deployments": chosen, "sort": "START_TIME_ASC"}))

    def artifacts(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        """Return the artifacts of a flow run by key."""
        chosen = {"flow_run_id": {"any_": [flow_run_id]}}
        return {item["key"]: item for item in self.call("/artifacts/filter", {"artifacts": chosen})}

    def task_runs(self, flow_run_id: str) -> dict[str, str]:
        """Return the state of every task run of a flow run by name."""
        found = self.call("/task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})
        return {item["name"]: item["state_type"] for item in found}
