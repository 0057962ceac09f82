"""Configure a web server: how it is reached, and what it takes from outside, in numbers."""

from dataclasses import dataclass, field

MIB = 1 << 20


@dataclass(frozen=True)
class UploadLimits:
    """What an upload may be; more of anything is refused with the number."""

    stored_bytes: int = 8 << 30
    """As sent, compressed or not."""
    text_bytes: int = 64 << 30
    """Unpacked."""
    expansion: float = 200.0
    """Unpacked bytes a sent byte, looked at from 10 MiB of text on."""
    columns: int = 10_000
    rows: int = 500_000_000
    seconds_s: float = 4 * 3600.0
    """From the first byte to the end of the check."""
    stall_s: float = 60.0
    """Between two parts of a body."""
    at_once: int = 4
    """Uploads that are received at the same time."""
    kept_s: float = 7 * 86400.0
    """After which an upload that no study uses is deleted."""


@dataclass(frozen=True)
class Limits:
    """All limits of a web server."""

    upload: UploadLimits = UploadLimits()
    body_bytes: int = 2 * MIB
    """Of any request that is no upload."""
    predict_rows: int = 100_000
    """Rows of one request for predictions."""
    predict_bytes: int = 64 * MIB
    requests_s: float = 50.0
    """Requests a second and client address, on average."""
    burst: int = 200
    """Requests that a client may make at once."""
    logins_minute: int = 10
    """Attempts to log in of one client address."""
    streams: int = 64
    """Event streams that are open at the same time."""


@dataclass(frozen=True)
class WebConfig:
    """How a web server is reached, and what it takes."""

    host: str = "127.0.0.1"
    port: int = 8050
    hosts: tuple[str, ...] = ()
    """Further names that a `Host` header may have; loopback names and `host` always may."""
    token: str | None = None
    """What a person logs in with and a program sends as bearer; required where `host` is not loopback."""
    prefect_url: str | None = None
    """Of a Prefect server; with it jobs are runs of its deployments, without it children of this machine."""
    limits: Limits = field(default_factory=Limits)
