"""Exchanges become Prometheus metrics: right sums, standard names, and labels that no caller can multiply."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from penstock.errors import request_error
from penstock.records import Usage
from penstock.server.exchange import Exchange
from penstock.server.metrics import SECONDS, Metrics, Sources

ROOT = Path(__file__).parents[2]

ANSWERED = Exchange(
    request_id="r-1",
    route="/v1/chat/completions",
    model="gpt",
    status=200,
    began_at=0.0,
    duration_s=1.0,
    queue_s=0.25,
    first_token_s=0.5,
    usage=Usage(10, 20, 3, 4),
    cost=0.5,
    attempts=1,
    finish_reason="stop",
)


def changed(**fields: object) -> Exchange:
    """The same exchange but for these fields."""
    return Exchange(**{name: getattr(ANSWERED, name) for name in Exchange.__struct_fields__} | fields)


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What a scraper reads: value by name and labels."""
    page, _ = metrics.expose()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in plain(page.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))


def test_an_exchange_is_counted_once_everywhere() -> None:
    metrics = Metrics(["gpt"])
    metrics.observe(ANSWERED)
    metrics.observe(ANSWERED)
    route = {"route": "/v1/chat/completions", "model": "gpt"}
    assert value(metrics, "penstock_requests_total", **route, status="200", kind="none") == 2
    assert value(metrics, "penstock_request_duration_seconds_sum", **route) == 2.0
    assert value(metrics, "penstock_request_duration_seconds_count", **route) == 2
    expected = {
        "penstock_input_tokens_total": 20,
        "penstock_output_tokens_total": 40,
        "penstock_cached_tokens_total": 6,
        "penstock_reasoning_tokens_total": 8,
        "penstock_cost_usd_total": 1.0,
        "penstock_answers_without_cost_total": 0,
        "penstock_queue_seconds_sum": 0.5,
        "penstock_first_token_seconds_sum": 1.0,
    }
    assert {name: value(metrics, name, model="gpt") for name in expected} == expected


def test_an_answer_of_unknown_price_is_counted_as_such_and_never_as_free() -> None:
    metrics = Metrics(["gpt"])
    metrics.observe(changed(cost=None))
    assert value(metrics, "penstock_answers_without_cost_total", model="gpt") == 1
    assert value(metrics, "penstock_cost_usd_total", model="gpt") == 0


def test_an_error_has_no_price_to_know() -> None:
    metrics = Metrics(["gpt"])
    metrics.observe(
        changed(status=504, error_kind="timeout", cost=None, usage=None, finish_reason="", first_token_s=None)
    )
    assert value(metrics, "penstock_answers_without_cost_total", model="gpt") == 0
    assert value(metrics, "penstock_first_token_seconds_count", model="gpt") == 0
    route = {"route": "/v1/chat/completions", "model": "gpt"}
    assert value(metrics, "penstock_requests_total", **route, status="504", kind="timeout") == 1


@pytest.mark.parametrize("seconds", [0.0, SECONDS[0], SECONDS[3], SECONDS[3] * 1.01, SECONDS[-1], SECONDS[-1] * 2])
def test_a_bucket_holds_what_is_at_most_its_bound(seconds: float) -> None:
    metrics = Metrics(["gpt"])
    metrics.observe(changed(duration_s=seconds))
    found = {
        float(dict(labels)["le"]): number
        for (name, labels), number in samples(metrics).items()
        if name == "penstock_request_duration_seconds_bucket"
    }
    assert len(found) == len(SECONDS) + 1
    assert found == {bound: float(seconds <= bound) for bound in found}


def test_throttles_are_told_by_model_from_the_start() -> None:
    metrics = Metrics(["gpt", "other-model"])
    assert value(metrics, "penstock_throttles_total", model="gpt") == 0
    metrics.attempted("gpt", request_error("rate_limited", "later"))
    metrics.attempted("gpt", request_error("overloaded", "busy"))
    metrics.attempted("gpt", None)
    assert value(metrics, "penstock_throttles_total", model="gpt") == 1
    assert value(metrics, "penstock_throttles_total", model="other-model") == 0
    assert value(metrics, "penstock_attempts_total", model="gpt", kind="overloaded") == 1
    assert value(metrics, "penstock_attempts_total", model="gpt", kind="none") == 1


def test_what_a_caller_invents_makes_no_label() -> None:
    """A thousand names of models that are not configured are one label, and none of them shows."""
    metrics = Metrics(["gpt"])
    for number in range(1_000):
        metrics.observe(changed(model=f"invented-{number}\n"))
        metrics.attempted(f"invented-{number}", None)
    page, _ = metrics.expose()
    assert b"invented" not in page
    models = {dict(labels)["model"] for (_, labels) in samples(metrics) if "model" in dict(labels)}
    assert models == {"gpt", "other"}


def test_a_model_called_other_is_still_itself() -> None:
    metrics = Metrics(["other"])
    metrics.observe(changed(model="other"))
    assert value(metrics, "penstock_input_tokens_total", model="other") == 10


def test_what_concerns_no_model_is_counted_by_route_only() -> None:
    metrics = Metrics(["gpt"])
    metrics.observe(changed(model="", route="/healthz", usage=None, cost=None))
    assert value(metrics, "penstock_requests_total", route="/healthz", model="", status="200", kind="none") == 1
    assert value(metrics, "penstock_input_tokens_total", model="") is None


def test_gauges_are_read_when_they_are_scraped() -> None:
    statistics = {"gpt": {"in_flight": 1.0, "ready": 2.0, "later": 3.0, "requests_per_minute": 60.0}}
    statistics["gpt"] |= {"requests_per_minute.used": 7.0, "breaker.open": 1.0, "bytes_per_token (latin)": 4.0}
    rows = {"waiting": 5.0, "answered": 6.0}
    metrics = Metrics(["gpt"], Sources(models=lambda: statistics, batch_rows=lambda: rows))
    assert value(metrics, "penstock_in_flight_requests", model="gpt") == 1
    assert value(metrics, "penstock_waiting_requests", model="gpt") == 5
    assert value(metrics, "penstock_limit", model="gpt", limit="requests_per_minute") == 60
    assert value(metrics, "penstock_limit_used", model="gpt", limit="requests_per_minute") == 7
    assert value(metrics, "penstock_breaker_open", model="gpt") == 1
    assert value(metrics, "penstock_batch_rows", state="answered") == 6
    statistics["gpt"]["in_flight"] = 9.0
    assert value(metrics, "penstock_in_flight_requests", model="gpt") == 9


def test_lost_records_are_told() -> None:
    log = {"written": 3.0, "dropped": 2.0, "failures": 1.0, "waiting": 0.0}
    after = {"done": 4.0, "dropped": 5.0, "failures": 6.0, "waiting": 0.0}
    metrics = Metrics([], Sources(request_log=lambda: log, post_processing=lambda: after))
    assert value(metrics, "penstock_log_records_dropped_total") == 2
    assert value(metrics, "penstock_log_write_failures_total") == 1
    assert value(metrics, "penstock_post_processing_dropped_total") == 5
    assert value(metrics, "penstock_post_processing_failures_total") == 6


def test_the_server_and_its_process_are_told() -> None:
    names = {name for name, _ in samples(Metrics())}
    assert {"penstock_build_info", "process_cpu_seconds_total", "python_info"} <= names


def test_a_scraper_gets_the_format_that_it_asks_for() -> None:
    """OpenMetrics is stricter: names of counters, units, the end mark. Both parsers read the whole page."""
    metrics = Metrics(["gpt"])
    metrics.observe(ANSWERED)
    page, content_type = metrics.expose("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert any(family.name == "penstock_requests" for family in openmetrics(page.decode()))
    assert metrics.expose()[1].startswith("text/plain")


def test_names_are_as_prometheus_asks() -> None:
    metrics = Metrics(["gpt"])
    metrics.observe(ANSWERED)
    for family in plain(metrics.expose()[0].decode()):
        if family.name.startswith("penstock_"):
            assert re.fullmatch(r"[a-z_]+", family.name)
            assert family.documentation.endswith(".")
            if family.type == "counter":
                assert all(sample.name.endswith("_total") for sample in family.samples)
            if family.type == "histogram":
                assert family.name.endswith("_seconds")


def test_the_page_on_monitoring_names_every_metric() -> None:
    log = {"written": 0.0, "dropped": 0.0, "failures": 0.0}
    metrics = Metrics([], Sources(request_log=lambda: log, post_processing=lambda: log | {"done": 0.0}))
    families = [family for family in metrics.collect() if family.name.startswith("penstock_")]
    names = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    told = set(re.findall(r"`(penstock_\w+)`", (ROOT / "docs" / "monitoring.md").read_text()))
    assert len(names) > 20
    assert names == told
