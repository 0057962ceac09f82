"""Say where things of a run lie, and write files in the one way.

Names given by users never become paths: every name here is a hash or an id that dnnflow made.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dnnflow.errors import OutputError, StoreError

_DELETED = ".deleted-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a disk that takes no more."""
ELSEWHERE = "name another place"
BLOCK = 4096
"""Bytes that are written to try a place: an empty file fits on a full disk."""


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_id(value: Any) -> str:
    """Return the sha256 of `value`'s canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file aside, flush it to disk and rename it into place."""
    with file_aside(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def file_aside(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that becomes `path` when the block ends well, and is removed if not.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    aside = _aside(path)
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = aside.open("wb")
    try:
        with file, _told(path, written=True):
            yield file
            file.flush()
            os.fsync(file.fileno())
        with _told(path):
            os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def try_file(path: Path, room: int = 0) -> None:
    """Look whether `file_aside` could write a file now; nothing of it stays.

    Parameters
    ----------
    room
        Bytes that it takes at least, if known.

    Raises
    ------
    OutputError
        If it could not.
    """
    with _told(path):
        if path.is_dir():
            raise OutputError(f"a file is written, got the directory {path}; name a file in it")
        if os.path.ismount(path) or _is_anothers(path):
            raise OSError(errno.EBUSY, "what is there cannot be replaced")
        _try(path.parent, _aside(path).name, room)


def try_directory(path: Path, room: int = 0, *, elsewhere: str = ELSEWHERE) -> None:
    """Look whether a file could be made in a directory, which may have to be made, too; see `try_file`."""
    with _told(path, elsewhere=elsewhere):
        _try(path, _aside(path).name, room)


def _try(directory: Path, name: str, room: int) -> None:
    path = directory.absolute()
    folder = next(one for one in (path, *path.parents) if os.path.lexists(one))
    if not folder.is_dir():
        raise OSError(errno.ENOTDIR, f"{folder} is no directory")
    probe = folder / name
    try:
        with probe.open("wb") as file:
            file.write(bytes(BLOCK))
            os.fsync(file.fileno())
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    if free < room:
        raise OSError(errno.ENOSPC, f"{free:,} bytes are free and {room:,} needed")


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _is_anothers(path: Path) -> bool:
    """Whether it is another user's file in a directory in which each may replace only their own."""
    if not path.exists() or os.geteuid() == 0:
        return False
    folder = path.parent.stat()
    owners = (path.lstat().st_uid, folder.st_uid)
    return bool(folder.st_mode & stat.S_ISVTX) and os.geteuid() not in owners


@contextmanager
def _told(path: Path, *, written: bool = False, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Raise `OutputError` instead of what the system says; while a file is `written`, only of its own."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError) or (written and error.errno not in FULL):
            raise
        remedy = "free some room" if error.errno in FULL else "make it writable"
        raise OutputError(
            f"what is written needs a place that takes it, got {path}: {error.strerror or error}; {remedy}, "
            f"or {elsewhere}"
        ) from error


@contextmanager
def directory_aside(path: Path) -> Iterator[Path]:
    """Yield an empty directory that becomes `path` when the block ends well, and is removed if not.

    If `path` came into being meanwhile (another process made the same thing), that one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    aside.mkdir()
    try:
        yield aside
        try:
            os.rename(aside, path)
        except OSError:
            if not path.is_dir():  # what else stopped it is the caller's to hear
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Remove a file, or a directory with all in it; it loses its name first, so that no half of it is left.

    Raises
    ------
    StoreError
        If something in it cannot be removed.
    """
    aside = path.with_name(f"{_DELETED}{uuid.uuid4().hex}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"what is deleted must be writable, got {path}: {error.strerror}; "
                         "remove it by hand") from error  # fmt: skip
    for left in path.parent.glob(f"{_DELETED}*"):  # of one who was stopped, too
        if left.is_file():
            left.unlink(missing_ok=True)
        shutil.rmtree(left, ignore_errors=True)
    if aside.exists():
        raise StoreError(f"what is deleted must be writable, got {aside}, of which some is left; "
                         "remove it by hand")  # fmt: skip


def disk_bytes(path: Path) -> int:
    """Return what a file, or a directory with all that is in it, takes on disk; 0 where there is none."""
    inside = (os.path.join(folder, n) for folder, _, names in os.walk(path) for n in [".", *names])
    taken = 0
    for one in [path] if path.is_file() else inside:
        with suppress(OSError):  # it went meanwhile
            found = os.lstat(one)
            taken += getattr(found, "st_blocks", -(-found.st_size // 512)) * 512
    return taken


@dataclass(frozen=True)
class Workspace:
    """All paths under one home directory."""

    home: Path
    """Root of everything dnnflow keeps; made on first write."""

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of the default results store."""
        return f"sqlite:///{self.home.absolute() / 'results.db'}"

    @property
    def datasets(self) -> Path:
        """Directory of all datasets."""
        return self.home / "datasets"

    def dataset(self, dataset_id: str) -> Path:
        """Directory of one dataset."""
        return self.datasets / dataset_id

    def require_writable(self) -> None:
        """Look whether everything can be written that a run keeps.

        Raises
        ------
        OutputError
            If not.
        """
        for directory in (self.datasets, self.frames, self.home / "studies", self.home / "trained"):
            try_directory(directory, elsewhere="set DNNFLOW_HOME")

    @property
    def frames(self) -> Path:
        """Directory of the tables that were given in memory, each an Arrow file called by its hash."""
        return self.home / "frames"

    def trained(self, name: str) -> Path:
        """File of the model that a pipeline of this name has trained data-parallel."""
        plain = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in name.lower())
        return self.home / "trained" / f"{plain}-{content_id(name)[:8]}.keras"

    @property
    def launches(self) -> Path:
        """Directory of what the web server has others do: a directory a run, with its log and files."""
        return self.home / "launches"

    def launch(self, run_id: str) -> Path:
        """Directory of one run that the web server handed over."""
        return self.launches / run_id

    def saved(self, run_id: str) -> Path:
        """Directory of what a training has made and could not write where it was asked to."""
        return self.home / "trained" / run_id

    def study(self, study_id: str) -> Path:
        """Directory of one study's files."""
        return self.home / "studies" / study_id

    def predictions(self, study_id: str) -> Path:
        """Directory of what each design predicts for the rows that designs are compared on."""
        return self.study(study_id) / "predictions"

    def final_predictions(self, study_id: str) -> Path:
        """Directory of what finalists predict for the rows that they were not fitted to."""
        return self.study(study_id) / "finalists" / "predictions"

    def final_weights(self, study_id: str, design_id: str) -> Path:
        """File of the weights of a training after the screen."""
        return self.study(study_id) / "finalists" / "weights" / f"{design_id}.npz"

    def weights_directory(self, study_id: str) -> Path:
        """Directory of the best designs' weights."""
        return self.study(study_id) / "weights"

    def weights(self, study_id: str, design_id: str) -> Path:
        """File of one kept design's weights."""
        return self.weights_directory(study_id) / f"{design_id}.npz"

    def model(self, study_id: str, rank: int) -> Path:
        """File of the model of the design at `rank` (1 is the best)."""
        return self.study(study_id) / "models" / f"best-{rank}.keras"

    def ensemble(self, study_id: str) -> Path:
        """File of the model that averages several of the best."""
        return self.study(study_id) / "models" / "ensemble.keras"

    def final_model(self, study_id: str) -> Path:
        """File of what is handed out after it was trained once more on all rows."""
        return self.study(study_id) / "models" / "final.keras"

    def refit(self, study_id: str) -> Path:
        """File of the best design's model after it was trained on the whole table."""
        return self.study(study_id) / "models" / "refit.keras"

    def report(self, study_id: str) -> Path:
        """File of a study's HTML report."""
        return self.study(study_id) / "report.html"
