"""An engine that trains as `keras` does, up to as many designs as a file allows, and then waits.

So a study lasts for as long as a test wants, on a machine of any speed. Each training leaves a line
`design_id pid` beside that file. Both lie in a folder that is named after the study's time limit: by that
number, which nothing reaches, a test makes a study of its own. Workers find the engine by the entry point
next to this module.
"""

import os
import time
from pathlib import Path


class Gated:
    """The engine `gated`."""

    name = "gated"

    def __init__(self):
        # The seam of engines is all that is known of dnnflow's inside here
        from dnnflow.engines.registry import find_engine

        self._keras = find_engine("keras")

    def refuse(self, design):
        return self._keras.refuse(design)

    def train(self, designs, context):
        folder = Path(os.environ["GOLDEN_GATE"]) / f"{context.settings.time_limit_s:g}"
        for design in designs:
            while is_closed(folder):
                time.sleep(0.02)
            yield from self._keras.train([design], context)
            with (folder / "trained").open("a") as log:
                log.write(f"{design.design_id} {os.getpid()}\n")


def is_closed(folder):
    limit, trained = folder / "limit", folder / "trained"
    try:
        return len(trained.read_text().splitlines()) >= int(limit.read_text())
    except FileNotFoundError:  # opened for good
        return False
