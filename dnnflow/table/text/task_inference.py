"""Infer from the labels of a table what is predicted, and tell what does not fit the task."""

from collections.abc import Collection, Mapping

from dnnflow.errors import DataError
from dnnflow.table.columns.dressing import COMMA, POINT
from dnnflow.table.columns.kinds import CONTINUOUS_CLASSES, MAX_CLASSES, Task, quoted, to_number
from dnnflow.table.columns.targets import two_values
from dnnflow.table.text.inference import BadValue, ColumnFacts, is_dressed

AS_NUMBERS = "make it numbers before, such as days since the first of them"
"""What to do with dates that are amounts."""
ROWS_A_CLASS = 20
"""Different whole numbers with fewer rows each than this, on average, may be amounts."""


def infer_task(labels: Mapping[str, ColumnFacts], exact: Collection[str] = ()) -> Task:
    """Tell the task from the values of one label or of several, by name.

    One label of text or truth values, of at most 20 different numbers, dates or durations, or of whole
    numbers that return often enough to be classes, is classification; one of other numbers is regression.
    Several labels are multilabel if each has two values, and regression if all are numbers. Labels of
    `exact` are text, whatever they look like.

    Raises
    ------
    DataError
        If whole numbers, dates or durations may be classes or amounts, or several labels are of no task.
    """
    if len(labels) == 1:
        name, facts = next(iter(labels.items()))
        return Task.CLASSIFICATION if name in exact else _infer_task_of(name, facts)
    distinct_values = {name: _distinct(facts, exact=name in exact) for name, facts in labels.items()}
    if all(distinct == 2 for distinct in distinct_values.values()):
        return Task.MULTILABEL
    if all(_are_numbers(facts) and name not in exact for name, facts in labels.items()):
        return Task.REGRESSION
    many = next(name for name, distinct in distinct_values.items() if distinct != 2)
    text = next(name for name, facts in labels.items() if name in exact or not _are_numbers(facts))
    distinct = min(distinct_values[many], MAX_CLASSES + 1)
    raise DataError(
        "several labels must have two different values each, or all be numbers, got "
        f"{distinct if distinct <= MAX_CLASSES else f'more than {MAX_CLASSES}'} different values in column "
        f"{many!r} and text in column {text!r}; leave labels out"
    )


def _infer_task_of(name: str, facts: ColumnFacts) -> Task:
    if not _are_numbers(facts):
        distinct = _distinct(facts)
        if facts.dress.are_meant(facts.values) and distinct > CONTINUOUS_CLASSES:
            raise DataError(
                f"a label of numbers must have plain ones, or say how they are written, got "
                f'{quoted(facts.dress.example)} in column {name!r}; set numbers: {{{name}: "{POINT}"}} or '
                f'{{{name}: "{COMMA}"}}, or list it in text_columns if these are classes'
            )
        _check_amounts(name, facts)
        if are_times(facts) and CONTINUOUS_CLASSES < distinct <= MAX_CLASSES:
            raise DataError(
                f"a label of {distinct} different dates or durations in {facts.values} rows may be classes "
                f"or amounts, got column {name!r}, e.g. {quoted(min(facts.texts))}; set task to "
                f"classification, or {AS_NUMBERS}"
            )
        # Beyond the number of classes, a column of mostly numbers has a wrong value, which is then named.
        is_mostly = distinct > MAX_CLASSES and 2 * facts.numbers >= facts.values
        return Task.REGRESSION if is_mostly else Task.CLASSIFICATION
    distinct = len(set(map(to_number, facts.texts)))  # values: 0.5 and 0.50 are one amount
    if distinct <= CONTINUOUS_CLASSES:
        return Task.CLASSIFICATION
    if facts.fractions:
        return Task.REGRESSION
    if distinct > MAX_CLASSES:
        raise DataError(
            f"a label of more than {MAX_CLASSES} different whole numbers may be amounts, or names such as "
            f"ids, got column {name!r}; set task to regression, or choose another label"
        )
    if distinct * ROWS_A_CLASS > facts.values:
        raise DataError(
            f"a label of {distinct} different whole numbers in {facts.values} rows may be classes or "
            f"amounts, got column {name!r}; set task to classification or regression"
        )
    return Task.CLASSIFICATION


def _check_amounts(name: str, facts: ColumnFacts) -> None:
    """Refuse a label of fractions that would be amounts, were it not for some texts or infinite ones.

    Raises
    ------
    DataError
    """
    odd = facts.first_text or facts.first_infinite
    if odd is None or not facts.fractions or 2 * facts.numbers < facts.values:
        return
    distinct = len({number for number in map(to_number, facts.texts) if number is not None})
    if CONTINUOUS_CLASSES < distinct <= MAX_CLASSES:  # of more, the odd value is named with its row
        raise DataError(
            f"a label of amounts must have numbers only, got {quoted(odd.value)} beside many different "
            f"numbers in column {name!r}; name it in missing_values, correct it, or set task to "
            "classification if these are classes"
        )


def are_times(facts: ColumnFacts) -> bool:
    """Say whether all values of a label are dates or durations."""
    return facts.clock.style(facts.values) is not None


def _distinct(facts: ColumnFacts, *, exact: bool = False) -> int:
    """Return how many different values there are; more than `MAX_CLASSES` if there are too many to know."""
    return len(two_values(facts.texts, exact=exact).names)


def _are_numbers(facts: ColumnFacts) -> bool:
    return facts.numbers == facts.values and facts.first_infinite is None


def label_fault(task: Task, name: str, facts: ColumnFacts, *, exact: bool) -> tuple[BadValue | None, str]:
    """Return what is wrong with a label of that task: where, if in a single row, and in words; or "".

    `exact` says that its values are texts as they stand.

    The row of a label's third value is known only to who reads the rows again.
    """
    if task is Task.CLASSIFICATION:
        return None, ""
    if task is Task.MULTILABEL:
        distinct = _distinct(facts, exact=exact)
        rule = f"a label of multilabel needs two different values, got one in column {name!r}"
        return None, f"{rule}; leave that label out" if distinct == 1 else ""
    remedy = "correct it, name it in missing_values, or set another task"
    if place := facts.first_text:
        if are_times(facts):
            remedy = f"{AS_NUMBERS}, or set task to classification"
        if is_dressed(facts):
            remedy = f'say how its numbers are written, e.g. numbers: {{{name}: "{COMMA}"}}, {remedy}'
        return place, f"column {name!r}: {quoted(place.value)} is not a number, as regression needs; {remedy}"
    if place := facts.first_infinite:
        return place, f"column {name!r}: numbers must be finite, got {quoted(place.value)}; {remedy}"
    return None, ""
