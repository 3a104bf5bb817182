"""How the openai SDK asks a gateway, and what it tells of an error: for the scenarios beside it, in the SDK's environment."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
from pydantic import BaseModel

KEY = "any"


def connected(base_url: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=base_url, **{"api_key": KEY, "max_retries": 0, "timeout": 30} | options)


def ask(prompt: str, model: str = "m", **params: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **params}


def wish(status: int, headers: dict[str, str] | None = None, model: str = "told", **error: Any) -> dict[str, Any]:
    """A request that the obedient provider answers so."""
    return ask(json.dumps({"status": status, "headers": headers or {}, "error": error}), model)


def checked(answer: Any, kind: type[BaseModel]) -> Any:
    """The answer; raises where the SDK's own type for it does not fit."""
    kind.model_validate_json(answer.to_json(), strict=True)
    return answer


def failure(call: Callable[..., Any], **asked: Any) -> dict[str, Any] | None:
    """What a call raises, by all that the SDK tells of it; None where it raises nothing."""
    try:
        call(**asked)
    except openai.APIStatusError as error:
        told = {name: getattr(error, name) for name in ("status_code", "code", "type", "param", "request_id")}
        kept = ("retry-after", "retry-after-ms", "x-should-retry", "x-ratelimit-remaining-requests")
        headers = {name: error.response.headers[name] for name in kept if name in error.response.headers}
        return {"class": type(error).__name__, **told, "said": error.body["message"], "headers": headers}  # type: ignore[index]
    except openai.APIError as error:
        return {"class": type(error).__name__, "said": error.message, "code": error.code}
    return None
