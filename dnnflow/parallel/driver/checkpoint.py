"""Write a parallel training's state to a file, whole or not at all, keep the one before, read them back."""

import io
import json
import os
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dnnflow.errors import DataError, NotFoundError
from dnnflow.events import Listener, Notice, ignore
from dnnflow.parallel.driver.actors import TrainingState
from dnnflow.paths import write_file

FILE = "checkpoint.npz"
BEFORE = "checkpoint-before.npz"
"""The checkpoint before the last: one that cannot be read is not all that there is."""


def write_checkpoint(directory: str, state: TrainingState) -> Path:
    """Write what servers and coordinator hold; the file of before stays until then, and then beside it."""
    arrays = {
        f"server-{number}/{name}": np.asarray(value)
        for number, snapshot in enumerate(state.servers)
        for name, value in snapshot.items()
    }
    file = io.BytesIO()
    books = json.dumps(state.coordinator)
    arrays |= {"books": np.asarray(books), "servers": np.asarray(len(state.servers))}
    np.savez(file, allow_pickle=False, **arrays)
    path, before = Path(directory) / FILE, Path(directory) / BEFORE
    if path.is_file():
        with suppress(FileNotFoundError):
            before.unlink()
        try:
            os.link(path, before)
        except OSError:  # a file system without links: for a moment there is but the one before
            path.replace(before)
    write_file(path, file.getvalue())
    return path


def read_checkpoint(directory: str, listener: Listener = ignore) -> TrainingState:
    """Return the last checkpoint, or the one before where that is damaged.

    Raises
    ------
    NotFoundError
        If there is none.
    DataError
        If there is none that is whole.
    """
    paths = [path for name in (FILE, BEFORE) if (path := Path(directory) / name).is_file()]
    if not paths:
        raise NotFoundError(
            f"a training goes on from a checkpoint, got none at {Path(directory) / FILE}; "
            "start without restore"
        )
    reasons: list[str] = []
    for path in paths:
        try:
            found = _read(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            reasons.append(f"{path}: {error}")
            continue
        if reasons:
            listener(
                Notice(f"the checkpoint is damaged ({reasons[0]}); going on from the one before, {path.name}")
            )
        return found
    raise DataError(f"a checkpoint must be whole, got {'; '.join(reasons)}; remove it to start anew")


def _read(path: Path) -> TrainingState:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
        servers: list[dict[str, Any]] = [{} for _ in range(int(held["servers"]))]
        for key in held.files:
            place, _, name = key.partition("/")
            if name:
                servers[int(place.removeprefix("server-"))][name] = held[key]
        return TrainingState(servers, json.loads(str(held["books"])))
