"""Apply models to new rows: the commands `predict` and `score`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from dnnflow.cli.upkeep_commands import AsJson

Model = Annotated[
    str,
    typer.Argument(help="A .keras file that a study saved, or a study, whose recommended model is taken."),
]
RawRows = Annotated[str, typer.Argument(help="A table of raw rows (path or URL).")]
Delimiter = Annotated[
    str | None, typer.Option(help="Character between fields; default: that of the table trained on.")
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether the first line names the columns; default: as in the table trained on. Without, "
        "the columns are those of that table, in its order.",
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(help="Of a text; default: found, or that of the table trained on where bytes do not say."),
]
Quote = Annotated[
    str | None, typer.Option(help="Character around fields; default: that of the table trained on.")
]
Kind = Annotated[
    str | None, typer.Option("--format", help="What the file is, e.g. csv, fwf or excel; default: found.")
]
MissingValue = Annotated[
    list[str] | None,
    typer.Option(
        help="What stands for a missing value in these rows, besides what did in the training. Repeatable."
    ),
]
Sheet = Annotated[
    str | None, typer.Option(help="Name of a workbook's sheet; default: that of the table trained on.")
]
Query = Annotated[str | None, typer.Option(help="SELECT, or name of a table, of a database.")]


Out = Annotated[
    Path | None,
    typer.Option(help="A .csv, .parquet or .json file to write; default: CSV in the terminal."),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(help="A column of the rows to put before what is predicted, as an id. Repeatable."),
]
Threshold = Annotated[
    list[float] | None,
    typer.Option(
        help="Probability of the second of two classes above which it is predicted; of labels one each; "
        "default: the model's. Repeatable."
    ),
]


def predict(
    model: Model, rows: RawRows, out: Out = None, keep: Keep = None, threshold: Threshold = None,
    delimiter: Delimiter = None, header: Header = None, encoding: Encoding = None, quote: Quote = None,
    kind: Kind = None, sheet: Sheet = None, query: Query = None, missing_value: MissingValue = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Apply a saved model to raw rows: the class of each and the probability of every class."""
    from dnnflow.api import model_file
    from dnnflow.paths import try_file
    from dnnflow.results.view.export import check_suffix, write_table
    from dnnflow.run.models.predict_file import predict_file
    from dnnflow.run.models.saved_model import load_model
    from dnnflow.show.terminal import notes_told

    if out is not None:
        check_suffix(out, "predictions are written")
        try_file(out)
    saved = load_model(model_file(model))
    saved = saved.with_thresholds(threshold) if threshold else saved
    saved = saved.with_missing_values(missing_value or ())
    given = {"delimiter": delimiter, "header": header, "encoding": encoding, "quote": quote, "format": kind,
             "sheet": sheet, "query": query}  # fmt: skip
    with notes_told():
        if out is not None and not as_json and out.suffix.lower() in (".csv", ".parquet"):
            written = predict_file(saved, saved.blocks(rows, **given), out, keep or ())
            sys.stdout.write(f"wrote {out}: {written:,} rows\n")
            return
        raw = saved.rows(rows, **given)
    table = saved.predict_beside(raw, keep or ())
    if as_json:
        sys.stdout.write(json.dumps(table.to_dict(orient="records"), indent=2, default=str) + "\n")
    elif out is None:
        sys.stdout.write(table.to_csv(index=False))
    else:
        write_table(table, out, "predictions are written")
        sys.stdout.write(f"wrote {out}: {len(table):,} rows\n")


def score(
    model: Model, rows: RawRows, delimiter: Delimiter = None, header: Header = None,
    encoding: Encoding = None, quote: Quote = None, kind: Kind = None, sheet: Sheet = None,
    query: Query = None, missing_value: MissingValue = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Say how good a saved model is on raw rows that have the label."""
    from dnnflow.api import score as score_rows
    from dnnflow.show.terminal import notes_told, show_score

    with notes_told():
        found = score_rows(model, rows, delimiter=delimiter, header=header, encoding=encoding, quote=quote,
                           format=kind, sheet=sheet, query=query, missing_values=missing_value)  # fmt: skip
    if as_json:
        sys.stdout.write(json.dumps(found.to_dict(), indent=2, default=str) + "\n")
    else:
        show_score(found)
