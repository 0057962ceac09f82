"""All rows of a preprocessed table, those of the test too, as one source for parallel training."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dnnflow.events import Listener, ignore
from dnnflow.table.rows.array_source import DatasetSource
from dnnflow.table.rows.source import Chunk, Reader, Rows, Source
from dnnflow.table.store.chunks import SPLITS


@dataclass(frozen=True, kw_only=True)
class WholeTable(Source):
    """Training and test rows of a dataset, a file each; make one with `WholeTable.open`."""

    parts: tuple[DatasetSource, ...]

    @classmethod
    def open(cls, path: str | Path) -> "WholeTable":
        """Open the dataset in a directory.

        Raises
        ------
        DataError
            If there is no valid dataset.
        """
        parts = tuple(DatasetSource.open(path, split) for split in SPLITS)
        return cls(
            inputs=parts[0].inputs,
            targets=parts[0].targets,
            counts=tuple(part.rows for part in parts),
            grains=tuple(part.grains[0] for part in parts),
            parts=parts,
        )

    @contextmanager
    def reader(self, listen: Listener = ignore) -> Iterator[Reader]:
        """Read the dataset's chunks and compare their checksums; see `Source.reader`."""

        def read(chunk: Chunk) -> Rows:
            return self.parts[chunk.file].read(replace(chunk, file=0))

        yield read
