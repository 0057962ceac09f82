"""Look whether the table of a pipeline can be what the pipeline says, and keep nothing of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from dnnflow.pipeline.pipeline_file import AnyPipeline
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.run.execute import check_parts, upload
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest


@contextmanager
def checked_table(pipeline: AnyPipeline) -> Iterator[Dataset | None]:
    """Yield the dataset that a run would train on; it is gone after the block. None where there is no table.

    Raises
    ------
    DataError
        For everything wrong with the table, with row, column and value.
    InputError
        If the metric, the loss or the rows to hold back do not go with it.
    """
    table = pipeline if isinstance(pipeline, Pipeline) else pipeline.table
    if table is None:
        yield None
        return
    upload(table)
    with TemporaryDirectory(prefix="dnnflow-validate-") as scratch:
        dataset = ingest(table.source, table.recipe, Path(scratch))
        if isinstance(pipeline, Pipeline):
            check_parts(pipeline, dataset)
        yield dataset
