"""What the openai SDK makes of a server, or of a file, as JSON: `python openai_sdk.py SCENARIO BASE_URL-or-FILE`.

Runs in an environment that has the SDK and nothing of this project. It tells what happened and judges nothing, but that
every answer must pass the SDK's own types: the SDK itself builds them unchecked.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
from openai.types import BatchError, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.shared import ErrorObject

KEY = "sk-right"


def ask(prompt: str, **params: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": prompt}], **params}


def connected(base_url: str, max_retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=max_retries, timeout=30)


def complete(base_url: str) -> Any:
    """A whole answer, the id of its request, and one that is cut off by its limit."""
    with connected(base_url) as client:
        answer = client.chat.completions.create(**ask("Row 1 asks"))
        short = client.chat.completions.create(**ask("Row 2 asks for much more than that", max_completion_tokens=2))
    ChatCompletion.model_validate(answer.to_dict())
    return {
        "text": answer.choices[0].message.content,
        "finish_reason": answer.choices[0].finish_reason,
        "usage": answer.usage and answer.usage.to_dict(),
        "request_id": answer._request_id,
        "limited": [short.choices[0].finish_reason, short.usage and short.usage.completion_tokens],
    }


def stream(base_url: str) -> Any:
    """A streamed answer put together: text, last finish reason, usage."""
    with connected(base_url) as client:
        asked = ask("Row 1 asks", stream=True, stream_options={"include_usage": True})
        chunks = list(client.chat.completions.create(**asked))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.to_dict())
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return {
        "text": "".join(choice.delta.content or "" for choice in choices),
        "finish_reasons": [choice.finish_reason for choice in choices if choice.finish_reason],
        "usage": [chunk.usage.to_dict() for chunk in chunks if chunk.usage],
        "ids": len({chunk.id for chunk in chunks}),
    }


def models(base_url: str) -> Any:
    """The names of the models."""
    with connected(base_url) as client:
        return [Model.model_validate(model.to_dict()).id for model in client.models.list()]


def refusals(base_url: str) -> Any:
    """For each way to be refused: the class of the error, its status and its code."""
    told = {}
    with connected(base_url) as client:
        told["key"] = refusal(client.with_options(api_key="sk-wrong"), ask("Row 1 asks"))
        told["model"] = refusal(client, ask("Row 1 asks") | {"model": "unknown"})
        for name in ("400", "too-long", "429", "no-credit", "500", "503", "reset"):
            told[name] = refusal(client, ask(f"[[simulate:{name}]]"))
    return told


def refusal(client: openai.OpenAI, asked: dict[str, Any]) -> Any:
    try:
        client.chat.completions.create(**asked)
    except openai.APIError as error:
        return [type(error).__name__, getattr(error, "status_code", None), error.code]
    return None


def again(base_url: str) -> Any:
    """Two throttles, then an answer: how often the SDK retried by itself, and how long it meant to wait each time."""
    waits: list[float] = []
    time.sleep = waits.append
    with connected(base_url, max_retries=2) as client:
        raw = client.chat.completions.with_raw_response.create(**ask("[[simulate:429*2]] Row 1 asks"))
    return {"retries": raw.retries_taken, "waits": waits, "finish_reason": raw.parse().choices[0].finish_reason}


def cut_stream(base_url: str) -> Any:
    """A stream that ends in the middle: the error's class, and how many chunks had come before."""
    seen = 0
    with connected(base_url) as client:
        try:
            for _ in client.chat.completions.create(**ask("[[simulate:truncate]] Row 1 asks", stream=True)):
                seen += 1
        except Exception as error:  # noqa: BLE001 - which error it is is what is told
            return {"error": type(error).__name__, "chunks": seen}
    return {"error": None, "chunks": seen}


def batch(path: str) -> Any:
    """The lines of a batch's output: what each is by the SDK's types, which it must pass."""
    return {line["custom_id"]: batch_line(line) for line in map(json.loads, Path(path).read_text().splitlines())}


def batch_line(line: dict[str, Any]) -> Any:
    answered = line["response"]
    if answered is None:
        return ["not answered", BatchError.model_validate(line["error"], strict=True).code]
    if answered["status_code"] == 200:
        body = ChatCompletion.model_validate_json(json.dumps(answered["body"]), strict=True)
        return ["answered", body.choices[0].finish_reason, body.choices[0].message.content]
    return ["refused", ErrorObject.model_validate(answered["body"]["error"], strict=True).code]


SCENARIOS: dict[str, Callable[[str], Any]] = {
    scenario.__name__: scenario for scenario in (complete, stream, models, refusals, again, cut_stream, batch)
}

if __name__ == "__main__":
    json.dump(SCENARIOS[sys.argv[1]](sys.argv[2]), sys.stdout)
