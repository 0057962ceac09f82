"""docs/api.md and README show commands that work: each is run against a server."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.web.served import Served

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)


@pytest.mark.slow
def test_the_page_shows_commands_that_work(serve_app: Served, saved: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "api.md").read_text())
    script = "set -e\n" + "\n".join(blocks).replace("curl -sS", "ask")
    script = script.replace("URL=http://127.0.0.1:8050\n", f"URL={serve_app.url}\nDONE={saved}\n")
    # Each answer is kept, with its status
    ask = 'n=0\nask() { curl -sS -w "%{stderr}%{http_code} $*\\n" "$@"; }\n'
    (tmp_path / "iris.csv").write_bytes((ROOT / "pipelines" / "data" / "iris.csv").read_bytes())
    done = subprocess.run(["bash", "-c", ask + script], capture_output=True, text=True, cwd=tmp_path,
                          env={"PATH": os.environ["PATH"]}, timeout=200, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = re.findall(r"^(\d{3}) (.*?)$", done.stderr, re.MULTILINE)
    assert len(answers) == script.count("ask $") + script.count('ask "') + script.count("ask -")
    bad = [(code, what) for code, what in answers if code not in ("200", "201") and "nobody" not in what]
    assert not bad, (bad, done.stdout[-2000:])
    predicted = json.loads((tmp_path / "predicted.json").read_text())
    assert len(predicted["predictions"]) == 150
    assert sum(predicted["probabilities"][0]) == pytest.approx(1.0, abs=1e-4)
    assert (tmp_path / "best.keras").read_bytes()[:2] == b"PK"
