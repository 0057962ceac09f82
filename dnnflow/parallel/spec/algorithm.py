"""What a parallel training does: its algorithm, optimizers and learning rate, as plain data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from dnnflow.design.checks import whole
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec, RateSchedule, is_number, read_fields, require

__all__ = ["DAMPING_RULES", "WIRES", "Algorithm", "Kind", "OptimizerSpec", "PushKind", "RateSchedule"]

WIRES = ("float32", "float16", "bfloat16", "int8")
"""How a pushed vector may travel; int8 with error feedback."""
DAMPING_RULES = ("relative", "inverse")
"""How damping lowers a rate; `parallel/server/updates` has the formulas."""


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


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What replicas push, and what the server does with it."""

    kind: Kind = Kind.DOWNPOUR
    synchronous: bool = False
    """Whether the server waits for all replicas and averages, or applies each push on arrival."""
    sync_every: int = 1
    """K: batches a replica trains on between two pushes, ≥ 1."""
    quorum: float = 1.0
    """Share of the replicas that a synchronous round waits for, in (0, 1]; the others' push is dropped."""
    server_optimizer: OptimizerSpec | None = None
    """Of downpour and diloco. None: adam for gradients, sgd with rate 1 for differences (which replicas'
    optimizers have already scaled), sgd with rate 0.7 and Nesterov's momentum for diloco."""
    replica_optimizer: OptimizerSpec | None = None
    """With which replicas take local steps. None: downpour with K = 1 pushes plain gradients; else adam, and
    with easgd's momentum sgd."""
    schedule: RateSchedule = field(default_factory=RateSchedule)
    """Of the server's optimizer; where it has none, of the replicas' (`Reply.samples` tells them where)."""
    elastic_force: float = 0.9
    """β of EASGD, in (0, 1]; each pull has the strength α = β / replicas."""
    momentum: float | None = None
    """EASGD: of the replicas' Nesterov steps (EAMSGD; default 0); gem: of the step to be matched (default
    0.9); diloco: of the outer Nesterov step (default 0.9)."""
    damping: bool = False
    """Whether a push that is late by many updates counts less."""
    damping_rule: str = "relative"
    """relative: a push counts less if it is later than usual, the mean rate stays, and the server's momentum
    is lower by what asynchrony adds. inverse: the rate is divided by 1 + τ, τ the updates that a push is late
    by: all replicas together learn slower then."""
    staleness_bound: int | None = None
    """s: an asynchronous replica more than s pushes ahead of the slowest waits for it; None for never."""
    gem_rate: float | None = None
    """Learning rate of gem's steps, > 0. None: 0.01 for gradients, 1 for what K local steps have changed."""
    gem_kappa: float = 2.0
    """κ: how much more energy than one replica's gem allows, > 0."""
    overlap: bool = False
    """Whether a replica computes on the weights it has while its push is on its way: of asynchronous downpour
    and diloco. Every push is then late by one more update."""
    statistics_share: float | None = None
    """How far an asynchronous push moves the server's moving statistics to the replica's, in (0, 1]; None for
    1 / replicas. A synchronous round takes their mean."""
    wire: str = "float32"
    """How pushed vectors travel, one of `WIRES`."""
    reply_wire: str = "float32"
    """How weights travel back: float32, float16 or bfloat16."""

    def __post_init__(self) -> None:
        kinds = [kind.value for kind in Kind]
        require(self.kind in kinds, f"kind must be one of {', '.join(kinds)}", self.kind)
        object.__setattr__(self, "kind", Kind(self.kind))
        require(whole(self.sync_every) and self.sync_every >= 1, "sync_every must be >= 1", self.sync_every)
        self._check_numbers()
        self._check_together()
        rule = self.damping_rule
        require(rule in DAMPING_RULES, f"damping_rule must be one of {', '.join(DAMPING_RULES)}", rule)
        require(self.wire in WIRES, f"wire must be one of {', '.join(WIRES)}", self.wire)
        wires = WIRES[:3]
        require(self.reply_wire in wires, f"reply_wire must be one of {', '.join(wires)}", self.reply_wire)

    def _check_numbers(self) -> None:
        top = float("inf")
        for name, high in (("quorum", 1), ("elastic_force", 1), ("gem_kappa", top)):
            value = getattr(self, name)
            require(is_number(value) and 0 < value <= high, f"{name} must be in (0, {high}]", value)
        for name, high in (("gem_rate", top), ("statistics_share", 1)):
            value = getattr(self, name)
            valid = value is None or (is_number(value) and 0 < value <= high)
            require(valid, f"{name} must be in (0, {high}]", value)
        for name in ("synchronous", "damping", "overlap"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"{name} must be true or false", value)
        momentum, bound = self.momentum, self.staleness_bound
        valid = momentum is None or (is_number(momentum) and 0 <= momentum < 1)
        require(valid, "momentum must be in [0, 1)", momentum)
        valid = bound is None or (whole(bound) and bound >= 0)
        require(valid, "staleness_bound must be a whole number >= 0", bound)

    def _check_together(self) -> None:
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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self) | {"kind": self.kind.value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Algorithm":
        """Build from what `to_dict` gave."""
        plain = read_fields(cls, data)
        for name in ("server_optimizer", "replica_optimizer"):
            if plain.get(name) is not None:
                plain[name] = OptimizerSpec.from_dict(plain[name])
        if "schedule" in plain:
            plain["schedule"] = RateSchedule.from_dict(plain["schedule"])
        return cls(**plain)
