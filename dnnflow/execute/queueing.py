"""How long a trial waited."""

from dataclasses import replace
from datetime import datetime

from dnnflow.engines.records import Outcome


def with_queue_s(outcome: Outcome, submitted_at: float) -> Outcome:
    """Date a trial's start from its submission, as far as the clocks of two machines allow."""
    if not outcome.trial.started_at:
        return outcome
    started_at = datetime.fromisoformat(outcome.trial.started_at).timestamp()
    queue_s = max(0.0, started_at - submitted_at)
    return replace(outcome, trial=replace(outcome.trial, queue_s=queue_s))
