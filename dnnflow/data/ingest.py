"""From a CSV to a dataset, out of core.

One pass over the text (parsing is the cost) keeps each block's columns on disk in binary; the split, the
statistics and the chunks are made of those. Every step is a task on one block or chunk, so that it runs in
threads or on a cluster, with memory for a few blocks only.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.data import fitting
from dnnflow.data.chunks import SPLITS, chunk_rows, chunks, create_arrays, write_chunk
from dnnflow.data.csv_reader import Block, Dialect, RowError, blocks, line_of, located, read_dialect
from dnnflow.data.dataset import FORMAT, MANIFEST, Dataset, dataset_id, sealed
from dnnflow.data.inference import (
    ColumnFacts,
    Place,
    Plan,
    check_label,
    decide,
    fault,
    first_plan,
    merge_facts,
    parse_block,
)
from dnnflow.data.preprocess import Preprocessing
from dnnflow.data.recipe import Recipe, Source
from dnnflow.data.schema import Classes, Column, Kind, check_columns, shown
from dnnflow.data.source_text import BLOCK_BYTES, Cutter, Text, open_text
from dnnflow.data.split import EXACT_SPLIT_ROWS, SplitRule, exact_rule, threshold_rule
from dnnflow.data.statistics import (
    BlockStatistics,
    KeptBlock,
    Layout,
    MedianSearch,
    Moments,
    fit_block,
    frequency_block,
    label_block,
    median_block,
    merge_all_frequencies,
)
from dnnflow.data.tasks import Tasks, open_scratch, open_tasks
from dnnflow.errors import DataError
from dnnflow.events import Listener, RowsRead, ignore
from dnnflow.paths import directory_aside, write_file

if TYPE_CHECKING:
    import distributed

HELD_BYTES = 512 << 20
"""Parsed columns up to so many bytes stay in memory, in this process; the others go to disk."""

_SAMPLE_BYTES = 1 << 16


def ingest(
    source: Source,
    recipe: Recipe,
    datasets: Path,
    *,
    client: "distributed.Client | None" = None,
    workers: int | None = None,
    listener: Listener = ignore,
    block_bytes: int = BLOCK_BYTES,
) -> Dataset:
    """Make the dataset of a CSV, or find the one that was made of the same text by the same recipe.

    Parameters
    ----------
    source : Source
        The CSV.
    recipe : Recipe
        What to make of it.
    datasets : Path
        Directory of all datasets; with a client, one that its workers see too.
    client : distributed.Client, optional
        Cluster to run on; it is left open. By default threads of this process do the work.
    workers : int, optional
        How many threads without a client; all cores by default.
    listener : callable
        Told of progress.
    block_bytes : int
        Text a task parses; changes nothing about the result.

    Raises
    ------
    DataError
        If the table breaks a rule; nothing is left behind.
    """
    datasets = Path(datasets).absolute()
    datasets.mkdir(parents=True, exist_ok=True)
    with open_scratch(datasets) as scratch:
        text = open_text(source, scratch, copy=_is_remote(source, client), block_bytes=block_bytes)
        dialect, start = read_dialect(text, source)
        reading = _reading(dialect)
        path = datasets / dataset_id(text.digest, reading, recipe)
        if not (path / MANIFEST).is_file():
            with open_tasks(client, workers) as tasks:
                parts = blocks(text, dialect, start)
                build(_Table(text, dialect, parts, recipe, scratch, tasks, listener), path, reading)
        return Dataset.open(path)


def _reading(dialect: Dialect) -> dict[str, Any]:
    return {"delimiter": dialect.delimiter, "quote": dialect.quote, "header": dialect.header}


def _is_remote(source: Source, client: "distributed.Client | None") -> bool:
    """Say whether some worker does not see the file that the source names."""
    if client is None or "://" in source.url:
        return False
    seen = client.run(_size, str(Path(source.url).absolute()))
    return len({*seen.values(), _size(source.url)}) > 1


def _size(path: str) -> int:
    file = Path(path)
    return file.stat().st_size if file.is_file() else -1


@dataclass(frozen=True)
class _Table:
    """A table on its way to a dataset."""

    text: Text
    dialect: Dialect
    blocks: list[Block]
    recipe: Recipe
    scratch: Path
    tasks: Tasks
    listener: Listener


def build(table: _Table, path: Path, reading: Mapping[str, Any]) -> None:
    """Parse, split, fit and write."""
    parsed = _parse(table)
    classes, rule = _split(table, parsed)
    layout = _layout(table.recipe, parsed.columns, classes, rule)
    fitted = _fit(table, parsed, layout)
    with directory_aside(path) as aside:
        checksums = _write(table, parsed, fitted, aside)
        table.text.check_unchanged()
        manifest = {
            "format": FORMAT,
            "id": path.name,
            "source": {"bytes": table.text.end - table.text.start, "sha256": table.text.digest},
            "reading": dict(reading),
            "recipe": table.recipe.to_dict(),
            "schema": [column.to_dict() for column in parsed.columns],
            "class_counts": {
                "train": fitted.statistics.train.tolist(),
                "test": fitted.statistics.test.tolist(),
            },
            "dropped_rows": parsed.rows - parsed.labels.values,
            "preprocessing": fitted.preprocessing.to_dict(),
            "chunk_rows": {split: fitted.chunk_rows(split) for split in SPLITS},
            "checksums": checksums,
        }
        write_file(aside / MANIFEST, sealed(manifest))


@dataclass(frozen=True)
class _Parsed:
    """A table's blocks on disk, and what its columns are."""

    blocks: list[KeptBlock]
    rows: int
    columns: list[Column]
    """The features."""
    labels: ColumnFacts


def _parse(table: _Table) -> _Parsed:
    """Parse the text; a second time in the rare case that later blocks change the type of a column."""
    plan = _plan(table)
    kept, facts = _parse_by(table, plan)
    kinds = _kinds(table, plan, kept, facts)
    text = frozenset(n for n, kind in kinds.items() if kind in (Kind.TEXT, Kind.BOOLEAN))
    undecided = frozenset(n for n, kind in kinds.items() if kind is Kind.EMPTY)
    if text - undecided != plan.text - undecided:
        plan = replace(plan, text=text)
        kept, facts = _parse_by(table, plan)
        kinds = _kinds(table, plan, kept, facts)
    rows = sum(block.rows for block in kept)
    check_label(plan.label, facts[plan.label])
    if not text and Kind.NUMBER not in kinds.values():
        raise DataError(
            f"a table needs a feature column with values, got none besides the label {plan.label!r}; "
            "check delimiter and drop"
        )
    columns = [Column(name, kind, 1 - facts[name].values / rows) for name, kind in kinds.items()]
    return _Parsed(kept, rows, columns, facts[plan.label])


def _plan(table: _Table) -> Plan:
    recipe, names = table.recipe, table.dialect.columns
    check_columns(names, recipe.label, {"drop": recipe.drop, "text_columns": recipe.text_columns})
    features = tuple(n for n in names if n != recipe.label and n not in recipe.drop)
    forced = frozenset(recipe.text_columns) & frozenset(features)
    draft = Plan(table.dialect, recipe.label, features, forced, recipe.missing_values)
    head = table.blocks[0]
    cutter = Cutter(table.dialect.quote.encode(), head.start, _SAMPLE_BYTES)
    cutter.feed(head.read())
    sample = replace(head, end=min([*cutter.cuts, head.end]))
    try:
        return first_plan(sample, draft)
    except RowError as error:
        raise located(error, 0, table.text, table.dialect, head) from None


def _parse_by(table: _Table, plan: Plan) -> tuple[list[KeptBlock], dict[str, ColumnFacts]]:
    kept: list[KeptBlock] = []
    total = {name: ColumnFacts() for name in (*plan.features, plan.label)}
    rows = read = 0
    paths = [table.scratch / f"{block.index}.arrow" for block in table.blocks]
    held = 0
    limit = HELD_BYTES if table.tasks.in_process else 0
    calls = (
        (block, plan, path if held >= limit else None)
        for block, path in zip(table.blocks, paths, strict=True)
    )
    for block, path, facts in zip(
        table.blocks, paths, table.tasks.run("parse", parse_block, calls), strict=True
    ):
        if facts.error:
            raise located(RowError(*facts.error), rows, table.text, table.dialect, block)
        merge_facts(total, facts, plan)
        kept.append(KeptBlock(path, rows, facts.rows, facts.table))
        held += facts.table.nbytes if facts.table is not None else 0
        rows, read = rows + facts.rows, read + facts.read_bytes
        table.listener(RowsRead(rows, read, table.text.end - table.blocks[0].start))
    return kept, total


def _kinds(
    table: _Table, plan: Plan, kept: list[KeptBlock], facts: dict[str, ColumnFacts]
) -> dict[str, Kind]:
    """Decide what the features are, and refuse the first value that does not fit."""
    kinds = {n: decide(facts[n], forced_text=n in table.recipe.text_columns) for n in plan.features}
    faults = [fault(name, kind, facts[name]) for name, kind in kinds.items()]
    placed = [(place, reason) for place, reason in faults if place is not None]
    if placed:
        place, reason = min(placed, key=lambda p: (p[0].block, p[0].row))
        raise DataError(f"{_where(table, kept, place)}, {reason}")
    for _, reason in faults:
        if reason:
            raise DataError(reason)
    return kinds


def _where(table: _Table, kept: list[KeptBlock], place: Place) -> str:
    row = kept[place.block].first_row + place.row
    line = line_of(table.text, table.dialect, table.blocks[place.block], place.row)
    return f"row {row} (line {line})"


def _split(table: _Table, parsed: _Parsed) -> tuple[Classes, SplitRule]:
    recipe = table.recipe
    classes = Classes.of(parsed.labels.texts)
    classes.check(recipe.label)
    if parsed.labels.values > EXACT_SPLIT_ROWS:
        return classes, threshold_rule(recipe.split_seed, recipe.test_fraction, len(classes.names))
    calls = ((block, recipe.label, classes) for block in parsed.blocks)
    codes = np.concatenate(list(table.tasks.run("label", label_block, calls)))
    _check_counts(classes, np.bincount(codes[codes >= 0], minlength=len(classes.names)), recipe.label)
    return classes, exact_rule(recipe.split_seed, recipe.test_fraction, codes)


def _check_counts(classes: Classes, counts: NDArray[np.integer], label: str) -> None:
    if (counts < 2).any():
        name = shown(classes.names[int(np.argmin(counts))])
        raise DataError(
            f"a class needs at least 2 rows (one to train, one to test), got 1 of {name} in column "
            f"{label!r}; add rows of it, or remove that row"
        )


def _layout(recipe: Recipe, columns: list[Column], classes: Classes, rule: SplitRule) -> Layout:
    return Layout(
        recipe.label,
        tuple(c.name for c in columns if c.kind is Kind.NUMBER),
        tuple(c.name for c in columns if c.kind in (Kind.TEXT, Kind.BOOLEAN)),
        frozenset(c.name for c in columns if c.kind is Kind.BOOLEAN),
        classes,
        rule,
    )


@dataclass(frozen=True)
class _Fitted:
    """What is known of all training rows, and how many rows of each split a block has."""

    layout: Layout
    statistics: BlockStatistics
    preprocessing: Preprocessing
    block_rows: dict[str, list[int]]

    def chunk_rows(self, split: str) -> int:
        return chunk_rows(sum(self.block_rows[split]), self.preprocessing.n_features)


def _fit(table: _Table, parsed: _Parsed, layout: Layout) -> _Fitted:
    block_rows: dict[str, list[int]] = {split: [] for split in SPLITS}

    def counted() -> Iterator[BlockStatistics]:
        for part in table.tasks.run("fit", fit_block, ((block, layout) for block in parsed.blocks)):
            block_rows["train"].append(int(part.train.sum()))
            block_rows["test"].append(int(part.test.sum()))
            yield part

    statistics = reduce(BlockStatistics.merge, counted())
    _check_counts(layout.classes, statistics.train + statistics.test, layout.label)
    fill = _fill(table, parsed, layout, statistics.moments)
    preprocessing = fitting.fit(table.recipe, parsed.columns, layout, statistics, fill)
    return _Fitted(layout, statistics, preprocessing, block_rows)


def _fill(table: _Table, parsed: _Parsed, layout: Layout, moments: Moments) -> NDArray[np.float64]:
    """Return what takes the place of missing numbers, shape (number columns,)."""
    if table.recipe.missing == "mean":
        return moments.mean
    if table.recipe.missing == "median":
        search = MedianSearch.start(moments.count)
        while not search.finished:
            rounds = [(block, layout, search) for block in parsed.blocks]
            search = search.narrow(reduce(np.add, table.tasks.run("median", median_block, rounds)))
        return np.where(moments.count > 0, search.medians(), 0.0)
    if table.recipe.missing == "most_frequent":
        calls = [(block, layout) for block in parsed.blocks]
        parts = table.tasks.run("frequency", frequency_block, calls)
        fill = fitting.modes(reduce(merge_all_frequencies, parts))
        fitting.check_modes(fill, parsed.columns)
        return fill
    return np.zeros(len(layout.numbers))


def _write(table: _Table, parsed: _Parsed, fitted: _Fitted, aside: Path) -> dict[str, list[tuple[str, str]]]:
    """Write both splits' arrays; return the checksums of their chunks."""
    checksums: dict[str, list[tuple[str, str]]] = {}
    for split in SPLITS:
        counts, size = fitted.block_rows[split], fitted.chunk_rows(split)
        create_arrays(aside, split, sum(counts), fitted.preprocessing.n_features, size)
        calls = (
            (chunk, fitted.layout, fitted.preprocessing, size, aside)
            for chunk in chunks(split, parsed.blocks, counts, size)
        )
        checksums[split] = list(table.tasks.run("write", write_chunk, calls))
    return checksums
