"""A group's server at the end of a training: what it waits for has a deadline."""

import threading
from typing import Any

import numpy as np
import pytest

from dnnflow.errors import TimeLimitError
from dnnflow.parallel.channel import server_actor
from dnnflow.parallel.channel.server_actor import Uplink
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.server.messages import Push, PushReply
from dnnflow.parallel.server.parameter_server import ParameterServer
from dnnflow.parallel.spec.algorithm import Algorithm
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec


class Above:
    """A way to the server above whose answer to a push comes when the test says so."""

    def __init__(self) -> None:
        self.asked, self.answers, self.closed = threading.Event(), threading.Event(), False

    def join(self, replica: int) -> int:
        return 0

    def pull(self, replica: int) -> tuple[int, Vector]:
        return 0, np.zeros(3, np.float32)

    def exchange(self, push: Push, out: Vector) -> PushReply:
        self.asked.set()
        assert self.answers.wait(60)
        out[...] = 0
        return PushReply(1, push.count, out, 0)

    def leave(self, replica: int) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_a_server_above_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the training hangs at its end, for nobody knows what."""
    monkeypatch.setattr(server_actor, "END_S", 0.1)
    above: Any = Above()
    server = ParameterServer(np.zeros(3, np.float32), Algorithm(server_optimizer=OptimizerSpec("sgd", 1.0)))
    link = Uplink(server, above, group=0, every=1)
    step = server.join(0)
    server.exchange(Push(0, step, 0, 32, np.ones(3, np.float32)))
    assert above.asked.wait(60)
    with pytest.raises(TimeLimitError, match=r"must answer a group's push within 0.1 s"):
        link.end()
    above.answers.set()
    monkeypatch.setattr(server_actor, "END_S", 60.0)
    link.end()
    assert above.closed
