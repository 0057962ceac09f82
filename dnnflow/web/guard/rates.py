"""Limit how often a client may ask: token buckets in a table that does not grow."""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MOST_CLIENTS = 4096
"""Of more clients, those are forgotten that have been silent the longest."""


class Buckets:
    """A token bucket a client; safe for threads.

    Parameters
    ----------
    per_s
        Tokens that come back a second.
    burst
        Tokens of a full bucket.
    clock
        Seconds of a monotonic clock.
    """

    def __init__(self, per_s: float, burst: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, client: str, tokens: float = 1.0) -> float:
        """Take a token; return 0, or how many seconds to wait where there is none.

        Parameters
        ----------
        tokens
            0 looks without taking.
        """
        now = self._clock()
        with self._lock:
            left, since = self._buckets.get(client, (self._burst, now))
            left = min(self._burst, left + (now - since) * self._per_s)
            wait_s = 0.0 if left >= max(tokens, 1.0) else (max(tokens, 1.0) - left) / self._per_s
            self._buckets[client] = (left - tokens if not wait_s else left, now)
            self._buckets.move_to_end(client)
            while len(self._buckets) > MOST_CLIENTS:
                self._buckets.popitem(last=False)
        return wait_s


def come_back(wait_s: float) -> tuple[int, dict[str, str]]:
    """Return whole seconds to wait, and the header that says so."""
    seconds = max(1, round(wait_s + 0.5))
    return seconds, {"Retry-After": str(seconds)}


def client_key(address: str) -> str:
    """Return what a client is counted by: its address, of IPv6 the network that one customer gets.

    Examples
    --------
    >>> client_key("192.0.2.7"), client_key("2001:db8::7")
    ('192.0.2.7', '2001:db8::/64')
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
