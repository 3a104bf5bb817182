"""A server that makes traces: each send is a span inside its request's, and the caller's trace goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from penstock.edges.opentelemetry import Telemetry
from penstock.server import afterwards
from tests.kit.serving import CHAT, HI, MODEL, STREAMED, error_answer, gateway, gives, stream_of, whole

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What the server's SDK was told, in place of a collector."""
    exporter, tracers = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(tracers, MeterProvider(shutdown_on_exit=False))
    monkeypatch.setattr(afterwards, "_telemetry", lambda: telemetry)
    return exporter


async def test_each_send_is_a_span_and_the_callers_trace_goes_on(spans: InMemorySpanExporter, tmp_path: Path) -> None:
    answers = gives(error_answer("500 Oops"), whole())
    async with gateway(answers, tmp_path, models={MODEL: {"max_retries": 2}}, otel=True) as (server, _):
        assert (await server.ask(CHAT, HI, headers=PARENT)).status == 200
    told = spans.get_finished_spans()
    sends = sorted((span for span in told if span.kind is SpanKind.CLIENT), key=lambda span: span.start_time)
    (request,) = (span for span in told if span.kind is SpanKind.SERVER)
    assert f"{request.context.trace_id:032x}" == TRACE
    assert [span.attributes.get("error.type") for span in sends] == ["server_error", None]
    assert all(span.parent is not None and span.parent.span_id == request.context.span_id for span in sends)
    assert request.start_time <= sends[0].start_time <= sends[0].end_time <= sends[1].start_time <= request.end_time


async def test_a_stream_is_traced_too(spans: InMemorySpanExporter, tmp_path: Path) -> None:
    async with gateway(gives(stream_of("a", "b")), tmp_path, otel=True) as (server, _):
        assert (await server.ask(CHAT, STREAMED)).status == 200
    assert sorted(span.kind.name for span in spans.get_finished_spans()) == ["CLIENT", "SERVER"]
