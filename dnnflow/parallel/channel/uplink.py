"""A server below another one: it learns from its own replicas, and passes on what it has learned."""

import threading
from typing import TYPE_CHECKING

import numpy as np

from dnnflow.errors import TimeLimitError
from dnnflow.parallel.server.messages import Push
from dnnflow.parallel.server.updates import difference
from dnnflow.parallel.spec.algorithm import PushKind

if TYPE_CHECKING:
    from dnnflow.parallel.channel.actor import Channel
    from dnnflow.parallel.server.parameter_server import ParameterServer

POLL_S = 0.002
END_S = 900.0
"""How long a push may be on its way at the end; longer than a channel waits for its answer."""


class Uplink:
    """Pushes what a group's server has changed to the server above, every so many of its updates.

    Above, it counts as a replica that has taken that many local steps. What the server above has learned from
    other groups is added to the group's weights, beside what its replicas have pushed meanwhile.

    Parameters
    ----------
    server, channel
        The group's own server, and the way to the one above.
    group
        Its number among the groups, from 0.
    every
        m: updates of the group's server between two pushes.
    """

    def __init__(self, server: "ParameterServer", channel: "Channel", group: int, every: int) -> None:
        self._server, self._channel, self._group, self._every = server, channel, group, every
        self._step = channel.join(group)
        self._above, weights = channel.pull(group)
        self._base = np.array(weights)
        self._change, self._reply = np.empty_like(self._base), np.empty_like(self._base)
        self._learned = server.learned
        self._done = server.statistics()
        self.error: Exception | None = None
        """What has ended the thread before its time."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dnnflow-uplink", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Push what is left, and take part above no longer.

        Raises
        ------
        TimeLimitError
            When the server above does not answer in time.
        Exception
            What has ended the thread before.
        """
        self._ended.set()
        self._thread.join(END_S)
        if self._thread.is_alive():
            raise TimeLimitError(
                f"the server above must answer a group's push within {END_S:g} s, got nothing; look at "
                "its worker"
            )
        if self.error is not None:
            raise self.error
        self._climb()
        self._channel.leave(self._group)
        self._channel.close()

    def _run(self) -> None:
        try:
            while not self._ended.wait(POLL_S):
                if self._server.version - self._done.version >= self._every:
                    self._climb()
        except Exception as error:  # told by `end`: a thread has nobody to raise to
            self.error = error

    def _climb(self) -> None:
        """Push the group's change since the last time, and take over what came of it."""
        now = self._server.statistics()
        _, start = self._server.pull()
        learned = self._learned
        difference(self._base[:learned], start[:learned], self._change[:learned])
        np.copyto(self._change[learned:], start[learned:])
        count = now.samples - self._done.samples
        if count:
            push = Push(self._group, self._step, self._above, count, self._change, PushKind.DIFFERENCE)
            reply = self._channel.exchange(push, self._reply)
            self._above, self._step = reply.version, self._step + 1
            self._server.move(start, self._reply)
            np.copyto(self._base, self._reply)
        self._done = now
