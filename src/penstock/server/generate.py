"""The guide's own routes: a prompt in, a text out; the same as it comes; and many at once, each answer when it is ready."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from penstock.engine.source import raw_rows
from penstock.engine.stream import Streaming
from penstock.errors import RunStopped
from penstock.records import Request as Asked
from penstock.records import Response, Result
from penstock.rules.asking import Asking
from penstock.server.chat import DONE
from penstock.server.gateway import EVENT_STREAM, passed_on
from penstock.server.models import Model
from penstock.server.replies import Headers, Reply, reply_to
from penstock.server.serving import Serving
from penstock.server.visit import Visit
from penstock.server.work import Documented, Working, error_schema, provider_errors

LINES: Headers = [(b"content-type", b"application/x-ndjson"), (b"x-accel-buffering", b"no")]
MOST_PROMPTS = 10_000
ERRORS = error_schema(400, 401, 402, 403, 404, 408, 413, 415, 421, 429, 500, 502, 503, 504) | provider_errors()

_encode = msgspec.json.Encoder().encode


class Ask(BaseModel):
    """A prompt; every further field goes to the model as it is (`temperature`, `max_tokens`, ...)."""

    model_config = ConfigDict(extra="allow")
    prompt: str = Field(min_length=1, examples=["Explain quantum computing in simple terms."])
    model: str | None = None
    system: str | None = None


class AskMany(BaseModel):
    """Prompts that share everything else."""

    model_config = ConfigDict(extra="allow")
    prompts: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1, max_length=MOST_PROMPTS)
    model: str | None = None
    system: str | None = None


class TokenCounts(BaseModel):
    """Tokens as the provider counted them."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int


class Generated(BaseModel):
    """An answer."""

    generated_text: str
    model: str
    finish_reason: str
    usage: TokenCounts | None


def routes(serving: Serving) -> APIRouter:
    """`/generate`, `/generate/stream`, `/generate/batch`."""
    router = APIRouter(tags=["generate"])

    @router.post("/generate", response_model=Generated, responses=ERRORS)
    async def generate(asked: Ask) -> Working:
        """One prompt, one answer."""
        model = _model(serving, asked.model)
        return Working(serving, "/generate", model, lambda visit: _whole(serving, visit, _request(asked)))

    stream_content: Documented = {200: {"description": "Server-sent events", "content": {"text/event-stream": {}}}}

    @router.post("/generate/stream", status_code=200, response_class=Working, responses=ERRORS | stream_content)
    async def generate_stream(asked: Ask) -> Working:
        """The same as it comes: events with `text`, one with `finish_reason` and `usage`, then `[DONE]`."""
        model = _model(serving, asked.model)
        return Working(serving, "/generate/stream", model, lambda visit: _as_it_comes(serving, visit, _request(asked)))

    lines_content: Documented = {200: {"description": "JSON lines", "content": {"application/x-ndjson": {}}}}

    @router.post("/generate/batch", status_code=200, response_class=Working, responses=ERRORS | lines_content)
    async def generate_batch(asked: Annotated[AskMany, Body()]) -> Working:
        """Many prompts: a JSON line for each as it is ready, `index` telling which."""
        model = _model(serving, asked.model)
        return Working(serving, "/generate/batch", model, lambda visit: _many(serving, visit, asked))

    return router


def _model(serving: Serving, name: str | None) -> Model:
    if name is None and serving.models.only is not None:
        return serving.models.only
    return serving.models.find(name)


def _request(asked: Ask) -> Asked:
    messages = [{"role": "user", "content": asked.prompt}]
    if asked.system is not None:
        messages.insert(0, {"role": "system", "content": asked.system})
    return Asked(messages, params=asked.model_extra or {})


async def _whole(serving: Serving, visit: Visit, asked: Asked) -> None:
    assert visit.model is not None
    caller, outcome = serving.caller(visit, visit.model), visit.outcome
    account = caller.account
    visit.asked = account.provider.encode(asked, account.model)
    await caller.call(asked, visit.asked, outcome=outcome)
    if outcome.response is None:
        assert outcome.error is not None
        await visit.answer(reply_to(outcome.error, sends=outcome.sends))
    else:
        await visit.answer(Reply(200, _encode(_told(outcome.response))), passed_on(caller, outcome))


async def _as_it_comes(serving: Serving, visit: Visit, asked: Asked) -> None:
    assert visit.model is not None
    caller, outcome, visit.streamed = serving.caller(visit, visit.model), visit.outcome, True
    visit.asked = caller.account.provider.encode(asked, caller.account.model)
    async with aclosing(Streaming(caller, asked, visit.asked, outcome=outcome).pieces()) as pieces:
        async for chunks in pieces:
            if not visit.status:
                await visit.begin(200, [*EVENT_STREAM, *passed_on(caller, outcome)])
            text = "".join(chunk.text for chunk in chunks)
            if text:
                await visit.write(_event({"text": text}))
    if outcome.response is not None:
        told = _told(outcome.response)
        del told["generated_text"]
        await visit.end(_event(told) + DONE)
    elif visit.status:
        assert outcome.error is not None
        await visit.end(b"data: %b\n\n" % reply_to(outcome.error).body)
    else:
        assert outcome.error is not None
        await visit.answer(reply_to(outcome.error, sends=outcome.sends))


async def _many(serving: Serving, visit: Visit, asked: AskMany) -> None:
    assert visit.model is not None
    model, visit.streamed = visit.model, True
    client, asking = model.client, Asking(system=asked.system, params=asked.model_extra or {})
    run = await client.start(
        raw_rows(asked.prompts), asking, serving.observer_of(model.name), client.scope(None, None, None)
    )
    try:
        async with aclosing(run.results()) as results:
            async for result in results:
                serving.row_over(model, visit.route, result)
                if not visit.status:
                    await visit.begin(200, LINES)
                await visit.write(_encode(_line(result)) + b"\n")
    except RunStopped as stopped:
        if not visit.status:
            raise
        await visit.write(_encode(_last_line(stopped)) + b"\n")
    await visit.end()


def _told(response: Response) -> dict[str, Any]:
    return {
        "generated_text": response.text,
        "model": response.model,
        "finish_reason": response.finish_reason,
        "usage": response.usage,
    }


def _line(result: Result) -> dict[str, Any]:
    error = result.error
    if result.response is not None:
        return {"index": result.index, **_told(result.response), "error": None}
    assert error is not None
    told = {"kind": error.kind, "status": error.status, "code": error.code, "message": error.message}
    return {"index": result.index, "generated_text": None, "error": told}


def _last_line(stopped: RunStopped) -> dict[str, Any]:
    """Why the rows that have no line have none."""
    told = {"kind": stopped.reason, "status": None, "code": None, "message": str(stopped)}
    return {"index": None, "generated_text": None, "error": told}


def _event(values: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % _encode(values)
