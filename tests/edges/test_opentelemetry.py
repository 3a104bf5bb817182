"""Exchanges become spans and metrics by the GenAI conventions, with the times and the parent that they had."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBasedTraceIdRatio, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from penstock.edges.opentelemetry import SECONDS, TOKENS, Telemetry, exporting
from penstock.records import Usage
from penstock.server.exchange import Exchange, Send
from tests.security.capturing import KEY, found_in

BEGAN = 1_767_225_600.0
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NANOSECONDS = 1_000_000_000

STREAMED = Exchange(
    request_id="r-1",
    route="/v1/chat/completions",
    model="gpt-5-mini",
    provider="azure",
    key_name="team",
    status=200,
    streamed=True,
    began_at=BEGAN,
    duration_s=10.0,
    queue_s=1.0,
    first_token_s=5.0,
    usage=Usage(10, 26, 3, 4),
    cost=0.5,
    attempts=2,
    sends=(
        Send(began_s=1.0, duration_s=2.0, error_kind="server_error", status=503),
        Send(began_s=4.0, duration_s=6.0),
    ),
    finish_reason="stop",
    upstream_request_id="up-1",
)


def changed(**fields: object) -> Exchange:
    """The same exchange but for these fields."""
    return Exchange(**{name: getattr(STREAMED, name) for name in Exchange.__struct_fields__} | fields)


class Seen:
    """What the SDK was told, kept in memory."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers = TracerProvider(sampler, shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.telemetry = Telemetry(tracers, MeterProvider([self._reader], shutdown_on_exit=False))

    def spans(self) -> list[ReadableSpan]:
        """In the order of their beginnings."""
        return sorted(self._spans.get_finished_spans(), key=lambda span: span.start_time or 0)

    def metrics(self) -> dict[str, list[Any]]:
        """The data points of each metric by its name."""
        data = self._reader.get_metrics_data()
        found = data.resource_metrics[0].scope_metrics[0].metrics if data is not None else []
        return {metric.name: list(metric.data.data_points) for metric in found}


def told(exchange: Exchange) -> Seen:
    seen = Seen()
    seen.telemetry.exchange(exchange)
    return seen


def at(seconds: float) -> int:
    return int((BEGAN + seconds) * NANOSECONDS)


def test_an_exchange_is_a_server_span_with_a_client_span_for_each_attempt() -> None:
    request, first, second = told(STREAMED).spans()
    assert (request.name, request.kind) == ("POST /v1/chat/completions", SpanKind.SERVER)
    assert [span.name for span in (first, second)] == ["chat gpt-5-mini"] * 2
    assert {span.kind for span in (first, second)} == {SpanKind.CLIENT}
    assert request.context is not None
    assert {span.parent.span_id for span in (first, second) if span.parent} == {request.context.span_id}
    times = [(span.start_time, span.end_time) for span in (request, first, second)]
    assert times == [(at(0), at(10)), (at(1), at(3)), (at(4), at(10))]


def test_the_spans_say_what_the_conventions_name() -> None:
    request, first, second = told(STREAMED).spans()
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "azure.ai.openai",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.request.stream": True,
    }
    assert dict(first.attributes or {}) == common | {"error.type": "server_error", "http.response.status_code": 503}
    assert first.status.status_code is StatusCode.ERROR
    assert dict(second.attributes or {}) == common | {
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 26,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 4,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 1.0,
        "penstock.upstream_request_id": "up-1",
    }
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "penstock.request_id": "r-1",
        "penstock.attempts": 2,
        "penstock.key_name": "team",
        "penstock.queue_s": 1.0,
        "penstock.cost_usd": 0.5,
    }
    assert request.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("status", "kind", "code", "error_type"),
    [
        (504, "timeout", StatusCode.ERROR, "timeout"),
        (500, "", StatusCode.ERROR, "500"),
        (429, "rate_limited", StatusCode.UNSET, "rate_limited"),
        (401, "", StatusCode.UNSET, None),
    ],
)
def test_only_our_own_trouble_makes_the_server_span_an_error(
    status: int, kind: str, code: StatusCode, error_type: str | None
) -> None:
    request, *_ = told(changed(status=status, error_kind=kind, sends=(), attempts=0)).spans()
    assert request.status.status_code is code
    assert (request.attributes or {}).get("error.type") == error_type


def test_where_no_times_of_sends_are_known_there_is_one_from_its_turn_to_the_end() -> None:
    _, send = told(changed(sends=())).spans()
    assert (send.start_time, send.end_time) == (at(1), at(10))


def test_what_concerns_no_model_is_a_server_span_alone() -> None:
    seen = told(
        changed(model="", provider="", route="/v1/models", sends=(), attempts=0, usage=None, first_token_s=None)
    )
    assert [span.kind for span in seen.spans()] == [SpanKind.SERVER]
    assert seen.metrics() == {}


# -- the caller's trace


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ParentBasedTraceIdRatio(0.0)])
def test_the_callers_trace_goes_on_and_his_sampling_holds(sampler: Sampler) -> None:
    seen = Seen(sampler)
    seen.telemetry.exchange(changed(traceparent=f"00-{TRACE}-{PARENT}-01"))
    request, *sends = seen.spans()
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert {f"{span.context.trace_id:032x}" for span in (request, *sends) if span.context} == {TRACE}
    assert len(sends) == 2


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}", "00-" + "f" * 10_000])
def test_a_header_that_is_none_begins_a_new_trace(header: str) -> None:
    request, *_ = told(changed(traceparent=header)).spans()
    assert request.parent is None


def test_a_span_that_is_current_elsewhere_is_no_parent() -> None:
    seen = Seen()
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("elsewhere")
    with tracer.start_as_current_span("elsewhere"):
        seen.telemetry.exchange(STREAMED)
    assert seen.spans()[0].parent is None


def test_what_is_not_sampled_is_no_span_and_counts_all_the_same() -> None:
    seen = Seen(ALWAYS_OFF)
    seen.telemetry.exchange(STREAMED)
    assert seen.spans() == []
    assert seen.metrics()["gen_ai.server.request.duration"][0].count == 1


# -- metrics


def test_the_histograms_are_those_of_the_conventions() -> None:
    metrics = told(STREAMED).metrics()
    sums = {name: [(point.count, point.sum) for point in points] for name, points in metrics.items()}
    assert sums == {
        "gen_ai.client.operation.duration": [(1, 2.0), (1, 6.0)],
        "gen_ai.client.operation.time_to_first_chunk": [(1, 1.0)],
        "gen_ai.client.token.usage": [(1, 10), (1, 26)],
        "gen_ai.server.request.duration": [(1, 10.0)],
        "gen_ai.server.time_to_first_token": [(1, 5.0)],
        "gen_ai.server.time_per_output_token": [(1, 0.2)],
    }
    assert [dict(point.attributes)["gen_ai.token.type"] for point in metrics["gen_ai.client.token.usage"]] == [
        "input",
        "output",
    ]
    assert metrics["gen_ai.client.token.usage"][0].explicit_bounds == TOKENS
    assert metrics["gen_ai.client.operation.duration"][0].explicit_bounds == SECONDS
    assert (TOKENS[0], TOKENS[-1]) == (1, 67_108_864)


def test_the_error_of_each_attempt_is_on_its_own_duration() -> None:
    failed, answered = told(STREAMED).metrics()["gen_ai.client.operation.duration"]
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "azure.ai.openai",
        "gen_ai.request.model": "gpt-5-mini",
    }
    assert dict(failed.attributes) == common | {"error.type": "server_error"}
    assert dict(answered.attributes) == common


def test_an_answer_of_one_token_has_no_time_between_tokens() -> None:
    assert "gen_ai.server.time_per_output_token" not in told(changed(usage=Usage(10, 1))).metrics()


def test_no_content_is_told() -> None:
    seen = told(changed(prompt=KEY.encode(), answer=KEY.encode()))
    shown = "".join(span.to_json() for span in seen.spans()) + str(seen.metrics())
    assert "gpt-5-mini" in shown
    assert found_in(shown.encode(), KEY) == []


# -- the real exporter


class Collector(BaseHTTPRequestHandler):
    """Takes what is exported, and keeps it."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silence."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.got = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_everything_is_exported_at_the_end(collector: ThreadingHTTPServer) -> None:
    telemetry = exporting(sampled=1.0)
    await asyncio.to_thread(telemetry.exchange, STREAMED)
    await telemetry.aclose()
    got = dict(collector.got)  # type: ignore[attr-defined]
    assert set(got) == {"/v1/traces", "/v1/metrics"}
    assert all(b"penstock" in body for body in got.values())
    assert b"chat gpt-5-mini" in got["/v1/traces"]
    assert b"gen_ai.client.token.usage" in got["/v1/metrics"]


async def test_what_cannot_be_exported_at_the_end_is_told_and_not_raised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: TracerProvider) -> None:
        raise RuntimeError("no collector")

    monkeypatch.setattr(TracerProvider, "shutdown", fail)
    await Seen().telemetry.aclose()
    assert "not all traces and metrics could be exported" in caplog.text


async def test_a_collector_that_does_not_answer_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    hang, gone = threading.Event(), threading.Event()

    def hanging(_: object, *timeout: float) -> None:
        hang.wait(60.0)
        gone.set()

    monkeypatch.setattr(TracerProvider, "shutdown", hanging)
    monkeypatch.setattr(MeterProvider, "shutdown", lambda self, timeout: None)
    await Seen().telemetry.aclose(grace_s=0.0)
    assert not gone.is_set()
    hang.set()
    await asyncio.to_thread(gone.wait, 60.0)


def test_the_page_on_monitoring_names_every_attribute_and_metric() -> None:
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    seen = told(STREAMED)
    names = set(seen.metrics()).union(*(span.attributes or {} for span in seen.spans()))
    assert len(names) > 20
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
