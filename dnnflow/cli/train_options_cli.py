"""The options of `dnnflow train`, each with its help."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="A .json or .keras file, or module:function.")]
Data = Annotated[
    str,
    typer.Argument(
        help="A dataset's directory, a file (HDF5, zarr, npz, Parquet), a glob, a text file with one "
        "path a line, or module:name of own code."
    ),
]
Validation = Annotated[str | None, typer.Option(help="As DATA; default: a dataset's own test rows.")]
Features = Annotated[str, typer.Option(help="Names in files, with commas between them.")]
Labels = Annotated[str, typer.Option(help="Names in files, with commas between them.")]
Loss = Annotated[str | None, typer.Option(help="Name or module:object; default: the model's.")]
Metric = Annotated[list[str] | None, typer.Option(help="As --loss. Repeatable.")]
Optimizer = Annotated[
    str | None, typer.Option(help="NAME or NAME:RATE; default: the model's.", metavar="NAME[:RATE]")
]
Algorithm = Annotated[str, typer.Option(help="downpour, easgd, gem or diloco.")]
Synchronous = Annotated[bool, typer.Option("--synchronous", help="Wait for all, and average.")]
SyncEvery = Annotated[int, typer.Option(help="Batches between two pushes of a replica.")]
Overlap = Annotated[bool, typer.Option("--overlap", help="Compute on while a push is on its way.")]
Damping = Annotated[bool, typer.Option("--damping", help="Late pushes count less.")]
DampingRule = Annotated[
    str,
    typer.Option(
        help="relative: later than usual is damped, the mean rate stays; inverse: rate / (1 + late)."
    ),
]
StalenessBound = Annotated[
    int | None, typer.Option(help="Pushes that a replica may be ahead of the slowest.")
]
Quorum = Annotated[float, typer.Option(help="Share of the replicas that a round waits for.")]
Wire = Annotated[str, typer.Option(help="How pushes travel: float32, float16, bfloat16 or int8.")]
Replicas = Annotated[
    int | None,
    typer.Option(help="Default: 2; on a given cluster, one a worker that holds no server."),
]
Servers = Annotated[int, typer.Option(help="Each holds a slice of the weights.")]
Groups = Annotated[int, typer.Option(help="Groups of replicas, each with a server below one above.")]
GroupEvery = Annotated[int, typer.Option(help="Updates of a group between two pushes upwards.")]
Epochs = Annotated[int, typer.Option(help="How often every row is trained on.")]
Batch = Annotated[int, typer.Option(help="Rows of one replica's step.")]
Seed = Annotated[int, typer.Option(help="Of the order of rows.")]
Device = Annotated[str, typer.Option(help="auto, cpu or gpu.")]
Target = Annotated[str | None, typer.Option(help="End early: 'val_accuracy,>,0.97'.")]
TimeLimit = Annotated[float | None, typer.Option(help="Seconds after which it ends.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Directory of the checkpoint.")]
CheckpointEvery = Annotated[float, typer.Option(help="Seconds between two checkpoints.")]
Restore = Annotated[bool, typer.Option("--restore", help="Go on from the checkpoint.")]
Out = Annotated[Path, typer.Option(help="The trained model, a .keras file.")]
History = Annotated[
    Path | None, typer.Option(help=".json as mpi_learn writes it, or .csv: one row a validation.")
]
Timeline = Annotated[Path | None, typer.Option(help="A .json file that chrome://tracing and Perfetto open.")]
Report = Annotated[Path | None, typer.Option(help="An .html file: curves, staleness, where time went.")]
Cluster = Annotated[str | None, typer.Option(help="Address of a Dask scheduler.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
