"""Describe what to read and how to make a dataset of it: plain values, validated once."""

import codecs
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from dnnflow.errors import InputError
from dnnflow.parameters import CheckedParameters, Display, Parameters, Place, Seed, Texts, require
from dnnflow.table.columns.dressing import NumberStyle, styles_of
from dnnflow.table.columns.kinds import STANDARD_LABEL_MARKERS, STANDARD_MARKERS, Markers, one_column
from dnnflow.table.columns.times import TimeStyle

Missing = Literal["zero", "mean", "median", "most_frequent"]
Scale = Literal["minmax", "standard", "none"]
RareClasses = Literal["refuse", "drop", "merge"]
Categories = Literal["auto", "onehot", "hash"]
TaskName = Literal["auto", "classification", "multilabel", "regression"]
Format = Literal[
    "csv", "fwf", "keel", "arff", "parquet", "arrow", "orc", "jsonl", "excel", "sql", "npz", "hdf5", "zarr"
]


def _names_a_file(url: str) -> str:
    if not url:
        raise InputError("url must name a file, got an empty text; give a path or a URL")
    return url


FileUrl = Annotated[str, AfterValidator(_names_a_file)]


class TextOptions(Parameters):
    """How the text of a table is written."""

    delimiter: str | None = None
    """Character between fields; found among comma, semicolon, tab and bar where absent, or blanks where all
    lines have as many values by them. A blank means any number of blanks and tabs."""
    quote: str = '"'
    """Character around quoted fields; empty for a file without quoting."""
    encoding: str | None = None
    """Text encoding, e.g. utf-8, utf-16, latin-1; where absent UTF-8 or UTF-16 by byte order mark, else
    UTF-8, else Latin-1."""
    header: bool = True
    """Whether the first line names the columns; without, they are column_1, column_2, …"""
    storage_options: dict[str, Any] = Field(default={})
    """Options for fsspec (remote file systems); no part of a dataset's identity."""
    format: Format | None = None
    """What the file is; found by its first bytes, then by the end of its name, where absent. arrow is Feather
    too, jsonl a JSON object a line or an array of them, npz also .npy, csv any text with delimiters, fwf text
    in columns of fixed width: one ends where all lines have a blank."""
    sheet: str | None = None
    """Name of the sheet of a workbook; the first where absent."""
    query: str | None = None
    """SELECT, or name of a table, of a database; not needed where it has one table."""

    @field_validator("delimiter")
    @classmethod
    def _is_one_character(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '\r\n"'):
            raise InputError(f"delimiter must be one character, got {delimiter!r}; leave it out to find it")
        require(delimiter is None or delimiter.isascii(), "delimiter must be an ASCII character", delimiter)
        return delimiter

    @field_validator("quote")
    @classmethod
    def _is_at_most_one(cls, quote: str) -> str:
        is_right = len(quote) <= 1 and quote not in ("\r", "\n") and quote.isascii()
        require(is_right, "quote must be one ASCII character or empty", quote)
        return quote

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str | None) -> str | None:
        try:
            codecs.lookup(encoding or "utf-8")
        except LookupError:
            raise InputError(
                f"encoding must be one that Python knows, got {encoding!r}; leave it out to detect it"
            ) from None
        return encoding


class Source(TextOptions, CheckedParameters):
    """A table and how it is written.

    Raises
    ------
    InputError
        If a field breaks its rule.
    """

    url: FileUrl
    """Path of a file, glob or directory of files of one kind, a URL that fsspec knows, or a database's that
    SQLAlchemy knows. Gzip, bzip2, xz, zstd and ZIP are recognised by their first bytes."""

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.quote and self.quote == self.delimiter:
            raise InputError(f"quote and delimiter must differ, got {self.quote!r} for both")
        return self


def _label(given: Any) -> Any:
    """Return the name of one column, or a tuple of several."""
    names = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"label must be a text or a list of texts, got {given!r}")
    if "" in names:
        raise InputError("label must name a column, got an empty text; give the column to predict")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"labels must differ, got {twice[0]!r} twice; name each column once")
    return names[0] if len(names) == 1 else names


def _number_styles(given: Any) -> Any:
    """Return columns and examples as texts `column=example`, which a mapping says as well."""
    if isinstance(given, dict):
        given = [f"{column}={example}" for column, example in given.items()]
    if isinstance(given, list | tuple) and all(isinstance(text, str) for text in given):
        for text in given:
            column, is_there, example = text.rpartition("=")
            if not column or not is_there:
                raise InputError(f'numbers must be {{column: "1.234,56"}} or column=1.234,56, got {text!r}')
            NumberStyle.of(example)
    return given


def _time_styles(given: Any) -> Any:
    """Return columns and examples as texts `column=example`, which a mapping says as well."""
    if isinstance(given, dict):
        given = [f"{column}={example}" for column, example in given.items()]
    if isinstance(given, list | tuple) and all(isinstance(text, str) for text in given):
        for text in given:
            column, _, example = text.rpartition("=")
            if not column:
                raise InputError(f'dates must be {{column: "31/12/2024"}} or column=31/12/2024, got {text!r}')
            TimeStyle.of(example)
    return given


Dates = Annotated[Texts, BeforeValidator(_time_styles, json_schema_input_type=dict[str, str] | list[str])]
Numbers = Annotated[Texts, BeforeValidator(_number_styles, json_schema_input_type=dict[str, str] | list[str])]


class ColumnOptions(Parameters):
    """Which columns of a table are what."""

    label: Annotated[str | tuple[str, ...], BeforeValidator(_label)]
    """Name of the column to predict, or a list of several; columns of a file without a header are column_1,
    column_2, …"""
    task: TaskName = "auto"
    """classification: the class of the label; multilabel: which of two values each label has; regression: a
    number for each label; auto: one label is classification, or regression if it has more than 20 different
    numbers that are not all whole; several are multilabel if each has two values, else regression."""
    drop: Texts = ()
    """Columns to leave out."""
    missing_values: Annotated[Texts, Display(option="missing-value")] = ()
    """What stands for a missing value, besides an empty field, NA, N/A, NaN, null, None and ?. A number is
    found however it is written."""
    standard_missing: bool = True
    """Whether NA, N/A, NaN, null, None and ? stand for a missing value; without, only an empty field."""
    missing_labels: Annotated[
        tuple[str, ...] | None, Field(strict=False), Display(option="missing-label")
    ] = None
    """What stands for a missing label, besides an empty field, and nothing else (an empty text: nothing else
    at all); where absent missing_values, NA, N/A, NaN, null and ?. None is a class."""
    rare_classes: RareClasses = "refuse"
    """What to do with classes of a single row, which cannot be trained and tested: drop: leave their rows
    out; merge: make them one class, other; refuse: name them."""
    text_columns: Annotated[Texts, Display(option="text-column")] = ()
    """Columns to take as text as it stands (one-hot encoded) even if they look like numbers, e.g. codes; of a
    label classes."""
    numbers: Annotated[Numbers, Display(option="number-column", metavar="COLUMN=1.234,56")] = ()
    """Columns of numbers that are written in another way, and how they write 1234.56, e.g. 1.234,56: units,
    currencies and percent are left out."""
    dates: Annotated[Dates, Display(option="date-column", metavar="COLUMN=31/12/2024")] = ()
    """Columns of dates, and how they write the last day of 2024: 31/12/2024, 12/31/2024 or 2024-12-31; other
    marks, names of months, two digits of the year and a time of day are read, too."""

    weights: str | None = None
    """Name of a column of numbers >= 0, by which the loss of each training and validation row counts; it is
    no feature. Scores are not weighted."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the columns to predict."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def styles(self) -> dict[str, NumberStyle | TimeStyle]:
        """How the numbers and dates of columns are written, where it is said."""
        dates = (text.rpartition("=") for text in self.dates)
        return {**styles_of(self.numbers), **{column: TimeStyle.of(text) for column, _, text in dates}}

    @property
    def markers(self) -> Markers:
        """What stands for a missing value."""
        return Markers(self.missing_values, STANDARD_MARKERS if self.standard_missing else ())

    @property
    def label_markers(self) -> Markers:
        """What stands for a missing label."""
        if self.missing_labels is not None:
            return Markers(self.missing_labels, ())
        return Markers(self.missing_values, STANDARD_LABEL_MARKERS if self.standard_missing else ())


class SplitOptions(Parameters):
    """Which rows are kept for the test, and which rows stay together.

    At most one of `groups`, `time`, `split` and `test_source`. A column that is named here is no feature, and
    has a value in every row with a label.
    """

    test_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    """Share of the rows kept for the test."""
    groups: str | None = None
    """Name of a column: rows with the same text there, a group, are never on both sides of a split."""
    time: str | None = None
    """Name of a column of numbers, or of dates and times (ISO 8601): the test rows are the latest."""
    split: str | None = None
    """Name of a column that says of each row train, test or validation; case does not matter."""
    test_source: Annotated[str | None, Place()] = None
    """Path or URL of a second table, written like the first and with its columns: the test rows are all of
    its rows, and no others."""

    @field_validator("groups", "time", "split", "test_source")
    @classmethod
    def _is_no_empty_text(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name == "":
            what = "file" if info.field_name == "test_source" else "column"
            raise InputError(f"{info.field_name} must name a {what}, got an empty text; leave it out")
        return name

    @model_validator(mode="after")
    def _splits_in_one_way(self) -> Self:
        ways = ("groups", "time", "split", "test_source")
        named = [name for name in ways if getattr(self, name) is not None]
        if len(named) > 1:
            raise InputError(
                "only one of groups, time, split and test_source may divide the rows, "
                f"got {' and '.join(named)}; keep one of them"
            )
        default = SplitOptions.model_fields["test_fraction"].default
        if named and named[0] in ("split", "test_source") and self.test_fraction != default:
            raise InputError(
                f"test_fraction has no meaning beside {named[0]}, got {self.test_fraction}; "
                "leave one of them out"
            )
        return self


class PreprocessOptions(Parameters):
    """How columns become the network's input. Statistics come from the training rows
    only, those held back for validation among them."""

    missing: Missing = "zero"
    """What replaces a missing number."""
    categories: Categories = "auto"
    """What a text column with more than 64 different values becomes. auto: a column for each of the 255 most
    frequent values that are in two training rows or more, and one for all others (hash with more than
    100,000); onehot: a column for each value, of at most 1,000; hash: each value in one of hash_columns
    columns, so that several share one."""
    hash_columns: int = Field(default=64, ge=2, le=4096)
    """Columns that the values of a text column are hashed to."""
    indicator: bool = False
    """Whether each column with missing values gets a second column that says where they were."""
    scale: Scale = "minmax"
    """minmax: to [0, 1]; standard: mean 0 and standard deviation 1; none: as it is."""
    clip: bool = False
    """Whether test rows and new rows are clipped to the range of the training rows."""


class Recipe(PreprocessOptions, SplitOptions, ColumnOptions, CheckedParameters):
    """How a table becomes a dataset. Part of the dataset's identity, but for the place of `test_source`.

    Raises
    ------
    InputError
        If a field breaks its rule.
    """

    split_seed: Seed = 0
    """Seed of the split and of the order of rows in training."""

    @model_validator(mode="after")
    def _keeps_its_labels(self) -> Self:
        for label in self.labels:
            if label in self.drop:
                raise InputError(f"label must not be dropped, got {label!r} in drop; remove it there")
            for field, name in {**self.mark, "weights": self.weights}.items():
                if label == name:
                    raise InputError(
                        f"{field} must name another column than the label, got {label!r}; leave it out"
                    )
        if self.weights is not None and self.weights in (*self.mark.values(), *self.drop, ""):
            raise InputError(
                f"weights must name a column that is nothing else, got {self.weights!r}; leave one out"
            )
        for name in self.text_columns:
            if name in self.styles:
                raise InputError(
                    f"a column is text, numbers or dates, got {name!r} in text_columns and in "
                    f"{'numbers' if isinstance(self.styles[name], NumberStyle) else 'dates'}; keep one"
                )
            if name in self.labels and self.task == "regression":
                raise InputError(
                    f"regression needs a label of numbers, got {name!r} in text_columns; remove it there"
                )
        dates = {text.rpartition("=")[0] for text in self.dates}
        if twice := [text for text in self.numbers if text.rpartition("=")[0] in dates]:
            name = twice[0].rpartition("=")[0]
            raise InputError(f"a column is numbers or dates, got {name!r} in numbers and in dates; keep one")
        if wrong := [name for name in self.labels if name in dates]:
            raise InputError(f"a label must not be dates, got {wrong[0]!r} in dates; remove it there")
        if self.task == "classification" and len(self.labels) > 1:
            raise InputError(
                f"classification takes one label, got {len(self.labels)}; name one, or set task to "
                "multilabel or regression"
            )
        return self

    def among(self, columns: Sequence[str]) -> Self:
        """Return the recipe with the columns of a table that it means; see `one_column`."""

        def found(name: str) -> str:
            return one_column(name, columns)

        def styled(texts: Texts) -> Texts:
            parts = (text.rpartition("=") for text in texts)
            return tuple(f"{found(column)}={example}" for column, _, example in parts)

        changed: dict[str, Any] = {
            "label": found(self.label) if isinstance(self.label, str) else tuple(map(found, self.label)),
            "drop": tuple(map(found, self.drop)), "text_columns": tuple(map(found, self.text_columns)),
            "numbers": styled(self.numbers), "dates": styled(self.dates),
            **{name: found(column) for name, column in self.mark.items()},
        }  # fmt: skip
        if self.weights is not None:
            changed["weights"] = found(self.weights)
        changed = {name: value for name, value in changed.items() if value != getattr(self, name)}
        return self.replace(**changed) if changed else self

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types, without the place of the test rows: a dataset knows their text.

        What divides the rows is left out where chance does, the task where the labels say it, and weights
        where there are none: so it was before there was anything else. So are later options at their
        defaults.
        """
        implied: dict[str, Any] = {
            **dict.fromkeys(("groups", "time", "split", "weights", "missing_labels")),
            "task": "auto", "standard_missing": True, "rare_classes": "refuse", "numbers": [], "dates": [],
            "categories": "auto", "hash_columns": 64,
        }  # fmt: skip
        return {name: value for name, value in super().to_dict().items()
                if name != "test_source" and (name not in implied or value != implied[name])}  # fmt: skip

    @property
    def mark(self) -> dict[str, str]:
        """Name of the column that divides the rows, by its field (groups, time, split); empty without."""
        named = {"groups": self.groups, "time": self.time, "split": self.split}
        return {field: name for field, name in named.items() if name is not None}
