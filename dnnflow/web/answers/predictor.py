"""The process that applies models: `python -m dnnflow.web.answers.predictor FD`, started by `predictions`.

It gets one message after the other on a socket: a JSON header, then a CSV; and answers each with JSON.
TensorFlow is imported here and never in the server.
"""

import json
import sys
from collections import OrderedDict
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

MOST_KEPT = 4
"""Models that are kept in memory."""


def predict(
    header: dict[str, Any], text: bytes, models: "OrderedDict[tuple[str, int], Any]"
) -> dict[str, Any]:
    """Return classes and probabilities of raw rows.

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
    from dnnflow.errors import DataError, LimitError
    from dnnflow.table.text.csv_reader import read_rows

    model = _model(Path(header["path"]), models)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        path.write_bytes(text)
        how = {name: header.get(name) for name in ("delimiter", "header")}
        try:
            rows = read_rows(model.source(str(path), **how))
        except DataError as error:  # in words of the sender, who knows nothing of this file
            raise DataError(str(error).replace(str(path), "the rows")) from error
    if len(rows) > header["rows"]:
        raise LimitError(
            f"a request has {header['rows']:,} rows or less, got {len(rows):,}; send them in parts"
        )
    if rows.empty:
        raise DataError("a request must have a row, got none; send one below the columns' names")
    table = model.predict(rows)
    probabilities = table.iloc[:, 1:].to_numpy(dtype=float)
    return {
        "classes": list(model.class_names),
        "predictions": [str(one) for one in table["prediction"]],
        "probabilities": [[round(float(value), 6) for value in row] for row in probabilities],
    }


def _model(path: Path, models: "OrderedDict[tuple[str, int], Any]") -> Any:
    from dnnflow.errors import NotFoundError
    from dnnflow.run.saved_model import load_model

    if not path.is_file():
        raise NotFoundError(f"a model must be there to be applied, got {path.name}; finish the study")
    key = (str(path), path.stat().st_mtime_ns)
    if key not in models:
        models[key] = load_model(path)
        while len(models) > MOST_KEPT:
            models.popitem(last=False)
    models.move_to_end(key)
    return models[key]


def answer(
    header: dict[str, Any], text: bytes, models: "OrderedDict[tuple[str, int], Any]"
) -> dict[str, Any]:
    """Return what `predict` gives, or its error by kind and words."""
    from dnnflow.errors import DnnflowError

    try:
        return predict(header, text, models)
    except DnnflowError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except Exception as error:  # what Keras raises of a model or rows is the answer, not the process' end
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        return {"error": "DataError", "message": f"rows must fit the model, got: {reason}"}


def main(descriptor: int) -> None:
    """Answer until the other side is gone."""
    models: OrderedDict[tuple[str, int], Any] = OrderedDict()
    with Connection(descriptor) as connection:
        while True:
            try:
                header, text = json.loads(connection.recv_bytes()), connection.recv_bytes()
            except (EOFError, OSError):
                return
            connection.send_bytes(json.dumps(answer(header, text, models), allow_nan=False).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
