"""What a plan of stacks is given besides designs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dnnflow.design.layers import Design
from dnnflow.errors import InputError

if TYPE_CHECKING:
    from dnnflow.engines.records import TrainingSettings
    from dnnflow.table.store.dataset import Dataset


@dataclass(frozen=True)
class TableShape:
    """What a plan must know of a table."""

    n_rows: int
    """Rows fitted in an epoch; none counts as one."""
    n_features: int
    n_classes: int

    @classmethod
    def of(cls, dataset: "Dataset", validation_fraction: float) -> "TableShape":
        """Return the shape of what an epoch of a dataset fits."""
        rows = dataset.rows["train"]
        return cls(rows - round(validation_fraction * rows), dataset.n_features, dataset.n_classes)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_rows", max(1, self.n_rows))


@dataclass(frozen=True)
class StackLimits:
    """How far stacks may grow. Defaults are the same everywhere: a study that goes on is cut as before."""

    slots: int = 1
    """Workers that should all have something to do."""
    memory_bytes: int = 512 * 2**20
    """Of weights, optimizer and outputs of layers."""
    cache_bytes: int = 8 * 2**20
    """Of what every step reads and writes: weights, gradients and two moments."""
    largest: int = 256
    """Designs in a stack."""
    longest_s: float = 60.0
    """Seconds that a stack may be expected to take, unless it is a single design."""
    waste: float = 0.5
    """Share of a stack's arithmetic that may be padding, in [0, 1)."""
    alone: bool = False
    """Whether each design is a stack by itself, so that its time is measured and not shared."""
    activations: tuple[str, ...] = ()
    """All that occur in the study: what stacks of several activations are made ready for."""

    @classmethod
    def of(
        cls, settings: "TrainingSettings", *, slots: int = 1, activations: tuple[str, ...]
    ) -> "StackLimits":
        """Return a study's limits: those for a processor's cache, larger where it asks for more memory."""
        factor = settings.stack_mb * 2**20 / cls.cache_bytes
        grown = max(1.0, factor)
        return cls(
            slots=slots,
            memory_bytes=round(cls.memory_bytes * grown),
            cache_bytes=max(1, round(cls.cache_bytes * factor)),
            largest=round(cls.largest * grown),
            longest_s=cls.longest_s * grown,
            alone=settings.measured_alone,
            activations=activations,
        )

    def __post_init__(self) -> None:
        for name in ("slots", "memory_bytes", "cache_bytes", "largest"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0.0 <= self.waste < 1.0:
            raise InputError(f"waste must be in [0, 1), got {self.waste}")


def activations_of(designs: Iterable[Design]) -> tuple[str, ...]:
    """Return the names of all activations in designs, sorted."""
    found = {layers: None for layers in (design.layers for design in designs)}
    return tuple(sorted({layer.activation for layers in found for layer in layers}))
