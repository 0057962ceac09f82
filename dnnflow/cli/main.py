"""The command line: the same job without Prefect, and the results of every study.

Exit codes: 0 done; 1 an unexpected failure; 2 a wrong argument, pipeline or design; 3 a table that cannot
be used; 4 something that does not exist; 5 a cluster that cannot do what was asked; 6 a study that cannot go
on; 7 a results store that cannot be used; 130 stopped by Ctrl-C (the same command goes on with what is
missing) or by `dnnflow cancel`.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dnnflow.cli.lazy_command import lazy
from dnnflow.cli.model_commands import predict, score
from dnnflow.cli.search_command import search, search_command
from dnnflow.cli.train_command import train, train_command
from dnnflow.cli.upkeep_commands import AsJson, StudyId, clean, cloned, delete, note, rename, tag
from dnnflow.cli.web_command import web
from dnnflow.errors import INTERRUPTED, INTERRUPTED_CODE, DnnflowError, InputError
from dnnflow.settings import Settings, own_version

if TYPE_CHECKING:
    from dnnflow.design.edges import Edge
    from dnnflow.pipeline.pipeline_file import AnyPipeline
    from dnnflow.pipeline.study_pipeline import Pipeline
    from dnnflow.results.store.deletion import DiskUse
    from dnnflow.results.view.study_view import StudyView
    from dnnflow.run.run import Run

app = typer.Typer(
    name="dnnflow",
    help="Find out which network design works best on your table.",
    epilog=(
        "Exit codes: 0 done, 1 unexpected failure, 2 wrong argument or pipeline, 3 unusable table, "
        "4 not found, 5 cluster, 6 study cannot go on, 7 results store, 130 stopped by Ctrl-C or cancel."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
cluster_app = typer.Typer(help="Machines that train.", no_args_is_help=True)
app.add_typer(cluster_app, name="cluster")

File = Annotated[Path, typer.Argument(help="A pipeline, e.g. pipelines/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Lay a value over it: --set designs=10. Repeatable."),
]


StudyOrFile = Annotated[
    str,
    typer.Argument(help="A study's id, the beginning of it, or its name; or its pipeline's file, or a model "
                        "that it saved.", metavar="STUDY"),
]  # fmt: skip

app.command(cls=lazy(lambda: search_command(_show_searched)))(search)
app.command(cls=lazy(train_command))(train)
app.command()(web)

WITHOUT_HOME = ("schema", "validate", "cluster")


def _show_version(wanted: bool) -> None:
    if wanted:
        _print(f"dnnflow {own_version()}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    home: Annotated[
        Path | None,
        typer.Option(
            help="Where datasets, studies and reports are kept; default: DNNFLOW_HOME, else dnnflow-home in "
            "this directory where it exists, else one home for all that you do.",
            metavar="DIR",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find out which network design works best on your table."""
    if home is not None:
        os.environ["DNNFLOW_HOME"] = str(home.absolute())  # of the processes that are started, too
    is_named = bool(os.environ.get("DNNFLOW_HOME"))
    if not is_named and context.invoked_subcommand not in WITHOUT_HOME:
        settings = Settings.from_environment()
        if settings.is_local:
            sys.stderr.write(f"dnnflow: using {settings.workspace.home.absolute()}, since this directory "
                             "has one; --home or DNNFLOW_HOME names another\n")  # fmt: skip


@app.command()
def run(
    file: File,
    overrides: Overrides = None,
    cluster: Annotated[str | None, typer.Option(help="Address of a Dask scheduler.")] = None,
    new: Annotated[
        bool, typer.Option("--new", help="A new study, even if there is one of the same key.")
    ] = False,
    widen: Annotated[
        bool,
        typer.Option("--widen", help="A wider space, where the best of the study before lie at its edge."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline: a study from data to report (an unfinished one goes on), or a parallel training."""
    from dnnflow.pipeline.pipeline_file import load_any
    from dnnflow.run.run import run_of

    address = [f"executor.address={json.dumps(cluster)}"] if cluster else []
    pipeline = load_any(file, [*(overrides or []), *address])
    if widen:
        pipeline = _widened(pipeline, as_json)
    _execute(run_of(pipeline, Settings.from_environment(), new=new), as_json)


def _widened(pipeline: "AnyPipeline", as_json: bool) -> "AnyPipeline":
    from dnnflow.pipeline.study_pipeline import Pipeline
    from dnnflow.run.widen import follow_up

    if not isinstance(pipeline, Pipeline):
        raise InputError("--widen is for studies, got a training, which has no space; leave it out")
    wider, edges = follow_up(pipeline, Settings.from_environment())
    _tell_wider(wider, edges, as_json)
    return wider


@app.command()
def widen(study_id: StudyId, as_json: AsJson = False) -> None:
    """Run the wider study after one whose best designs lie at the edge of its space."""
    from dnnflow.api import open_study
    from dnnflow.run.run import run_of
    from dnnflow.run.widen import wider_study

    study = open_study(study_id)
    edges = study.view().edges
    wider = wider_study(study.record, edges)
    _tell_wider(wider, edges, as_json)
    _execute(run_of(wider, study.settings), as_json)


def _tell_wider(wider: "Pipeline", edges: "tuple[Edge, ...]", as_json: bool) -> None:
    for edge in () if as_json else edges:
        written = wider.plain()["space"][edge.parameter]
        _print(f"wider: {edge}; {edge.parameter} is {json.dumps(written)} now")


def _execute(run: "Run", as_json: bool) -> None:
    """Do a run, show its progress and what came of it."""
    from dnnflow import api
    from dnnflow.cli.train_command import show_training
    from dnnflow.run.execute import StudyEnd, require_success
    from dnnflow.show.terminal import Progress

    with Progress(quiet=as_json) as progress:
        ended = api.execute(run, listener=progress)
    if isinstance(ended, StudyEnd):
        _show_study(ended.view, as_json)
        require_success(ended.view)
    else:
        show_training(ended, as_json=as_json)


def _show_searched(view: "StudyView", as_json: bool, more: Mapping[str, Any]) -> None:
    _show_study(view, as_json, more=more)


def _show_study(
    view: "StudyView", as_json: bool, top: int = 10, more: Mapping[str, Any] | None = None
) -> None:
    from dnnflow.results.view.next_steps import next_steps
    from dnnflow.show.terminal import show_study

    workspace = Settings.from_environment().workspace
    if not as_json:
        show_study(view, workspace, top)
        return
    summary = _record(view.record, view.counts)
    leaderboard = [row.to_dict() for row in view.leaderboard[:10]]
    report = str(workspace.report(view.record.study_id))
    models = workspace.model(view.record.study_id, 1).parent
    _print_json(
        summary
        | {
            "report": report,
            "sentence": view.sentence,
            "next_steps": [asdict(step) for step in next_steps(view, models)],
            "tested": [one.to_dict() for one in view.tested],
            "leaderboard": leaderboard,
            **(more or {}),
        }
    )


@app.command()
def validate(
    file: File,
    overrides: Overrides = None,
    data: Annotated[
        bool, typer.Option("--data", help="Read the table too, and say what it would become.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Report every problem of a pipeline with its line."""
    from dnnflow.pipeline.pipeline_file import find_problems, load_any
    from dnnflow.run.check_table import checked_table

    problems = find_problems(file, overrides or [])
    with checked_table(load_any(file, overrides or [])) if data and not problems else nullcontext() as table:
        if as_json:
            told = [{"line": item.line, "where": item.where, "message": item.message} for item in problems]
            _print_json({"problems": told, "dataset": table and table.describe()} if data else told)
        else:
            for problem in problems:
                where = f"{problem.where}: " if problem.where else ""
                _print(f"{file}:{problem.line}: {where}{problem.message}")
            if not problems:
                _print(f"{file} is a valid pipeline")
            if table is not None:
                from dnnflow.show.terminal import show_dataset

                show_dataset(table, is_kept=False)
    if problems:
        raise typer.Exit(2)


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="study, or train: a file that has a model.")] = "study",
) -> None:
    """Print the JSON schema of pipelines."""
    from dnnflow.pipeline.study_pipeline import Pipeline
    from dnnflow.pipeline.training_pipeline import TrainPipeline

    kinds: dict[str, type[Pipeline | TrainPipeline]] = {"study": Pipeline, "train": TrainPipeline}
    if kind not in kinds:
        raise InputError(f"a pipeline is of the kind {' or '.join(kinds)}, got {kind}")
    _print_json(kinds[kind].model_json_schema())


def ingest() -> None:
    """Make a dataset of a table and print what it holds."""


def ingest_command() -> Callable[..., None]:
    """Return the function of `dnnflow ingest`, whose options are the fields of a pipeline's sections."""
    from dnnflow.cli.model_options import ModelOptions
    from dnnflow.pipeline.study_pipeline import Pipeline

    options = ModelOptions(Pipeline, ("dataset", "preprocess"), arguments={"source": "dataset.source"},
                           left_out=("dataset.storage_options",))  # fmt: skip

    def call(
        given: dict[str, Any], *,
        out: Annotated[Path | None, typer.Option(help="Directory that holds the datasets.")] = None,
        as_json: AsJson = False,
    ) -> None:  # fmt: skip
        from dnnflow import api
        from dnnflow.events import except_notices
        from dnnflow.show.terminal import Progress, show_dataset

        table = options.read(given, designs=1)
        named = {**dict(table.source), **dict(table.recipe)}
        with Progress(quiet=as_json) as progress:
            shown = except_notices(progress)  # show_dataset prints them
            dataset = api.ingest(named.pop("url"), named.pop("label"), out=out, listener=shown, **named)
        if as_json:
            _print_json({"id": dataset.id, "path": str(dataset.path), **dataset.describe()})
        else:
            show_dataset(dataset)

    return options.command(call)


app.command(cls=lazy(ingest_command))(ingest)


@app.command()
def studies(
    size: Annotated[bool, typer.Option("--size", help="Say how much disk each takes.")] = False,
    tag: Annotated[str | None, typer.Option(help="Only those with this tag.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the studies, newest first, and where they are kept."""
    from dnnflow.results.store.deletion import disk_uses, unused_datasets
    from dnnflow.results.store.store import Store
    from dnnflow.show.terminal import show_home, show_studies

    settings = Settings.from_environment()
    with Store(settings.store_url) as store:
        found = [record for record in store.studies() if tag is None or tag in record.tags]
        records = [(record, store.counts(record.study_id)) for record in found]
        uses = disk_uses(store, settings.workspace, found) if size else None
        unused = unused_datasets(store, settings.workspace) if size else ()
    if as_json:
        sized: Sequence[DiskUse | None] = uses or [None] * len(records)
        _print_json([_record(record, counts) | ({} if use is None else asdict(use))
                     for (record, counts), use in zip(records, sized, strict=True)])  # fmt: skip
    else:
        show_studies(records, uses)
        show_home(settings, unused)


@app.command()
def show(study_id: StudyOrFile, top: Annotated[int, typer.Option(help="Rows of the leaderboard.")] = 10,
         as_json: AsJson = False) -> None:  # fmt: skip
    """Show a study's leaderboard and where its files are."""
    from dnnflow.api import open_study

    _show_study(open_study(study_id).view(), as_json, top)


@app.command()
def resume(
    study_id: StudyId,
    failed: Annotated[bool, typer.Option("--failed", help="Train failed designs once more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Do what is left of a study, as its pipeline says; a paused one goes on where it is paused."""
    from dnnflow.api import open_study
    from dnnflow.events import Command
    from dnnflow.results.store.commands import is_paused, request
    from dnnflow.run.run import StudyRun

    study = open_study(study_id)
    if not failed and is_paused(study.store, study.id):
        _print(request(study.store, study.id, Command.RUN))
        return
    if failed:
        study.forget_failed()
    _execute(StudyRun.resumed(study), as_json)


@app.command()
def clone(
    study_id: StudyId,
    overrides: Overrides = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the pipeline to a new file instead of running it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a study's pipeline again as a study of its own, with changes."""
    from dnnflow.run.run import run_of

    pipeline = cloned(study_id, overrides or [], save)
    if pipeline is not None:
        _execute(run_of(pipeline, Settings.from_environment(), new=True), as_json)


@app.command()
def pause(study_id: StudyId) -> None:
    """Have a study that is trained wait: what is in flight is stored, its process and cluster stay."""
    _request(study_id, "pause")


@app.command()
def cancel(study_id: StudyId) -> None:
    """Stop a study that is trained, wherever it was started; its trials stay, `dnnflow resume` goes on."""
    _request(study_id, "cancel")


def _request(study_id: str, command: str) -> None:
    from dnnflow.events import Command
    from dnnflow.results.store.commands import request
    from dnnflow.results.store.store import Store

    with Store(Settings.from_environment().store_url) as store:
        _print(request(store, store.run(study_id).run_id, Command(command)))


@app.command()
def export(
    study: StudyOrFile,
    out: Annotated[
        Path, typer.Option(help="Of the trials a .parquet, .csv or .json file, of a model a .keras or .onnx.")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Which model: a rank, ensemble or final; default: the one that is recommended."),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="A model that takes rows as they stand in the table, column by column, "
                                   "in plain Keras or ONNX; else the network's input."),
    ] = False,
) -> None:  # fmt: skip
    """Write every trial of a study to a file, or one of its models for plain Keras or ONNX."""
    from dnnflow.api import model_file, open_study
    from dnnflow.paths import try_file
    from dnnflow.results.view.export import export_trials
    from dnnflow.run.models.model_export import SUFFIXES, export_model

    try_file(out)
    if out.suffix in SUFFIXES:
        for note in export_model(model_file(study, model), out, raw=raw):
            _print(f"note: {note}")
    elif raw or model is not None:
        raise InputError(f"--model and --raw are of a model, which is written as {' or '.join(SUFFIXES)}, "
                         f"got --out {out}; change its ending, or leave them out")  # fmt: skip
    else:
        export_trials(open_study(study).trials(), out)
    _print(f"wrote {out}")


@app.command()
def report(
    study_id: StudyOrFile, out: Annotated[Path | None, typer.Option(help="Where to write it.")] = None
) -> None:
    """Write a study's HTML report anew."""
    from dnnflow.api import open_study

    _print(f"wrote {open_study(study_id).report(out)}")


@cluster_app.command()
def certs(
    directory: Annotated[Path, typer.Argument(help="A directory that does not exist yet.")],
    host: Annotated[list[str] | None, typer.Option(help="Name or address of a machine. Repeatable.")] = None,
) -> None:
    """Make the certificates with which scheduler, workers and clients trust each other."""
    from dnnflow.execute.certificates import make_certificates

    make_certificates(directory, tuple(host or ("localhost", "127.0.0.1")))
    ca, cert, key = (directory / f"{name}.pem" for name in ("ca", "cert", "key"))
    _print(f"wrote {ca}, {cert} and {key}; copy {directory} to every machine, for no other eyes")
    _print(f"dask scheduler and dask worker take --tls-ca-file {ca} --tls-cert {cert} --tls-key {key}")
    _print(f"dnnflow takes DNNFLOW_TLS={directory} in its environment, and --cluster tls://HOST:8786")


for command in (predict, score, rename, note, tag, delete, clean):
    app.command()(command)


def main() -> None:
    """Run the command line: an error is one line, unless --debug, in any place, asks for its traceback."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a job in the background ignores it
        signal.signal(signal.SIGINT, _interrupt)
    sys.exit(guarded(partial(app, arguments), debug=debug))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Stop at the first Ctrl-C, and with the second at once, whatever is being tidied up."""
    signal.signal(signal.SIGINT, _end_at_once)
    logging.disable(logging.CRITICAL)  # what connections that are cut say of it
    raise KeyboardInterrupt


def _end_at_once(number: int, frame: FrameType | None) -> None:
    _complain(INTERRUPTED)
    os._exit(INTERRUPTED_CODE)


def guarded(command: Callable[[], object], *, debug: bool) -> int:
    """Call a command and return its exit code."""
    try:
        command()
    except SystemExit as exit_:
        if exit_.code == INTERRUPTED_CODE:  # typer's of a KeyboardInterrupt, which it keeps for itself
            _complain(INTERRUPTED)
        return exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
    except KeyboardInterrupt:
        _complain(INTERRUPTED)
        return INTERRUPTED_CODE
    except DnnflowError as error:
        if debug:
            raise
        _complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        return 0
    except Exception as error:
        if debug:
            raise
        _complain(f"{type(error).__name__}: {error} (dnnflow --debug … shows where)")
        return 1
    return 0


def _record(record: Any, counts: Any) -> dict[str, Any]:
    from dnnflow.results.view.study_view import measured_best

    best = measured_best(record)
    return {
        "study_id": record.study_id,
        "name": record.name,
        "note": record.note,
        "tags": list(record.tags),
        "state": record.standing.value,
        "key": record.key,
        "created_at": record.created_at,
        "designs": record.n_designs,
        "dataset_id": record.dataset_id,
        "trials": {state.value: count for state, count in counts.items()},
        "best": None if best is None else {"of": best.role, "score": best.score},
    }


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _complain(text: str) -> None:
    sys.stderr.write(f"dnnflow: error: {text}\n")
