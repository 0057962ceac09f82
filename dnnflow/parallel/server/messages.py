"""Define what travels between a replica and a server of weights."""

from collections.abc import Mapping
from dataclasses import dataclass

from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.spec.algorithm import PushKind


@dataclass(slots=True)
class Push:
    """What a replica gives; not frozen, because a frozen one takes six times as long to make."""

    replica: int
    """Which replica, from 0."""
    step: int
    """The replica's count of its pushes, which grows; a step at or below the last applied one is a repeat."""
    version: int
    """Of the weights that the replica computed from."""
    count: int
    """Samples that the vector stands for, ≥ 0."""
    vector: Vector
    """What is learned, as `kind` says, then the replica's moving statistics; read, never written to."""
    kind: PushKind = PushKind.GRADIENT


@dataclass(slots=True)
class PushReply:
    """What a server gives back."""

    version: int
    """Of the weights: how many updates the server had applied."""
    staleness: int
    """How many updates the server had applied between the replica's version and this push."""
    vector: Vector
    """The weights that the replica goes on from; with EASGD those it is pulled towards."""
    samples: int = 0
    """Samples the server had applied in all, which learning-rate schedules follow."""


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What a server has done since it began, and over restarts."""

    version: int
    """Updates applied to the weights."""
    samples: int
    """Samples that those stood for."""
    pushes: int
    """Pushes that came, repeats left out."""
    dropped: int
    """Pushes that came after their synchronous round had ended, and were not applied."""
    repeated: int
    """Pushes that had been applied before."""
    staleness: Mapping[int, int]
    """How many pushes were how many updates late."""
    waited_s: float
    """Seconds that replicas waited for others, summed over replicas."""
    replicas: tuple[int, ...]
    """Who takes part now."""
