"""Exchanges into Prometheus metrics. It counts what it is told and reads gauges when it is scraped; it decides nothing.

Every label is bounded: models and routes as configured, HTTP statuses, words of `errors.Kind`. Counts live in plain lists
and dictionaries on the event loop, because an exchange must cost a few microseconds; a collector hands them to
prometheus_client, on a registry of its own, when somebody scrapes.
"""

from __future__ import annotations

import math
import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias, TypeVar

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock import __version__
from penstock.errors import KINDS, RequestError, Throttled
from penstock.options import Limits
from penstock.records import Usage
from penstock.server.exchange import Exchange

SECONDS = tuple(0.01 * 2**doubling for doubling in range(15))
"""Bounds of every histogram of times: 10 ms doubling to 164 s, as the GenAI conventions have them, and once more."""

OTHER = "other"
"""The label of a model that is not configured: what a caller wrote never becomes a label."""

NO_MODEL = ""
NO_ERROR = "none"
_THROTTLES = frozenset(kind for kind, error in KINDS.items() if error is Throttled)
_LIMITS = tuple(name for name in Limits.__struct_fields__ if name != "share")

_MODEL_GAUGES: dict[str, tuple[str, str]] = {
    "in_flight": ("penstock_in_flight_requests", "Requests at the provider now."),
    "free": ("penstock_free_slots", "How many more requests could be at the provider."),
    "waiting": ("penstock_waiting_requests", "Requests that wait for their turn or for their time."),
    "allowed": ("penstock_allowed_concurrency", "How many at once have been found to help, where no limit says so."),
    "throttled_s": ("penstock_throttle_pause_seconds", "The rest of the pause that the provider asked for."),
    "breaker.open": ("penstock_breaker_open", "1 while the provider does not answer and only probes go out."),
    "breaker.failing_for_s": ("penstock_failing_seconds", "For how long the provider has not answered."),
}
_LOG_COUNTS: dict[str, tuple[str, str]] = {
    "written": ("penstock_log_records", "Lines of the request log that were written."),
    "dropped": (
        "penstock_log_records_dropped",
        "Records that the request log lost: its queue was full, or time ran out.",
    ),
    "failures": (
        "penstock_log_write_failures",
        "Writes of the request log that the system refused; they are tried again.",
    ),
}
_AFTER_COUNTS: dict[str, tuple[str, str]] = {
    "done": ("penstock_post_processed", "Exchanges that every post-processing has been given."),
    "dropped": ("penstock_post_processing_dropped", "Exchanges that no post-processing was given: the queue was full."),
    "failures": ("penstock_post_processing_failures", "Exceptions out of post-processing."),
}

Numbers: TypeAlias = Mapping[str, float]
_Plain = TypeVar("_Plain", CounterMetricFamily, GaugeMetricFamily)


def _nothing() -> Numbers:
    return {}


def _no_models() -> Mapping[str, Numbers]:
    return {}


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where the gauges come from, asked at each scrape.

    `models` gives `Client.statistics()` by the model's public name, `batch_rows` the rows of batches by their state,
    the other two the `statistics()` of `RequestLog` and `PostProcessing`.
    """

    models: Callable[[], Mapping[str, Numbers]] = _no_models
    batch_rows: Callable[[], Numbers] = _nothing
    request_log: Callable[[], Numbers] = _nothing
    post_processing: Callable[[], Numbers] = _nothing


class Spread:
    """A histogram: how often a value lay at or below each bound."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(SECONDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(SECONDS, seconds)] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        """Tell it as Prometheus wants it: each bucket holds all below."""
        seen, buckets = 0, []
        for bound, number in zip((*SECONDS, math.inf), self._counts, strict=True):
            seen += number
            buckets.append((f"{bound:g}" if bound < math.inf else "+Inf", float(seen)))
        family.add_metric(labels, buckets, self._sum)


class _Model:
    """What has been counted of one model."""

    __slots__ = (
        "cached_tokens",
        "cost",
        "first_token",
        "input_tokens",
        "output_tokens",
        "queue",
        "reasoning_tokens",
        "unpriced",
    )

    def __init__(self) -> None:
        self.input_tokens = self.output_tokens = self.cached_tokens = self.reasoning_tokens = 0
        self.cost, self.unpriced = 0.0, 0
        self.first_token, self.queue = Spread(), Spread()

    def add_tokens(self, usage: Usage) -> None:
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.cached_tokens += usage.cached_tokens
        self.reasoning_tokens += usage.reasoning_tokens


_TOTALS = {
    "input_tokens": ("penstock_input_tokens", "Tokens that went in, cached ones included."),
    "output_tokens": ("penstock_output_tokens", "Tokens that came out, reasoning included."),
    "cached_tokens": ("penstock_cached_tokens", "Tokens that went in and that the provider had cached."),
    "reasoning_tokens": ("penstock_reasoning_tokens", "Tokens that came out and were reasoning."),
    "cost": ("penstock_cost_usd", "US dollars, of the answers whose price is known."),
    "unpriced": ("penstock_answers_without_cost", "Answers whose price is not known."),
}


class Metrics:
    """All metrics of one server. `models` are the public names of those configured; any other is counted as `other`."""

    def __init__(self, models: Iterable[str] = (), sources: Sources | None = None) -> None:
        self._models = {model: _Model() for model in models}
        self._names = {model: model for model in self._models} | {NO_MODEL: NO_MODEL}
        self._requests: dict[tuple[str, str, int, str], int] = {}
        self._durations: dict[tuple[str, str], Spread] = {}
        self._attempts: dict[tuple[str, str], int] = {}
        self._sources = sources or Sources()
        self.registry = CollectorRegistry()
        self.registry.register(_Collector(self.collect))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    # -- what happens

    def observe(self, exchange: Exchange) -> None:
        """One exchange is over."""
        model = self._names.get(exchange.model, OTHER)
        key = (exchange.route, model, exchange.status, exchange.error_kind)
        self._requests[key] = self._requests.get(key, 0) + 1
        if (spread := self._durations.get((exchange.route, model))) is None:
            spread = self._durations[exchange.route, model] = Spread()
        spread.add(exchange.duration_s)
        if model:
            self._observe_model(model, exchange)

    def _observe_model(self, model: str, exchange: Exchange) -> None:
        if (counts := self._models.get(model)) is None:
            counts = self._models[model] = _Model()
        if exchange.queue_s is not None:
            counts.queue.add(exchange.queue_s)
        if exchange.first_token_s is not None:
            counts.first_token.add(exchange.first_token_s)
        if exchange.usage is not None:
            counts.add_tokens(exchange.usage)
        if exchange.cost is not None:
            counts.cost += exchange.cost
        elif exchange.usage is not None or exchange.finish_reason:
            counts.unpriced += 1

    def attempted(self, model: str, error: RequestError | None) -> None:
        """One send to the provider is over; `error` is what came of it, None an answer."""
        key = (self._names.get(model, OTHER), error.kind if error is not None else NO_ERROR)
        self._attempts[key] = self._attempts.get(key, 0) + 1

    # -- what is told

    def expose(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its content type; `accept` is the scraper's header, which may ask for OpenMetrics."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Everything that is counted here, and the gauges as they are now."""
        yield from self._requests_and_attempts()
        yield from self._model_totals()
        yield from self._histograms()
        yield from _model_gauges(self._sources.models())
        rows = GaugeMetricFamily("penstock_batch_rows", "Rows of batches by state.", labels=["state"])
        yield _filled(rows, self._sources.batch_rows())
        yield from _counts(_LOG_COUNTS, self._sources.request_log())
        yield from _counts(_AFTER_COUNTS, self._sources.post_processing())
        build = GaugeMetricFamily(
            "penstock_build_info", "Which Penstock runs here.", labels=["version", "python_version"]
        )
        build.add_metric([__version__, platform.python_version()], 1)
        yield build

    def _requests_and_attempts(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "penstock_requests", "Requests that were answered.", labels=["route", "model", "status", "kind"]
        )
        for (route, model, status, kind), number in list(self._requests.items()):
            requests.add_metric([route, model, str(status), kind or NO_ERROR], number)
        yield requests
        attempts = CounterMetricFamily("penstock_attempts", "Sends to the provider.", labels=["model", "kind"])
        throttles = dict.fromkeys(self._models, 0)
        for (model, kind), number in list(self._attempts.items()):
            attempts.add_metric([model, kind], number)
            if kind in _THROTTLES:
                throttles[model] = throttles.get(model, 0) + number
        yield attempts
        put_off = CounterMetricFamily("penstock_throttles", "Sends that the provider put off.", labels=["model"])
        yield _filled(put_off, throttles)

    def _model_totals(self) -> Iterator[Metric]:
        models = list(self._models.items())
        for field, (name, help_text) in _TOTALS.items():
            values = {model: getattr(counts, field) for model, counts in models}
            yield _filled(CounterMetricFamily(name, help_text, labels=["model"]), values)

    def _histograms(self) -> Iterator[Metric]:
        durations = _spreads("penstock_request_duration_seconds", "From the request to the end of its answer.", "route")
        for (route, model), spread in list(self._durations.items()):
            spread.add_to(durations, [route, model])
        queue = _spreads("penstock_queue_seconds", "Waiting for a turn.")
        first = _spreads("penstock_first_token_seconds", "From the request to the first piece of a streamed answer.")
        for model, counts in list(self._models.items()):
            counts.queue.add_to(queue, [model])
            counts.first_token.add_to(first, [model])
        yield from (durations, queue, first)


class _Collector(Collector):
    """What a registry takes: something that can be asked."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()


def _filled(metric: _Plain, values: Numbers) -> _Plain:
    """A family with one label, which tells its values apart."""
    for key, value in values.items():
        metric.add_metric([key], value)
    return metric


def _spreads(name: str, help_text: str, *further: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, help_text, labels=[*further, "model"])


def _counts(table: Mapping[str, tuple[str, str]], values: Numbers) -> Iterator[Metric]:
    for key, (name, help_text) in table.items():
        if key in values:
            yield CounterMetricFamily(name, help_text, value=values[key])


def _model_gauges(models: Mapping[str, Numbers]) -> Iterator[Metric]:
    """The statistics of the clients: those that are metrics, and every limit that is known."""
    for key, (name, help_text) in _MODEL_GAUGES.items():
        values = {model: value for model, numbers in models.items() if (value := _number(numbers, key)) is not None}
        yield _filled(GaugeMetricFamily(name, help_text, labels=["model"]), values)
    limits = GaugeMetricFamily("penstock_limit", "A limit in force, in units of its period.", labels=["model", "limit"])
    used = GaugeMetricFamily(
        "penstock_limit_used", "What of it was used in the last period.", labels=["model", "limit"]
    )
    for model, numbers in models.items():
        for limit in _LIMITS:
            if limit in numbers:
                limits.add_metric([model, limit], numbers[limit])
                used.add_metric([model, limit], numbers.get(f"{limit}.used", 0.0))
    yield from (limits, used)


def _number(numbers: Numbers, key: str) -> float | None:
    """One of the statistics; who waits, waits in one of two places."""
    if key == "waiting" and "ready" in numbers:
        return numbers["ready"] + numbers.get("later", 0.0)
    return numbers.get(key)
