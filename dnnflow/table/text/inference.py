"""Infer the types of columns over all blocks of a table.

A block is parsed by a plan (which columns are text). Its facts say how far the plan held; the facts of all
blocks together decide. A column is a number when at least half of its values are; then the first value that
is not is an error. It is one, too, when all of its values are numbers in one dress (units, separators).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.table.columns.arrow import TEXT, Columns, codes, numbers, numbers_in, text_column, whole
from dnnflow.table.columns.dressing import COMMA, POINT, DressFacts, NumberStyle, undress
from dnnflow.table.columns.iso_times import iso_facts, read_times
from dnnflow.table.columns.kinds import (
    MAX_CATEGORIES,
    MAX_CLASSES,
    ColumnKind,
    Markers,
    composed,
    is_boolean,
    plain_name,
    to_number,
)
from dnnflow.table.columns.times import TimeFacts, TimeStyle, is_compact_date, is_time
from dnnflow.table.text.csv_reader import Block, Dialect, RowError, parse, read_quickly, unreadable

MOST_OTHERS = 8
"""Of the texts of a column that are no numbers, so many are known."""
_STANDARD, _UNREAD, _TIMELESS = Markers(), DressFacts(), TimeFacts()


@dataclass(frozen=True)
class ParsePlan:
    """How to parse a table's blocks."""

    dialect: Dialect
    labels: tuple[str, ...]
    features: tuple[str, ...]
    text: frozenset[str]
    """Features to parse as text; the others are numbers."""
    markers: Markers
    quick: bool = False
    """Whether to try the quick reader first."""
    mark: tuple[str, ...] = ()
    """The column that divides the rows, if there is one, then that of their weights; parsed as text."""
    label_markers: Markers = _STANDARD
    """What stands for a missing label."""
    exact: frozenset[str] = frozenset()
    """Columns that are text as it stands."""
    declared: frozenset[str] = frozenset()
    """Features that are text by their type: numbers only where all are dressed."""
    styles: Mapping[str, NumberStyle | TimeStyle] = field(default_factory=dict)
    """Of dressed numbers, features and labels, and of times: they are parsed as text, and kept as numbers."""
    doubtful: tuple[str, ...] = ()
    """Columns of plain numbers whose points may separate thousands, by the first records."""
    compact: tuple[str, ...] = ()
    """Columns of plain numbers that may be days, such as 20240531, by the first records."""
    digits: Mapping[str, int] = field(default_factory=dict)
    """Columns of numbers that are written with as many digits each in the first records, and how many."""

    @property
    def label_styles(self) -> dict[str, NumberStyle | TimeStyle]:
        """Those of labels, which the recipe says."""
        return {name: style for name, style in self.styles.items() if name in self.labels}

    def is_text(self, name: str) -> bool:
        """Say whether a column is text even if it looks like plain numbers."""
        return name in self.exact or name in self.declared

    @property
    def numbers(self) -> tuple[str, ...]:
        """Features that are parsed as numbers."""
        return tuple(name for name in self.features if name not in self.text)

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns to parse as text, the labels among them."""
        return (*(name for name in self.features if name in self.text), *self.labels, *self.mark)

    def types(self) -> dict[str, pa.DataType]:
        """Return the type of each wanted column."""
        features = {n: TEXT if n in self.text else pa.float64() for n in self.features}
        return {**features, **dict.fromkeys((*self.labels, *self.mark), TEXT)}


class BadValue(NamedTuple):
    """A value that breaks a rule; the row counts from 1 in its block."""

    block: int
    row: int
    value: str


@dataclass(frozen=True)
class ColumnFacts:
    """What the values of a column are, in some blocks."""

    values: int = 0
    """Rows that are not missing."""
    numbers: int = 0
    """Of these, how many are numbers."""
    boolean: bool = True
    """Whether no value has been other than true, false, yes or no."""
    texts: frozenset[str] = frozenset()
    """Distinct values, of a column parsed as text; no more are added once there are too many."""
    first_text: BadValue | None = None
    """The first value that is not a number."""
    first_infinite: BadValue | None = None
    fractions: bool = False
    """Whether some value of a column parsed as text is a number that is not whole."""
    others: frozenset[str] = frozenset()
    """Distinct values of a column parsed as text that are no numbers; a few of them."""
    dress: DressFacts = _UNREAD
    """How the values of a column parsed as text may be read as numbers."""
    gone: Mapping[str, int] = field(default_factory=dict)
    """Rows of each spelling of a missing value, of a column parsed as text."""
    begins: float | None = None
    """The first value of a column of numbers that counts its rows."""
    is_renewed: bool = False
    """Whether datasets by earlier rules read some value otherwise."""
    clock: TimeFacts = _TIMELESS
    """How the values of a column parsed as text may be read as instants or durations."""
    first_odd: BadValue | None = None
    """The first value that is neither, where nearly all are; else the first that may be several dates."""
    padded: str = ""
    """A number that begins with 0, of a column whose numbers are written with as many digits each."""
    is_uneven: bool = False
    """Whether they are not written so, somewhere."""

    def merge(self, other: "ColumnFacts", limit: int) -> "ColumnFacts":
        """Add the facts of blocks that come later."""
        return ColumnFacts(
            self.values + other.values,
            self.numbers + other.numbers,
            self.boolean and other.boolean,
            self.texts if len(self.texts) > limit else self.texts | other.texts,
            self.first_text or other.first_text,
            self.first_infinite or other.first_infinite,
            self.fractions or other.fractions,
            self.others if len(self.others) > MOST_OTHERS else self.others | other.others,
            self.dress.merge(other.dress),
            {t: self.gone.get(t, 0) + other.gone.get(t, 0) for t in (*self.gone, *other.gone)},
            self._counts_on(other),
            self.is_renewed or other.is_renewed,
            self.clock.merge(other.clock),
            self.first_odd or other.first_odd,
            self.padded or other.padded,
            self.is_uneven or other.is_uneven,
        )

    def _counts_on(self, other: "ColumnFacts") -> float | None:
        if not self.values or self.begins is None or other.begins is None:
            return None if self.values else other.begins
        return self.begins if other.begins == self.begins + self.values else None


@dataclass(frozen=True)
class BlockFacts:
    """What one parsed block is like."""

    rows: int
    columns: dict[str, ColumnFacts] = field(default_factory=dict)
    """Of the features, the labels and the column that divides the rows."""
    kept: Columns | None = None
    """The columns, unless they were written to a file."""
    error: tuple[int, str] | None = None
    """Row (from 1 in the block) and reason, if a row cannot be read."""
    found: frozenset[str] = frozenset()
    """The user's own markers of missing values that stand in it."""
    is_renewed: bool = False
    """Whether datasets by earlier rules read some value otherwise."""


def parse_block(block: Block, plan: ParsePlan, spill: Path | None) -> BlockFacts:
    """Parse one block, keep its columns in the file `spill` if there is one, and say what they are like."""
    data = block.read()
    try:
        columns, facts = _parse_columns(data, plan, block.index)
    except RowError as error:
        return BlockFacts(0, error=(error.row, error.reason))
    padding = dict(_padding(data, columns, plan))
    found = described(columns, facts, plan, block.index, spill, _found_markers(data, plan))
    return replace(found, columns=found.columns | {
        name: replace(found.columns[name], padded=padded, is_uneven=is_uneven)
        for name, (padded, is_uneven) in padding.items()
    })  # fmt: skip


def _padding(data: bytes, columns: Columns, plan: ParsePlan) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Yield columns with numbers of other digits: one that begins with 0, and whether some have others.

    Texts are read only where some number is smaller or larger than one of those digits without a leading 0.
    """
    for name, digits in plan.digits.items():
        if name not in columns.places or not columns.rows:
            continue
        values = columns.number(name)
        if 10 ** (digits - 1) <= np.nanmin(values, initial=np.inf) and not (values >= 10**digits).any():
            continue
        texts = whole(parse(data, plan.dialect, {name: TEXT}), name).dictionary.to_pylist()
        known = [text for text in map(str.strip, texts) if not plan.markers.has_number(text)]
        padded = min((text for text in known if text.startswith("0")), default="")
        yield name, (padded, digits_of(known) != digits)


def digits_of(texts: Iterable[str]) -> int:
    """Return with how many digits all of these numbers are written; 0 unless with as many, and several."""
    lengths = {len(text) if text.isascii() and text.isdigit() else 0 for text in texts}
    found = lengths.pop() if len(lengths) == 1 else 0
    return found if found > 1 else 0


def described(
    columns: Columns, facts: dict[str, ColumnFacts], plan: ParsePlan, index: int, spill: Path | None,
    found: Iterable[str] = (),
) -> BlockFacts:  # fmt: skip
    """Say what the columns of a block are like, besides the facts known of some, and keep them tidied.

    `found` are the user's own markers of missing values that are known to stand in it.
    """
    texts, dressed = {}, {}
    for name in columns.texts.column_names:
        style = plan.styles.get(name)
        facts[name], texts[name] = _text_facts(columns.text(name), plan, name, index)
        if style is not None and name in plan.features:
            dressed[name] = _undressed(texts[name], style)
    if texts:  # all at once: one by one takes the square of their number
        columns = columns.with_texts([texts[name] for name in columns.texts.column_names])
    if dressed:
        columns = columns.with_numbers(dressed)
    own, is_renewed = set(found), False
    for marker in plan.markers.own:
        number = to_number(marker)
        if number is None:
            continue
        hits = columns.values == number
        hits[[columns.places[name] for name in dressed if isinstance(plan.styles[name], TimeStyle)]] = False
        if hits.any():
            own.add(marker)
            is_renewed = True
            columns = replace(columns, values=np.where(hits, np.nan, columns.values))
    facts = {**_number_facts(columns, index), **facts}
    own |= _markers_in(facts, plan)
    if spill is not None:
        columns.write(spill)
    capped = {name: _capped(column, _limit(name, plan)) for name, column in facts.items()}
    is_renewed |= any(column.is_renewed for column in capped.values())
    return BlockFacts(
        columns.rows, capped, columns if spill is None else None, None, frozenset(own), is_renewed
    )


def _markers_in(facts: Mapping[str, ColumnFacts], plan: ParsePlan) -> set[str]:
    """Return which of the user's markers of missing values stand in columns of text."""
    own = {*plan.markers.own, *plan.label_markers.own}
    if not own:
        return set()
    texts = {text for column in facts.values() for text in (*column.gone, *column.texts)}
    plain = {plain_name(text) for name in plan.labels for text in (*facts[name].gone, *facts[name].texts)}
    return {marker for marker in own if marker in texts or plain_name(marker) in plain}


def _undressed(tidy: Any, style: NumberStyle | TimeStyle) -> NDArray[np.float64]:
    """Return the numbers of a dressed column, NaN where missing or none."""
    if isinstance(style, TimeStyle):
        return np.append(read_times(style, tidy.dictionary), np.nan)[codes(tidy)]
    read = (style.read(text) for text in tidy.dictionary.to_pylist())
    found: NDArray[np.float64] = np.array(
        [*(np.nan if number is None else number for number in read), np.nan]
    )
    return found[codes(tidy)]


def _found_markers(data: bytes, plan: ParsePlan) -> set[str]:
    """Return which of the user's markers stand in a block as a whole field."""
    ends = rb"[\s" + re.escape((plan.dialect.delimiter + plan.dialect.quote).encode()) + rb"]"
    own = {*plan.markers.own, *plan.label_markers.own} - {""}
    pattern = rb"(?:^|%b)%b(?:$|%b)"
    return {one for one in own if re.search(pattern % (ends, re.escape(one.encode()), ends), data)}


def _limit(name: str, plan: ParsePlan) -> int:
    return MAX_CLASSES if name in plan.labels else MAX_CATEGORIES


def _capped(facts: ColumnFacts, limit: int) -> ColumnFacts:
    if len(facts.texts) <= limit + 1:
        return facts
    return replace(facts, texts=frozenset(nsmallest(limit + 1, facts.texts)))


def _parse_columns(data: bytes, plan: ParsePlan, index: int) -> tuple[Columns, dict[str, ColumnFacts]]:
    """Parse by plan; where text stands in a column of numbers, also return that column's facts."""
    if plan.quick and (columns := read_quickly(data, plan.dialect, plan.numbers, plan.texts)) is not None:
        return columns, {}
    markers = plan.markers.spellings()
    types = plan.types()
    try:
        table = parse(data, plan.dialect, types, markers)
        values = [numbers(whole(table, name)) for name in plan.numbers]
        return Columns.of(plan.numbers, values, table.select(plan.texts)), {}
    except pa.ArrowInvalid:
        pass  # some number is none: find out where, at the price of a second parse of this block
    try:
        table = parse(data, plan.dialect, dict.fromkeys(types, TEXT))
    except pa.ArrowInvalid as error:
        raise unreadable(error) from None
    corrected, values = {}, []
    for name in plan.numbers:
        facts, column = numbers_of_text(whole(table, name), plan, name, index)
        if facts.first_text is not None:
            corrected[name] = facts
        values.append(column)
    return Columns.of(plan.numbers, values, table.select(plan.texts)), corrected


def numbers_of_text(
    column: pa.DictionaryArray, plan: ParsePlan, name: str, index: int
) -> tuple[ColumnFacts, NDArray[np.float64]]:
    """Return a text column's facts without its texts, and the number each row stands for, NaN without."""
    facts, tidy = _text_facts(column, plan, name, index)
    values: NDArray[np.float64] = np.append(numbers_in(tidy.dictionary), np.nan)[codes(tidy)]
    return replace(facts, texts=frozenset()), values


class _Tidied(NamedTuple):
    """A text column without blanks around its texts, in one normal form."""

    column: pa.DictionaryArray
    texts: list[str]
    """Of its dictionary."""
    written: list[str]
    """The same before a label's dressed numbers became plain ones."""
    codes: NDArray[np.int32]
    """Place of each row's text, shape (rows,); the number of texts where it is missing."""
    counts: NDArray[np.int64]
    """Rows of each text, shape (texts,)."""
    missed: dict[str, int]
    """Rows of each spelling of a missing value."""
    is_renewed: bool


def _text_facts(
    column: pa.DictionaryArray, plan: ParsePlan, name: str, index: int
) -> tuple[ColumnFacts, pa.DictionaryArray]:
    """Return the facts of a text column, and the column tidied."""
    tidy, style = _tidied(column, plan, name), plan.styles.get(name)
    is_label, is_there, counted = name in plan.labels, tidy.counts > 0, tidy.counts.tolist()
    read = style.read if style is not None and style.is_asked and not is_label else to_number
    if isinstance(style, TimeStyle) and read is not to_number:
        seconds = read_times(style, tidy.column.dictionary).tolist()
        values = [None if np.isnan(one) else one for one in seconds]
    else:
        values = [read(text) for text in tidy.texts]
    numeric = np.array([value is not None for value in values], dtype=bool)
    known = np.array([0.0 if value is None else value for value in values])
    plain = values if read is to_number else [to_number(text) for text in tidy.texts]
    present = [text for text, count in zip(tidy.texts, counted, strict=True) if count]
    others = nsmallest(MOST_OTHERS + 1, {
        text for text, count, number in zip(tidy.texts, counted, plain, strict=True)
        if count and number is None
    })  # fmt: skip
    facts = ColumnFacts(
        int(tidy.counts.sum()),
        int(tidy.counts[numeric].sum()),
        all(is_boolean(text) for text in present),
        frozenset(present),
        _first(~numeric & is_there, tidy, index),
        _first(np.isinf(known) & is_there, tidy, index),
        bool((np.isfinite(known) & (known != np.floor(known)) & is_there).any()),
        frozenset(others),
        gone=tidy.missed,
        is_renewed=tidy.is_renewed,
    )
    if name in plan.exact or not (name in plan.text or (is_label and (others or style))):
        return facts, tidy.column
    return _with_writing(facts, tidy, index), tidy.column


def _with_writing(facts: ColumnFacts, tidy: _Tidied, index: int) -> ColumnFacts:
    """Add how the values of a column may be read as dressed numbers, instants or durations."""
    counted = tidy.counts.tolist()
    iso = iso_facts(tidy.column.dictionary, tidy.counts) if facts.others else None
    if iso is not None:
        return replace(facts, clock=iso)
    dress = DressFacts.of(zip(tidy.written, counted, strict=True))
    if not facts.others:
        return replace(facts, dress=dress)
    clock = TimeFacts.of(zip(tidy.texts, counted, strict=True))
    if 2 * clock.read < facts.values:  # in all blocks together nearly all may be times
        return replace(facts, dress=dress, clock=clock)
    is_there = tidy.counts > 0
    timeless = np.array([not is_time(text) for text in tidy.texts], dtype=bool) & is_there
    doubtful = np.array([text == clock.differ for text in tidy.texts], dtype=bool) & is_there
    odd = _first(timeless, tidy, index) or _first(doubtful, tidy, index)
    return replace(facts, dress=dress, clock=clock, first_odd=odd)


def _tidied(column: pa.DictionaryArray, plan: ParsePlan, name: str) -> _Tidied:
    dictionary = pc.utf8_trim_whitespace(column.dictionary)
    texts: list[str] = dictionary.to_pylist()
    tidied = texts if "".join(texts).isascii() else [composed(text) for text in texts]
    gone = np.array([*map(_missing(plan, name), tidied), True])
    is_renewed = tidied != texts or _is_otherwise_missing(plan, name, tidied, gone)
    written, style = tidied, plan.styles.get(name)
    if name in plan.labels and isinstance(style, NumberStyle):  # a label's numbers are kept as texts
        tidied = [style.plainly(text) for text in tidied]
    if tidied != texts:
        texts, dictionary = tidied, pa.array(tidied, pa.string())
    row_codes = codes(column)
    tidy = text_column(row_codes, gone[row_codes], dictionary)
    rows = np.bincount(row_codes, minlength=len(texts) + 1)
    missed: dict[str, int] = {}
    for code in np.flatnonzero(gone & (rows > 0)).tolist():
        text = texts[code] if code < len(texts) else ""
        missed[text] = missed.get(text, 0) + int(rows[code])
    row_codes = np.where(gone[row_codes], len(texts), row_codes)
    counts = np.bincount(row_codes, minlength=len(texts) + 1)[: len(texts)]
    return _Tidied(tidy, texts, written, row_codes, counts, missed, is_renewed)


def _missing(plan: ParsePlan, name: str) -> Callable[[str], bool]:
    """Return what says of a column's text that it means missing."""
    if name in plan.labels:
        return plan.label_markers.has if name in plan.exact else plan.label_markers.has_label
    return plan.markers.has  # numbers are compared once they are read


def _is_otherwise_missing(plan: ParsePlan, name: str, texts: Sequence[str], gone: NDArray[np.bool_]) -> bool:
    """Say whether a text is missing now and was not before, or the other way round."""
    if name not in plan.labels:
        return False
    return {texts[code] for code in np.flatnonzero(gone[:-1]).tolist()} != plan.markers.every & {*texts}


def _first(wanted: NDArray[np.bool_], tidy: _Tidied, index: int) -> BadValue | None:
    """Return the place of the first row whose text is wanted."""
    if not wanted.any():
        return None
    row = int(np.argmax(np.append(wanted, False)[tidy.codes]))
    return BadValue(index, row + 1, tidy.texts[tidy.codes[row]])


def _number_facts(columns: Columns, index: int) -> dict[str, ColumnFacts]:
    rows = columns.rows
    with np.errstate(over="ignore", invalid="ignore"):
        # One sum tells that nothing is missing or infinite, which is so in most blocks.
        finite = np.isfinite(columns.values.sum())
    if not finite:
        return {name: _facts_of_numbers(columns.number(name), index) for name in columns.places}
    facts = dict.fromkeys(columns.places, ColumnFacts(rows, rows, boolean=rows == 0))
    for name in columns.places if rows else ():
        if (begins := _counted_from(columns.number(name))) is not None:
            facts[name] = replace(facts[name], begins=begins)
    return facts


def _counted_from(values: NDArray[np.float64]) -> float | None:
    """Return the first of finite numbers that count rows: each is one more than the one before."""
    first, last = float(values[0]), float(values[-1])
    if last - first != len(values) - 1 or not first.is_integer():
        return None
    return first if bool((np.diff(values) == 1).all()) else None


def _facts_of_numbers(values: NDArray[np.float64], index: int) -> ColumnFacts:
    infinite = np.isinf(values)
    place = None
    if infinite.any():
        row = int(np.argmax(infinite))
        place = BadValue(index, row + 1, str(values[row]))
    present = values[~np.isnan(values)]
    count = len(present)
    begins = _counted_from(values) if count and count == len(values) and place is None else None
    return ColumnFacts(count, count, boolean=count == 0, first_infinite=place, begins=begins)


def merge_facts(total: dict[str, ColumnFacts], block: BlockFacts, plan: ParsePlan) -> None:
    """Add a block's facts to those of the blocks before it."""
    for name, column in block.columns.items():
        total[name] = total[name].merge(column, _limit(name, plan))


def decide(facts: ColumnFacts, *, forced_text: bool) -> ColumnKind:
    """Return the kind of a column."""
    if not facts.values:
        return ColumnKind.EMPTY
    if not forced_text and 2 * facts.numbers >= facts.values:
        return ColumnKind.NUMBER
    return ColumnKind.BOOLEAN if facts.boolean else ColumnKind.TEXT


def dressed_style(name: str, facts: ColumnFacts, plan: ParsePlan) -> NumberStyle | TimeStyle | None:
    """Return how the numbers or times of a column parsed as text are written, as is said or beyond doubt."""
    if name in plan.styles and plan.styles[name].is_asked:
        return plan.styles[name]
    if name in plan.exact or facts.numbers == facts.values:
        return None
    return facts.clock.style(facts.values) or facts.dress.style(facts.values)


def is_dressed(facts: ColumnFacts) -> bool:
    """Say whether the first value that is no plain number is one in a dress."""
    return facts.first_text is not None and undress(facts.first_text.value) is not None


def first_plan(sample: Block, draft: ParsePlan) -> ParsePlan:
    """Return a plan by the types of the first records; later blocks may still prove it wrong.

    Raises
    ------
    RowError
        If a row of the sample cannot be read.
    """
    everything = replace(draft, text=frozenset(draft.features), quick=False)
    facts = parse_block(sample, replace(everything, styles=draft.label_styles), None)
    if facts.error:
        raise RowError(*facts.error)
    plain = {
        name: facts.columns[name] for name in draft.features if name not in {*draft.exact, *draft.styles}
    }
    doubtful = [name for name, one in plain.items() if one.dress.may_be_thousands(one.values)]
    compact = [
        name for name, one in plain.items() if one.texts and all(map(is_compact_date, one.texts))
    ]  # fmt: skip
    digits = {
        name: digits_of(facts.columns[name].texts) for name in draft.features if name not in draft.exact
    }
    digits = {name: found for name, found in digits.items() if found}
    known = replace(draft, doubtful=tuple(doubtful), compact=tuple(compact), digits=digits)
    planned = replan(known, facts.columns, sample)
    commas = [
        name for name, style in planned.styles.items() if isinstance(style, NumberStyle) and style.comma
    ]
    if commas:
        _check_points(commas[0], {n: one for n, one in plain.items() if n not in planned.styles})
    return planned


def _check_points(other: str, columns: Mapping[str, ColumnFacts]) -> None:
    """Refuse plain numbers with three digits behind every point, where a comma begins fractions elsewhere.

    Raises
    ------
    DataError
    """
    for name, facts in columns.items():
        dress = facts.dress
        if dress.differ and not dress.example and dress.comma == facts.values:
            raise DataError(
                f"column {name!r}: its points may begin fractions or separate thousands, as a comma begins "
                f'fractions in column {other!r}; say how they are written, numbers: {{{name}: "{COMMA}"}} or '
                f'numbers: {{{name}: "{POINT}"}}'
            )


def replan(plan: ParsePlan, facts: Mapping[str, ColumnFacts], sample: Block | None = None) -> ParsePlan:
    """Return a plan by the facts of columns that were parsed as text.

    With a `sample`, the quick reader is tried where it understands that one.
    """
    styles = {name: dressed_style(name, facts[name], plan) for name in plan.features if name in facts}
    found = {name: style for name, style in styles.items() if style is not None}
    text = {n for n in plan.features if 2 * facts[n].numbers < facts[n].values}
    planned = replace(
        plan, text=frozenset(text | plan.text | found.keys()), styles={**plan.label_styles, **found}
    )
    return replace(planned, quick=plan.quick and sample is not None and _is_quick(sample, planned))


def _is_quick(sample: Block, plan: ParsePlan) -> bool:
    """Say whether the quick reader understands the sample, and no number means missing."""
    if plan.markers.numbers:
        return False
    return read_quickly(sample.read(), plan.dialect, plan.numbers, plan.texts) is not None


def check_label(label: str, facts: ColumnFacts) -> None:
    """Refuse a label column without values.

    Raises
    ------
    DataError
    """
    if not facts.values:
        raise DataError(
            f"a label column needs values, but all of {label!r} are missing; choose another column"
        )
