"""What ChatOpenAI makes of a gateway, as JSON: `python langchain_gateway.py BASE_URL LOCKED_BASE_URL LOCKED_KEY`.

Runs in LangChain's environment, which has langchain-openai. It tells what happened and judges nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

KEY = "any"
AT_ONCE = 50


class Sum(BaseModel):
    """A sum."""

    first: int = Field(description="the first number")
    second: int = Field(description="the second number")


@tool
def add_numbers(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def connected(base_url: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=base_url, **{"model": "m", "api_key": KEY, "max_retries": 0, "timeout": 30} | options)


def invoke(base_url: str) -> Any:
    """A whole answer with its headers, and one out of a chain."""
    answer = connected(base_url, include_response_headers=True).invoke("Row 1 asks")
    chain = ChatPromptTemplate.from_template("Row {n} asks") | connected(base_url)
    return {
        "text": answer.content,
        "usage": answer.usage_metadata,
        "told": [answer.response_metadata[name] for name in ("model_name", "finish_reason")],
        "request_id": answer.response_metadata["headers"]["x-request-id"],
        "chain": chain.invoke({"n": 1}).content,
    }


def stream(base_url: str) -> Any:
    """Put together, with usage and without; and how many pieces there were."""
    told = {}
    for name, given in {"with": {"stream_usage": True}, "without": {}}.items():
        first, *others = list(connected(base_url, **given).stream("Row 1 asks"))
        answer = sum(others, start=first)
        told[name] = [answer.content, answer.usage_metadata, answer.response_metadata["finish_reason"], len(others) > 1]
    return told


def tools(base_url: str) -> Any:
    """A call, whole and as a stream; and the same again with its result."""
    model = connected(base_url).bind_tools([add_numbers])
    answer = model.invoke("Please add_numbers: 3 and 4")
    first, *others = list(model.stream("Please add_numbers: 3 and 4"))
    result = add_numbers.invoke(answer.tool_calls[0])
    follows = model.invoke([("user", "Please add_numbers: 3 and 4"), answer, result])
    calls = [*answer.tool_calls, *sum(others, start=first).tool_calls]
    return {"calls": [[call["name"], call["args"]] for call in calls], "follows": follows.text}


def structured(base_url: str) -> Any:
    """By every method that there is."""
    told = {}
    for method in ("function_calling", "json_schema"):
        model = connected(base_url).with_structured_output(Sum, method=method)
        told[method] = model.invoke("What is 3 + 4?").model_dump()
    loose = connected(base_url).with_structured_output(None, method="json_mode")
    return {**told, "json_mode": loose.invoke("JSON with 'answer', please")}


def failure(model: ChatOpenAI, prompt: str) -> Any:
    try:
        model.invoke(prompt)
    except Exception as error:  # noqa: BLE001 - which error it is is what is told
        known = {base.__name__ for base in type(error).__mro__}
        kind = next(name for name in [*CLASSES, type(error).__name__] if name in known)
        return [kind, getattr(error, "status_code", None), getattr(error, "code", None)]
    return None


CLASSES = ("AuthenticationError", "BadRequestError", "NotFoundError", "RateLimitError", "InternalServerError")


def errors(base_url: str) -> Any:
    """Each as one of the SDK's classes, or of LangChain's below them."""
    told = connected(base_url, model="told")
    fields = {"message": "no", "type": "their_type", "param": None, "code": "their_code"}
    wishes = {status: {"status": status, "error": fields} for status in (401, 404, 422, 503, 429)}
    wishes[429]["headers"] = {"retry-after": "30"}  # longer than the gateway waits itself
    return {str(status): failure(told, json.dumps(wish)) for status, wish in wishes.items()} | {
        "too-long": failure(connected(base_url), "[[simulate:too-long]]"),
        "model": failure(connected(base_url, model="none"), "hi"),
        "retried": failure(connected(base_url, model="once-more", max_retries=2), "[[simulate:500]]"),
    }


def many(base_url: str) -> Any:
    """So many at once."""
    prompts = [f"Row {index} asks: what follows {index}?" for index in range(AT_ONCE)]
    return [answer.content for answer in asyncio.run(connected(base_url).abatch(prompts))]


def keys(base_url: str, key: str) -> Any:
    """With the right key, and with a wrong one."""
    wrong = connected(base_url, api_key="sk-wrong-wrong-wrong")
    return [connected(base_url, api_key=key).invoke("Row 1 asks").content, failure(wrong, "Row 1 asks")]


def told_of(scenario: Callable[..., Any], *where: str) -> dict[str, Any]:
    """What a scenario tells, or how it broke."""
    began = time.monotonic()
    try:
        return {"told": scenario(*where), "seconds": time.monotonic() - began}
    except Exception:  # noqa: BLE001 - which error it is is what is told
        return {"broke": traceback.format_exc(), "seconds": time.monotonic() - began}


if __name__ == "__main__":
    plain, *locked = sys.argv[1:]
    scenarios = (invoke, stream, tools, structured, errors, many)
    told = {scenario.__name__: told_of(scenario, plain) for scenario in scenarios}
    json.dump(told | {"keys": told_of(keys, *locked)}, sys.stdout)
