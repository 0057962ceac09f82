"""Find what is to be predicted in a parsed table, and refuse labels that do not fit."""

from collections.abc import Iterator

import numpy as np

from dnnflow.errors import DataError
from dnnflow.table.columns.kinds import MAX_CLASSES, Task, quoted
from dnnflow.table.columns.statistics import labels_of
from dnnflow.table.columns.targets import Targets, two_values
from dnnflow.table.store.column_blocks import Parsed, Table
from dnnflow.table.text.inference import BadValue
from dnnflow.table.text.task_inference import infer_task, label_fault


def find_targets(table: Table, parsed: Parsed) -> Targets:
    """Return the targets of a table, by its recipe's task or by the values of its labels.

    Raises
    ------
    DataError
        If the labels do not fit the task, with row, column and value where one is to blame.
    """
    asked = table.job.recipe.task
    task = infer_task(parsed.labels) if asked == "auto" else Task(asked)
    for place, reason in sorted(_faults(task, parsed), key=lambda fault: fault[0] or ()):
        raise DataError(reason if place is None else f"{parsed.where(table, place)}, {reason}")
    targets = Targets.of(task, {name: facts.texts for name, facts in parsed.labels.items()})
    if task is Task.CLASSIFICATION:
        (name, facts), *_ = parsed.labels.items()
        targets.classes[0].check(name)
        if len(facts.texts) > MAX_CLASSES:  # no more were kept, and rows with others would be lost
            raise DataError(
                f"the classes of a label may be spelled in at most {MAX_CLASSES} ways, got more in column "
                f"{name!r}, e.g. {quoted(min(facts.texts))}; write each number in one way"
            )
    return targets


def _faults(task: Task, parsed: Parsed) -> Iterator[tuple[BadValue | None, str]]:
    for name, facts in parsed.labels.items():
        place, reason = label_fault(task, name, facts)
        if reason:
            yield place, reason
        elif task is Task.MULTILABEL and len(two_values(facts.texts).names) > 2:
            yield _third_value(parsed, name)


def _third_value(parsed: Parsed, name: str) -> tuple[BadValue, str]:
    """Find the first row that has a third value of a label; each block is read for it."""
    targets = Targets.of(Task.MULTILABEL, {name: parsed.labels[name].texts})
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
