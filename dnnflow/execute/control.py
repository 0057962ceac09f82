"""Pause, continue or stop a run that goes on, as the store commands."""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dnnflow.errors import DnnflowError, StoreError
from dnnflow.events import Command

LOOK_S = 0.5
"""How often the store is asked what is commanded."""
PAUSE_GRACE_S = 5.0
"""How long what is in flight may take to end when a pause is asked for; then it is given back."""


class Stopped(BaseException):
    """A pack is no longer wanted. Not an `Exception`, so that no engine records it as a failure."""


def interrupt(thread: int) -> None:
    """Raise `Stopped` in a thread of this process at its next Python instruction."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Stopped))


class Control:
    """The command of a run, written by one thread and acted upon by the one that trains."""

    def __init__(self, grace_s: float = PAUSE_GRACE_S) -> None:
        self._grace_s = grace_s
        self._changed = threading.Event()
        self._command = Command.RUN
        self._error: DnnflowError | None = None
        self._asked_s = 0.0
        self._thread: int | None = None

    @property
    def command(self) -> Command:
        """What was commanded last."""
        return self._command

    @property
    def may_begin(self) -> bool:
        """Whether another pack may be handed out."""
        return self._command is Command.RUN and self._error is None

    @property
    def must_end(self) -> bool:
        """Whether what is in flight is to be stopped."""
        asked_ago_s = time.monotonic() - self._asked_s
        is_over = self._command is Command.CANCEL or self._error is not None
        return is_over or (self._command is Command.PAUSE and asked_ago_s > self._grace_s)

    def fail(self, error: DnnflowError) -> None:
        """End the run with an error, which `check` raises."""
        self._error = error
        self._changed.set()
        if (thread := self._thread) is not None:
            interrupt(thread)

    def check(self) -> None:
        """Raise what ends the run, if anything does."""
        if self._error is not None:
            raise self._error

    def send(self, command: Command) -> None:
        """Command something; to be called now and then with the same, too, so that a pause's grace ends."""
        if command is not self._command:
            self._asked_s = time.monotonic()
            self._command = command
            self._changed.set()
        if self.must_end and (thread := self._thread) is not None:
            interrupt(thread)

    def wait(self) -> None:
        """Wait while a pause is commanded."""
        while self._command is Command.PAUSE and self._error is None:
            self._changed.clear()
            if self._command is Command.PAUSE and self._error is None:
                self._changed.wait(LOOK_S)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let this thread's block be ended by `Stopped` when it must end; it may come just after it, too."""
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._thread = None


@contextmanager
def control_from(read: Callable[[], Command]) -> Iterator[Control]:
    """Yield a control that says what `read` returns, again and again, while the block lasts."""
    control, ended = Control(), threading.Event()
    control.send(read())
    thread = threading.Thread(target=_look, args=(read, control, ended), daemon=True)
    thread.start()
    try:
        yield control
    finally:
        ended.set()
        thread.join()


def _look(read: Callable[[], Command], control: Control, ended: threading.Event) -> None:
    while not ended.wait(LOOK_S):
        try:
            command = read()
        except StoreError:  # a store that is briefly away: the next look may reach it
            command = control.command
        except DnnflowError as error:  # another process drives it, or it was deleted
            control.fail(error)
            return
        control.send(command)
