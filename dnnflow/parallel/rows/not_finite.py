"""Find the row of a batch that is not finite, in the file that it came from."""

from collections.abc import Iterable, Iterator

import numpy as np

from dnnflow.parallel.rows.batches import Batch, Batching, computed_as
from dnnflow.table.rows.binding import Arrays
from dnnflow.table.rows.source import Chunk, Reader, RowSource


def find_not_finite(source: RowSource, batches: Iterable[Batch], batching: Batching) -> str | None:
    """Return a sentence on a row of the batches that has NaN or infinity; None where all are finite."""
    leases = [lease for batch in batches if not _all_finite(batch) for lease, _ in batch.done]
    if not leases:
        return None
    with source.reader() as read:
        for lease in leases:
            for block in _blocks(lease.chunk, max(1, batching.block_bytes // source.row_bytes)):
                if found := _in_block(read, block, source, batching):
                    return found
    return None


def _all_finite(batch: Batch) -> bool:
    arrays = (*batch.inputs, *batch.targets, *batch.weights)
    return all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


def _blocks(chunk: Chunk, rows: int) -> Iterator[Chunk]:
    for start in range(chunk.start, chunk.stop, rows):
        yield Chunk(chunk.file, start, min(start + rows, chunk.stop))


def _in_block(read: Reader, block: Chunk, source: RowSource, batching: Batching) -> str | None:
    fields = (*source.inputs, *source.targets, *source.weights)
    arrays: Arrays = sum(read(block), ())
    for field, stored in zip(fields, arrays, strict=True):
        array = computed_as(stored, batching.dtype)
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        row, *place = (int(index) for index in np.argwhere(~np.isfinite(array))[0])
        name = field.columns[place[-1]] if field.columns else field.name
        where = f", index {', '.join(map(str, place))}" if place and not field.columns else ""
        value = stored[(row, *place)]
        large = f", which is beyond {batching.dtype}" if np.isfinite(value) else ""
        return (
            f"all rows must be finite numbers, but row {block.start + row} (from 0) of "
            f"{source.file_name(block.file)} has {value} in {name}{where}{large}; fill it in, or leave the "
            "row out"
        )
    return None
