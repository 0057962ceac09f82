"""One parallel training as plain data, and how it is done: for the command line, pipelines and flows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnflow.errors import InputError
from dnnflow.events import Listener, ignore

if TYPE_CHECKING:
    from distributed import Client

    from dnnflow.parallel.driver.history import History
    from dnnflow.parallel.model.model_spec import ModelSpec
    from dnnflow.parallel.spec.algorithm import OptimizerSpec
    from dnnflow.parallel.spec.train_options import TrainOptions
    from dnnflow.settings import Settings
    from dnnflow.table.rows.source import Source

SUFFIXES = {"out": (".keras",), "timeline": (".json",), "history": (".json", ".csv"), "report": (".html",)}
"""What files that are written may be called: checked before hours of training, not after."""


@dataclass(frozen=True)
class Files:
    """Where a training is written to."""

    out: Path
    timeline: Path | None = None
    history: Path | None = None
    report: Path | None = None

    def check(self, name: str = "{}") -> None:
        """Refuse names that do not say what will be in the file.

        Parameters
        ----------
        name
            How a file's key is written where the user set it, with {} for the key.

        Raises
        ------
        InputError
            For another suffix.
        """
        for key, suffixes in SUFFIXES.items():
            path = getattr(self, key)
            if path is not None and path.suffix not in suffixes:
                raise InputError(f"{name.format(key)} must end in {' or '.join(suffixes)}, got {path}")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained, on which rows, how, where, and what is written."""

    model: str
    """A .json or .keras file, or module:function."""
    data: str | Sequence[str]
    """As `data.sources.open_source` takes it."""
    files: Files
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What module:function is called with."""
    loss: str | None = None
    metrics: Sequence[str] = ()
    optimizer: str | None = None
    """See `read_optimizer`."""
    validation: str | Sequence[str] | None = None
    features: str | Sequence[str] = "features"
    labels: str | Sequence[str] = "labels"
    algorithm: str = "downpour"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Algorithm` and of `TrainOptions`."""
    executor: Mapping[str, Any] = field(default_factory=dict)
    """Cluster, as in a pipeline's executor section."""
    folder: str = ""
    """Where what module:name names is looked for besides what is installed; empty for nowhere."""


@dataclass(frozen=True)
class Trained:
    """What came of a job."""

    model: Any
    history: "History"
    source: "Source"


def train_job(job: Job, settings: "Settings", *, client: "Client | None" = None,
              listener: Listener = ignore) -> Trained:  # fmt: skip
    """Train as a job says; nothing is written.

    Raises
    ------
    DnnflowError
        As `dnnflow.train` does.
    """
    from dnnflow.engines.process_setup import import_tensorflow
    from dnnflow.engines.seam import make_importable
    from dnnflow.execute.opening import open_client
    from dnnflow.parallel.driver.training import Training
    from dnnflow.run.train import own_workers

    paths = (job.folder,) if job.folder else ()
    make_importable(paths)
    source, measured = rows_of(job)
    import_tensorflow()
    spec = describe(job)
    options = options_of(job, spec)
    # Of an own cluster; without a limit, since Dask would divide the machine's memory among the workers
    executor = {
        "memory_limit": "0",
        **{key: value for key, value in job.executor.items() if value is not None},
    }
    executor.setdefault("workers", own_workers(options))
    with open_client(executor, settings, client=client, listener=listener) as opened:
        if opened is None:
            raise InputError(
                "a parallel training needs workers, got executor.kind in-process; set it to dask"
            )
        training = Training(opened, spec, source, options, validation=measured, listener=listener,
                            import_paths=paths)  # fmt: skip
        model, history = training.run()
    return Trained(model, history, source)


def rows_of(job: Job) -> "tuple[Source, Source | None]":
    """Return the rows that a job trains on, and those that it measures on."""
    from dnnflow.run.train import validation_source
    from dnnflow.table.rows.sources import Reading, open_source

    reading = Reading(
        features=_plain(job.features), labels=_plain(job.labels), cache_dir=job.settings.get("cache_dir")
    )
    data, validation = (_plain(given) if given else None for given in (job.data, job.validation))
    source = open_source(data, reading)
    return source, validation_source(source, validation, reading)


def describe(job: Job) -> "ModelSpec":
    """Return the description of a job's model."""
    from dnnflow.parallel.model.keras_optimizers import build_keras_optimizer
    from dnnflow.run.train import describe_model

    optimizer = read_optimizer(job.optimizer)
    return describe_model(
        job.model, dict(job.parameters) or None, loss=job.loss, metrics=list(job.metrics) or None,
        optimizer=build_keras_optimizer(optimizer) if optimizer else None,
    )  # fmt: skip


def options_of(job: Job, spec: "ModelSpec") -> "TrainOptions":
    """Return the options of a job.

    Raises
    ------
    InputError
        If they do not fit together, or an optimizer is given that nothing would use.
    """
    from dnnflow.run.train import read_options

    timeline = {"timeline": job.files.timeline is not None}
    options = read_options(spec, job.algorithm, {**job.settings, **timeline})
    chosen = options.algorithm
    if job.optimizer and not (chosen.server_optimizer or chosen.replica_optimizer):
        raise InputError(
            f"{chosen.kind} with sync_every {chosen.sync_every} steps by a rule of its own, got optimizer "
            f"{job.optimizer}; leave it out"
        )
    return options


def read_optimizer(text: str | None) -> "OptimizerSpec | None":
    """Read `adam`, `adam:0.01`, `module:Class` or `module:Class:0.01`.

    Raises
    ------
    InputError
        For an optimizer that there is not, or a rate that is none.
    """
    from dnnflow.parallel.spec.algorithm import OptimizerSpec

    if text is None:
        return None
    name, colon, rate = text.rpartition(":")
    try:
        return OptimizerSpec(name, float(rate)) if colon else OptimizerSpec(text)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        return OptimizerSpec(text)  # what follows the colon is no number


def write_trained(trained: Trained, job: Job) -> list[Path]:
    """Write the model, history, timeline and report; return the files."""
    from dnnflow.paths import write_file
    from dnnflow.run.saved_model import write_model
    from dnnflow.table.rows.array_source import DatasetSource
    from dnnflow.table.store.dataset import open_cached

    source, measured, files = trained.source, trained.history, job.files
    dataset = open_cached(Path(source.path)) if isinstance(source, DatasetSource) else None
    write_model(files.out, trained.model, dataset)
    written = [files.out]
    if files.history is not None:
        write_file(files.history, _history_text(measured, files.history, job))
        written.append(files.history)
    if files.timeline is not None:
        write_file(files.timeline, measured.to_chrome_trace())
        written.append(files.timeline)
    if files.report is not None:
        written.append(measured.report(files.report))
    return written


def summary(history: "History") -> dict[str, Any]:
    """Return what a training measured as JSON types, without timeline and single losses."""
    long = ("losses", "seen", "heard_s", "spans")
    return {
        "samples": history.samples,
        "seconds_s": history.seconds_s,
        "startup_s": history.startup_s,
        "samples_per_s": history.samples / max(history.seconds_s, 1e-9),
        "ended_by": history.ended_by,
        "rows": history.rows,
        "staleness": history.staleness,
        "replicas": {
            number: {name: value for name, value in vars(totals).items() if name not in long}
            for number, totals in sorted(history.replicas.items())
        },
        "servers": [asdict(server) for server in history.servers],
    }


def _history_text(measured: "History", path: Path, job: Job) -> str:
    if path.suffix == ".csv":
        return str(measured.frame().to_csv(index=False))
    given = asdict(job)
    return measured.to_mpi_learn(given | given.pop("settings"))  # in one mapping, as mpi_learn has it


def _plain(given: str | Sequence[str]) -> Any:
    """Return one name or path as it is, several as a tuple or list as they were given."""
    return given if isinstance(given, str) else given[0] if len(given) == 1 else type(given)(given)  # type: ignore[call-arg]
