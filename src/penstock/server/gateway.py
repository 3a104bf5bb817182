"""`POST /v1/chat/completions`: one request through the engine, its answer as the provider gave it, whole or as it comes.

This is the hot path of the server: a bare ASGI application, because a route of FastAPI with its models costs as much again.
Nothing is tried here; what the engine gave up is told to the client at once.
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial

from penstock.engine.call import Caller, Outcome
from penstock.engine.stream import Streaming
from penstock.server.attending import STOPPING, Work, attend
from penstock.server.chat import DONE, Chat, error_event, events, head_of, read_chat
from penstock.server.replies import Headers, Reply, reply_to, upstream_header
from penstock.server.serving import Serving
from penstock.server.visit import Visit

ROUTE = "/v1/chat/completions"
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
        """Answer one request."""
        visit.route = ROUTE
        await attend(self._serving, visit, self._read)

    async def _read(self, visit: Visit) -> Work:
        visit.asked = await visit.body(self._serving.rules.most_body_bytes)
        chat = read_chat(visit.asked)
        visit.model, visit.streamed = self._serving.models.find(chat.model), chat.streamed
        caller = self._serving.caller(visit, visit.model)
        if chat.streamed:
            head = head_of(visit.model.name, visit.request_id, int(visit.began_at))
            return partial(self._stream, caller, chat, head)
        return partial(self._whole, caller, chat)

    async def _whole(self, caller: Caller, chat: Chat, visit: Visit) -> None:
        account, outcome = caller.account, visit.outcome
        await caller.call(chat.request, account.provider.encode(chat.request, account.model), outcome=outcome)
        if outcome.error is not None:
            await visit.answer(reply_to(outcome.error, sends=outcome.sends))
        else:
            assert outcome.response is not None
            await visit.answer(Reply(200, outcome.response.raw), passed_on(caller, outcome))

    async def _stream(self, caller: Caller, chat: Chat, head: bytes, visit: Visit) -> None:
        account, outcome = caller.account, visit.outcome
        body = account.provider.encode(chat.request, account.model)
        streaming = Streaming(caller, chat.request, body, relay=True, outcome=outcome)
        visit.farewell = b"data: %b\n\n" % STOPPING.body
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
            await visit.answer(reply_to(outcome.error, sends=outcome.sends))


def passed_on(caller: Caller, outcome: Outcome) -> Headers:
    """What the provider tells of limits, and under which id it knows the request."""
    provider, response = caller.account.provider, outcome.response
    request_id = response.request_id if response is not None else provider.request_id(outcome.headers)
    return [*provider.passed_on(outcome.headers), *upstream_header(request_id)]
