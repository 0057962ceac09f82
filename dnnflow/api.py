"""The Python door: what a notebook or a script calls."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnflow.events import Listener, ignore
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store.store import Store
from dnnflow.run.stages import run_pipeline
from dnnflow.run.study import Study
from dnnflow.settings import Settings
from dnnflow.table.columns.recipe import Recipe, Source, TextOptions
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest as ingest_source

if TYPE_CHECKING:
    from distributed import Client


def run_study(pipeline: Pipeline, client: "Client | None" = None, *, new: bool = False,
              settings: Settings | None = None, listener: Listener = ignore) -> Study:  # fmt: skip
    """Run a pipeline from data to report and return its study.

    Parameters
    ----------
    client
        A Dask client to use; it is left open. Without one the pipeline's executor section says where to run.
    new
        Make a new study even if there is one of the same dataset, designs and training settings.
    settings
        Where things are kept; read from the environment by default.

    Raises
    ------
    DnnflowError
        Saying the rule, what was got and the remedy.
    """
    settings = settings or Settings.from_environment()
    return run_pipeline(pipeline, settings, client=client, new=new, listener=listener)


def open_study(study_id: str, *, settings: Settings | None = None) -> Study:
    """Open a study by its id, or by the beginning of it.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    settings = settings or Settings.from_environment()
    store = Store(settings.store_url)
    return Study(store, settings, store.study(study_id).study_id)


def ingest(
    source: str,
    label: str,
    *,
    out: str | Path | None = None,
    client: "Client | None" = None,
    settings: Settings | None = None,
    listener: Listener = ignore,
    **options: Any,
) -> Dataset:
    """Make a dataset of a CSV, or find it again.

    Parameters
    ----------
    source
        Path or URL.
    out
        Directory in which datasets are kept; default: the workspace's.
    options
        Fields of `Source` (delimiter, quote, encoding, header, storage_options) and of `Recipe` (drop,
        missing_values, text_columns, test_fraction, split_seed, missing, indicator, scale, clip).

    Raises
    ------
    DataError
        For everything wrong with the table, with row, column and value.
    """
    settings = settings or Settings.from_environment()
    reading = {name: options.pop(name) for name in TextOptions.model_fields if name in options}
    datasets = Path(out) if out is not None else settings.workspace.datasets
    recipe = Recipe.from_dict({"label": label, **options})
    return ingest_source(
        Source(url=str(source), **reading), recipe, datasets, client=client, listener=listener
    )
