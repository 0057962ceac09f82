"""Find the files that a user means, in which format they are, and copies of them on this machine's disk."""

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dnnflow.errors import DataError, TimeLimitError
from dnnflow.paths import content_id

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
_PATIENCE_S = 1800.0
"""How long a process waits for another one that copies the same file."""


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


def local_copy(path: str, directory: Path, *, patience_s: float = _PATIENCE_S) -> Path:
    """Return the copy of a file or zarr directory, made if there is none of its present state.

    The directory is shared by the processes of a machine, not by machines.

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
