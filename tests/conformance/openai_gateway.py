"""What the openai SDK makes of a gateway, as JSON: `python openai_gateway.py BASE_URL LOCKED_BASE_URL LOCKED_KEY`.

Runs in an environment that has the SDK and nothing of this project. Every scenario tells what happened and judges nothing,
but that every object must pass the SDK's own types: the SDK itself builds them unchecked.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Literal

import openai
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai_asking import KEY, ask, checked, connected, failure, wish
from openai_batches import batches, cancelled, files
from pydantic import BaseModel

AT_ONCE = 50
WAIT = 30
"""Seconds that the provider tells throttled clients to wait."""

STATUSES = (400, 401, 402, 403, 404, 409, 413, 422, 500, 502, 503, 529, 429)
"""A throttle comes last: others would wait for its end."""

ADD_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "add_numbers",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


class Sum(BaseModel):
    """A form for answers."""

    first: int
    operation: Literal["plus", "minus"]


# -- chat


def chat(client: openai.OpenAI) -> Any:
    """A whole answer under both names of the model, and one that is cut off by its limit."""
    answer = checked(client.chat.completions.create(**ask("Row 1 asks")), ChatCompletion)
    named = checked(client.chat.completions.create(**ask("Row 1 asks", "custom/m")), ChatCompletion)
    short = client.chat.completions.create(**ask("Row 2 asks for much more than that", max_completion_tokens=2))
    return {
        "text": answer.choices[0].message.content,
        "same": named.choices[0].message.content == answer.choices[0].message.content,
        "usage": answer.usage.to_dict(),
        "finish_reasons": [answer.choices[0].finish_reason, short.choices[0].finish_reason],
        "request_id": answer._request_id,
    }


def streams(client: openai.OpenAI) -> Any:
    """A streamed answer, with usage and without: text, finish reasons, the chunks without a choice."""
    options = {"with": {"stream_options": {"include_usage": True}}, "without": {}}
    return {name: streamed(client, **given) for name, given in options.items()}


def streamed(client: openai.OpenAI, **params: Any) -> Any:
    chunks = list(client.chat.completions.create(**ask("Row 1 asks", stream=True, **params)))
    for chunk in chunks:
        checked(chunk, ChatCompletionChunk)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return {
        "text": "".join(choice.delta.content or "" for choice in choices),
        "role": choices[0].delta.role,
        "finish_reasons": [choice.finish_reason for choice in choices if choice.finish_reason],
        "usage": [chunk.usage.to_dict() for chunk in chunks if chunk.usage],
        "without_choice": [len(chunks) - place for place, chunk in enumerate(chunks) if not chunk.choices],
        "ids": len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}),
    }


def tools(client: openai.OpenAI) -> Any:
    """A call of a tool, whole, in pieces put together by hand and by the SDK; and what follows from its result."""
    asked = ask("Please add_numbers: 3 and 4", tools=[ADD_TOOL])
    answer = checked(client.chat.completions.create(**asked), ChatCompletion)
    message = answer.choices[0].message
    parts = [
        part
        for chunk in client.chat.completions.create(**asked, stream=True)
        for choice in chunk.choices
        for part in choice.delta.tool_calls or ()
    ]
    with client.chat.completions.stream(**asked) as events:
        final = events.get_final_completion()
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "7"}
    messages = [*asked["messages"], message.to_dict(), result]
    follows = client.chat.completions.create(model="m", messages=messages, tools=[ADD_TOOL])
    return {
        "finish_reason": answer.choices[0].finish_reason,
        "whole": [(call.function.name, call.function.arguments) for call in message.tool_calls],
        "parts": [
            "".join(part.function.name or "" for part in parts),
            "".join(part.function.arguments or "" for part in parts),
        ],
        "final": [(call.function.name, call.function.arguments) for call in final.choices[0].message.tool_calls or ()],
        "follows": follows.choices[0].finish_reason,
    }


def forms(client: openai.OpenAI) -> Any:
    """An answer in a given form, parsed by the SDK, whole and as a stream."""
    asked = ask("What is 3 'plus' 4?", response_format=Sum)
    whole = client.chat.completions.parse(**asked).choices[0].message.parsed
    with client.chat.completions.stream(**asked) as events:
        final = events.get_final_completion().choices[0].message.parsed
    return [parsed and parsed.model_dump() for parsed in (whole, final)]


def headers(client: openai.OpenAI) -> Any:
    """Headers of a whole answer, of a stream, and of an answer read bit by bit."""
    create = client.chat.completions
    whole = create.with_raw_response.create(**ask("Row 1 asks"))
    stream = create.with_raw_response.create(**ask("Row 1 asks", stream=True))
    list(stream.parse())
    with create.with_streaming_response.create(**ask("Row 1 asks")) as slow:
        text = "".join(slow.iter_text())
    return {
        "whole": dict(whole.headers),
        "stream": dict(stream.headers),
        "slow": dict(slow.headers),
        "read": json.loads(text)["object"],
        "retries": [whole.retries_taken, stream.retries_taken],
    }


def fields(client: openai.OpenAI) -> Any:
    """What the provider gets of parameters, known to the SDK or not; what comes back that it does not know."""
    known = {"seed": 7, "temperature": 0.5, "logit_bias": {"1": -100}, "user": "someone", "stop": ["a"], "n": 1}
    answer = client.chat.completions.create(**ask("Row 1 asks", "told", **known, extra_body={"x_asked": {"by": "me"}}))
    text = answer.choices[0].message.content
    return {"sent": json.loads(text or ""), "told": answer.to_dict()["x_told"]}


def models(client: openai.OpenAI) -> Any:
    """The list; one by each of its names; one that is not there."""
    listed = [checked(model, Model) for model in client.models.list()]
    return {
        "listed": [model.id for model in listed],
        "one": [checked(client.models.retrieve(name), Model).id for name in ("m", "custom/m")],
        "none": failure(client.models.retrieve, model="none/such"),
    }


# -- errors


def refusals(client: openai.OpenAI) -> Any:
    """For each status of the provider's: the error."""
    told = {}
    for status in STATUSES:
        error = {"message": f"no: {status}", "type": "their_type", "param": "their_param", "code": "their_code"}
        asked = wish(status, {"retry-after": str(WAIT)} if status == 429 else None, **error)
        told[str(status)] = failure(client.chat.completions.create, **asked)
    return told


def own_refusals(client: openai.OpenAI) -> Any:
    """The gateway's own errors: for a model, for messages, for what it does not serve."""
    create = client.chat.completions.create
    messages = [{"role": "user", "content": "hi"}]
    return {
        "model": failure(create, model="none", messages=messages),
        "messages": failure(create, model="m", messages=[]),
        "embeddings": failure(client.embeddings.create, model="m", input="text"),
        "responses": failure(client.responses.create, model="m", input="text"),
        "completions": failure(client.completions.create, model="m", prompt="text"),
        "moderations": failure(client.moderations.create, input="text"),
        "images": failure(client.images.generate, prompt="text"),
        "fine_tuning": failure(client.fine_tuning.jobs.list),
    }


def keys(base_url: str, key: str) -> Any:
    """With the right key, and with a wrong one, on a gateway that wants one."""
    with connected(base_url, api_key=key) as right, connected(base_url, api_key="sk-wrong-wrong-wrong") as wrong:
        return {
            "right": right.chat.completions.create(**ask("Row 1 asks")).choices[0].finish_reason,
            "models": [model.id for model in right.models.list()],
            "file": right.files.create(file=("in.jsonl", b"{}\n"), purpose="batch").status,
            "chat": failure(wrong.chat.completions.create, **ask("Row 1 asks")),
            "list": failure(wrong.models.list),
            "upload": failure(wrong.files.create, file=("in.jsonl", b"{}\n"), purpose="batch"),
        }


def retries(patient: openai.OpenAI) -> Any:
    """An SDK that retries: what fails for good after a retry here, what a retry here mends, a throttle told with its wait."""
    waits: list[float] = []
    slept, time.sleep = time.sleep, waits.append
    try:
        throttled = wish(429, {"retry-after": str(WAIT)}, "throttled", message="slow", type="requests", code="slow")
        return {
            "failed": failure(patient.chat.completions.create, **ask("[[simulate:500]]", "once-more")),
            "failed_stream": failure(
                patient.chat.completions.create, **ask("[[simulate:503]]", "once-more", stream=True)
            ),
            "mended": patient.chat.completions.with_raw_response.create(
                **ask("[[simulate:500*1]] Row 1 asks", "once-more")
            ).retries_taken,
            "throttled": failure(patient.chat.completions.create, **throttled),
            "waits": waits,
        }
    finally:
        time.sleep = slept


def no_credit(patient: openai.OpenAI) -> Any:
    """An account without money, asked by an SDK that retries."""
    error = {"message": "no money", "type": "insufficient_quota", "code": "insufficient_quota"}
    return failure(patient.chat.completions.create, **wish(429, None, "penniless", **error))


def paced(patient: openai.OpenAI) -> Any:
    """Faster than the gateway's own limit allows: the second one waits as it is told, and comes through."""
    create = patient.chat.completions.with_raw_response.create
    return [create(**ask("Row 1 asks", "paced")).retries_taken for _ in range(2)]


def timeouts(client: openai.OpenAI) -> Any:
    """Nobody answers: the client gives up, or the gateway does."""
    return {
        "client": failure(client.with_options(timeout=0.5).chat.completions.create, **ask("[[simulate:stall]]")),
        "gateway": failure(
            client.with_options(max_retries=2).chat.completions.create, **ask("[[simulate:stall]]", "hasty")
        ),
    }


def cut_stream(client: openai.OpenAI) -> Any:
    """A stream that breaks in the middle: how much had come, and the error."""
    seen: list[Any] = []

    def read() -> None:
        seen.extend(client.chat.completions.create(**ask("[[simulate:truncate]] Row 1 asks", stream=True)))

    def read_one_by_one() -> None:
        for chunk in client.chat.completions.create(**ask("[[simulate:truncate]] Row 1 asks", stream=True)):
            seen.append(chunk)  # noqa: PERF402 - what came before the error is wanted

    return {"error": failure(read), "again": failure(read_one_by_one), "chunks": len(seen)}


# -- many


async def many(base_url: str) -> Any:
    """So many at once, every other one streamed: which answers are whole, and each to its own question."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0, timeout=30) as client:

        async def one(index: int) -> str:
            asked = ask(f"Row {index} asks: what follows {index}?")
            if index % 2:
                parts = await client.chat.completions.create(**asked, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in parts])
            return (await client.chat.completions.create(**asked)).choices[0].message.content or ""

        return await asyncio.gather(*map(one, range(AT_ONCE)))


def scenarios(base_url: str, locked_url: str, locked_key: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    plain, patient = connected(base_url), connected(base_url, max_retries=2)
    for scenario in (
        chat,
        streams,
        tools,
        forms,
        headers,
        fields,
        models,
        refusals,
        own_refusals,
        timeouts,
        cut_stream,
    ):
        yield scenario.__name__, lambda scenario=scenario: scenario(plain)
    for scenario in (files, batches, cancelled):
        yield scenario.__name__, lambda scenario=scenario: scenario(plain)
    for scenario in (retries, no_credit, paced):
        yield scenario.__name__, lambda scenario=scenario: scenario(patient)
    yield "many", lambda: asyncio.run(many(base_url))
    yield "keys", lambda: keys(locked_url, locked_key)


def told_of(scenario: Callable[[], Any]) -> dict[str, Any]:
    """What a scenario tells, or how it broke: one that breaks does not silence the others."""
    began = time.monotonic()
    try:
        return {"told": scenario(), "seconds": time.monotonic() - began}
    except Exception:  # noqa: BLE001 - which error it is is what is told
        return {"broke": traceback.format_exc(), "seconds": time.monotonic() - began}


if __name__ == "__main__":
    json.dump({name: told_of(scenario) for name, scenario in scenarios(*sys.argv[1:])}, sys.stdout)
