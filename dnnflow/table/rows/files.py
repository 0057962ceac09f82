"""Read rows of lists of files: only headers to make such a source, and ranges of rows to use it."""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from dnnflow.errors import DataError, TimeLimitError
from dnnflow.events import Listener, Notice, ignore
from dnnflow.table.rows.file_arrays import ArrayFile, Header, Names, RowNames, open_hdf5, open_npz, open_zarr
from dnnflow.table.rows.file_names import Files, common_format, listed, local_copy
from dnnflow.table.rows.file_tables import TableFile
from dnnflow.table.rows.source import Chunk, Field, Reader, Rows, RowSource, check_fields

_FAILURES = (
    OSError,
    LookupError,
    ValueError,
    RuntimeError,
    EOFError,
    ImportError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
)
_OPENERS = 8  # files whose headers are read at the same time: most of it is waiting where they are remote


OpenFile = ArrayFile | TableFile
_FORMATS: dict[str, Callable[[str, RowNames], OpenFile]] = {
    "hdf5": open_hdf5,
    "zarr": open_zarr,
    "npz": open_npz,
    "parquet": TableFile,
}


@dataclass(frozen=True, kw_only=True)
class FileList(RowSource):
    """Files of one format with the same inputs and targets; make one with `FileList.open`."""

    paths: tuple[str, ...]
    """Absolute paths or URLs."""
    format: str
    """`hdf5`, `zarr`, `npz` or `parquet`."""
    names: RowNames
    cache_dir: str | None = None
    """Where each machine keeps copies of the files it reads; None to read them where they are."""

    @classmethod
    def open(
        cls,
        files: Files,
        *,
        features: Names = "features",
        labels: Names = "labels",
        weights: Names = (),
        cache_dir: str | Path | None = None,
    ) -> "FileList":
        """Read the headers of all files.

        Parameters
        ----------
        files : str, path or iterable of them
            Paths or fsspec URLs; a single one may be a glob, or a text file with one path a line.
        features, labels : str or sequence of str
            Names of arrays or groups (a group's arrays are several inputs, those that the model has under
            their keys), or of Parquet columns. If a Parquet file has no column `features`, all columns that
            are no label, weight or row label of pandas are one input.
        weights : str or sequence of str
            Name of the arrays or columns that say by how much a row counts; by default all count alike.
        cache_dir : path, optional
            Copy each file there before it is read, once a machine.

        Raises
        ------
        DataError
            If there are no files or no rows, formats are mixed, a file cannot be read or lacks a name, or
            files differ in the names, shapes or types of what they hold.
        """
        paths = listed(files)
        form = common_format(paths)
        names = RowNames(_plain(features), _plain(labels), _plain(weights))
        with ThreadPoolExecutor(_OPENERS) as pool:
            headers = list(pool.map(_header, paths, repeat(form), repeat(names)))
        for path, header in zip(paths, headers, strict=True):
            check_fields(header.inputs, header.targets, path, header.weights)
            _check_alike(headers[0], header, (paths[0], path))
        if not any(header.count for header in headers):
            raise DataError(f"a file list must have at least 1 row, got 0 in {paths[0]}; add files with rows")
        return cls(
            inputs=headers[0].inputs,
            targets=headers[0].targets,
            weights=headers[0].weights,
            counts=tuple(header.count for header in headers),
            grains=tuple(header.grain for header in headers),
            paths=paths,
            format=form,
            names=names,
            cache_dir=None if cache_dir is None else str(Path(cache_dir).expanduser().absolute()),
        )

    def file_name(self, file: int) -> str:
        """Return the path."""
        return self.paths[file]

    @contextmanager
    def reader(self, listen: Listener = ignore) -> Iterator[Reader]:
        """Keep one file open at a time; see `RowSource.reader`."""
        opened = _Opened(self, listen)
        try:
            yield opened.read
        finally:
            opened.close()


class _Opened:
    """The file that was read last, kept open; for one thread."""

    def __init__(self, files: FileList, listen: Listener) -> None:
        self._files, self._listen = files, listen
        self._number = -1
        self._file: OpenFile | None = None
        self._copies = files.cache_dir is not None

    def read(self, chunk: Chunk) -> Rows:
        files = self._files
        with _naming(files.paths[chunk.file]):
            rows = self._opened(chunk.file).read(chunk.start, chunk.stop)
            if any(len(array) != chunk.rows for arrays in rows for array in arrays):
                raise EOFError(f"rows {chunk.start} to {chunk.stop} are no longer there")
        return rows

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._number, self._file = -1, None

    def _opened(self, number: int) -> OpenFile:
        if self._file is None or number != self._number:
            self.close()
            files = self._files
            place = self._place(files.paths[number])
            self._file = _FORMATS[files.format](place, files.names)
            self._number = number
        return self._file

    def _place(self, path: str) -> str:
        if not self._copies or self._files.cache_dir is None:
            return path
        try:
            return str(local_copy(path, Path(self._files.cache_dir)))
        except (*_FAILURES, TimeLimitError) as error:
            self._copies = False  # a full disk is full for the next file too
            self._listen(
                Notice(
                    f"{path} could not be copied to {self._files.cache_dir} "
                    f"({type(error).__name__}: {error}); files are read where they are"
                )
            )
            return path


def _header(path: str, form: str, names: RowNames) -> Header:
    with _naming(path):
        opened = _FORMATS[form](path, names)
        try:
            return opened.header()
        finally:
            opened.close()


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Say which file it was."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except _FAILURES as error:
        raise DataError(
            f"a file must be readable and whole, but {path} is not ({type(error).__name__}: {error}); "
            "write it again, or take it off the list"
        ) from error


def _check_alike(first: Header, other: Header, paths: tuple[str, str]) -> None:
    for kind in ("inputs", "targets", "weights"):
        wanted, got = getattr(first, kind), getattr(other, kind)
        if wanted != got:
            raise DataError(
                f"all files must have the same {kind}, got {_words(wanted)} in {paths[0]} and "
                f"{_words(got)} in {paths[1]}; write them alike, or make a list of each kind"
            )


def _words(fields: tuple[Field, ...]) -> str:
    return "; ".join(f"{_short(field.name)} {field.dtype} {field.shape}" for field in fields)


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


def _plain(names: Names | Sequence[str]) -> Names:
    return names if isinstance(names, str) else tuple(names)
