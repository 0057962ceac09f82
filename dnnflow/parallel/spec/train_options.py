"""Hold how a parallel training runs, besides its algorithm: plain data, checked once."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from dnnflow.errors import InputError
from dnnflow.parallel.spec.algorithm import Algorithm, Nested
from dnnflow.parallel.spec.optimizer_spec import require_constraints_kept
from dnnflow.parameters import CheckedParameters, Display, Parameters, PathText, Place, Seed

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

    def __str__(self) -> str:
        return f"{self.metric},{self.sign},{self.value!r}"


TargetText = Annotated[
    Target,
    BeforeValidator(lambda given: Target.parse(given) if isinstance(given, str) else given),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string"}),
]
"""A target, as text too."""


class RefitOptions(Parameters):
    """How a training runs: what every door may set, that of refitting a study's best design too."""

    replicas: Annotated[int | None, Display(is_told=False)] = Field(default=None, ge=1)
    """Copies of the model that compute at once; default: one a worker that holds no server, or 2 on workers
    that a training starts itself."""
    servers: Annotated[int, Display(is_told=False)] = Field(default=1, ge=1)
    """Parameter servers, each of which holds a slice of the weights."""
    time_limit_s: float | None = Field(default=None, gt=0.0)
    """Seconds after which it ends, with the weights it has by then."""


class RunOptions(RefitOptions):
    """How a training runs: what pipelines and the command line may set."""

    groups: Annotated[int, Display(is_told=False)] = Field(default=1, ge=1)
    """Groups of replicas, with a server each below one above."""
    group_every: int = Field(default=10, ge=1)
    """Updates of a group between two pushes upwards."""
    epochs: Annotated[int, Display(is_told=True)] = Field(default=1, ge=1)
    """How often every row is trained on."""
    batch_size: Annotated[
        int, Display("{batch_size:,} rows of a replica", "Batch", option="batch", is_told=True)
    ] = Field(default=100, ge=1)
    """Rows of one replica's step."""
    seed: Annotated[Seed, Display("{seed}", is_told=True)] = 0
    """Of the order of rows."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: replicas on workers that declare a GPU, if there are any."""
    validate_every: int | None = Field(default=None, ge=1)
    """Samples between two validations; default: once an epoch, and at the end. Replicas report twice a
    second: short epochs share a snapshot, and each has its row."""
    target: Annotated[TargetText | None, Display("{target.metric} {target.sign} {target.value}")] = None
    """Where it ends early, e.g. val_accuracy,>,0.97."""
    checkpoint: Annotated[PathText | None, Place(), Display(is_told=False)] = None
    """Directory of the checkpoint; default: none."""
    checkpoint_every_s: Annotated[float, Display(is_told=False)] = Field(default=300.0, gt=0.0)
    """Seconds between two checkpoints."""
    restore: Annotated[bool, Display(is_told=False)] = False
    """Whether to go on from the checkpoint, which must be there."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.groups > 1 and self.servers > 1:
            raise InputError(
                f"groups have a server each below one, got groups={self.groups} and servers={self.servers}; "
                "set one of them to 1"
            )
        if self.restore and self.checkpoint is None:
            raise InputError("restore needs the directory of a checkpoint, got none; set checkpoint")
        return self


class TrainOptions(RunOptions, CheckedParameters):
    """How a parallel training runs."""

    algorithm: Annotated[Algorithm, Nested, Display(is_told=False)] = Field(default_factory=Algorithm)
    shuffle: bool = True
    """Whether the order of rows is another one in each epoch."""
    wait_s: Annotated[float, Display(is_told=False)] = Field(default=300.0, gt=0.0)
    """How long a replica waits for others, or for its server, before it gives up."""
    copy_every_s: Annotated[float, Display(is_told=False)] = Field(default=0.8, gt=0.0)
    """Seconds between two copies of the servers' state in the driver's memory: the work that is done again
    when a server is lost. Of a state of more than 8 MB fewer: they take a twentieth of the time at most."""
    timeline: Annotated[bool, Display(is_told=False)] = False
    """Whether to keep what each replica did when."""
    cache_dir: Annotated[PathText | None, Display(is_told=False)] = None
    """Directory on each machine that files are copied to when first read."""

    def require_applied(self, *, constrained: bool) -> None:
        """Refuse what a model's variables and optimizer ask for, and no server or replica would do.

        Raises
        ------
        InputError
            For constraints or `use_ema` with an algorithm, servers or groups that do not apply them.
        """
        algorithm = self.algorithm
        server, replica = algorithm.used_server_optimizer, algorithm.used_replica_optimizer
        if constrained:
            require_constraints_kept(server, shards=self.servers, groups=self.groups)
        of_groups = server if self.groups > 1 else None
        if any(one is not None and one.parameters.get("use_ema") for one in (replica, of_groups)):
            raise InputError(
                "the moving average of weights (use_ema) is kept by a server's optimizer, got "
                f"{f'{self.groups} groups' if of_groups else 'it in that of replicas'}; use downpour with "
                "sync_every=1 and groups=1, or leave use_ema out"
            )

    @property
    def n_servers(self) -> int:
        """Servers in all, that above the groups' among them."""
        return self.servers if self.groups == 1 else self.groups + 1
