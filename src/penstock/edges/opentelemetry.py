"""Exchanges as OpenTelemetry spans and metrics, by the semantic conventions for generative AI (their latest, experimental form).

Everything is made from the record of an exchange, at its end and with its own times, so that nothing of it lies on a request's way.
It decides names and attributes; what is sampled, batched and exported is the SDK's. Loaded only where it is wanted (extra `otel`).

Names follow open-telemetry/semantic-conventions-genai; the constants of the package opentelemetry-semantic-conventions are
deprecated there, so they are spelled out here. What the conventions do not name is `penstock.*`. No content is exported.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from penstock import __version__

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram

    from penstock.server.exchange import Exchange, Send

LOGGER = logging.getLogger("penstock.telemetry")
CHAT = "chat"

PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure-v1": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
}
"""The conventions' word for a provider where it is not ours."""

SECONDS = tuple(0.01 * 2**doubling for doubling in range(15))
"""The conventions' bounds, 10 ms doubling to 82 s, and once more: reasoning takes longer."""

TOKENS = tuple(4.0**power for power in range(14))
SECONDS_A_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

SAMPLED = 0.1
"""The share of traces that are kept, where neither the caller's `traceparent` nor OTEL_TRACES_SAMPLER says."""

GRACE_SECONDS = 5.0
_SERVER_TROUBLE = 500
_PROPAGATOR = TraceContextTextMapPropagator()

Attributes: TypeAlias = dict[str, str | bool | int | float | list[str]]


class Telemetry:
    """Tells the SDK of exchanges: a SERVER span for each, in it a CLIENT span for each attempt, and histograms.

    Give `exchange` to whatever is done after an answer. Close it with the application.
    """

    def __init__(self, tracers: TracerProvider, meters: MeterProvider) -> None:
        self._tracers, self._meters = tracers, meters
        self._tracer = tracers.get_tracer("penstock", __version__)
        meter = meters.get_meter("penstock", __version__)

        def histogram(name: str, unit: str, bounds: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(name, unit, explicit_bucket_boundaries_advisory=bounds)

        self._operation = histogram("gen_ai.client.operation.duration", "s", SECONDS)
        self._first_chunk = histogram("gen_ai.client.operation.time_to_first_chunk", "s", SECONDS)
        self._tokens = histogram("gen_ai.client.token.usage", "{token}", TOKENS)
        self._request = histogram("gen_ai.server.request.duration", "s", SECONDS)
        self._first_token = histogram("gen_ai.server.time_to_first_token", "s", SECONDS)
        self._per_token = histogram("gen_ai.server.time_per_output_token", "s", SECONDS_A_TOKEN)

    def exchange(self, exchange: Exchange) -> None:
        """One exchange is over. May be called from any thread."""
        sends = exchange.known_sends()
        if exchange.model:
            self._measure(exchange, sends)
        self._trace(exchange, sends)

    async def aclose(self, grace_s: float = GRACE_SECONDS) -> None:
        """Export what waits, for so many seconds at most: a collector that does not answer holds up no exit."""
        both = [_in_thread(self._tracers.shutdown), _in_thread(lambda: self._meters.shutdown(grace_s * 1000))]
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                for closed in both:
                    await closed.wait()

    # -- metrics

    def _measure(self, exchange: Exchange, sends: tuple[Send, ...]) -> None:
        common, usage = _common(exchange), exchange.usage
        failed = common | _error(exchange.error_kind)
        self._request.record(exchange.duration_s, failed)
        for send in sends:
            self._operation.record(send.duration_s, common | _error(send.error_kind))
        if exchange.first_token_s is not None:
            self._first_token.record(exchange.first_token_s, common)
            if sends:
                self._first_chunk.record(exchange.first_token_s - sends[-1].began_s, common)
        if usage is not None:
            self._tokens.record(usage.input_tokens, common | {"gen_ai.token.type": "input"})
            self._tokens.record(usage.output_tokens, common | {"gen_ai.token.type": "output"})
            if exchange.first_token_s is not None and usage.output_tokens > 1:
                after_first = exchange.duration_s - exchange.first_token_s
                self._per_token.record(after_first / (usage.output_tokens - 1), common)

    # -- spans

    def _trace(self, exchange: Exchange, sends: tuple[Send, ...]) -> None:
        # Extracted into an empty context: whatever span is current here has nothing to do with the exchange.
        parent = _PROPAGATOR.extract({"traceparent": exchange.traceparent}, Context())
        span = self._tracer.start_span(
            f"{exchange.method} {exchange.route}".rstrip(),
            parent,
            SpanKind.SERVER,
            start_time=_nanoseconds(exchange.began_at),
        )
        if span.is_recording():
            span.set_attributes(_of_request(exchange))
            if exchange.status >= _SERVER_TROUBLE:
                span.set_status(Status(StatusCode.ERROR))
            inside = set_span_in_context(span, parent)
            for send in sends:
                self._trace_send(exchange, send, inside, last=send is sends[-1])
        span.end(_nanoseconds(exchange.began_at + exchange.duration_s))

    def _trace_send(self, exchange: Exchange, send: Send, inside: Context, *, last: bool) -> None:
        began = exchange.began_at + send.began_s
        name, start = f"{CHAT} {exchange.model}".rstrip(), _nanoseconds(began)
        span: Span = self._tracer.start_span(name, inside, SpanKind.CLIENT, start_time=start)
        span.set_attributes(_common(exchange) | {"gen_ai.request.stream": exchange.streamed} | _error(send.error_kind))
        if send.status is not None:
            span.set_attribute("http.response.status_code", send.status)
        if send.error_kind:
            span.set_status(Status(StatusCode.ERROR))
        elif last:
            span.set_attributes(_of_answer(exchange, send))
        span.end(_nanoseconds(began + send.duration_s))


def _in_thread(job: Callable[[], object]) -> asyncio.Event:
    """Do what blocks, in a daemon thread; the event says that it is over. What it could not export is told, not raised."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        try:
            job()
        except Exception:
            LOGGER.exception("not all traces and metrics could be exported")
        with suppress(RuntimeError):  # the grace was over, and the loop with it
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=work, name="penstock-telemetry", daemon=True).start()
    return done


def _common(exchange: Exchange) -> Attributes:
    return {
        "gen_ai.operation.name": CHAT,
        "gen_ai.provider.name": PROVIDERS.get(exchange.provider, exchange.provider),
        "gen_ai.request.model": exchange.model,
    }


def _error(kind: str) -> Attributes:
    return {"error.type": kind} if kind else {}


def _of_request(exchange: Exchange) -> Attributes:
    """What the span of the whole exchange says; what is not known is left out."""
    attributes: Attributes = {
        "http.request.method": exchange.method,
        "http.route": exchange.route,
        "http.response.status_code": exchange.status,
        "penstock.request_id": exchange.request_id,
        "penstock.attempts": exchange.attempts,
    }
    if exchange.status >= _SERVER_TROUBLE or exchange.error_kind:
        attributes["error.type"] = exchange.error_kind or str(exchange.status)
    if exchange.key_name:
        attributes["penstock.key_name"] = exchange.key_name
    if exchange.queue_s is not None:
        attributes["penstock.queue_s"] = exchange.queue_s
    if exchange.cost is not None:
        attributes["penstock.cost_usd"] = exchange.cost
    return attributes


def _of_answer(exchange: Exchange, send: Send) -> Attributes:
    """What the span of the attempt that brought the answer says."""
    attributes: Attributes = {}
    if (usage := exchange.usage) is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.input_tokens
        attributes["gen_ai.usage.output_tokens"] = usage.output_tokens
        attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
        attributes["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
    if exchange.finish_reason:
        attributes["gen_ai.response.finish_reasons"] = [exchange.finish_reason]
    if exchange.first_token_s is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = exchange.first_token_s - send.began_s
    if exchange.upstream_request_id:
        attributes["penstock.upstream_request_id"] = exchange.upstream_request_id
    return attributes


def _nanoseconds(unix_seconds: float) -> int:
    return int(unix_seconds * 1_000_000_000)


def exporting(sampled: float = SAMPLED) -> Telemetry:
    """A `Telemetry` that exports by OTLP over HTTP, where the usual variables say (OTEL_EXPORTER_OTLP_ENDPOINT, ...).

    `sampled` is the share of traces that are kept; metrics count everything.
    """
    name = os.environ.get("OTEL_SERVICE_NAME") or "penstock"
    resource = Resource.create({"service.name": name, "service.version": __version__})
    sampler = None if os.environ.get("OTEL_TRACES_SAMPLER") else ParentBasedTraceIdRatio(sampled)
    # Closed by us within a bound; at exit the SDK would wait for its collector.
    tracers = TracerProvider(sampler, resource, shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    return Telemetry(tracers, MeterProvider([reader], resource, shutdown_on_exit=False))
