"""A synchronous round: pushes that wait for each other."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from dnnflow.parallel.server.messages import Push


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
