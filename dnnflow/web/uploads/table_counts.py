"""Count what the columns of an uploaded table hold, block by block: as features, and as labels."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from dnnflow.errors import DataError
from dnnflow.table.columns.dressing import NumberStyle
from dnnflow.table.columns.kinds import BLANKS, ColumnKind
from dnnflow.table.columns.times import TimeStyle
from dnnflow.table.formats.typed_source import TypedBlock, parse_typed
from dnnflow.table.text.column_faults import fault
from dnnflow.table.text.csv_reader import Block, RowError
from dnnflow.table.text.inference import (
    BadValue,
    BlockFacts,
    ColumnFacts,
    ParsePlan,
    decide,
    dressed_style,
    merge_facts,
    parse_block,
)
from dnnflow.web.uploads.column_counts import LabelCounts, NumberCounts, TextCounts
from dnnflow.web.uploads.profile import ColumnProfile

AnyBlock = Block | TypedBlock
Where = Callable[[BadValue], str]
"""Returns a row of the table in words."""


@dataclass
class TableCounts:
    """Counts gathered in one pass over a table."""

    plan: ParsePlan
    facts: dict[str, ColumnFacts]
    numbers: dict[str, NumberCounts]
    texts: dict[str, TextCounts]
    labels: dict[str, LabelCounts]
    """What each column would be as the label."""
    rows: int = 0
    first_rows: list[int] = field(default_factory=list)
    """Rows before each block."""
    found: set[str] = field(default_factory=set)
    """The user's markers of missing values that stand in the table."""

    @classmethod
    def of(cls, plan: ParsePlan) -> "TableCounts":
        """Begin to count by a plan of features without a label."""
        return cls(
            plan,
            {name: ColumnFacts() for name in plan.features},
            {name: NumberCounts() for name in plan.numbers},
            {name: TextCounts() for name in plan.texts},
            {name: LabelCounts() for name in plan.features},
        )

    @property
    def mixed(self) -> frozenset[str]:
        """Columns of numbers in which texts stand, which are not counted there."""
        return frozenset(name for name in self.numbers if self.facts[name].first_text is not None)

    def add(self, block: AnyBlock) -> None:
        """Check and count a block's rows.

        Raises
        ------
        RowError
        """
        self.first_rows.append(self.rows)
        facts = _parsed(block, self.plan)
        merge_facts(self.facts, facts, self.plan)
        self.found |= facts.found
        if (kept := facts.kept) is not None:
            for name, counted in self.numbers.items():
                counted.add(kept.number(name))
            for name, texts in self.texts.items():
                texts.add(kept.text(name))
        self.rows += facts.rows
        self._add_labels(block, facts)

    def _add_labels(self, block: AnyBlock, facts: BlockFacts) -> None:
        """Count the spellings of columns that may still be labels of classes."""
        for name, numbers in self.numbers.items():
            self.labels[name].is_many |= numbers.is_many
        few = [name for name, label in self.labels.items() if not label.is_many]
        alike = {name for name in few if self._is_alike(name, facts)}
        if (kept := facts.kept) is not None:
            for name in alike:
                self.labels[name].add(kept.text(name), facts.columns[name])
        names = tuple(name for name in few if name not in alike)
        if names:
            self._add_spellings(block, names)

    def _is_alike(self, name: str, facts: BlockFacts) -> bool:
        """Say whether a text column has the same values as a feature and as a label, in a block."""
        if name not in self.texts or self.plan.markers.own:
            return False
        return all(map(self.plan.label_markers.has_label, facts.columns[name].gone))

    def _add_spellings(self, block: AnyBlock, names: tuple[str, ...]) -> None:
        """Parse a block once more, with these columns as labels."""
        plan = replace(self.plan, labels=names, features=(), text=frozenset(), exact=frozenset(),
                       declared=frozenset(), styles={}, doubtful=(), digits={})  # fmt: skip
        facts = _parsed(block, plan)
        if (kept := facts.kept) is not None:
            for name in names:
                self.labels[name].add(kept.text(name), facts.columns[name])

    def columns(self, where: Where, refused: Mapping[str, str]) -> Iterator[ColumnProfile]:
        """Yield the profiles of all columns.

        Parameters
        ----------
        where
            Returns the place of a value, in words.
        refused
            Why columns cannot be used at all, by their type.

        Raises
        ------
        DataError
            If a value breaks a rule in a column that cannot be the label either, or no column is of use.
        """
        useful = 0
        for name in self.facts:
            if name in refused:
                reason = refused[name]
                yield ColumnProfile(name, "other", 0, 0, label_problem=reason, feature_problem=reason)
                continue
            kind, facts = self._kind(name)
            counts = self.numbers.get(name) or self.texts[name]
            profile = counts.profile(name, kind, self.rows, facts, self.labels[name])
            forced, declared = name in self.plan.exact, name in self.plan.declared
            place, reason = fault(name, kind, facts, forced_text=forced, is_declared=declared)
            if place is not None:
                reason = f"{where(place)}, {reason}"
                if profile.label_problem is not None and not facts.clock.are_meant(facts.values):
                    raise DataError(reason)
            useful += kind is not ColumnKind.EMPTY
            yield replace(profile, feature_problem=reason or None)
        if useful < 2:
            name = next(iter(self.facts))
            hint = BLANKS if len(self.facts) == 1 and len(name.split()) > 1 else ""
            raise DataError(
                f"a table needs a feature column with values, got none besides the label {name!r}; "
                f"check delimiter and drop{hint}"
            )

    def _kind(self, name: str) -> tuple[ColumnKind, ColumnFacts]:
        """Return what a column is as a feature, and its facts in the end."""
        facts, style = self.facts[name], self._style(name)
        if style is None:
            return decide(facts, forced_text=self.plan.is_text(name)), facts
        kind = ColumnKind.NUMBER
        if isinstance(style, TimeStyle):
            kind = ColumnKind.TIME if style.is_instant else ColumnKind.DURATION
        return kind, replace(facts, first_text=None)

    def _style(self, name: str) -> NumberStyle | TimeStyle | None:
        """Return how the numbers or times of a column are written, where all are in one way."""
        return dressed_style(name, self.facts[name], self.plan)

    def notes(self) -> Iterator[str]:
        """Yield what a person should know of how the columns were read as features."""
        from dnnflow.table.store.column_blocks import column_notes

        found = {name: self._style(name) for name in self.plan.features}
        styles = {name: style for name, style in found.items() if style is not None}
        yield from column_notes(self.plan, self.facts, self.rows, self.found, styles)


def _parsed(block: AnyBlock, plan: ParsePlan) -> BlockFacts:
    if isinstance(block, TypedBlock):
        return parse_typed(block, plan, None)
    facts = parse_block(block, plan, None)
    if facts.error:
        raise RowError(*facts.error)
    return facts
