"""OpenTelemetry traces of inference requests: off by default, and then nothing of it is imported.

A span never holds what an image shows, its name, or a verdict; ids, routes, times and counts only.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from oodguard.core.answers import ModelRef
from oodguard.core.errors import EnvironmentProblem
from oodguard.server.stages import Stages

if TYPE_CHECKING:
    from opentelemetry.trace import Span

SPANS_PATH = "/v1/traces"
# A collector that does not answer must not hold up the end of the process.
EXPORT_SECONDS = 5
CARRIED = ("traceparent", "tracestate")


class Trace:
    """One request's span, and the spans below it."""

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self._tracing = tracing
        self._span = span
        # Spans are dated by the wall clock, stages by the monotonic one.
        self._offset = time.time_ns() - time.monotonic_ns()

    def stages(self, stages: Stages, model: ModelRef) -> None:
        """Add a span for each stage that has ended."""
        span = self._span
        span.set_attribute("oodguard.images", len(stages.images))
        span.set_attribute("oodguard.model.name", model.name)
        span.set_attribute("oodguard.model.version", model.version)
        for name, begin, end in stages.periods():
            below = self._tracing.below(span, name, at=self._wall(begin))
            below.end(self._wall(end))

    def _wall(self, seconds: float) -> int:
        return round(seconds * 1e9) + self._offset

    def call(self, name: str) -> tuple[Span, dict[str, str]]:
        """A span of a call to another server, to be ended, and the headers that tell that server of it."""
        span = self._tracing.below(self._span, name, client=True)
        return span, self._tracing.headers(span)

    def end(self, status: int) -> None:
        """End the request with the status of its answer."""
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)


class Tracing:
    """Sends spans to a collector, from a thread of its own with a bounded queue: requests never wait for it.

    ```python
    tracing = Tracing("http://localhost:4318", share=0.1)
    ```

    `share` is the share of requests to trace among those without a `traceparent`, which decides for its own request.
    Certificates and headers for the collector come from OpenTelemetry's environment variables
    (`OTEL_EXPORTER_OTLP_HEADERS` and so on). Raises `EnvironmentProblem` without the extra.
    """

    def __init__(self, endpoint: str, *, share: float) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError:
            raise EnvironmentProblem("traces need: pip install 'oodguard[otel]'") from None
        version = importlib.metadata.version("oodguard")
        named = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "oodguard"), "service.version": version}
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)), resource=Resource.create(named), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint.rstrip("/") + SPANS_PATH, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("oodguard", version)

    def begin(self, *, method: str, route: str, request_id: str, headers: Mapping[bytes, bytes]) -> Trace:
        """Begin a request's span, below its caller's where it names one."""
        carried = {name: headers.get(name.encode(), b"").decode("latin-1") for name in CARRIED}
        span = self._tracer.start_span(
            f"{method} {route}",
            context=self._propagator.extract({name: value for name, value in carried.items() if value}),
            kind=self._trace.SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route, "oodguard.request_id": request_id},
        )
        return Trace(self, span)

    def below(self, span: Span, name: str, *, at: int | None = None, client: bool = False) -> Span:
        """A span below another."""
        kind = self._trace.SpanKind.CLIENT if client else self._trace.SpanKind.INTERNAL
        context = self._trace.set_span_in_context(span)
        return self._tracer.start_span(name, context=context, kind=kind, start_time=at)

    def headers(self, span: Span) -> dict[str, str]:
        """The W3C headers that name a span."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context=self._trace.set_span_in_context(span))
        return carrier

    def close(self) -> None:
        """Send what waits, within a few seconds."""
        self._provider.shutdown()


@contextmanager
def traced_call(name: str) -> Iterator[dict[str, str] | None]:
    """Headers that carry the current request's trace to another server; None where there is none."""
    trace = CURRENT.get()
    if trace is None:
        yield None
        return
    span, headers = trace.call(name)
    try:
        yield headers
    finally:
        span.end()
