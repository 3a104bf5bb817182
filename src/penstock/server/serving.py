"""What all handlers share: the models, the rules at the door, and what becomes of a request when it is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic, time
from typing import Protocol

import msgspec

from penstock.engine.call import Caller
from penstock.errors import RequestError
from penstock.records import Result
from penstock.server.exchange import CALLER_LEFT, Exchange, Trail
from penstock.server.metrics import Metrics
from penstock.server.models import Model, Models
from penstock.server.security import Rules
from penstock.server.settings import Settings
from penstock.server.visit import Visit


class Background(Protocol):
    """What goes on without a request."""

    def drain(self) -> None:
        """Begin nothing new; what is under way may finish."""
        ...

    def cancel(self) -> None:
        """Give up what is under way."""
        ...


class Serving:
    """One running server. `draining` is true once it takes nothing new."""

    def __init__(
        self,
        settings: Settings,
        models: Models,
        rules: Rules,
        metrics: Metrics,
        listeners: Sequence[Callable[[Exchange], object]],
    ) -> None:
        self.settings, self.models, self.rules = settings, models, rules
        self.metrics, self._listeners = metrics, tuple(listeners)
        self.keeps_content = settings.server.log_content or bool(settings.server.after)
        self.background: list[Background] = []
        self.draining = False

    def caller(self, visit: Visit, model: Model) -> Caller:
        """Who carries a request of this visit; its sends are noted one by one where traces are made of them."""
        caller = model.callers[visit.guest.lane]
        if not self.settings.server.otel:
            return caller
        trail = Trail(caller.account.clock, caller.observer)
        visit.sends = trail.sends
        return msgspec.structs.replace(caller, observer=trail, marks=trail)

    def drain(self) -> None:
        """Take nothing new."""
        self.draining = True
        for part in self.background:
            part.drain()

    def cancel(self) -> None:
        """Give up what goes on without a request."""
        for part in self.background:
            part.cancel()

    def over(self, visit: Visit) -> None:
        """A request is over: count it, and tell whoever listens (request log, post-processing, traces)."""
        visit.accounted = True
        exchange = exchange_of(visit, content=self.keeps_content)
        self.metrics.observe(exchange)
        for listener in self._listeners:
            listener(exchange)

    def row_over(self, model: Model, route: str, result: Result) -> None:
        """A row of many is over: counted like a request, and not logged, because its answer is recorded or on its way."""
        response, error = result.response, result.error
        exchange = Exchange(
            request_id="",
            route=route,
            status=200 if error is None else error.status or 500,
            began_at=time() - result.latency_s,
            duration_s=result.latency_s,
            model=model.name,
            error_kind=error.kind if error is not None else "",
            usage=response.usage if response is not None else None,
            cost=result.cost,
            attempts=result.attempts,
        )
        self.metrics.observe(exchange)

    def observer_of(self, model: str) -> Sends:
        """Who counts the sends of a model."""
        return Sends(model, self.metrics)


def exchange_of(visit: Visit, *, content: bool) -> Exchange:
    """What is counted and logged of a request that is over; with `content`, what was asked and answered too."""
    outcome, model = visit.outcome, visit.model
    response, error = outcome.response, outcome.error
    told = response or error
    usage = response.usage if response is not None else None
    return Exchange(
        request_id=visit.request_id,
        route=visit.route,
        method=visit.method,
        status=visit.status or CALLER_LEFT,
        began_at=visit.began_at,
        duration_s=monotonic() - visit.began,
        model=model.name if model is not None else "",
        provider=model.client.provider.name if model is not None else "",
        key_name=visit.guest.key_name,
        error_kind=error.kind if error is not None else "",
        streamed=visit.streamed,
        queue_s=outcome.queued_s if outcome.sends else None,
        first_token_s=visit.first_byte_s if outcome.first_token_s is not None else None,
        usage=usage,
        cost=model.client.prices.cost(model.client.model, usage) if model is not None and usage is not None else None,
        attempts=outcome.attempts,
        finish_reason=response.finish_reason if response is not None else "",
        upstream_request_id=told.request_id or "" if told is not None else "",
        sends=tuple(visit.sends),
        traceparent=visit.traceparent,
        prompt=visit.asked if content else b"",
        answer=response.raw if content and response is not None else b"",
    )


class Sends:
    """Counts sends and throttles. Implements `ports.Observer`."""

    def __init__(self, model: str, metrics: Metrics) -> None:
        self._model, self._metrics = model, metrics

    def attempted(self, error: RequestError | None) -> None:
        self._metrics.attempted(self._model, error)

    def trying_again(self) -> None:
        """A send tells of itself."""

    def finished(self, result: Result) -> None:
        """Whoever asked accounts for the end."""
