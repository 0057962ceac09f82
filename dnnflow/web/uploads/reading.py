"""Say how an upload is to be read, where that is not to be found out."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dnnflow.errors import InputError
from dnnflow.parameters import CheckedParameters
from dnnflow.table.columns.recipe import Source

UploadFormat = Literal[
    "csv", "fwf", "keel", "arff", "parquet", "arrow", "orc", "jsonl", "excel", "sql", "npz", "hdf5"
]
MOST_QUERY = 10_000


class UploadReading(CheckedParameters):
    """How an upload is read; what is absent is found out.

    Raises
    ------
    InputError
        If a field breaks its rule.
    """

    format: UploadFormat | None = None
    """What the file is; found by its first bytes, then by the end of its name, where absent. csv is any text
    with delimiters, fwf text in columns of fixed width."""
    delimiter: str | None = Field(default=None, max_length=1, examples=[";"])
    """Character between fields of a text; found among comma, semicolon, tab, bar and blanks where absent. A
    blank means any number of blanks and tabs."""
    quote: str = Field(default='"', max_length=1)
    """Character around quoted fields of a text; empty for a file without quoting."""
    encoding: str | None = Field(default=None, max_length=40, examples=["latin-1"])
    """Of a text; where absent by byte order mark, else UTF-8, else Latin-1."""
    header: bool = True
    """Whether the first line of a text or sheet names the columns; without, they are column_1, column_2, …"""
    sheet: str | None = Field(default=None, max_length=200, examples=["Sheet1"])
    """Name of the sheet of a workbook; the first where absent."""
    query: str | None = Field(default=None, max_length=MOST_QUERY, examples=["SELECT a, b FROM flowers"])
    """SELECT, or name of a table, of an SQLite file; not needed where it has one table. It reaches no other
    file."""
    missing_values: list[Annotated[str, Field(max_length=200)]] = Field(
        default=[], max_length=100, examples=[["-999"]]
    )
    """What stands for a missing value, besides an empty field, NA, N/A, NaN, null, None and ?."""

    @model_validator(mode="after")
    def _is_right(self) -> Self:
        self.source("table")
        try:
            b"a".decode(self.encoding or "utf-8", "ignore")
        except LookupError:
            raise InputError(
                f"encoding must be one of texts, got {self.encoding!r}; leave it out to detect it"
            ) from None
        return self

    def source(self, name: str) -> Source:
        """Return the source of a file with that name.

        Raises
        ------
        InputError
            If a field breaks its rule.
        """
        return Source(url=name, **self.model_dump(exclude={"missing_values"}))

    def said(self) -> dict[str, Any]:
        """Return what was said, as JSON types."""
        return self.model_dump(mode="json", exclude_defaults=True)
