"""Predict with saved models and look at columns in a process: `python -m dnnflow.web.answers.predictions FD`.

The process is started when first needed. It gets one message after the other on a socket, a JSON header, then
a CSV, and answers each with JSON. TensorFlow is imported there and never in the server.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dnnflow import errors
from dnnflow.errors import (
    BusyError,
    DataError,
    DnnflowError,
    LimitError,
    NotFoundError,
    ReadingWarning,
    TimeLimitError,
)

DEADLINE_S = 60.0
"""For one request, the wait for others included."""
IDLE_S = 900.0
"""After which the process is ended: TensorFlow holds hundreds of megabytes."""
MOST_WAITING = 8
MOST_KEPT = 4
"""Models that the process keeps in memory."""


class Predictions:
    """Applies models in a child process; safe for threads, one request at a time.

    Parameters
    ----------
    deadline_s
        After which a request is given up and the process is started anew.
    """

    def __init__(self, *, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._turn = threading.Lock()
        self._waiting = threading.Semaphore(MOST_WAITING)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._used_s = 0.0

    def predict(self, model: Path, text: bytes, *, rows: int, **reading: Any) -> dict[str, Any]:
        """Return what is predicted of the rows of a CSV, as `Predicted` has it.

        `score` is what `score` returns where the rows have the label; where it is of no use,
        `score_problem` says why.

        Parameters
        ----------
        rows
            How many there may be.
        reading
            `delimiter`, `quote`, `header`, `encoding` and `sheet`, where they are not as in the table of the
            training, and `missing_values` besides its own.

        Raises
        ------
        DataError
            If the rows cannot be used.
        LimitError
            If there are more than `rows`.
        BusyError
            If too many requests wait.
        TimeLimitError
            If it takes too long.
        """
        return self._answer("predict", model, text, rows=rows, **reading)

    def score(self, model: Path, text: bytes, *, rows: int, **reading: Any) -> dict[str, Any]:
        """Return a `ModelScore` of the rows of a CSV as JSON types; parameters and errors as of `predict`."""
        return self._answer("score", model, text, rows=rows, **reading)

    def export(self, model: Path, out: Path, *, raw: bool) -> None:
        """Write a model to another file, as `export_model` does.

        Raises
        ------
        InputError
            If it cannot be written so.
        BusyError, TimeLimitError
            As of `predict`.
        """
        self._answer("export", model, b"-", out=str(out), raw=raw)

    def look_at_columns(self, sections: Mapping[str, Any]) -> dict[str, Any]:
        """Return `left_out` and `notes` of what `run.search.look_at_columns` finds, as JSON types.

        Raises
        ------
        DataError, InputError
            If no dataset can be made of the table.
        BusyError, TimeLimitError
            As of `predict`.
        """
        return self._answer("columns", Path("table"), b"-", sections=sections)

    def _answer(self, what: str, model: Path, text: bytes, **header: Any) -> dict[str, Any]:
        end_s = time.monotonic() + self._deadline_s
        if not self._waiting.acquire(blocking=False):
            raise BusyError(
                f"{MOST_WAITING} requests for predictions may wait, got one more; try again later"
            )
        try:
            if not self._turn.acquire(timeout=self._deadline_s):
                raise self._too_slow()
            try:
                return _unpack(self._ask({"what": what, "path": str(model), **header}, text, end_s))
            finally:
                self._turn.release()
        finally:
            self._waiting.release()

    def close(self) -> None:
        """End the process."""
        with self._turn:
            self._end()

    def rest(self) -> None:
        """End the process if it has not been used for a while."""
        is_idle = self._process is not None and time.monotonic() - self._used_s > IDLE_S
        if is_idle and self._turn.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._turn.release()

    def _ask(self, header: dict[str, Any], text: bytes, end_s: float) -> dict[str, Any]:
        for _ in range(2):  # a process that died between two requests is replaced once
            try:
                connection = self._started()
                connection.send_bytes(json.dumps(header).encode())
                connection.send_bytes(text)
                if not connection.poll(max(0.0, end_s - time.monotonic())):
                    break
                found: dict[str, Any] = json.loads(connection.recv_bytes())
                self._used_s = time.monotonic()
                return found
            except (EOFError, OSError):
                self._end()
        else:
            raise LimitError(
                "predictions must fit their process' memory, got some that ended it; send fewer rows"
            )
        self._end()
        raise self._too_slow()

    def _started(self) -> Connection:
        if self._process is not None and self._process.poll() is None and self._connection is not None:
            return self._connection
        self._end()
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dnnflow.web.answers.predictions", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                env=environment,
            )  # fmt: skip
        self._connection = Connection(ours.detach())
        return self._connection

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _too_slow(self) -> TimeLimitError:
        return TimeLimitError(
            f"predictions must be made within {self._deadline_s:g} s, got none by then; send fewer rows"
        )


def _unpack(found: dict[str, Any]) -> dict[str, Any]:
    if "error" not in found:
        return found
    kind = getattr(errors, str(found["error"]), DataError)
    raise (kind if issubclass(kind, DnnflowError) else DataError)(found["message"])


# ---- in the process


def predict(header: dict[str, Any], text: bytes) -> dict[str, Any]:
    """Return what is predicted of raw rows, as `Predicted` has it, and their score where they have the label.

    Parameters
    ----------
    header
        `path` of the model, and `rows`, how many are taken at most.
    text
        A CSV with the columns that the model was trained on.

    Raises
    ------
    DnnflowError
        If the rows or the model cannot be used.
    """
    from dnnflow.results.view.model_score import has_label
    from dnnflow.run.models.saved_model import NOTE

    model, rows, told = _read(header, text)
    table = model.predict(rows)
    notes = table.pop(NOTE).tolist() if NOTE in table else []
    n_targets = len(model.preprocessing.targets.names)
    targets, names = list(table.columns[:n_targets]), list(table.columns[n_targets:])
    values = [[_plain(value) for value in row] for row in table[targets].to_numpy(dtype=object)]
    probabilities = table[names].to_numpy(dtype=float)
    found: dict[str, Any] = {"score": None, "score_problem": None}
    if has_label(model.preprocessing, rows):
        try:
            found["score"] = model.score(rows).to_dict()
        except DataError as error:
            found["score_problem"] = str(error)
    return found | {
        "classes": [name.removeprefix("probability of ") for name in names],
        "predictions": [", ".join(map(_text, row)) for row in values],
        "probabilities": [[round(float(value), 6) for value in row] for row in probabilities],
        "targets": targets,
        "values": values,
        "notes": notes,
        "reading_notes": told,
    }


def score(header: dict[str, Any], text: bytes) -> dict[str, Any]:
    """Return the score of raw rows that have the label; parameters and errors as of `predict`."""
    model, rows, told = _read(header, text)
    found: dict[str, Any] = model.score(rows).to_dict()
    return {**found, "notes": [*told, *found["notes"]]}


def export(header: dict[str, Any]) -> dict[str, Any]:
    """Write a model to another file, `out`, and return what to know of it."""
    from dnnflow.run.models.model_export import export_model

    return {"notes": export_model(Path(header["path"]), Path(header["out"]), raw=header["raw"])}


@lru_cache(maxsize=MOST_KEPT)
def columns_found(sections: str) -> dict[str, Any]:
    """Return what a look at the columns of a table finds; `sections` are JSON."""
    from dnnflow.run.search import look_at_columns

    found = look_at_columns(json.loads(sections))
    return {"left_out": dict(found.left_out), "notes": list(found.notes)}


READING = ("delimiter", "quote", "header", "encoding", "sheet")
"""Fields of a `Source` that may be said of rows that are sent."""


def _read(header: dict[str, Any], text: bytes) -> tuple[Any, Any, list[str]]:
    """Return a model, the rows that were sent for it, and what to know of how they were read."""
    saved = Path(header["path"])
    if not saved.is_file():
        raise NotFoundError(f"a model must be there to be applied, got {saved.name}; finish the study")
    model = _load(saved, saved.stat().st_mtime_ns).with_missing_values(header.get("missing_values") or ())
    with TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", ReadingWarning)
        path = Path(folder) / "rows.csv"
        path.write_bytes(text)
        how = {name: header.get(name) for name in READING}
        try:
            rows = model.rows(str(path), **how)
        except DnnflowError as error:  # in words of the sender, who knows nothing of this file
            kind = DataError if isinstance(error, DataError) else type(error)
            raise kind(str(error).replace(str(path), "the rows")) from error
    if len(rows) > header["rows"]:
        raise LimitError(
            f"a request has {header['rows']:,} rows or less, got {len(rows):,}; send them in parts"
        )
    if rows.empty:
        raise DataError("a request must have a row, got none; send one below the columns' names")
    told = (str(note.message) for note in noted if issubclass(note.category, ReadingWarning))
    return model, rows, [note.replace(str(path), "the rows") for note in dict.fromkeys(told)]


def _plain(value: Any) -> float | str:
    return value if isinstance(value, str) else float(value)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


@lru_cache(maxsize=MOST_KEPT)
def _load(path: Path, _changed_ns: int) -> Any:
    from dnnflow.run.models.saved_model import load_model

    return load_model(path)


def answer(header: dict[str, Any], text: bytes) -> dict[str, Any]:
    """Return what `predict`, `score`, `export` or `columns_found` gives, or its error by kind and words."""
    try:
        if header.get("what") == "export":
            return export(header)
        if header.get("what") == "columns":
            return columns_found(json.dumps(header["sections"], sort_keys=True))
        return score(header, text) if header.get("what") == "score" else predict(header, text)
    except DnnflowError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except Exception as error:  # what Keras raises of a model or rows is the answer, not the process' end
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        return {"error": "DataError", "message": f"rows must fit the model, got: {reason}"}


def main(descriptor: int) -> None:
    """Answer until the other side is gone."""
    with Connection(descriptor) as connection:
        while True:
            try:
                header, text = json.loads(connection.recv_bytes()), connection.recv_bytes()
            except (EOFError, OSError):
                return
            connection.send_bytes(json.dumps(answer(header, text), allow_nan=False).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
