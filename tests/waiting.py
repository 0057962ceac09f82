"""Wait in a test until something has come true."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(look: Callable[[], T], timeout_s: float, what: str, *, pause_s: float = 0.1) -> T:
    """Return what `look` finds as soon as it is true.

    Raises
    ------
    TimeoutError
        If it is not within `timeout_s`; it says `what` was to happen.
    """
    deadline_s = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what} must happen within {timeout_s:g} s")
        time.sleep(pause_s)
    return found
