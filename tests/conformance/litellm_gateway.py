"""What LiteLLM's own client makes of a gateway, as JSON: `python litellm_gateway.py BASE_URL LOCKED_BASE_URL LOCKED_KEY`.

Runs in LiteLLM's environment, with nothing of this project. It tells what happened and judges nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import litellm

KEY = "any"
AT_ONCE = 50
ADD_TOOL = {
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

litellm.telemetry = False


class Door:
    """Where the gateway is."""

    def __init__(self, base_url: str, key: str = KEY) -> None:
        self.there = {"api_base": base_url, "api_key": key}

    def ask(self, prompt: str, model: str = "m", **params: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        return {"model": f"openai/{model}", "messages": messages, "max_retries": 0, **self.there, **params}

    def wish(self, status: int, model: str = "told", **fields: Any) -> dict[str, Any]:
        """A request that the obedient provider answers so."""
        error = {"message": f"no: {status}", "type": "their_type", "param": "their_param", "code": "their_code"}
        return self.ask(json.dumps({"status": status, "error": error, **fields}), model)


async def failure(call: Coroutine[Any, Any, Any]) -> Any:
    """Class, status and what is said of a call's error; None where it raises nothing."""
    try:
        await call
    except Exception as error:  # noqa: BLE001 - which error it is is what is told
        return {"class": type(error).__name__, "status": getattr(error, "status_code", None), "said": str(error)}
    return None


async def chat(door: Door) -> Any:
    """A whole answer, with what LiteLLM kept of its headers."""
    answer = await litellm.acompletion(**door.ask("Row 1 asks"))
    kept = answer._hidden_params["additional_headers"]
    return {
        "text": answer.choices[0].message.content,
        "finish_reason": answer.choices[0].finish_reason,
        "usage": [answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens],
        "headers": {name: str(value) for name, value in kept.items()},
        "blocking": litellm.completion(**door.ask("Row 1 asks")).choices[0].message.content,
    }


async def streams(door: Door) -> Any:
    """A stream with usage and without."""
    told = {}
    for name, given in {"with": {"stream_options": {"include_usage": True}}, "without": {}}.items():
        stream = await litellm.acompletion(**door.ask("Row 1 asks", stream=True, **given))
        chunks = [chunk async for chunk in stream]
        choices = [choice for chunk in chunks for choice in chunk.choices]
        usages = [usage for chunk in chunks if (usage := getattr(chunk, "usage", None)) is not None]
        built = litellm.stream_chunk_builder(chunks)
        told[name] = {
            "text": "".join(choice.delta.content or "" for choice in choices),
            "finish_reasons": [choice.finish_reason for choice in choices if choice.finish_reason],
            "usage": [[usage.prompt_tokens, usage.completion_tokens, usage.total_tokens] for usage in usages],
            "built": built.choices[0].message.content,
        }
    return told


async def tools(door: Door) -> Any:
    """A call of a tool, whole and built of pieces."""
    asked = door.ask("Please add_numbers: 3 and 4", tools=[ADD_TOOL])
    whole = await litellm.acompletion(**asked)
    pieces = [chunk async for chunk in await litellm.acompletion(**asked, stream=True)]
    answers = (whole, litellm.stream_chunk_builder(pieces))
    return [
        [answer.choices[0].finish_reason, call.function.name, call.function.arguments]
        for answer in answers
        for call in answer.choices[0].message.tool_calls
    ]


async def refusals(door: Door) -> Any:
    """For each error of the provider's and of the gateway's: the class that LiteLLM maps it to."""
    told = {str(status): await failure(litellm.acompletion(**door.wish(status))) for status in STATUSES}
    told["throttle"] = await failure(litellm.acompletion(**door.wish(429, headers={"retry-after": "30"})))
    told["too-long"] = await failure(litellm.acompletion(**door.ask("[[simulate:too-long]]")))
    told["model"] = await failure(litellm.acompletion(**door.ask("hi", "none")))
    told["gateway's time-out"] = await failure(litellm.acompletion(**door.ask("[[simulate:stall]]", "hasty")))
    told["own time-out"] = await failure(litellm.acompletion(**door.ask("[[simulate:stall]]", timeout=0.5)))
    told["cut"] = await failure(read(door.ask("[[simulate:truncate]] Row 1 asks", stream=True)))
    told["embedding"] = await failure(litellm.aembedding(model="openai/m", input=["text"], max_retries=0, **door.there))
    return told


STATUSES = (400, 401, 403, 404, 422, 500, 502, 503)


async def read(asked: dict[str, Any]) -> None:
    async for _ in await litellm.acompletion(**asked):
        pass


async def retries(door: Door) -> Any:
    """LiteLLM that retries by the SDK below it asks for what fails for good."""
    return await failure(litellm.acompletion(**door.ask("[[simulate:500]]", "once-more", max_retries=2)))


async def router(door: Door) -> Any:
    """A router over two deployments, one of which always fails: everything is answered, also as a stream."""
    deployments = [
        {"model_name": name, "litellm_params": {"model": f"openai/{model}", "max_retries": 0, **door.there}}
        for name, model in (("good", "m"), ("bad", "none"))
    ]
    routed = litellm.Router(model_list=deployments, fallbacks=[{"bad": ["good"]}], num_retries=0)
    messages = [{"role": "user", "content": "Row 1 asks"}]
    answers = [await routed.acompletion(model=name, messages=messages) for name in ("good", "bad")]
    stream = await routed.acompletion(model="bad", messages=messages, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    return [*(answer.choices[0].message.content for answer in answers), text]


async def many(door: Door) -> Any:
    """So many at once."""
    asked = [door.ask(f"Row {index} asks: what follows {index}?") for index in range(AT_ONCE)]
    answers = await asyncio.gather(*(litellm.acompletion(**each) for each in asked))
    return [answer.choices[0].message.content for answer in answers]


async def batches(door: Door) -> Any:
    """A file up, a batch to its end, its output down."""
    there = {"custom_llm_provider": "openai", **door.there}
    row = {
        "custom_id": "only",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "Row 1 asks"}]},
    }
    file = await litellm.acreate_file(file=("in.jsonl", json.dumps(row).encode()), purpose="batch", **there)
    batch = await litellm.acreate_batch(
        completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id, metadata={"who": "me"}, **there
    )
    until = time.monotonic() + 30
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        assert time.monotonic() < until, batch
        await asyncio.sleep(0.05)
        batch = await litellm.aretrieve_batch(batch_id=batch.id, **there)
    content = await litellm.afile_content(file_id=batch.output_file_id, **there)
    line = json.loads(content.content)
    return [batch.status, batch.request_counts.completed, line["response"]["body"]["choices"][0]["message"]["content"]]


async def keys(locked: Door) -> Any:
    """With the right key, and with a wrong one."""
    wrong = Door(locked.there["api_base"], "sk-wrong-wrong-wrong")
    right = await litellm.acompletion(**locked.ask("Row 1 asks"))
    return [right.choices[0].finish_reason, await failure(litellm.acompletion(**wrong.ask("Row 1 asks")))]


async def told_of(scenario: Callable[[Door], Coroutine[Any, Any, Any]], door: Door) -> dict[str, Any]:
    """What a scenario tells, or how it broke."""
    began = time.monotonic()
    try:
        return {"told": await scenario(door), "seconds": time.monotonic() - began}
    except Exception:  # noqa: BLE001 - which error it is is what is told
        return {"broke": traceback.format_exc(), "seconds": time.monotonic() - began}


async def main(base_url: str, locked_url: str, locked_key: str) -> dict[str, Any]:
    plain, locked = Door(base_url), Door(locked_url, locked_key)
    scenarios = (chat, streams, tools, refusals, retries, router, many, batches)
    return {scenario.__name__: await told_of(scenario, plain) for scenario in scenarios} | {
        "keys": await told_of(keys, locked)
    }


if __name__ == "__main__":
    # LiteLLM prints advice on standard output.
    out, sys.stdout = sys.stdout, sys.stderr
    told = asyncio.run(main(*sys.argv[1:]))
    json.dump(told, out)
