"""Say what to read and how to make a dataset of it: plain values, validated once."""

import codecs
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, get_args

from dnnflow.errors import InputError

Missing = Literal["zero", "mean", "median", "most_frequent"]
Scale = Literal["minmax", "standard", "none"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A CSV and how it is written.

    Raises
    ------
    InputError
        If a field breaks its rule.
    """

    url: str
    """Path of a file, or a URL that fsspec knows. Gzip and zstd are recognised by their first bytes."""
    delimiter: str | None = None
    """One character between values; None to find it among comma, semicolon, tab and bar."""
    quote: str = '"'
    """One character around values that contain delimiters; empty for a file without quoting."""
    encoding: str | None = None
    """Name of the encoding; None for UTF-8 or UTF-16 by byte order mark, else UTF-8, else Latin-1."""
    header: bool = True
    """Whether the first row holds the columns' names; without, they are column_1, column_2, ..."""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """Passed to fsspec; not part of a dataset's identity."""

    def __post_init__(self) -> None:
        if not self.url:
            raise InputError("url must name a file, got an empty text; give a path or a URL")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"'):
            raise InputError(
                f"delimiter must be one character, got {self.delimiter!r}; leave it out to find it"
            )
        if len(self.quote) > 1 or self.quote in ("\r", "\n") or not self.quote.isascii():
            raise InputError(f"quote must be one ASCII character or empty, got {self.quote!r}")
        if self.quote and self.quote == self.delimiter:
            raise InputError(f"quote and delimiter must differ, got {self.quote!r} for both")
        if self.delimiter is not None and not self.delimiter.isascii():
            raise InputError(f"delimiter must be an ASCII character, got {self.delimiter!r}")
        if self.encoding is not None:
            self._check_encoding(self.encoding)

    @staticmethod
    def _check_encoding(encoding: str) -> None:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise InputError(
                f"encoding must be one that Python knows, got {encoding!r}; leave it out to detect it"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a source of plain values; unknown names are refused."""
        return cls(**_known(cls, values))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a table becomes a dataset. Part of the dataset's identity.

    Raises
    ------
    InputError
        If a field breaks its rule.
    """

    label: str
    """Name of the column to predict."""
    drop: tuple[str, ...] = ()
    """Columns to leave out."""
    missing_values: tuple[str, ...] = ()
    """Texts that mean missing, besides empty, NA, N/A, NaN, null, None and ? (those in any case)."""
    text_columns: tuple[str, ...] = ()
    """Columns to take as text though their values are numbers."""
    test_fraction: float = 0.2
    """Share of the rows held back for the test, in (0, 1)."""
    split_seed: int = 0
    """Seed of the split and of the order of rows in training, >= 0."""
    missing: Missing = "zero"
    """What takes the place of a missing value."""
    indicator: bool = False
    """Whether a column with missing training values gets a second one that says where."""
    scale: Scale = "minmax"
    """minmax: training range to [0, 1]; standard: mean 0, deviation 1; none: as it is."""
    clip: bool = False
    """Whether values outside the training range, in test rows and new rows, are moved to its ends."""

    def __post_init__(self) -> None:
        for name in ("drop", "missing_values", "text_columns"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        if not self.label:
            raise InputError("label must name a column, got an empty text; give the column to predict")
        if self.label in self.drop:
            raise InputError(f"label must not be dropped, got {self.label!r} in drop; remove it there")
        if not 0.0 < self.test_fraction < 1.0:
            raise InputError(f"test_fraction must be in (0, 1), got {self.test_fraction}; 0.2 is usual")
        if not 0 <= self.split_seed < 2**63:
            raise InputError(f"split_seed must be in [0, 2^63), got {self.split_seed}")
        if self.missing not in get_args(Missing):
            raise InputError(f"missing must be one of {', '.join(get_args(Missing))}, got {self.missing!r}")
        if self.scale not in get_args(Scale):
            raise InputError(f"scale must be one of {', '.join(get_args(Scale))}, got {self.scale!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a recipe of plain values; unknown names are refused."""
        return cls(**_known(cls, values))


def _texts(name: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(v, str) for v in values):
        raise InputError(f"{name} must be a list of texts, got {values!r}; put it in a list")
    return tuple(values)


def _known(cls: type[Source] | type[Recipe], values: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise InputError(
            f"unknown field {unknown[0]!r}; a {cls.__name__.lower()} has {', '.join(sorted(known))}"
        )
    return dict(values)
