"""`POST /v1/chat/completions`: one request through the engine, its answer as the provider gave it, whole or as it comes.

This is the hot path of the server: a bare ASGI application, because a route of FastAPI with its models costs as much again.
Nothing is tried here; what the engine gave up is told to the client at once.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from time import monotonic

from penstock.engine.call import Caller, Outcome
from penstock.engine.stream import Streaming
from penstock.errors import RequestError
from penstock.server.chat import DONE, Chat, error_event, events, head_of, read_chat
from penstock.server.exchange import CALLER_LEFT, Exchange
from penstock.server.leaving import WhileThere
from penstock.server.models import Model
from penstock.server.replies import Headers, Reply, Turned, error_reply, reply_to, upstream_header
from penstock.server.serving import Serving
from penstock.server.visit import Visit

ROUTE = "/v1/chat/completions"
STOPPING = error_reply(503, "the server is stopping: ask again in a moment", code="stopping")
EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Gateway:
    """Answers chat completions."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def __call__(self, visit: Visit) -> None:
        """Answer one request, and account for it however it ends."""
        model: Model | None = None
        chat: Chat | None = None
        outcome, client = Outcome(), WhileThere(visit.receive)
        try:
            visit.asked = await visit.body(self._serving.rules.most_body_bytes)
            chat = read_chat(visit.asked)
            model = self._serving.models.find(chat.model)
            caller = self._serving.caller(visit, model)
            async with client:
                if chat.streamed:
                    await self._stream(visit, caller, model, chat, outcome)
                else:
                    await self._whole(visit, caller, chat, outcome)
        except Turned as turned:
            await visit.answer(turned.reply)
        except RequestError as error:
            outcome.error = error
            await visit.answer(reply_to(error))
        except asyncio.CancelledError:
            # The server stops and its grace is over.
            if not visit.status:
                await visit.answer(STOPPING)
            elif not visit.ended:
                await visit.end(b"data: %b\n\n" % STOPPING.body)
            raise
        finally:
            streamed = chat is not None and chat.streamed
            if client.gone:
                visit.status = CALLER_LEFT
            if visit.status:  # else it is a defect, which the door answers and accounts for
                visit.accounted = True
                self._serving.over(
                    exchange_of(visit, ROUTE, model, outcome, streamed=streamed, content=self._serving.keeps_content)
                )

    async def _whole(self, visit: Visit, caller: Caller, chat: Chat, outcome: Outcome) -> None:
        account = caller.account
        await caller.call(chat.request, account.provider.encode(chat.request, account.model), outcome=outcome)
        if outcome.error is not None:
            await visit.answer(reply_to(outcome.error, sends=sends_of(outcome)))
        else:
            assert outcome.response is not None
            await visit.answer(Reply(200, outcome.response.raw), passed_on(caller, outcome))

    async def _stream(self, visit: Visit, caller: Caller, model: Model, chat: Chat, outcome: Outcome) -> None:
        account = caller.account
        body = account.provider.encode(chat.request, account.model)
        streaming = Streaming(caller, chat.request, body, relay=True, outcome=outcome)
        head = head_of(model.name, visit.request_id, int(visit.began_at))
        async with aclosing(streaming.pieces()) as pieces:
            async for chunks in pieces:
                data = events(chunks, head, wants_usage=chat.wants_usage)
                if not visit.status:
                    await visit.begin(200, [*EVENT_STREAM, *passed_on(caller, outcome)])
                if data:
                    await visit.write(data)
        if outcome.error is None:
            await visit.end(DONE)
        elif visit.status:
            await visit.end(error_event(outcome.error))
        else:
            await visit.answer(reply_to(outcome.error, sends=sends_of(outcome)))


def passed_on(caller: Caller, outcome: Outcome) -> Headers:
    """What the provider tells of limits, and under which id it knows the request."""
    provider = caller.account.provider
    return [*provider.passed_on(outcome.headers), *upstream_header(provider.request_id(outcome.headers))]


def sends_of(outcome: Outcome) -> int:
    """How often the provider was asked, throttles included."""
    return outcome.attempts + outcome.throttled


def upstream_id(outcome: Outcome) -> str:
    """The provider's id of a request; empty where it gave none."""
    told = outcome.response or outcome.error
    return told.request_id or "" if told is not None else ""


def exchange_of(
    visit: Visit, route: str, model: Model | None, outcome: Outcome, *, streamed: bool = False, content: bool = False
) -> Exchange:
    """What is counted and logged of a request that is over; with `content`, what was asked and answered too."""
    response, error = outcome.response, outcome.error
    usage = response.usage if response is not None else None
    return Exchange(
        request_id=visit.request_id,
        route=route,
        status=visit.status or CALLER_LEFT,
        began_at=visit.began_at,
        duration_s=monotonic() - visit.began,
        model=model.name if model is not None else "",
        provider=model.client.provider.name if model is not None else "",
        key_name=visit.guest.key_name,
        error_kind=error.kind if error is not None else "",
        streamed=streamed,
        first_token_s=outcome.first_token_s,
        usage=usage,
        cost=model.client.prices.cost(model.client.model, usage)
        if model is not None and response is not None
        else None,
        attempts=outcome.attempts,
        finish_reason=response.finish_reason if response is not None else "",
        upstream_request_id=upstream_id(outcome),
        sends=tuple(visit.sends),
        traceparent=visit.traceparent,
        prompt=visit.asked if content else b"",
        answer=response.raw if content and response is not None else b"",
    )
