"""Hold what a parallel training does: its algorithm, optimizers and learning rate, as plain data."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, WithJsonSchema, model_validator

from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec, RateSchedule
from dnnflow.parameters import CheckedParameters, Display, Parameters, phrases, require

__all__ = ["WIRES", "Algorithm", "Kind", "OptimizerSpec", "PushKind", "RateSchedule"]

Wire = Literal["float32", "float16", "bfloat16", "int8"]
WIRES: tuple[Wire, ...] = get_args(Wire)
"""How a pushed vector may travel; int8 with error feedback."""


class Kind(StrEnum):
    """The algorithms."""

    DOWNPOUR = "downpour"
    """Dean et al. (2012): the server applies an optimizer to gradients, or to K local steps."""
    EASGD = "easgd"
    """Zhang, Choromanska and LeCun (2015): replicas and server pull at each other."""
    GEM = "gem"
    """Hermans and Louppe (2018): replicas scale their steps to what one with momentum would do."""
    DILOCO = "diloco"
    """Douillard et al. (2023): many local steps, then one of an outer optimizer on their mean."""


class PushKind(StrEnum):
    """What a pushed vector is."""

    GRADIENT = "gradient"
    """Of one batch's mean loss by the weights."""
    DIFFERENCE = "difference"
    """Weights before minus weights after K local steps."""
    WEIGHTS = "weights"
    """The replica's own weights."""
    UPDATE = "update"
    """What is to be added to the server's weights."""


_SERVER_DEFAULTS: Mapping[Kind, tuple[str, float]] = {
    Kind.DOWNPOUR: ("adam", 0.001),
    Kind.DILOCO: ("sgd", 0.7),  # Douillard et al. (2023), section 3.1; Nesterov's momentum is `momentum`
}
_MOMENTUM_DEFAULTS: Mapping[Kind, float] = {Kind.GEM: 0.9, Kind.DILOCO: 0.9}


KindName = Annotated[
    Kind,
    Field(strict=False, description="What replicas push, and what the server does with it."),
    WithJsonSchema({"type": "string", "enum": [kind.value for kind in Kind]}),
]
"""An algorithm's name, as text too."""
Nested = Field(strict=False)
"""Of a field that a mapping may stand for."""


class RefitExchange(Parameters):
    """How replicas and server exchange: what every door may set, that of refitting a study's best too."""

    synchronous: Annotated[bool, Display(is_told=False)] = False
    """Whether the server waits for all replicas and averages, or applies each push when it comes."""
    sync_every: Annotated[int, Display("a push every {sync_every} batches")] = Field(default=1, ge=1)
    """Batches a replica trains on between two pushes."""
    damping: Annotated[bool, Display("{damping_rule} damping")] = False
    """Whether a push that is late by some updates is applied with a lower rate."""
    staleness_bound: Annotated[int | None, Display("staleness bound {staleness_bound}")] = Field(
        default=None, ge=0
    )
    """Pushes that an asynchronous replica may be ahead of the slowest before it waits; default: no bound."""


class Exchange(RefitExchange):
    """How replicas and server exchange: what pipelines and the command line may set."""

    overlap: Annotated[bool, Display("pushes beside computing")] = False
    """Whether a replica computes on while its push is on its way, of asynchronous downpour and diloco; every
    push is then one update later."""
    damping_rule: Annotated[Literal["relative", "inverse"], Display(is_told=False)] = "relative"
    """relative: what is later than usual is damped, the mean rate stays, and the server's momentum is lower
    by what asynchrony adds; inverse: rate / (1 + late), so that all replicas together learn slower."""
    quorum: Annotated[float, Display("quorum {quorum:g}")] = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the replicas that a synchronous round waits for; the others' push is dropped."""
    wire: Annotated[Wire, Display("pushes travel as {wire}")] = "float32"
    """How pushes travel: float32, float16, bfloat16, or int8 with error feedback."""


class Algorithm(Exchange, CheckedParameters):
    """What replicas push, and what the server does with it."""

    kind: Annotated[KindName, Display(is_told=False)] = Kind.DOWNPOUR
    server_optimizer: Annotated[OptimizerSpec | None, Nested, Display(is_told=False)] = None
    """Of downpour and diloco. None: adam for gradients, sgd with rate 1 for differences (which replicas'
    optimizers have already scaled), sgd with rate 0.7 and Nesterov's momentum for diloco."""
    replica_optimizer: Annotated[OptimizerSpec | None, Nested, Display(is_told=False)] = None
    """With which replicas take local steps. None: downpour with K = 1 pushes plain gradients; else adam, and
    with easgd's momentum sgd."""
    schedule: Annotated[RateSchedule, Nested, Display("rate {schedule}")] = Field(
        default_factory=RateSchedule
    )
    """Of the server's optimizer; where it has none, of the replicas' (replies tell them where)."""
    elastic_force: float = Field(default=0.9, gt=0.0, le=1.0)
    """β of EASGD; each pull has the strength α = β / replicas."""
    momentum: float | None = Field(default=None, ge=0.0, lt=1.0)
    """EASGD: of the replicas' Nesterov steps (EAMSGD; default 0); gem: of the step to be matched (default
    0.9); diloco: of the outer Nesterov step (default 0.9)."""
    gem_rate: float | None = Field(default=None, gt=0.0)
    """Learning rate of gem's steps. None: 0.01 for gradients, 1 for what K local steps have changed."""
    gem_kappa: float = Field(default=2.0, gt=0.0)
    """κ: how much more energy than one replica's gem allows."""
    statistics_share: float | None = Field(default=None, gt=0.0, le=1.0)
    """How far an asynchronous push moves the server's moving statistics to the replica's; None for
    1 / replicas. A synchronous round takes their mean."""
    reply_wire: Literal["float32", "float16", "bfloat16"] = "float32"
    """How weights travel back."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Refuse what would silently do nothing."""
        kind, server, momentum = self.kind, self.has_server_optimizer, self.momentum
        require(kind is not Kind.GEM or not self.synchronous, "gem works asynchronously", "synchronous")
        require(self.synchronous or self.quorum == 1, "a quorum needs synchronous training", self.quorum)
        bound = self.staleness_bound
        require(
            bound is None or not self.synchronous, "a staleness_bound is for asynchronous training", bound
        )
        require(
            not self.overlap or (server and not self.synchronous),
            "overlap is for asynchronous downpour and diloco",
            f"{'synchronous ' * self.synchronous}{kind}",
        )
        given = self.server_optimizer
        require(
            server or given is None, f"{kind} has no server_optimizer; its server averages or adds", given
        )
        require(
            server or not self.damping, f"damping lowers a server optimizer's rate; {kind} has none", True
        )
        takes = {Kind.DOWNPOUR: "server", Kind.DILOCO: "server", Kind.EASGD: "replica"}.get(kind, "")
        other = getattr(self, f"{takes}_optimizer", None)
        rule = f"the momentum of {kind} is a parameter of its {takes}_optimizer"
        require(momentum is None or not (kind is Kind.DOWNPOUR or other), rule, momentum)
        return self

    @property
    def has_server_optimizer(self) -> bool:
        """Whether the server applies an optimizer; else it adds, or averages."""
        return self.kind in (Kind.DOWNPOUR, Kind.DILOCO)

    @property
    def corrects_momentum(self) -> bool:
        """Whether the server's optimizer gets less momentum, for what asynchrony adds of its own."""
        return self.damping and self.damping_rule == "relative" and not self.synchronous

    @property
    def push_kind(self) -> PushKind:
        """What replicas push."""
        if self.kind is Kind.EASGD:
            return PushKind.WEIGHTS
        if self.kind is Kind.GEM:
            return PushKind.UPDATE
        plain = self.kind is Kind.DOWNPOUR and self.sync_every == 1 and self.replica_optimizer is None
        return PushKind.GRADIENT if plain else PushKind.DIFFERENCE

    @property
    def used_momentum(self) -> float:
        """The momentum, the algorithm's own where none is given."""
        return _MOMENTUM_DEFAULTS.get(self.kind, 0.0) if self.momentum is None else self.momentum

    @property
    def used_server_optimizer(self) -> OptimizerSpec | None:
        """What the server applies, the algorithm's own where none is given; None where it has none."""
        if self.server_optimizer or not self.has_server_optimizer:
            return self.server_optimizer
        name, rate = _SERVER_DEFAULTS[self.kind]
        if self.kind is Kind.DILOCO:
            return OptimizerSpec(name, rate, {"momentum": self.used_momentum, "nesterov": True})
        if self.push_kind is PushKind.DIFFERENCE:
            return OptimizerSpec("sgd", 1.0)
        return OptimizerSpec(name, rate)

    @property
    def used_replica_optimizer(self) -> OptimizerSpec | None:
        """What replicas step with, the algorithm's own where none is given; None: plain gradients."""
        if self.replica_optimizer or self.push_kind is PushKind.GRADIENT:
            return self.replica_optimizer
        if self.kind is Kind.GEM and self.sync_every == 1:
            return None
        if self.kind is Kind.EASGD and self.used_momentum:
            return OptimizerSpec("sgd", 0.01, {"momentum": self.used_momentum, "nesterov": True})
        return OptimizerSpec("adamw") if self.kind is Kind.DILOCO else OptimizerSpec()

    @property
    def used_gem_rate(self) -> float:
        """Gem's learning rate, the algorithm's own where none is given."""
        if self.gem_rate is not None:
            return self.gem_rate
        return 0.01 if self.used_replica_optimizer is None else 1.0

    def elastic_share(self, replicas: int) -> float:
        """Return α = β / n, the strength of one elastic pull among n replicas."""
        return self.elastic_force / max(replicas, 1)

    def in_words(self) -> str:
        """Return the algorithm as one line, e.g. `downpour, asynchronous, relative damping`."""
        way = "synchronous" if self.synchronous else "asynchronous"
        return ", ".join([self.kind.value, way, *phrases(self)])
