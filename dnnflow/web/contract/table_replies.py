"""What the server says of tables, and of models that are applied to tables, as types."""

from typing import Any, Literal

from pydantic import Field

from dnnflow.web.contract.replies import Reply


class ClassCount(Reply):
    """A value of a column and its rows."""

    value: str
    rows: int


class Column(Reply):
    """One column of an upload."""

    index: int
    name: str
    kind: Literal["number", "text", "boolean", "empty"]
    missing: int
    """Rows without a value."""
    distinct: int
    """Different values, counted up to 1,001."""
    histogram: list[int]
    """Of numbers: rows in equal bins from `least` to `most`."""
    least: float | None
    most: float | None
    values: list[ClassCount]
    """The most frequent values; all where the column may be the label."""
    label_problem: str | None
    """Why it cannot be the label; null where it can."""
    feature_problem: str | None = None
    """Why it must be in `dataset.drop` or be the label; null where it may be a feature."""


class DatasetBase(Reply):
    """What every reply says of an upload."""

    upload_id: str
    source: str = Field(examples=["upload:Zk3v0mJq8WcR1x9s"])
    """What a pipeline's `dataset.source` says for it."""
    name: str
    size_bytes: int
    """As sent."""
    text_bytes: int
    """Unpacked."""
    digest: str
    """sha256 of what was sent."""
    created_at: str
    expires_at: str
    rows: int


class DatasetSummary(DatasetBase):
    """An upload as a list shows it."""

    columns: int


class Datasets(Reply):
    """Uploads, the newest first."""

    datasets: list[DatasetSummary]


class Dataset(DatasetBase):
    """An upload with its profile."""

    columns: list[Column]
    first_rows: list[list[str]]
    """As written in the file, at most 10."""
    reading: dict[str, Any]
    """Delimiter, quote, encoding and header as found out."""


class LabelCheck(Reply):
    """Whether a column can be the label."""

    column: str
    usable: bool
    problem: str | None
    """Rule, value, remedy; null where it can be."""
    missing: int
    """Rows without a label, which are left out."""
    classes: list[ClassCount]


class ModelInfo(Reply):
    """A model that a study has saved."""

    rank: int
    """1 is the best."""
    size_bytes: int
    classes: list[str]
    columns: list[str]
    """Names of the columns that it reads."""
    design_id: str | None
    test_accuracy: float | None


class Models(Reply):
    """Models of a study, the best first."""

    models: list[ModelInfo]


class Predicted(Reply):
    """Classes of rows."""

    classes: list[str]
    """All classes, in the order of `probabilities`."""
    predictions: list[str]
    """The most probable class of each row."""
    probabilities: list[list[float]]
    """Of each row, the probability of every class."""
