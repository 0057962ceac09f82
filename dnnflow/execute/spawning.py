"""How worker processes of an own cluster begin: without the driver's main script, with its current folder."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import spawn
from typing import Any

WORKER = "Dask Worker process (from Nanny)"
"""Name that a nanny gives the process of its worker (distributed/nanny.py)."""
MAIN = ("init_main_from_name", "init_main_from_path")

_lock = threading.Lock()
_users = 0
"""How many clusters are open; guarded by `_lock`."""
_original = spawn.get_preparation_data


@contextmanager
def plain_workers() -> Iterator[None]:
    """Let nannies start workers, now and after a loss, that do not import the driver's `__main__`.

    multiprocessing imports it again in every process it spawns, so that a script without
    `if __name__ == "__main__"` would run once more in each worker. Workers of dnnflow need nothing of it: a
    function of a script travels by value. Processes other than workers start as ever.
    """
    global _users
    with _lock:
        _users += 1
        # Looked up by multiprocessing at each start, also from the nannies' own threads.
        spawn.get_preparation_data = _preparation
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                spawn.get_preparation_data = _original


def _preparation(name: str) -> dict[str, Any]:
    """Return what a new process is told about this one."""
    told = _original(name)
    if name != WORKER:
        return told
    folder = told["dir"]
    # A console script has its own folder in the search path, not the one it was called in.
    path = told["sys_path"] if folder in told["sys_path"] else [*told["sys_path"], folder]
    return {key: value for key, value in told.items() if key not in MAIN} | {"sys_path": path}
