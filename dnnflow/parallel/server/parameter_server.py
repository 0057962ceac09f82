"""Hold a model's weights and apply what replicas push: the parameter server, a class that threads share."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import InputError, NotFoundError, StudyError, TimeLimitError
from dnnflow.parallel.model.weights import FlatLayout, Vector
from dnnflow.parallel.server.messages import Push, PushReply, ServerStatistics
from dnnflow.parallel.server.optimizers import BLOCK, blocks, is_flat
from dnnflow.parallel.server.server_rules import (
    AddRule,
    ElasticRule,
    OptimizerRule,
    ServerRule,
    StatisticsRule,
)
from dnnflow.parallel.server.updates import Damping, reduce_momentum, scheduled_rate, shares_of, within_bound
from dnnflow.parallel.spec.algorithm import Algorithm, Kind
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec, require_constraints_kept

STEPS_PER_START = 1 << 20
"""Steps from the first of a replica's process to the first of the process that takes its place."""
_COUNTS = ("pushes", "dropped", "repeated")
_ALONE = (1.0,)


class ParameterServer:
    """Weights that replicas push to and pull from. All methods may be called by any thread.

    Asynchronous: a push is applied when it comes. Synchronous: the calling thread waits until all live
    replicas, or the quorum, have pushed; their mean is applied once. A replica takes part from `join` to
    `leave`; nobody waits for one that has left, and no wait is longer than `wait_s`.

    Examples
    --------
    >>> server = ParameterServer(np.zeros(3, np.float32), Algorithm())
    >>> step = server.join(0)
    >>> version, weights = server.pull(0)
    >>> server.exchange(Push(0, step, version, 32, np.ones(3, np.float32))).version
    1
    """

    def __init__(
        self, weights: Vector, algorithm: Algorithm, *, replicas: int = 1, layout: FlatLayout | None = None,
        shard: slice | None = None, wait_s: float = 300.0,
    ) -> None:  # fmt: skip
        """Begin with weights, of which the server keeps a copy.

        Parameters
        ----------
        weights
            The first weights, shape (size,): of the whole model, or of the shard.
        replicas
            How many are meant to take part: n of elastic averaging's α = β / n.
        layout
            Of the whole model; without it all is learned, and optimizers see one array.
        shard
            Which slice of the layout's vector this server holds; None for all of it.
        wait_s
            Seconds after which a wait for other replicas fails.

        Raises
        ------
        InputError
            For weights that do not fit, or an optimizer that needs whole tensors on a shard.
        """
        if not wait_s > 0:
            raise InputError(f"wait_s must be > 0, got {wait_s}")
        self._state = ServerState(weights, algorithm, replicas=replicas, layout=layout, shard=shard)
        self._weights = self._state.weights
        self._algorithm, self._wait_s = algorithm, wait_s
        self._synchronous = algorithm.synchronous
        self._push_kind, self._bound = algorithm.push_kind, algorithm.staleness_bound
        self._elastic = algorithm.kind is Kind.EASGD
        before = self._elastic and algorithm.synchronous
        self._round_start = self._weights.copy() if before else None  # the round's; EASGD replies it
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._round = Round()
        self._clocks: dict[int, int] = {}  # of the live replicas: pushes, on from the slowest's on joining
        self._steps: dict[int, int] = {}  # the last step done with, of all that ever joined
        self._rows: Counter[int] = Counter()  # of each replica: samples of its pushes that are done with
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._staleness: Counter[int] = Counter()
        self._waited_s = 0.0

    @property
    def version(self) -> int:
        """Updates applied so far."""
        return self._state.version

    @property
    def never_waits(self) -> bool:
        """Whether no replica is made to wait for another one."""
        return not self._synchronous and self._bound is None

    @property
    def learned(self) -> int:
        """Entries of the vector that are learned; statistics are behind them."""
        return self._state.learned

    @property
    def learning_rate(self) -> float | None:
        """The optimizer's rate before schedule and damping; None for a server without an optimizer."""
        return self._state.rate

    def set_learning_rate(self, rate: float) -> None:
        """Set the rate that schedule and damping go on from."""
        if self._state.rate is None or not rate > 0:
            kind = self._algorithm.kind
            raise InputError(f"a server's rate must be > 0, of downpour or diloco, got {rate} for {kind}")
        with self._lock:
            self._state.rate = float(rate)

    def join(self, replica: int) -> int:
        """Let a replica take part, and return the step that a new process of it begins with.

        Steps of its former process are below: what that may still send is a repeat once the new one has
        pushed. A process that comes back after its connection was cut joins too, but keeps its own count.
        What it has in a round that waits is taken out: it pushes that again.
        """
        with self._lock:
            self._round.pushes.pop(replica, None)
            if replica not in self._clocks:
                self._clocks[replica] = min(self._clocks.values(), default=0)
            last = self._steps.setdefault(replica, -1)
            return (last // STEPS_PER_START + 1) * STEPS_PER_START

    def leave(self, replica: int) -> None:
        """Let a replica go, which releases who waits for it; one that does not take part is no error."""
        with self._lock:
            self._clocks.pop(replica, None)
            self._end_complete_round()
            self._changed.notify_all()

    def rows_of(self, replica: int) -> int:
        """Return the samples of a replica's pushes that are done with: where its lane goes on."""
        with self._lock:
            return self._rows[replica]

    def pull(self, replica: int = -1, out: Vector | None = None) -> tuple[int, Vector]:
        """Return the version and a copy of the weights; anyone may, whether it takes part or not."""
        out = np.empty_like(self._weights) if out is None else out
        with self._lock:
            np.copyto(out, self._weights)
            return self._state.version, out

    def exchange(self, push: Push, out: Vector | None = None) -> PushReply:
        """Apply what a replica pushes, and return what it goes on from.

        A push whose step is done with is not applied again; one of a past synchronous round is dropped. Both
        are answered with the weights as they are.

        Parameters
        ----------
        push
            Its vector must stay as it is until this returns.
        out
            Vector to write the reply's to; a new one without it.

        Raises
        ------
        NotFoundError
            For a replica that has not joined, or was taken for dead and made to leave.
        TimeLimitError
            When other replicas have not come after `wait_s`. Sent again, a synchronous push takes part in the
            round, and an asynchronous one, which was applied, goes on waiting.
        InputError
            For a vector of another length or kind.
        """
        self._check(push)
        out = np.empty_like(self._weights) if out is None else out
        replica = push.replica
        with self._lock:
            if replica not in self._clocks:
                raise NotFoundError(
                    f"a replica must join before it pushes, got a push of {replica}; join first"
                )
            if push.step <= self._steps[replica]:
                self._counts["repeated"] += 1
                self._wait_for_slowest(replica)
                return self._reply(0, out)
            return self._join_round(push, out) if self._synchronous else self._apply(push, out)

    def move(self, start: Vector, target: Vector) -> None:
        """Add target - start to the weights, and so keep what was pushed since `start` was pulled.

        For a server below another: `start` is what it held when it pushed upwards, `target` is the reply.
        """
        scratch = np.empty(min(BLOCK, start.size), start.dtype)
        with self._lock:
            for part in blocks(start.size):
                weights = self._weights[part]
                step = np.subtract(target[part], start[part], out=scratch[: weights.size])
                np.add(weights, step, out=weights)

    def statistics(self) -> ServerStatistics:
        """Return what was done so far."""
        with self._lock:
            return ServerStatistics(
                version=self._state.version,
                samples=self._state.samples,
                **self._counts,
                staleness=dict(sorted(self._staleness.items())),
                waited_s=self._waited_s,
                replicas=tuple(sorted(self._clocks)),
            )

    def finish(self) -> None:
        """Set the weights that the training ends with: with `use_ema` their moving average."""
        with self._lock:
            self._state.finish()

    def snapshot(self) -> dict[str, Any]:
        """Return the whole state as arrays and numbers, between two updates.

        Pushes of a round that waits are not in it: they are sent again to the server that is restored.
        """
        with self._lock:
            return {
                **self._state.snapshot(),
                **self._counts,
                "waited_s": self._waited_s,
                "steps": _pairs(self._steps),  # (replicas, 2): replica, its last step
                "rows": _pairs(self._rows),  # (replicas, 2): replica, its samples that are done with
                "staleness": _pairs(self._staleness),  # (values, 2): staleness, pushes
            }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Set the state that `snapshot` returned. Nobody takes part then: replicas join again.

        Raises
        ------
        InputError
            For the snapshot of another model or optimizer.
        """
        with self._lock:
            self._state.restore(snapshot)
            self._counts = {name: int(snapshot[name]) for name in _COUNTS}
            self._waited_s = float(snapshot["waited_s"])
            self._steps = {int(replica): int(step) for replica, step in snapshot["steps"]}
            self._rows = Counter({int(replica): int(rows) for replica, rows in snapshot["rows"]})
            self._staleness = Counter({int(late): int(pushes) for late, pushes in snapshot["staleness"]})
            self._clocks.clear()
            self._round.error = StudyError(
                "a server went back to a snapshot in mid-round; join and push again"
            )
            self._end_round()

    def _check(self, push: Push) -> None:
        found, size = push.vector.shape, self._weights.size
        if found != (size,):
            raise InputError(f"a push must have {size} entries, got {found} of replica {push.replica}")
        if push.kind != self._push_kind:
            raise InputError(f"replicas must push a {self._push_kind}, got a {push.kind}")

    def _count(self, push: Push, staleness: int) -> None:
        self._steps[push.replica] = push.step
        self._rows[push.replica] += push.count
        self._counts["pushes"] += 1
        self._staleness[staleness] += 1

    def _reply(self, staleness: int, out: Vector) -> PushReply:
        np.copyto(out, self._weights)
        return PushReply(self._state.version, staleness, out, self._state.samples)

    def _apply(self, push: Push, out: Vector) -> PushReply:
        """Apply a push on its arrival; the reply may have to wait for slower replicas."""
        state, replica = self._state, push.replica
        staleness = max(state.version - push.version, 0)
        state.apply_one(push, staleness, len(self._clocks), out)
        self._count(push, staleness)
        self._clocks[replica] += 1
        version = state.version
        if self._bound is not None:
            self._changed.notify_all()
            if self._wait_for_slowest(replica) and not self._elastic:
                return self._reply(staleness, out)
        return PushReply(version, staleness, out, state.samples)

    def _join_round(self, push: Push, out: Vector) -> PushReply:
        """Wait in a round, or drop what comes too late for its own."""
        late = self._state.version - push.version
        if late:
            self._counts["dropped"] += 1
            self._count(push, max(late, 0))
            return self._reply(max(late, 0), out)
        current = self._round
        current.pushes[push.replica] = push  # in place of the same one over a connection that was cut
        self._end_complete_round()
        if not self._wait(lambda: current.is_ended):
            missing = current.missing(self._clocks)
            if current.pushes.get(push.replica) is push:
                del current.pushes[push.replica]
            raise TimeLimitError(
                f"a synchronous round must end within {self._wait_s:g} s, got no push of replica {missing}; "
                "let dead ones leave, or set a quorum"
            )
        if current.error:
            raise current.error
        if self._round_start is None:
            return self._reply(0, out)
        np.copyto(out, self._round_start)
        return PushReply(self._state.version, 0, out, self._state.samples)

    def _end_complete_round(self) -> None:
        """Apply the round, if enough have come, and wake its threads."""
        current, live = self._round, self._clocks
        if not current.is_complete(live, self._algorithm.quorum):
            return
        pushes = current.in_order()
        try:
            self._state.apply_round(pushes, len(live), self._round_start)
        except Exception as error:  # told to all of the round, who would wait for its update in vain
            current.error = error
        else:
            for push in pushes:
                self._count(push, 0)
        self._end_round()

    def _end_round(self) -> None:
        self._round.is_ended = True
        self._round = Round()
        self._changed.notify_all()

    def _wait_for_slowest(self, replica: int) -> bool:
        """Wait until a replica is within the bound, and say whether it had to."""
        bound, clocks = self._bound, self._clocks
        if bound is None or within_bound(clocks[replica], min(clocks.values()), bound):
            return False

        def may_go_on() -> bool:
            return replica not in clocks or within_bound(clocks[replica], min(clocks.values()), bound)

        if not self._wait(may_go_on):
            slowest = min(clocks, key=clocks.__getitem__)
            raise TimeLimitError(
                f"a replica must be at most {bound} pushes ahead of the slowest, got {replica} waiting "
                f"{self._wait_s:g} s for replica {slowest}; let a dead one leave, or raise staleness_bound"
            )
        return True

    def _wait(self, until: Callable[[], bool]) -> bool:
        """Wait for others with the lock given back, and say whether it came true in time."""
        began = time.monotonic()
        in_time = self._changed.wait_for(until, self._wait_s)
        self._waited_s += time.monotonic() - began
        return in_time


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
        self, weights: Vector, algorithm: Algorithm, *, replicas: int, layout: FlatLayout | None,
        shard: slice | None,
    ) -> None:  # fmt: skip
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
            used, self._factor = reduce_momentum(spec, replicas)
        self._rule = _make_rule(algorithm.kind, used, self.weights[:learned], layout, shard)
        self._averages = StatisticsRule(self.weights, learned) if learned < weights.size else None
        self._algorithm, self._replicas = algorithm, replicas
        self._schedule = algorithm.schedule if algorithm.schedule.every is not None else None
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

    def finish(self) -> None:
        """Set the last weights, as the optimizer has them."""
        self._rule.finish()

    def _strength(self, staleness: int, live: int) -> float:
        """Return the learning rate of an update, or α of elastic averaging."""
        if self.rate is None:
            elastic = self._algorithm.kind is Kind.EASGD
            return self._algorithm.elastic_share(max(self._replicas, live)) if elastic else 1.0
        rate = self.rate * self._factor
        if self._schedule is not None:
            rate = scheduled_rate(rate, self._schedule, self.samples)
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


@dataclass(slots=True)
class Round:
    """Pushes of one version of the weights; not thread-safe, its server holds a lock."""

    pushes: dict[int, Push] = field(default_factory=dict)
    """By replica. Their threads wait in the server, so that their vectors stay as they are without a copy."""
    is_ended: bool = False
    error: Exception | None = None
    """Why the round's update failed."""

    def is_complete(self, live: Collection[int], quorum: float) -> bool:
        """Say whether enough of the live replicas have pushed; never for a round without a push.

        A replica that has left is not waited for, but what it pushed before counts.
        """
        needed = math.ceil(quorum * len(live) - 1e-9)  # 0.95 · 20 may be a little above 19
        return bool(self.pushes) and sum(replica in self.pushes for replica in live) >= needed

    def in_order(self) -> list[Push]:
        """Return the pushes by replica: sums then round the same, whoever came first."""
        return [push for _, push in sorted(self.pushes.items())]

    def missing(self, live: Collection[int]) -> str:
        """Name the live replicas that have not pushed."""
        return ", ".join(str(replica) for replica in sorted(set(live) - set(self.pushes))) or "none"


def _make_rule(
    kind: Kind, spec: OptimizerSpec | None, weights: Vector, layout: FlatLayout, shard: slice | None
) -> ServerRule:
    """Return the rule of an algorithm on the learned part of a server's weights.

    Parameters
    ----------
    spec
        The server's optimizer; None for an algorithm that has none.

    Raises
    ------
    InputError
        For an optimizer that needs whole tensors on a shard.
    """
    constrained = bool(layout.constraints)
    if constrained:
        require_constraints_kept(spec, shards=1 if shard is None else 2)
    if kind is Kind.EASGD:
        return ElasticRule(weights)
    if spec is None:
        return AddRule(weights)
    if is_flat(spec) and not constrained:
        return OptimizerRule(spec, weights)
    if shard is not None:
        spec.require_elementwise(shards=2)
    if "exclude_from_weight_decay" in spec.parameters and not layout.names:
        raise InputError(
            "exclude_from_weight_decay needs the layout's names of variables, got none; give FlatLayout names"
        )
    # TensorFlow, for the optimizers that only Keras has
    from dnnflow.parallel.server.keras_rule import KerasRule

    return KerasRule(spec, weights, layout if spec.whole_reason or constrained else None)


def _pairs(numbers: Mapping[int, int]) -> NDArray[np.int64]:
    return np.array(sorted(numbers.items()), np.int64).reshape(-1, 2)
