"""The command `dnnflow train`: one model, data-parallel on the workers of a cluster."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dnnflow.errors import InputError
from dnnflow.settings import Settings

if TYPE_CHECKING:
    from dnnflow.data.source import Source
    from dnnflow.events import Listener
    from dnnflow.parallel.history import History
    from dnnflow.parallel.models import ModelSpec
    from dnnflow.parallel.options import TrainOptions
    from dnnflow.parallel.settings import OptimizerSpec

SUFFIXES = {
    "--out": (".keras",),
    "--timeline": (".json",),
    "--history": (".json", ".csv"),
    "--report": (".html",),
}
"""What files that are written may be called: checked before hours of training, not after."""
ALGORITHM = ("synchronous", "sync_every", "damping", "staleness_bound", "quorum", "wire")
"""Options that are fields of `Algorithm`."""
OPTIONS = ("replicas", "servers", "groups", "group_every", "epochs", "batch_size", "seed", "device", "target",
           "time_limit_s", "checkpoint", "checkpoint_every_s", "restore")  # fmt: skip
"""Options that are fields of `TrainOptions`."""
DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True)
class Files:
    """Where a training is written to."""

    out: Path
    timeline: Path | None
    history: Path | None
    report: Path | None

    def check(self) -> None:
        """Refuse names that do not say what will be in the file.

        Raises
        ------
        InputError
            For another suffix.
        """
        paths = (self.out, self.timeline, self.history, self.report)
        for option, path in zip(SUFFIXES, paths, strict=True):
            if path is not None and path.suffix not in SUFFIXES[option]:
                raise InputError(f"{option} must end in {' or '.join(SUFFIXES[option])}, got {path}")


def train(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A .json or .keras file, or module:function.")],
    data: Annotated[
        str,
        typer.Argument(
            help="A dataset's directory, a file (HDF5, zarr, npz, Parquet), a glob, a text file with one "
            "path a line, or module:name of own code."
        ),
    ],
    validation: Annotated[
        str | None, typer.Option(help="As DATA; default: a dataset's own test rows.")
    ] = None,
    features: Annotated[str, typer.Option(help="Names in files, with commas between them.")] = "features",
    labels: Annotated[str, typer.Option(help="Names in files, with commas between them.")] = "labels",
    loss: Annotated[str | None, typer.Option(help="Name or module:object; default: the model's.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="As --loss. Repeatable.")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="NAME or NAME:RATE; default: the model's.", metavar="NAME[:RATE]")
    ] = None,
    algorithm: Annotated[str, typer.Option(help="downpour, easgd, gem or diloco.")] = "downpour",
    synchronous: Annotated[bool, typer.Option("--synchronous", help="Wait for all, and average.")] = False,
    sync_every: Annotated[int, typer.Option(help="Batches between two pushes of a replica.")] = 1,
    damping: Annotated[bool, typer.Option("--damping", help="Late pushes count less.")] = False,
    staleness_bound: Annotated[
        int | None, typer.Option(help="Pushes that a replica may be ahead of the slowest.")
    ] = None,
    quorum: Annotated[float, typer.Option(help="Share of the replicas that a round waits for.")] = 1.0,
    wire: Annotated[
        str, typer.Option(help="How pushes travel: float32, float16, bfloat16 or int8.")
    ] = "float32",
    replicas: Annotated[
        int | None,
        typer.Option(help="Default: 2; on a given cluster, one a worker that holds no server."),
    ] = None,
    servers: Annotated[int, typer.Option(help="Each holds a slice of the weights.")] = 1,
    groups: Annotated[int, typer.Option(help="Groups of replicas, each with a server below one above.")] = 1,
    group_every: Annotated[int, typer.Option(help="Updates of a group between two pushes upwards.")] = 10,
    epochs: Annotated[int, typer.Option(help="How often every row is trained on.")] = 1,
    batch: Annotated[int, typer.Option(help="Rows of one replica's step.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the order of rows.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    target: Annotated[str | None, typer.Option(help="End early: 'val_accuracy,>,0.97'.")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds after which it ends.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Directory of the checkpoint.")] = None,
    checkpoint_every: Annotated[float, typer.Option(help="Seconds between two checkpoints.")] = 300.0,
    restore: Annotated[bool, typer.Option("--restore", help="Go on from the checkpoint.")] = False,
    out: Annotated[Path, typer.Option(help="The trained model, a .keras file.")] = Path("trained.keras"),
    history: Annotated[
        Path | None, typer.Option(help=".json as mpi_learn writes it, or .csv: one row a validation.")
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="A .json file that chrome://tracing and Perfetto open.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="An .html file: curves, staleness, where time went.")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="Address of a Dask scheduler.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Train one model, data-parallel: replicas on the workers push to a parameter server."""
    from dnnflow.terminal import Progress, show_training

    given = dict(context.params)
    files = Files(out, timeline, history, report)
    files.check()
    try:
        with Progress(quiet=as_json) as progress:
            trained = _train(given, progress)
    except KeyboardInterrupt:
        left = (
            f"--restore goes on from {checkpoint}" if checkpoint else "nothing is kept without --checkpoint"
        )
        sys.stderr.write(f"dnnflow: error: stopped; {left}\n")
        raise typer.Exit(130) from None
    written = _write(trained, files, given)
    if as_json:
        told = summary(trained["history"]) | {"files": [str(path) for path in written]}
        sys.stdout.write(json.dumps(told, indent=2, default=str) + "\n")
    else:
        show_training(trained["history"], written)


def _train(given: dict[str, Any], listener: "Listener") -> dict[str, Any]:
    """Train as the command's options say; return model, history and the source of the rows."""
    from dnnflow.data.sources import Reading, open_source
    from dnnflow.parallel.train import validation_source
    from dnnflow.training.job import make_importable
    from dnnflow.training.quiet import import_tensorflow

    folder = str(Path.cwd())  # where module:name is looked for, as `python` does
    make_importable((folder,))
    reading = Reading(features=_names(given["features"]), labels=_names(given["labels"]))
    source = open_source(given["data"], reading)
    validation = validation_source(given["data"], given["validation"], reading)
    import_tensorflow()
    spec = _describe(given)
    options = _options(given, spec)
    trained = _run(given["cluster"], (spec, source, options), validation, folder, listener)
    return trained | {"source": source}


def _run(cluster: str | None, what: "tuple[ModelSpec, Source, TrainOptions]", validation: "Source | None",
         folder: str, listener: "Listener") -> dict[str, Any]:  # fmt: skip
    from dnnflow.execute.cluster import open_cluster
    from dnnflow.execute.opening import cluster_spec
    from dnnflow.parallel.driver import Training
    from dnnflow.parallel.train import own_workers

    options = what[2]
    # Of an own cluster; without a limit, since Dask would divide the machine's memory among the workers
    own = {"workers": own_workers(options), "memory_limit": "0"}
    with open_cluster(
        cluster_spec({"address": cluster, **own}, Settings.from_environment()), listener
    ) as client:
        training = Training(client, *what, validation=validation, listener=listener, import_paths=(folder,))
        model, history = training.run()
    return {"model": model, "history": history}


def _describe(given: dict[str, Any]) -> "ModelSpec":
    from dnnflow.parallel.keras_rule import build_keras_optimizer
    from dnnflow.parallel.train import describe_model

    optimizer = read_optimizer(given["optimizer"])
    return describe_model(
        given["model"], None, loss=given["loss"], metrics=given["metric"] or None,
        optimizer=build_keras_optimizer(optimizer) if optimizer else None,
    )  # fmt: skip


def _options(given: dict[str, Any], spec: "ModelSpec") -> "TrainOptions":
    from dnnflow.parallel.train import read_options

    named = given | {
        "batch_size": given["batch"],
        "time_limit_s": given["time_limit"],
        "checkpoint_every_s": given["checkpoint_every"],
        "checkpoint": str(given["checkpoint"].absolute()) if given["checkpoint"] else None,
    }
    if given["device"] not in DEVICES:
        raise InputError(f"--device must be one of {', '.join(DEVICES)}, got {given['device']}")
    settings = {name: named[name] for name in (*ALGORITHM, *OPTIONS)}
    options = read_options(spec, given["algorithm"], settings | {"timeline": given["timeline"] is not None})
    chosen = options.algorithm
    if given["optimizer"] and not (chosen.server_optimizer or chosen.replica_optimizer):
        raise InputError(
            f"{chosen.kind} with sync_every {chosen.sync_every} steps by a rule of its own, got --optimizer "
            f"{given['optimizer']}; leave it out"
        )
    return options


def read_optimizer(text: str | None) -> "OptimizerSpec | None":
    """Read `adam`, `adam:0.01`, `module:Class` or `module:Class:0.01`.

    Raises
    ------
    InputError
        For an optimizer that there is not, or a rate that is none.
    """
    from dnnflow.parallel.settings import OptimizerSpec

    if text is None:
        return None
    name, colon, rate = text.rpartition(":")
    try:
        return OptimizerSpec(name, float(rate)) if colon else OptimizerSpec(text)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        return OptimizerSpec(text)  # what follows the colon is no number


def _names(text: str) -> str | tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return names[0] if len(names) == 1 else names


def _write(trained: dict[str, Any], files: Files, given: dict[str, Any]) -> list[Path]:
    """Write the model, history, timeline and report; return the files."""
    from dnnflow.data.array_source import DatasetSource
    from dnnflow.data.dataset import open_cached
    from dnnflow.models import write_model
    from dnnflow.paths import write_file

    source, measured = trained["source"], trained["history"]
    dataset = open_cached(Path(source.path)) if isinstance(source, DatasetSource) else None
    write_model(files.out, trained["model"], dataset)
    written = [files.out]
    if files.history is not None:
        write_file(files.history, _history_text(measured, files.history, given))
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


def _history_text(measured: "History", path: Path, given: dict[str, Any]) -> str:
    if path.suffix == ".csv":
        return str(measured.frame().to_csv(index=False))
    plain: str = measured.to_mpi_learn(given)
    return plain
