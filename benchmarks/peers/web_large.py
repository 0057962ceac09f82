"""A study of 50,000 trials on the web page: how soon it is painted, and what its event stream sends."""

import sys
import tempfile
import time
from pathlib import Path
from threading import Event, Thread

import httpx

from dnnflow.results.store.run_record import RunState
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings

ROOT = Path(__file__).parents[2]
TRIALS = 50_000
MORE_S = 20.0
"""Trials a second that are added while the stream is read."""


def measure(seconds: float) -> None:
    """Print seconds to the first paint and megabytes a minute."""
    sys.path.insert(0, str(ROOT))
    from peers.web_latency import web_server
    from tests.web.recording import insert_study

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        store = Store(Settings.from_environment({"DNNFLOW_HOME": str(home)}).store_url)
        more = int(MORE_S * (seconds + 60))
        study_id = insert_study(store, TRIALS, designs=TRIALS + more, state=RunState.RUNNING)
        with web_server(home) as (client, _):
            for which in ("first", "second"):
                for name, path in (
                    ("page", f"/studies/{study_id}"),
                    ("status", f"/api/v1/studies/{study_id}"),
                ):
                    start = time.perf_counter()
                    answer = client.get(path)
                    print(f"{which} {name}: {answer.status_code}, {len(answer.content):,} bytes, "
                          f"{time.perf_counter() - start:.3f} s")  # fmt: skip
            paint(str(client.base_url), study_id)
            stream(client, store, study_id, seconds)
        store.close()


def paint(url: str, study_id: str) -> None:
    """Print when a browser has painted the page, and when its figures are there."""
    from playwright.sync_api import sync_playwright

    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        for which in ("first", "second"):
            page = browser.new_page()
            start = time.perf_counter()
            page.goto(f"{url}/studies/{study_id}", wait_until="domcontentloaded")
            read = "performance.getEntriesByType('paint').map(x => x.startTime).pop() || 0"
            while not (painted := page.evaluate(read)):
                time.sleep(0.02)
            canvases = "document.querySelectorAll('canvas, .bk-Figure, [id*=live] *').length"
            while not page.evaluate(canvases) and time.perf_counter() - start < 20:
                time.sleep(0.05)
            print(f"{which} visit: painted after {painted / 1000:.2f} s, "
                  f"figures after {time.perf_counter() - start:.2f} s")  # fmt: skip
            page.close()
        browser.close()


def stream(client: httpx.Client, store: Store, study_id: str, seconds: float) -> None:
    """Print what the event stream sends while trials are added."""
    from tests.web.recording import trial

    designs, stop = store.designs(study_id), Event()

    def add() -> None:
        for number in range(TRIALS, len(designs), int(MORE_S)):
            if stop.wait(1.0):
                return
            some = range(number, min(number + int(MORE_S), len(designs)))
            store.add_trials(study_id, [(designs[i], trial(designs[i], i, has_failed=False)) for i in some])

    thread = Thread(target=add)
    with store.driving(study_id):
        thread.start()
        received = events = 0
        path = f"/api/v1/studies/{study_id}/events?max_s={seconds:.0f}"
        with client.stream("GET", path, timeout=seconds + 30) as answer:
            for line in answer.iter_lines():
                received += len(line) + 1
                events += line.startswith("event: status")
        stop.set()
        thread.join()
    minutes = seconds / 60
    print(f"event stream: {received / minutes / 1e6:.3f} MB and {events / minutes:.0f} events a minute, "
          f"while {MORE_S:g} trials a second are stored")  # fmt: skip
