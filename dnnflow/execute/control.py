"""A run that goes on is paused, goes on again, or is stopped, as the store says that it is wanted."""

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dnnflow.errors import StoreError
from dnnflow.results.store.store import Store
from dnnflow.results.store.study_record import Wanted

LOOK_S = 0.5
"""How often the store is asked what is wanted."""
PAUSE_GRACE_S = 5.0
"""How long what is in flight may take to end when a pause is asked for; then it is given back."""


class Stopped(BaseException):
    """A pack is no longer wanted. Not an `Exception`, so that no engine records it as a failure."""


def interrupt(thread: int) -> None:
    """Raise `Stopped` in a thread of this process at its next Python instruction."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Stopped))


class Control:
    """What is wanted of a run, written by one thread and obeyed by the one that trains."""

    def __init__(self, grace_s: float = PAUSE_GRACE_S) -> None:
        self._grace_s = grace_s
        self._changed = threading.Event()
        self._wanted = Wanted.RUN
        self._asked_s = 0.0
        self._thread: int | None = None

    @property
    def wanted(self) -> Wanted:
        """What was asked for last."""
        return self._wanted

    @property
    def may_begin(self) -> bool:
        """Whether another pack may be handed out."""
        return self._wanted is Wanted.RUN

    @property
    def must_end(self) -> bool:
        """Whether what is in flight is to be stopped."""
        asked_ago_s = time.monotonic() - self._asked_s
        return self._wanted is Wanted.CANCEL or (self._wanted is Wanted.PAUSE and asked_ago_s > self._grace_s)

    def ask(self, wanted: Wanted) -> None:
        """Say what is wanted from now on; also to be called now and then, so that a pause's grace ends."""
        if wanted is not self._wanted:
            self._asked_s = time.monotonic()
            self._wanted = wanted
            self._changed.set()
        if self.must_end and (thread := self._thread) is not None:
            interrupt(thread)

    def wait(self) -> None:
        """Wait while a pause is wanted."""
        while self._wanted is Wanted.PAUSE:
            self._changed.clear()
            if self._wanted is Wanted.PAUSE:
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
def control_from(store: Store, study_id: str) -> Iterator[Control]:
    """Yield a control that says what the store says of a study, while the block lasts."""
    control, ended = Control(), threading.Event()
    control.ask(store.wanted(study_id))
    thread = threading.Thread(target=_look, args=(store, study_id, control, ended), daemon=True)
    thread.start()
    try:
        yield control
    finally:
        ended.set()
        thread.join()


def _look(store: Store, study_id: str, control: Control, ended: threading.Event) -> None:
    while not ended.wait(LOOK_S):
        try:
            wanted = store.wanted(study_id)
        except StoreError:  # a store that is briefly away: the next look may reach it
            wanted = control.wanted
        control.ask(wanted)
