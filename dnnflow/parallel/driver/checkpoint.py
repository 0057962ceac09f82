"""Write a parallel training's state to one file, whole or not at all, and read it back."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnnflow.errors import DataError, NotFoundError
from dnnflow.paths import write_file

FILE = "checkpoint.npz"


def write_checkpoint(
    directory: str, servers: Sequence[Mapping[str, Any]], coordinator: Mapping[str, Any]
) -> Path:
    """Write what servers and coordinator gave as snapshots; the file of before stays until then."""
    arrays = {
        f"server-{number}/{name}": np.asarray(value)
        for number, snapshot in enumerate(servers)
        for name, value in snapshot.items()
    }
    file = io.BytesIO()
    arrays |= {"books": np.asarray(json.dumps(coordinator)), "servers": np.asarray(len(servers))}
    np.savez(file, allow_pickle=False, **arrays)
    path = Path(directory) / FILE
    write_file(path, file.getvalue())
    return path


def read_checkpoint(directory: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the snapshots of the servers, and of the coordinator.

    Raises
    ------
    NotFoundError
        If there is no checkpoint.
    DataError
        If the file is damaged.
    """
    path = Path(directory) / FILE
    if not path.is_file():
        raise NotFoundError(
            f"a training goes on from a checkpoint, got none at {path}; start without restore"
        )
    try:
        with np.load(path, allow_pickle=False) as held:
            servers: list[dict[str, Any]] = [{} for _ in range(int(held["servers"]))]
            for key in held.files:
                place, _, name = key.partition("/")
                if name:
                    servers[int(place.removeprefix("server-"))][name] = held[key]
            return servers, json.loads(str(held["books"]))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"a checkpoint must be whole, got {path}: {error}; remove it to start anew"
        ) from error
