"""Hold what a server holds, and change it by a push; threads are the business of `parameter_server`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dnnflow.errors import InputError
from dnnflow.parallel.model.weights import FlatLayout, Vector
from dnnflow.parallel.server.damping import Damping, less_momentum
from dnnflow.parallel.server.messages import Push
from dnnflow.parallel.server.server_rules import StatisticsRule, make_rule
from dnnflow.parallel.server.updates import scheduled_rate, shares_of
from dnnflow.parallel.spec.algorithm import Algorithm, Kind

_ALONE = (1.0,)


class ServerState:
    """Weights, the optimizer's slots, and the counts that rates follow. Not thread-safe.

    Attributes
    ----------
    weights
        Vector, shape (learned + statistics,), changed in place.
    version
        Updates applied.
    samples
        Samples that those stood for.
    rate
        The optimizer's learning rate before schedule and damping; None without an optimizer.
    """

    def __init__(
        self,
        weights: Vector,
        algorithm: Algorithm,
        *,
        replicas: int,
        layout: FlatLayout | None,
        shard: slice | None,
    ) -> None:
        """Begin with a copy of the weights; parameters are those of `ParameterServer`."""
        layout = FlatLayout((weights.shape,), str(weights.dtype)) if layout is None else layout
        start, stop, _ = (shard or slice(None)).indices(layout.size)
        if weights.shape != (stop - start,):
            raise InputError(f"weights must have the shape ({stop - start},), got {weights.shape}")
        learned = min(max(layout.learned - start, 0), weights.size)
        self.weights = np.array(weights)
        self.version = self.samples = 0
        self.learned = learned
        spec = algorithm.used_server_optimizer
        self.rate = spec.learning_rate if spec else None
        used, self._factor = spec, 1.0
        if spec and algorithm.corrects_momentum:
            used, self._factor = less_momentum(spec, replicas)
        self._rule = make_rule(algorithm.kind, used, self.weights[:learned], layout, shard)
        self._averages = StatisticsRule(self.weights, learned) if learned < weights.size else None
        self._algorithm, self._replicas = algorithm, replicas
        self._damping = Damping(algorithm.damping_rule) if algorithm.damping else None

    def apply_one(self, push: Push, staleness: int, live: int, out: Vector) -> None:
        """Apply a push alone.

        Parameters
        ----------
        live
            How many replicas take part.
        out
            Gets what the replica goes on from.
        """
        pushed = (push.vector,)
        self._rule.apply(pushed, _ALONE, self._strength(staleness, live), out)
        if self._averages:
            self._averages.apply(pushed, _ALONE, self._algorithm.statistics_share or 1 / max(live, 1), out)
        self.version += 1
        self.samples += push.count

    def apply_round(self, pushes: Sequence[Push], live: int, out: Vector | None) -> None:
        """Apply pushes as one; `out` gets what all their replicas go on from."""
        pushed = [push.vector for push in pushes]
        shares = shares_of([push.count for push in pushes])
        self._rule.apply(pushed, shares, self._strength(0, live), out)
        if self._averages:
            self._averages.apply(pushed, shares, None, out)
        self.version += 1
        self.samples += sum(push.count for push in pushes)

    def _strength(self, staleness: int, live: int) -> float:
        """Return the learning rate of an update, or α of elastic averaging."""
        algorithm = self._algorithm
        if self.rate is None:
            elastic = algorithm.kind is Kind.EASGD
            return algorithm.elastic_share(max(self._replicas, live)) if elastic else 1.0
        rate = self.rate * self._factor
        if algorithm.schedule.every is not None:
            rate = scheduled_rate(rate, algorithm.schedule, self.samples)
        return rate * self._damping.factor(staleness) if self._damping else rate

    def snapshot(self) -> dict[str, Any]:
        """Return everything as copies: arrays and numbers."""
        return {
            "weights": self.weights.copy(),
            "version": self.version,
            "samples": self.samples,
            "rate": np.nan if self.rate is None else self.rate,
            **{f"rule/{name}": value for name, value in self._rule.state().items()},
            **(self._damping.state() if self._damping else {}),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Set what `snapshot` returned.

        Raises
        ------
        InputError
            For the snapshot of another model or optimizer; nothing is changed then.
        """
        own = self._rule.state()
        wrong = [
            name
            for name, value in {"weights": self.weights, **{f"rule/{n}": v for n, v in own.items()}}.items()
            if name not in snapshot or np.shape(snapshot[name]) != np.shape(value)
        ]
        if wrong:
            raise InputError(
                f"a snapshot must be of {self.weights.size} weights and the same optimizer, got another "
                f"{', '.join(wrong)}; begin a new run, or give the settings of the first"
            )
        self.weights[...] = snapshot["weights"]
        self.version, self.samples = int(snapshot["version"]), int(snapshot["samples"])
        self.rate = None if self.rate is None else float(snapshot["rate"])
        self._rule.restore({name: snapshot[f"rule/{name}"] for name in own})
        if self._damping:
            self._damping.restore(snapshot)
