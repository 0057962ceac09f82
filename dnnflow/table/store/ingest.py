"""Make a dataset of a table, out of core.

One pass over a text (parsing is the cost) keeps each block's columns on disk in binary; the split, the
statistics and the chunks are made of those. Every step is a task on one block or chunk, so that it runs in
threads or on a cluster, with memory for a few blocks only.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.events import Listener, Notice, ignore
from dnnflow.paths import directory_aside, try_directory, write_file
from dnnflow.table.columns.column_row import different_values
from dnnflow.table.columns.column_worth import (
    category_notes,
    leaks,
    long_numbers,
    names_among_values,
    row_ids,
    worth_notes,
    worthless,
)
from dnnflow.table.columns.kinds import HEADERLESS, NUMERIC, ColumnKind, FeatureColumn, Task, in_a_list
from dnnflow.table.columns.marks import (
    MarkColumn,
    MarkedBlock,
    WeighedBlock,
    check_training_rows,
    mark_block,
    test_block,
    weigh_block,
)
from dnnflow.table.columns.preprocess import Preprocessing
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.columns.split import (
    EXACT_SPLIT_ROWS,
    Marks,
    SplitRule,
    class_counts,
    exact_rule,
    threshold_rule,
)
from dnnflow.table.columns.statistics import (
    BlockStatistics,
    Layout,
    MedianSearch,
    Moments,
    check_modes,
    fit_block,
    fit_preprocessing,
    frequency_block,
    label_block,
    median_block,
    merge_all_frequencies,
    modes,
)
from dnnflow.table.columns.targets import Targets
from dnnflow.table.formats.frames import open_frame
from dnnflow.table.formats.keel import KEEL_BYTES, read_keel
from dnnflow.table.formats.open_table import FoundTable, find_tables, open_typed
from dnnflow.table.store.chunks import (
    SPLITS,
    Stored,
    chunk_rows,
    chunks,
    create_arrays,
    read_chunks,
    write_chunk,
    write_marks,
)
from dnnflow.table.store.column_blocks import Parsed, parse_table
from dnnflow.table.store.dataset import FORMAT, MANIFEST, RULES, Dataset, sealed
from dnnflow.table.store.stage_tasks import open_scratch, open_tasks
from dnnflow.table.store.table_parts import IngestJob, Table, TablePart, TextPart, TypedPart, summary_of
from dnnflow.table.store.table_targets import find_targets, label_notes, settle_rare, were_other
from dnnflow.table.text.csv_reader import Dialect, read_dialect
from dnnflow.table.text.encodings import is_utf
from dnnflow.table.text.inference import BadValue
from dnnflow.table.text.source_text import BLOCK_BYTES, Text, open_text, plain_text
from dnnflow.table.text.stream import open_stream

if TYPE_CHECKING:
    import distributed

_SEEN_CHUNKS, _SEEN_ROWS, _SEEN_VALUES = 8, 5_000, 2_000_000
"""Chunks, rows and values that are looked at once a dataset is written."""


def ingest(
    source: Any,
    recipe: Recipe,
    datasets: Path,
    *,
    client: "distributed.Client | None" = None,
    workers: int | None = None,
    listener: Listener = ignore,
    block_bytes: int = BLOCK_BYTES,
) -> Dataset:
    """Make the dataset of a table, or find the one that was made of the same table by the same recipe.

    Parameters
    ----------
    source : Source, or table in memory
        Where the table is and how it is read, or a pandas, polars or Dask DataFrame, an Arrow table, or a
        pair (X, y).
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
    OutputError
        If the directory cannot be written.
    """
    datasets = Path(datasets).absolute()
    try_directory(datasets)
    datasets.mkdir(parents=True, exist_ok=True)
    with open_scratch(datasets) as scratch, open_tasks(client, workers) as tasks:
        job = IngestJob(recipe, datasets, scratch, tasks, listener, block_bytes)
        found = find_tables(source) if isinstance(source, Source) else None
        single = found[0] if found is not None and len(found) == 1 else None
        is_plain = (
            single is not None and single.kind == "csv" and client is None and recipe.test_source is None
        )
        plain = plain_text(single.source) if single is not None and is_plain else None
        if plain is not None and single is not None and not _may_exist(datasets, plain[0], recipe):
            # Bytes of another encoding far behind the beginning: start again, as that one or with the error
            with suppress(UnicodeDecodeError):
                return _told(_streamed(job, *plain, single.source), listener)
        opened = None if found is None else open_parts(found, scratch / "rows", block_bytes, client)
        rows = opened or [_framed(source, scratch)]
        table = Table(replace(job, recipe=recipe.among(rows[0].columns)), tuple(rows))
        if recipe.test_source is not None:
            table = replace(table, test=tuple(_tests(table, source, recipe.test_source, client)))
        return _told(_found(table) or build(table, parse_table(table)), listener)


def _told(dataset: Dataset, listener: Listener) -> Dataset:
    """Tell a listener what a person should know of how the table was read."""
    for note in dataset.notes:
        listener(Notice(note))
    return dataset


def _found(table: Table) -> Dataset | None:
    """Return the dataset that the present rules have made of a table, if there is one."""
    for is_renewed in (True, False):
        path = table.path(is_renewed=is_renewed)
        if (path / MANIFEST).is_file() and (found := Dataset.open(path)).manifest.get("rules") == RULES:
            return found
    return None


def _streamed(job: IngestJob, text: Text, encoding: str, source: Source) -> Dataset:
    """Make the dataset of a text that is read once."""
    part = TextPart(text, *read_dialect(text, source), said=FoundTable(source, "csv").said)
    with open_stream(text, encoding, source, job.block_bytes) as stream:
        job = replace(job, recipe=job.recipe.among(part.columns))
        parsed = parse_table(Table(job, (part,)), stream.blocks(part.start))
        table = Table(job, (replace(part, text=stream.finish()),))
    return build(table, parsed)


def _framed(given: Any, scratch: Path) -> TypedPart:
    place = scratch / "frame"
    place.mkdir()
    return TypedPart(open_frame(given, place))


def _tests(table: Table, source: Any, url: str, client: "distributed.Client | None") -> Iterator[TablePart]:
    """Yield the parts of the test rows, which are read as the first ones are."""
    found, job = find_tables(_test_source(source, url)), table.job
    parts = open_parts(found, job.scratch / "test", job.block_bytes, client)
    known = {part.digest for part in table.rows}
    for part in parts:
        if part.digest in known:
            raise DataError(
                f"test_source must be another table, got the text of {getattr(source, 'url', url)}; leave it "
                "out to have test rows drawn"
            )
        yield replace(part, name=f"{part.name} of test_source".lstrip())


def _test_source(source: Any, url: str) -> Source:
    """Return the source of the test rows; sheet and query are those of the table where it may have some."""
    if not isinstance(source, Source):
        return Source(url=url)
    plain = source.replace(url=url, format=None, sheet=None, query=None)
    kind = find_tables(plain)[0].kind
    given = {"excel": {"sheet": source.sheet}, "sql": {"query": source.query}}
    return plain.replace(**given.get(kind, {}))


def open_parts(
    found: Sequence[FoundTable], folder: Path, block_bytes: int, client: "distributed.Client | None" = None
) -> list[TablePart]:
    """Open the files of a table; what must be kept of them on disk goes to directories beside `folder`."""
    parts = []
    for number, one in enumerate(found):
        place = folder.with_name(f"{folder.name}-{number}")
        place.mkdir()
        part: TablePart
        if one.is_text:
            part = _open_text(one, place, block_bytes, client)
        else:
            part = TypedPart(open_typed(one, place), said=one.said)
        parts.append(part if len(found) == 1 else replace(part, name=f"of {one.source.url}"))
    return parts


def _open_text(
    found: FoundTable, place: Path, block_bytes: int, client: "distributed.Client | None"
) -> TextPart:
    source = found.source
    if found.kind == "keel":
        source = source.replace(quote="", delimiter=None)
    text = open_text(source, place, copy=_is_remote(source, client), block_bytes=block_bytes)
    encoding = source.encoding or text.guessed
    encoding = "" if not encoding or is_utf(encoding) else encoding
    part = TextPart(text, Dialect(",", "", False, ()), text.start, is_guessed=bool(text.guessed),
                    said=found.said, encoding=encoding)  # fmt: skip
    if found.kind == "keel":
        keel = read_keel(text.read(text.start, min(text.end, text.start + KEEL_BYTES)))
        dialect = part.dialect._replace(columns=keel.columns)
        return replace(part, dialect=dialect, start=text.start + keel.length, keel=keel)
    dialect, start = read_dialect(text, source)
    return replace(part, dialect=dialect, start=start)


def _may_exist(datasets: Path, text: Text, recipe: Recipe) -> bool:
    """Say whether there is a dataset by that recipe of a text of the same length."""
    for path in datasets.glob(f"*/{MANIFEST}"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            manifest = json.loads(path.read_bytes())
            same = manifest["source"]["bytes"] == text.end - text.start
            if same and manifest["recipe"] == recipe.to_dict():
                return True
    return False


def _is_remote(source: Source, client: "distributed.Client | None") -> bool:
    """Say whether some worker does not see the file that the source names."""
    if client is None or "://" in source.url:
        return False
    seen = client.run(_size, str(Path(source.url).absolute()))
    return len({*seen.values(), _size(source.url)}) > 1


def _size(path: str) -> int:
    file = Path(path)
    return file.stat().st_size if file.is_file() else -1


def build(table: Table, parsed: Parsed) -> Dataset:
    """Split, fit and write."""
    targets = find_targets(table, parsed)
    is_renewed = parsed.is_renewed or were_other(targets, parsed)
    path = table.path(is_renewed=is_renewed)
    if not is_renewed and (path / MANIFEST).is_file():  # by earlier rules, which read it alike
        return Dataset.open(path)
    targets, rare_notes, n_rare = settle_rare(table, parsed, targets)
    marks, rule = Marks(), threshold_rule(0, 0.0, targets.n_strata)  # nothing by chance in marked blocks
    if table.test:
        parsed = _with_test_rows(table, parsed, targets)
    elif parsed.mark is not None:
        parsed, marks = _divided(table, parsed, parsed.mark, targets)
    else:
        rule = _split(table, parsed, targets)
    times = tuple(column.name for column in parsed.columns if column.kind is ColumnKind.TIME)
    layout = replace(_layout(parsed.columns, targets, rule), styles=parsed.styles, times=times)
    fitted, parsed = _fit(table, parsed, layout)
    test_marks = Marks()
    if table.job.recipe.weights is not None:
        weights, test_marks = _weights(table, parsed, layout, table.job.recipe.weights)
        marks = replace(marks, weights=weights)
    with directory_aside(path) as aside:
        checksums = _write(table, parsed, fitted, aside)
        marked = {
            split: write_marks(aside, split, of)
            for split, of in zip(SPLITS, (marks, test_marks), strict=True)
        }
        for part in table.parts:
            part.check_unchanged()
        dropped = parsed.rows - sum(map(sum, fitted.block_rows.values()))
        label_told = [*rare_notes, *label_notes(targets, parsed, dropped - n_rare)]
        manifest = {
            "id": path.name,
            **_described(table, parsed, fitted),
            **_findings(table, parsed, fitted, _seen(fitted, checksums["train"], aside), label_told),
            "dropped_rows": dropped,
            "checksums": checksums,
            "marks": marked["train"],
            **({"test_marks": marked["test"]} if marked["test"] else {}),
        }
        write_file(aside / MANIFEST, sealed(manifest))
    return Dataset.open(path)


def _findings(
    table: Table, parsed: Parsed, fitted: "_Fitted", seen: "_Seen", label_told: Sequence[str]
) -> dict[str, Any]:
    """Return what a manifest tells people of the columns and of how they were read."""
    useless = worthless(parsed.columns, fitted.layout, fitted.statistics) | seen.ids
    notes = [
        *worth_notes(useless, seen.leaks), *_header_notes(table, parsed, fitted), *parsed.notes,
        *category_notes(fitted.preprocessing, useless), *long_numbers(fitted.preprocessing), *label_told,
    ]  # fmt: skip
    found = {"useless": useless, "notes": notes}
    return {"different": seen.different, **{name: value for name, value in found.items() if value}}


class _Seen(NamedTuple):
    """What some encoded training rows show of each column."""

    different: dict[str, str]
    leaks: dict[str, str]
    ids: dict[str, str]


def _seen(fitted: "_Fitted", checksums: list[tuple[str, str]], root: Path) -> _Seen:
    """Look at the columns of rows of some chunks, evenly spread over the table."""
    preprocessing, rows = fitted.preprocessing, sum(fitted.block_rows["train"])
    stored = Stored(root, "train", rows, preprocessing.n_features, fitted.chunk_rows("train"), checksums,
                    preprocessing.targets)  # fmt: skip
    chunks_in_all = len(checksums)
    wanted = np.unique(np.linspace(0, chunks_in_all - 1, min(_SEEN_CHUNKS, chunks_in_all)).astype(int))
    features, labels = read_chunks(stored, wanted.tolist())
    most = max(200, min(_SEEN_ROWS, _SEEN_VALUES // max(1, preprocessing.n_features)))
    some = np.unique(np.linspace(0, len(labels) - 1, min(most, len(labels))).astype(int))
    features, labels = features[some], labels[some]
    counts = different_values(preprocessing, features, is_whole=len(some) == rows)
    ids = row_ids(preprocessing, features, fitted.statistics.moments, fitted.layout.numbers)
    return _Seen(counts, leaks(preprocessing, features, labels), ids)


def _header_notes(table: Table, parsed: Parsed, fitted: "_Fitted") -> Iterator[str]:
    """Say where the names of columns are among their values: the first line may be a row."""
    headed = [part for part in table.texts if part.keel is None and part.dialect.header]
    if not headed or any(HEADERLESS in note for note in parsed.notes):
        return
    if names := names_among_values(fitted.preprocessing):
        yield (
            f"the first line is taken for names, but {in_a_list(names, 5)} are values of their columns, too"
            f"{HEADERLESS}"
        )


def _described(table: Table, parsed: Parsed, fitted: "_Fitted") -> dict[str, Any]:
    """Return what a manifest says of a table and of what was fitted to it, as JSON types."""
    preprocessing = fitted.preprocessing
    is_measured = preprocessing.targets.task is not Task.CLASSIFICATION
    return {
        "format": FORMAT,
        "rules": RULES,
        "source": summary_of(table.rows),
        **({"test_source": summary_of(table.test)} if table.test else {}),
        "reading": table.rows[0].reading,
        "columns": list(table.rows[0].columns),
        "recipe": table.job.recipe.to_dict(),
        "schema": [column.to_dict() for column in parsed.columns],
        "class_counts": {
            "train": fitted.statistics.train.tolist(),
            "test": fitted.statistics.test.tolist(),
        },
        "preprocessing": preprocessing.to_dict(),
        "chunk_rows": {split: fitted.chunk_rows(split) for split in SPLITS},
        **({"targets": fitted.measured()} if is_measured else {}),
    }


def _split(table: Table, parsed: Parsed, targets: Targets) -> SplitRule:
    recipe = table.job.recipe
    if min(facts.values for facts in parsed.labels.values()) > EXACT_SPLIT_ROWS:
        return threshold_rule(recipe.split_seed, recipe.test_fraction, targets.n_strata)
    calls = ((block, targets) for block in parsed.blocks)
    strata = np.concatenate(list(table.job.tasks.run("label", label_block, calls)))
    targets.check_counts(class_counts(strata, targets.n_strata).tolist())
    return exact_rule(recipe.split_seed, recipe.test_fraction, strata)


def _divided(table: Table, parsed: Parsed, column: MarkColumn, targets: Targets) -> tuple[Parsed, Marks]:
    """Mark the test rows by the values of a column; ten bytes a row of the table are held for it."""
    recipe, found = table.job.recipe, []
    calls = ((block, column, targets) for block in parsed.blocks)
    for index, block in enumerate(table.job.tasks.run("mark", mark_block, calls)):
        _check(table, parsed, index, block)
        found.append(block)
    strata, values = np.concatenate([b.strata for b in found]), np.concatenate([b.values for b in found])
    labelled, test = strata >= 0, np.zeros(len(strata), dtype=np.bool_)
    if targets.task is not Task.CLASSIFICATION:
        targets.check_counts([int(labelled.sum())])
    test[labelled] = column.test(values[labelled], strata[labelled], recipe.test_fraction)
    train = labelled & ~test
    marks = column.marks(values[train])
    fitted = strata[train] if marks.validation is None else strata[train][~marks.validation]
    check_training_rows(fitted, targets, field=column.field)
    blocks = [replace(b, test=test[b.first_row : b.first_row + b.rows]) for b in parsed.blocks]
    return replace(parsed, blocks=blocks), marks


def _with_test_rows(table: Table, parsed: Parsed, targets: Targets) -> Parsed:
    """Mark the rows of the first texts as training rows, those of the others as test rows."""
    blocks, rows = [], 0
    is_test = [number >= len(table.rows) for number, _ in parsed.sources]
    calls = ((block, targets) for block, test in zip(parsed.blocks, is_test, strict=True) if test)
    checked = table.job.tasks.run("mark", test_block, calls)
    for index, block in enumerate(parsed.blocks):
        mark = np.zeros(block.rows, dtype=np.bool_)
        if is_test[index]:
            found = next(checked)
            _check(table, parsed, index, found)
            mark = found.strata >= 0
            rows += int(mark.sum())
        blocks.append(replace(block, test=mark))
    if not rows:
        raise DataError("test_source needs rows with a label, got none; give a table of labelled rows")
    return replace(parsed, blocks=blocks)


def _weights(
    table: Table, parsed: Parsed, layout: Layout, name: str
) -> tuple[NDArray[np.float32], Marks]:  # fmt: skip
    """Read by how much each training row counts, and each test row, if all of these have weights."""
    found = []
    calls = ((block, layout, name) for block in parsed.blocks)
    for index, block in enumerate(table.job.tasks.run("weigh", weigh_block, calls)):
        _check(table, parsed, index, block)
        found.append(block)
    weights, test = (np.concatenate([getattr(one, of) for one in found]) for of in ("weights", "test"))
    if not weights.any():
        raise DataError(
            f"weights need a row to train on that counts, got only 0 in column {name!r}; leave it out"
        )
    return weights, Marks() if np.isnan(test).any() else Marks(weights=test)


def _check(table: Table, parsed: Parsed, index: int, block: MarkedBlock | WeighedBlock) -> None:
    """Refuse a block with a row that cannot be placed, or weighed."""
    if block.fault is not None:
        row, reason = block.fault
        raise DataError(f"{parsed.where(table, BadValue(index, row, ''))}, {reason}")


def _layout(columns: list[FeatureColumn], targets: Targets, rule: SplitRule) -> Layout:
    return Layout(
        tuple(c.name for c in columns if c.kind in NUMERIC),
        tuple(c.name for c in columns if c.kind in (ColumnKind.TEXT, ColumnKind.BOOLEAN)),
        frozenset(c.name for c in columns if c.kind is ColumnKind.BOOLEAN),
        targets,
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
        fitted = self.preprocessing
        return chunk_rows(sum(self.block_rows[split]), fitted.n_features, fitted.targets)

    def measured(self) -> list[dict[str, Any]]:
        """Return what a manifest says of each label: its name, and its numbers in both splits."""
        moments = {"train": self.statistics.train_labels, "test": self.statistics.test_labels}
        return [
            {"name": name, **{split: of.summary(i) for split, of in moments.items()}}
            for i, name in enumerate(self.layout.targets.names)
        ]


def _fit(table: Table, parsed: Parsed, layout: Layout) -> tuple[_Fitted, Parsed]:
    """Fit the recipe to the training rows; mark the test rows, so that they are drawn once."""
    block_rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    marked = []

    def counted() -> Iterator[BlockStatistics]:
        calls = ((block, layout) for block in parsed.blocks)
        for part, test in table.job.tasks.run("fit", fit_block, calls):
            block_rows["train"].append(int(part.train.sum()))
            block_rows["test"].append(int(part.test.sum()))
            marked.append(test)
            yield part

    statistics = reduce(BlockStatistics.merge, counted())
    parsed = replace(
        parsed, blocks=[replace(block, test=test) for block, test in zip(parsed.blocks, marked, strict=True)]
    )
    if parsed.mark is None and not table.test:
        layout.targets.check_counts((statistics.train + statistics.test).tolist())
    for split in SPLITS:
        if not sum(block_rows[split]):
            raise DataError(
                f"a table needs rows with all labels in both splits, got none to {split}; add rows, or leave "
                "labels out"
            )
    fill = _fill(table, parsed, layout, statistics.moments)
    preprocessing = fit_preprocessing(table.job.recipe, parsed.columns, layout, statistics, fill)
    return _Fitted(layout, statistics, preprocessing, block_rows), parsed


def _fill(table: Table, parsed: Parsed, layout: Layout, moments: Moments) -> NDArray[np.float64]:
    """Return what takes the place of missing numbers, shape (number columns,)."""
    if table.job.recipe.missing == "mean":
        return moments.mean
    if table.job.recipe.missing == "median":
        search = MedianSearch.start(moments.count)
        while not search.finished:
            rounds = [(block, layout, search) for block in parsed.blocks]
            search = search.narrow(reduce(np.add, table.job.tasks.run("median", median_block, rounds)))
        return np.where(moments.count > 0, search.medians(), 0.0)
    if table.job.recipe.missing == "most_frequent":
        calls = [(block, layout) for block in parsed.blocks]
        parts = table.job.tasks.run("frequency", frequency_block, calls)
        fill = modes(reduce(merge_all_frequencies, parts))
        check_modes(fill, parsed.columns)
        return fill
    # 1970, the zero of instants, says nothing
    is_time = np.array([name in layout.times for name in layout.numbers], dtype=np.bool_)
    return np.where(is_time, moments.mean, 0.0)


def _write(table: Table, parsed: Parsed, fitted: _Fitted, aside: Path) -> dict[str, list[tuple[str, str]]]:
    """Write both splits' arrays; return the checksums of their chunks."""
    checksums: dict[str, list[tuple[str, str]]] = {}
    for split in SPLITS:
        counts, size = fitted.block_rows[split], fitted.chunk_rows(split)
        create_arrays(aside, split, sum(counts), fitted.preprocessing, size)
        calls = (
            (chunk, fitted.layout, fitted.preprocessing, size, aside)
            for chunk in chunks(split, parsed.blocks, counts, size)
        )
        checksums[split] = list(table.job.tasks.run("write", write_chunk, calls))
    return checksums
