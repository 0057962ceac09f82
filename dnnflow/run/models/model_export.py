"""Write a saved model for others: for plain Keras, with its preprocessing, or as ONNX."""

import json
from pathlib import Path

from dnnflow.errors import DataError, InputError, NotFoundError
from dnnflow.events import Listener, Notice, ignore
from dnnflow.paths import Workspace, write_file
from dnnflow.run.models.saved_model import load_model, read_about, write_archive
from dnnflow.table.columns.kinds import in_a_list
from dnnflow.table.columns.preprocess import NumberColumn

SUFFIXES = (".keras", ".onnx")
"""Ends of the names of what is written."""
RAW = "-raw"
"""End of the name, without its suffix, of a study's model that takes raw rows."""


def export_model(file: Path, out: Path, *, raw: bool = False) -> tuple[str, ...]:
    """Write a model that a study saved to another file; return what to know of it, a sentence each.

    Parameters
    ----------
    file
        A `.keras` file that a study saved.
    out
        Ends with `.keras` or `.onnx`.
    raw
        Whether it takes raw rows, column by column, instead of the network's input. A `.keras` file is
        otherwise written as it is.

    Raises
    ------
    NotFoundError
        If there is no such model.
    DataError
        If it is none that a study saved.
    InputError
        If the name ends in another way, a column cannot be said in layers, or onnx is not installed.
    """
    if out.suffix not in SUFFIXES:
        raise InputError(f"a model is written as {' or '.join(SUFFIXES)}, got {out}; change its ending")
    if out.suffix == ".keras" and not raw:
        read_about(file)
        write_file(out, file.read_bytes())
        return ()
    saved, about = load_model(file), read_about(file) | {"raw": raw}
    preprocessing, model = saved.preprocessing, saved.model
    notes: list[str] = []
    if raw:
        from dnnflow.engines.keras.raw_model import coarse_columns, raw_model

        model = raw_model(preprocessing, model)
        notes = [
            f"column {one.name!r} takes numbers: 1234.56 for what the table writes like {one.style.example}"
            for one in preprocessing.columns
            if isinstance(one, NumberColumn) and one.style is not None
        ]
        if out.suffix == ".keras" and (coarse := coarse_columns(preprocessing)):
            notes.append(f"numbers of {in_a_list(coarse)} need double precision, which Keras' predict makes "
                         "single: call predict_on_batch")  # fmt: skip
    if out.suffix == ".keras":
        write_archive(out, model, about)
        return tuple(notes)
    try:
        from dnnflow.engines.keras.onnx_graph import onnx_model
    except ImportError as error:
        raise InputError(
            f"an ONNX file needs the package onnx, got {error}; pip install 'dnnflow[onnx]'"
        ) from error
    said = {
        "outputs": json.dumps(list(saved.class_names) or list(preprocessing.targets.names)),
        "features": json.dumps(list(preprocessing.feature_names)),
        "raw": json.dumps(raw),
    }
    write_file(out, onnx_model(model, "predictions", said).SerializeToString())
    return tuple(notes)


def save_raw_models(folder: Path, listener: Listener = ignore) -> list[Path]:
    """Write each model of a folder once more, for raw rows; return the files, `NAME-raw.keras`.

    Those that are there already and not older than their model stay. A listener is told why one cannot be.
    """
    written = []
    for file in sorted(folder.glob("*.keras")):
        out = file.with_name(f"{file.stem}{RAW}.keras")
        if file.stem.endswith(RAW):
            continue
        if not out.is_file() or out.stat().st_mtime_ns < file.stat().st_mtime_ns:
            try:
                notes = export_model(file, out, raw=True)
            except (InputError, DataError) as error:
                notes = (f"{out.name} is not saved: {error}",)
            for note in notes:
                listener(Notice(note))
        written += [out] if out.is_file() else []
    return written


def file_of_model(workspace: Workspace, study_id: str, model: str) -> Path:
    """Return the file of one of a study's models: of a rank, `ensemble` or `final`.

    Raises
    ------
    InputError
        If that is the name of none.
    NotFoundError
        If it was not saved.
    """
    if model in ("ensemble", "final"):
        file = {"ensemble": workspace.ensemble, "final": workspace.final_model}[model](study_id)
    elif model.isascii() and model.isdigit() and int(model):
        file = workspace.model(study_id, int(model))
    else:
        raise InputError(f"a study's model is a rank, ensemble or final, got {model!r}")
    if not file.is_file():
        saved = sorted(one.stem.removeprefix("best-") for one in file.parent.glob("*.keras")
                       if not one.stem.endswith(RAW))  # fmt: skip
        raise NotFoundError(
            f"a model is one that the study saved, got {model!r} of study {study_id}; there are "
            f"{', '.join(saved) or 'none yet'}"
        )
    return file
