"""How a parallel training runs, besides its algorithm: plain data, checked once."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dnnflow.errors import InputError
from dnnflow.parallel.spec.algorithm import Algorithm

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {">": operator.gt, "<": operator.lt}


@dataclass(frozen=True)
class Target:
    """A value of a measure at which training ends."""

    metric: str
    """As in the history: loss, accuracy, val_loss, val_accuracy, ..."""
    sign: str
    """`>` or `<`."""
    value: float

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read `metric,sign,value`, e.g. `val_accuracy,>,0.97`.

        Raises
        ------
        InputError
            For another text.
        """
        parts = [part.strip() for part in text.split(",")]
        try:
            metric, sign, value = parts
            if sign not in _COMPARE:
                raise ValueError
            return cls(metric, sign, float(value))
        except ValueError:
            raise InputError(
                f"a target must be metric,>,value or metric,<,value, got {text!r}; e.g. val_accuracy,>,0.97"
            ) from None

    def is_reached(self, logs: Mapping[str, float]) -> bool:
        """Say whether a measure is past the value; one that is absent is not."""
        return self.metric in logs and _COMPARE[self.sign](logs[self.metric], self.value)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a parallel training runs."""

    algorithm: Algorithm = field(default_factory=Algorithm)
    replicas: int | None = None
    """Copies of the model that compute at once; None: one a worker that has no server alone."""
    servers: int = 1
    """Parameter servers, each of which holds a slice of the weights."""
    groups: int = 1
    """Groups of replicas with a server each, which passes on to the one above what it has learned."""
    group_every: int = 10
    """m: updates of a group's server between two pushes to the one above."""
    epochs: int = 1
    """How often every row is trained on."""
    batch_size: int = 100
    """Rows of one replica's step."""
    seed: int = 0
    """Of the order of rows."""
    shuffle: bool = True
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: replicas on workers that declare a GPU, if there are any."""
    validate_every: int | None = None
    """Samples between two validations; None: once an epoch, and at the end. Replicas report twice a second:
    short epochs share a snapshot, and each has its row."""
    target: Target | None = None
    """Where training ends early."""
    time_limit_s: float | None = None
    """After how many seconds it ends, with the weights it has by then."""
    checkpoint: str | None = None
    """Directory of the checkpoint; None for none."""
    checkpoint_every_s: float = 300.0
    restore: bool = False
    """Whether to go on from the checkpoint, which must be there."""
    wait_s: float = 300.0
    """How long a replica waits for others, or for its server, before it gives up."""
    timeline: bool = False
    """Whether to keep what each replica did when."""
    cache_dir: str | None = None
    """Directory on each machine that files are copied to when first read."""

    @property
    def n_servers(self) -> int:
        """Servers in all, that above the groups' among them."""
        return self.servers if self.groups == 1 else self.groups + 1

    def __post_init__(self) -> None:
        for name in (
            "replicas",
            "servers",
            "groups",
            "group_every",
            "epochs",
            "batch_size",
            "validate_every",
        ):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name} must be a whole number >= 1, got {value!r}")
        for name in ("time_limit_s", "checkpoint_every_s", "wait_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be > 0, got {value!r}")
        if self.device not in ("auto", "cpu", "gpu"):
            raise InputError(f"device must be auto, cpu or gpu, got {self.device!r}")
        if self.groups > 1 and self.servers > 1:
            raise InputError(
                f"groups have a server each below one, got groups={self.groups} and servers={self.servers}; "
                "set one of them to 1"
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"seed must be a whole number >= 0, got {self.seed!r}")
        if self.restore and self.checkpoint is None:
            raise InputError("restore needs the directory of a checkpoint, got none; set checkpoint")
