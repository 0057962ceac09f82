"""A copy of a file on this machine's own disk, made once for all processes of the machine."""

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dnnflow.errors import TimeLimitError
from dnnflow.paths import content_id
from dnnflow.table.rows.file_names import filesystem

_PATIENCE_S = 1800.0
"""How long a process waits for another one that copies the same file."""


def local_copy(path: str, directory: Path, *, patience_s: float = _PATIENCE_S) -> Path:
    """Return the copy of a file or zarr directory, made if there is none of its present state.

    Parameters
    ----------
    path : str
        Path or URL.
    directory : Path
        Where copies lie; shared by the processes of a machine, not by machines.

    Raises
    ------
    OSError
        If the file cannot be read or the copy cannot be written.
    TimeLimitError
        If another process has been copying it for longer than `patience_s`.
    """
    opened, inner = filesystem(path)
    # Size and time of the last change are part of the name: a file that was written again is copied again.
    name = content_id({"path": path, "state": opened.ukey(inner)})[:32]
    copy = directory / f"{name}{os.path.splitext(inner.rstrip('/'))[1]}"
    directory.mkdir(parents=True, exist_ok=True)
    if not copy.exists():
        with _alone(directory / f".{name}.lock", patience_s):
            if not copy.exists():
                _copy(opened, inner, copy)
    return copy


def _copy(opened: Any, inner: str, copy: Path) -> None:
    aside = copy.with_name(f".{copy.stem}.{uuid.uuid4().hex}{copy.suffix}")
    try:
        if opened.isdir(inner):
            opened.get(inner.rstrip("/") + "/", f"{aside}/", recursive=True)
        else:
            opened.get_file(inner, str(aside))
            with aside.open("rb") as file:
                os.fsync(file.fileno())
        os.rename(aside, copy)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if aside.is_file():
            aside.unlink()


@contextmanager
def _alone(lock: Path, patience_s: float) -> Iterator[None]:
    """Hold a lock that ends with its process, whatever happens to that."""
    deadline = time.monotonic() + patience_s
    with lock.open("wb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeLimitError(
                        f"a copy must be made within {patience_s:.0f} s, but another process holds {lock}; "
                        "end it, or choose another directory"
                    ) from None
                time.sleep(0.05)
        yield
