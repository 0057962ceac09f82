"""Which files a user means: a list, a glob, a text file of paths, or URLs; and what format they have."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from dnnflow.errors import DataError

FORMATS = {
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".zarr": "zarr",
    ".npz": "npz",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_MAGIC = {b"\x89HDF": "hdf5", b"PK\x03\x04": "npz", b"PAR1": "parquet"}
_ZARR = ("zarr.json", ".zgroup")

Files = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def is_local(path: str) -> bool:
    """Say whether a path is one of this machine's file system."""
    return "://" not in path


def filesystem(path: str) -> tuple[Any, str]:
    """Return the fsspec file system of a path or URL, and the path in it."""
    import fsspec

    opened, inner = fsspec.core.url_to_fs(path)
    return opened, str(inner)


def open_binary(path: str) -> IO[bytes]:
    """Open a local or remote file for reading; a local one without a buffer of its own."""
    if is_local(path):
        return open(path, "rb", buffering=0)
    remote, inner = filesystem(path)
    stream: IO[bytes] = remote.open(inner, "rb")
    return stream


def listed(files: Files) -> tuple[str, ...]:
    """Return the paths (absolute) and URLs that are meant.

    Parameters
    ----------
    files : str, path or iterable of them
        Several are taken as they are. A single one is a glob, a file or zarr directory of rows, or else a
        text file with one path a line: relative ones start at the text file, blank lines and lines that
        begin with `#` do not count.

    Raises
    ------
    DataError
        If nothing is meant, nothing is there, or a file is named twice.
    """
    found = (
        _single(_absolute(files)) if isinstance(files, str | os.PathLike) else tuple(map(_absolute, files))
    )
    if not found:
        raise DataError(f"a file list must name at least one file, got {files!r}; add paths")
    seen: set[str] = set()
    for path in found:
        if path in seen:
            raise DataError(f"a file list must name each file once, got {path} twice; remove one")
        seen.add(path)
    return found


def _absolute(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path).removeprefix("file://")
    return str(Path(text).expanduser().absolute()) if is_local(text) else text


def _single(path: str) -> tuple[str, ...]:
    opened, inner = filesystem(path)
    if opened.exists(inner):
        return (path,) if _format(path) else _lines(path)
    if not any(sign in path for sign in "*?["):
        raise DataError(f"a file must exist, got {path}; check its path")
    matches = sorted(opened.glob(inner))
    if not matches:
        raise DataError(f"a glob must match at least one file, got {path}; check it")
    return tuple(map(str, matches)) if is_local(path) else tuple(map(opened.unstrip_protocol, matches))


def _lines(path: str) -> tuple[str, ...]:
    try:
        with open_binary(path) as stream:
            text = stream.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"a single path must be HDF5, zarr, npz, Parquet, a glob or a text file of paths, got {path} "
            f"({type(error).__name__}); to take all files of a directory give a glob like {path}/*.h5"
        ) from None
    lines = [line.strip() for line in text.splitlines()]
    return tuple(_beside(path, line) for line in lines if line and not line.startswith("#"))


def _beside(path: str, line: str) -> str:
    if not is_local(line) or os.path.isabs(os.path.expanduser(line)):
        return _absolute(line)
    folder, _, _ = path.rpartition("/")
    return f"{folder}/{line}" if not is_local(path) else os.path.normpath(f"{folder}/{line}")


def common_format(paths: Sequence[str]) -> str:
    """Return the one format of all files.

    Raises
    ------
    DataError
        If a file's format is unknown, or they differ.
    """
    first = ""
    for path in paths:
        form = _format(path)
        if form is None:
            raise DataError(
                f"a file must be HDF5, zarr, npz or Parquet, got {path}; give it one of the endings "
                f"{', '.join(FORMATS)}"
            )
        if form != (first := first or form):
            raise DataError(
                f"the files of a list must have one format, got {first} ({paths[0]}) and {form} ({path}); "
                "make a list of each"
            )
    return first


def _format(path: str) -> str | None:
    known = FORMATS.get(os.path.splitext(path.rstrip("/"))[1].lower())
    return known or _looked_up(path)


def _looked_up(path: str) -> str | None:
    """Tell a format by what is inside."""
    opened, inner = filesystem(path)
    if opened.isdir(inner):
        return "zarr" if any(opened.exists(f"{inner.rstrip('/')}/{name}") for name in _ZARR) else None
    try:
        with open_binary(path) as stream:
            return _MAGIC.get(stream.read(4))
    except OSError:
        return None
