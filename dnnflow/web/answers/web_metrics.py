"""Measure the server for Prometheus, in a registry of its own."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client import Counter as Counted
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.metrics import Histogram
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dnnflow.errors import DnnflowError
from dnnflow.results.store.run_record import RunState
from dnnflow.web.answers.training_runs import STATES
from dnnflow.web.answers.watch import EventStreams
from dnnflow.web.jobs.services import Services

CONTENT_TYPE = CONTENT_TYPE_LATEST
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
API = "/api/v1"
UPLOAD_ROUTE = "/api/v1/datasets"


class WebMetrics:
    """Counts requests, and looks at what is there when it is asked."""

    def __init__(self, services: Services, watch: EventStreams) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counted(
            "dnnflow_web_requests", "Requests, by route and status.", labels, registry=self._registry
        )
        self.seconds = Histogram(
            "dnnflow_web_request_seconds",
            "From a request's first byte to its response's first byte.",
            ("route",),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self.uploaded = Counted(
            "dnnflow_web_upload_bytes", "Bytes of uploads that were received.", registry=self._registry
        )
        self._registry.register(_Gauges(services, watch))

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    """Counts when it is asked."""

    def __init__(self, services: Services, watch: EventStreams) -> None:
        self._services, self._watch = services, watch

    def describe(self) -> Iterable[Metric]:
        """Say nothing at the start: describing would ask the store."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Look at studies, jobs, uploads and streams."""
        streams = GaugeMetricFamily("dnnflow_web_event_streams", "Event streams that are open.")
        streams.add_metric((), self._watch.open)
        yield streams
        studies = GaugeMetricFamily("dnnflow_studies", "Studies in the store, by state.", labels=("state",))
        jobs = GaugeMetricFamily("dnnflow_jobs", "Jobs started here, by state.", labels=("state",))
        reachable = GaugeMetricFamily("dnnflow_store_up", "Whether the store can be reached.")
        try:
            records = self._services.store.runs()
            begun = Counter(record.state for record in records if record.has_designs)
            for state in RunState:
                studies.add_metric((state.value,), begun[state])
            for state, count in Counter(one.state for one in records if one.queue is not None).items():
                jobs.add_metric((STATES[state],), count)
            reachable.add_metric((), 1)
        except DnnflowError:
            reachable.add_metric((), 0)
        uploads = GaugeMetricFamily("dnnflow_web_uploads", "Uploads that are kept.")
        uploads.add_metric((), len(self._services.uploads.all()))
        yield from (studies, jobs, reachable, uploads)


class Measured:
    """ASGI middleware: counts requests and their time by the route that answered."""

    def __init__(self, app: ASGIApp, *, metrics: WebMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on and count."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_s, status, first_s = time.perf_counter(), 500, None
        is_upload = scope["method"] in ("POST", "PUT") and scope["path"] == UPLOAD_ROUTE

        async def counted(message: Message) -> None:
            nonlocal status, first_s
            if message["type"] == "http.response.start":
                status, first_s = message["status"], time.perf_counter()
            await send(message)

        async def received() -> Message:
            message = await receive()
            if is_upload:
                self._metrics.uploaded.inc(len(message.get("body", b"")))
            return message

        try:
            await self._app(scope, received, counted)
        finally:
            route = route_of(scope)
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.requests.labels(method, route, str(status)).inc()
            if not is_upload:  # an upload's time is its sender's
                self._metrics.seconds.labels(route).observe((first_s or time.perf_counter()) - start_s)


def route_of(scope: Scope) -> str:
    """Return the template of the route that answered, so that ids make no series of their own."""
    template = getattr(scope.get("route"), "path", None)
    if template is None:
        return "/static" if scope["path"].startswith("/static/") else "other"
    prefix = API if scope["path"].startswith(f"{API}/") and not template.startswith(API) else ""
    return f"{prefix}{template}"
