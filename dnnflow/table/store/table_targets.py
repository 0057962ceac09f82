"""Find what is to be predicted in a parsed table, and refuse labels that do not fit."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from decimal import Decimal
from math import isfinite

import numpy as np

from dnnflow.errors import DataError
from dnnflow.table.columns.kinds import (
    MAX_CLASSES,
    OTHERS,
    STANDARD_MARKERS,
    Task,
    in_a_list,
    look_alike,
    quoted,
    to_number,
)
from dnnflow.table.columns.split import class_counts
from dnnflow.table.columns.statistics import label_block, labels_of
from dnnflow.table.columns.targets import Targets, earlier_names, two_values
from dnnflow.table.store.column_blocks import Parsed
from dnnflow.table.store.table_parts import Table
from dnnflow.table.text.column_faults import is_mark_like
from dnnflow.table.text.inference import BadValue
from dnnflow.table.text.task_inference import infer_task, label_fault


def find_targets(table: Table, parsed: Parsed) -> Targets:
    """Return the targets of a table, by its recipe's task or by the values of its labels.

    Raises
    ------
    DataError
        If the labels do not fit the task, with row, column and value where one is to blame.
    """
    asked, exact = table.job.recipe.task, table.job.recipe.text_columns
    task = infer_task(parsed.labels, exact) if asked == "auto" else Task(asked)
    for place, reason in sorted(_faults(task, parsed, exact), key=lambda fault: fault[0] or ()):
        raise DataError(reason if place is None else f"{parsed.where(table, place)}, {reason}")
    targets = Targets.of(task, {name: facts.texts for name, facts in parsed.labels.items()}, exact)
    if task is Task.CLASSIFICATION:
        (name, facts), *_ = parsed.labels.items()
        targets.classes[0].check(name)
        if len(facts.texts) > MAX_CLASSES:  # no more were kept, and rows with others would be lost
            raise DataError(
                f"the classes of a label may be spelled in at most {MAX_CLASSES} ways, got more in column "
                f"{name!r}, e.g. {quoted(min(facts.texts))}; write each number in one way"
            )
    return targets


def were_other(targets: Targets, parsed: Parsed) -> bool:
    """Say whether the rules before had other classes of the same labels."""
    return any(
        classes.names != earlier_names(targets.task, parsed.labels[name].texts)
        for name, classes in zip(targets.names, targets.classes, strict=False)
    )


LEAST_CLASSES = 2


def settle_rare(table: Table, parsed: Parsed, targets: Targets) -> tuple[Targets, list[str], int]:
    """Drop or merge the classes of a single row, if the recipe says so.

    Returns
    -------
    tuple
        The targets, what to tell a person of it, and how many rows have no label by it.
    """
    wanted = table.job.recipe.rare_classes
    if wanted == "refuse" or targets.task is not Task.CLASSIFICATION:
        return targets, [], 0
    pairs = zip(parsed.blocks, parsed.sources, strict=True)
    blocks = [block for block, (number, _) in pairs if number < len(table.rows)]
    counts = np.zeros(targets.n_strata, np.int64)
    for strata in table.job.tasks.run("label", label_block, ((block, targets) for block in blocks)):
        counts += class_counts(strata, targets.n_strata)
    classes, (label, *_) = targets.classes[0], targets.names
    rare = [name for name, count in zip(classes.names, counts.tolist(), strict=True) if count == 1]
    if not rare:
        return targets, [], 0
    kept = classes.without(rare, merge=wanted == "merge")
    if len(kept.names) < LEAST_CLASSES:
        done = "merged" if wanted == "merge" else "dropped"
        raise DataError(
            f"a label needs at least {LEAST_CLASSES} classes, got {len(rare):,} of a single row each in "
            f"column {label!r}, and too few once these are {done}: {in_a_list(rare)}; set task to "
            "regression if these are amounts, or choose another label column"
        )
    of_them = f"{len(rare):,} classes of a single row" if len(rare) > 1 else "a class of a single row"
    done = f"one class, {OTHERS!r}" if wanted == "merge" else "left out"
    note = f"label {label!r}: {of_them} {'are' if len(rare) > 1 else 'is'} {done}: {in_a_list(rare)}"
    return replace(targets, classes=(kept,)), [note], 0 if wanted == "merge" else len(rare)


def label_notes(targets: Targets, parsed: Parsed, dropped: int) -> Iterator[str]:
    """Yield what a person should know of the labels; `dropped` rows are left out as theirs are missing."""
    for name, classes in zip(targets.names, targets.classes, strict=False):
        texts = parsed.labels[name].texts
        for one, spellings in classes.spelled(texts).items():
            yield f"label {name!r}: {in_a_list(spellings)} are one class, {one!r}"
        values: dict[Decimal, list[str]] = {}
        for text in () if classes.exact else sorted(texts):
            if (number := to_number(text)) is not None and isfinite(number):
                values.setdefault(Decimal(text), []).append(text)
        apart = [few for few in values.values() if len(set(classes.codes(few))) > 1]
        if apart:
            yield (
                f"label {name!r}: {in_a_list(apart[0])} are one number in several spellings, and classes of "
                "their own; write it in one way if they are one"
            )
        alike, differ = look_alike(classes.names)
        if alike:
            yield (
                f"label {name!r}: {differ}, and are classes of their own; write them in one way if they are "
                "one"
            )
        marks = sorted(text for text in texts if text.lower() in STANDARD_MARKERS or is_mark_like(text))
        one = "is taken for a class; if it stands for"
        taken = one if len(marks) == 1 else "are taken for classes; if they stand for"
        if marks and not classes.exact:
            yield (
                f"label {name!r}: {in_a_list(marks)} {taken} a missing label, "
                f"set missing_labels: [{', '.join(marks)}]"
            )
    if dropped > 0:
        gone = Counter[str]()
        for facts in parsed.labels.values():
            gone.update(facts.gone)
        words = ", ".join(f"{quoted(text) if text else 'empty'} {n:,}" for text, n in gone.most_common(8))
        words = f" ({words})" if words else ""
        yield (
            f"{dropped:,} of {parsed.rows:,} rows are left out, as their label is missing{words}; "
            "missing_labels says what stands for a missing label"
        )


def _faults(task: Task, parsed: Parsed, exact: Collection[str]) -> Iterator[tuple[BadValue | None, str]]:
    for name, facts in parsed.labels.items():
        place, reason = label_fault(task, name, facts, exact=name in exact)
        if reason:
            yield place, reason
        elif task is Task.MULTILABEL and len(two_values(facts.texts, exact=name in exact).names) > 2:
            yield _third_value(parsed, name, exact)


def _third_value(parsed: Parsed, name: str, exact: Collection[str]) -> tuple[BadValue, str]:
    """Find the first row that has a third value of a label; each block is read for it."""
    targets = Targets.of(Task.MULTILABEL, {name: parsed.labels[name].texts}, exact)
    places: dict[str, tuple[int, int]] = {}
    for index, block in enumerate(parsed.blocks):
        label = labels_of(block.read(), targets)[:, 0]
        for row in sorted(np.unique(label, return_index=True)[1].tolist()):
            if not np.isnan(label[row]):
                places.setdefault(targets.classes[0].names[int(label[row])], (index, row + 1))
        if len(places) > 2:
            break
    first, second, third, *_ = places
    reason = f"column {name!r}: a label of multilabel has two values, got {quoted(third)} besides "
    remedy = "correct it, name it in missing_values, leave that label out, or set another task"
    return BadValue(*places[third], third), f"{reason}{quoted(first)} and {quoted(second)}; {remedy}"
