"""Train in this process, portion by portion: for a notebook, a debugger, and the tests of the seam."""

import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from dnnflow.engines.records import Outcome, Portion
from dnnflow.engines.seam import StudyContext, make_importable
from dnnflow.errors import ClusterError
from dnnflow.events import Compiling, Listener, ignore
from dnnflow.execute.control import Control, Stopped
from dnnflow.execute.executor import never, with_queue_s
from dnnflow.execute.gpus import visible_gpus
from dnnflow.execute.packs import Backlog, PackLimits

PACKS = PackLimits(target_s=1.0, shortest_s=0.05)
"""Outcomes are seen only between packs here, so packs are short."""


class LocalExecutor:
    """Trains designs in this process; see `Executor`."""

    slots = 1
    dashboard = client = None

    def train(self, portions: Sequence[Portion], study: StudyContext, *,
              keep_above: Callable[[], float] = never, control: Control | None = None,
              listener: Listener = ignore) -> Generator[list[Outcome], None, None]:  # fmt: skip
        """Train here; `ClusterError` for device gpu on a machine without one."""
        from dnnflow.execute.pack_run import run_pack, training_context

        if study.device == "gpu" and not visible_gpus():
            raise ClusterError("device gpu needs a GPU on this machine, got none; set device: auto")
        make_importable([os.getcwd()])
        context = replace(
            training_context(study), compiling=lambda is_compiling: listener(Compiling(int(is_compiling)))
        )
        submitted_at, backlog = time.time(), Backlog(portions, PACKS)
        control = control or Control()
        while control.may_begin and (load := backlog.take(self.slots)):
            start, outcomes, was_stopped = time.monotonic(), list[Outcome](), False
            try:
                with control.interruptible():
                    pack = load.pack(keep_above())
                    outcomes += run_pack(pack, study, report=outcomes.extend, flush_s=0.0, context=context)
            except Stopped:
                was_stopped = True
            backlog.observe(load, time.monotonic() - start)
            for outcome in outcomes:
                backlog.finish(outcome.trial.design_id)
            yield [with_queue_s(outcome, submitted_at) for outcome in outcomes]
            if was_stopped:
                return
