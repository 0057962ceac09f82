"""Search a table for its best network design, without a pipeline file: the command `dnnflow search`."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dnnflow.errors import InputError
from dnnflow.settings import Settings

if TYPE_CHECKING:
    from dnnflow.pipeline.study_pipeline import Pipeline
    from dnnflow.results.view.study_view import StudyView
    from dnnflow.table.columns.recipe import Source

Show = Callable[["StudyView", bool, Mapping[str, Any]], None]
"""Shows a study: whether as JSON, and what else to say then."""


def search() -> None:
    """Find the best network design of a table: no file needed. Without --label, show the columns."""


def search_command(show: Show) -> Callable[..., None]:
    """Return the function of `dnnflow search`, whose options are the fields of a pipeline's sections."""
    from dnnflow.cli.model_options import ModelOptions
    from dnnflow.pipeline.study_pipeline import Pipeline

    options = ModelOptions(
        Pipeline, ("dataset", "evaluation"), arguments={"table": "dataset.source"},
        left_out=("dataset.storage_options",), defaults={"dataset.label": None},
    )  # fmt: skip

    def call(
        given: dict[str, Any], *,
        minutes: Annotated[
            float | None, typer.Option(help="How long it may take; as many designs are trained as there is "
                                            "time for.")] = None,
        designs: Annotated[int | None, typer.Option(help="How many designs to train, instead.")] = None,
        overrides: Annotated[
            list[str] | None,
            typer.Option("--set", help="Lay a value over the good rules: --set space.depth=2. Repeatable."),
        ] = None,
        save: Annotated[Path | None, typer.Option(help="Write the pipeline to this YAML file.")] = None,
        cluster: Annotated[str | None, typer.Option(help="Address of a Dask scheduler.")] = None,
        new: Annotated[bool, typer.Option("--new", help="A new study, even if there is one of the same table "
                                                        "and options.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    ) -> None:  # fmt: skip
        if given["dataset_label"] is None:
            _show_columns(options.read({**given, "dataset_label": "-"}, designs=1).source, as_json)
            return
        address = [f"executor.address={json.dumps(cluster)}"] if cluster else []
        sections = _with_overrides(options.read(given, designs=1), [*(overrides or []), *address])
        _search(sections, (designs, minutes), save, show, new=new, as_json=as_json)

    return options.command(call)


def _with_overrides(pipeline: "Pipeline", overrides: Sequence[str]) -> dict[str, Any]:
    """Return the sections of a pipeline with values laid over them."""
    from dnnflow.pipeline.pipeline_file import check_text, to_yaml

    if wrong := [one for one in overrides if one.split("=")[0].strip() in ("designs", "minutes", "name")]:
        raise InputError(
            f"--set is for sections of a pipeline, got {wrong[0]!r}; take --designs, --minutes, or a file"
        )
    laid, problems = check_text(to_yaml(pipeline), overrides, folder=Path.cwd())
    if laid is None:
        raise InputError("; ".join(f"{one.where}: {one.message}" for one in problems))
    return {name: value for name, value in laid.plain().items() if name != "designs"}


def _search(
    sections: Mapping[str, Any], size: tuple[int | None, float | None], save: Path | None, show: Show, *,
    new: bool, as_json: bool,
) -> None:  # fmt: skip
    from dnnflow.api import search_study
    from dnnflow.paths import try_file, write_file
    from dnnflow.run.execute import require_success
    from dnnflow.run.search import SearchRequest
    from dnnflow.show.terminal import Progress
    from dnnflow.table.formats.given_table import place_table

    settings = Settings.from_environment()
    if save is not None:
        try_file(save)
    table = place_table(sections["dataset"]["source"], settings.workspace.frames)
    request = SearchRequest.of_table(table.name, sections, designs=size[0], minutes=size[1])
    written: dict[str, Any] = {}

    def tell(pipeline: "Pipeline") -> None:
        written.update(pipeline.plain())
        if save is not None:
            write_file(save, _in_yaml(pipeline))
        if not as_json:
            sys.stdout.write(f"{_in_yaml(pipeline)}\n" if save is None else f"wrote {save}\n")
            sys.stdout.flush()

    with Progress(quiet=as_json) as progress:
        ended = search_study(request, settings, new=new, listener=progress, told=tell)
    show(ended.view, as_json, {"pipeline": written})
    require_success(ended.view)


def _in_yaml(pipeline: "Pipeline") -> str:
    import yaml

    plain = pipeline.plain()
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def _show_columns(source: "Source", as_json: bool) -> None:
    """Print a table's columns, and the one that is most likely the label."""
    from dnnflow.show.terminal import show_survey
    from dnnflow.table.store.survey import survey

    found = survey(source)
    if as_json:
        columns = [
            {"name": one.name, "kind": str(one.kind), "values": one.values, "distinct": one.distinct,
             "examples": one.examples, "left_out": one.why_useless or None}
            for one in found.columns
        ]  # fmt: skip
        told = {"rows": found.rows, "is_whole": found.is_whole, "label": found.label, "columns": columns}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        names = ("delimiter", "encoding", "format", "sheet", "query")
        given = {name: getattr(source, name) for name in names if getattr(source, name) is not None}
        show_survey(found, source.url, given | ({} if source.header else {"no-header": ""}))
