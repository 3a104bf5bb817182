"""What one message of an answer holds, in every dialect of Chat Completions: text, thoughts, tool calls, usage.

Decides how each deviation reads; shared by whole answers and streams, so that both tell the same. Never raises for an
odd value: what cannot be read counts as not sent.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.records import FinishReason, ToolCall, Usage

# No answer has more; larger numbers are nonsense that would overflow what counts them.
MOST_TOKENS = 10**12

_ENCODER = msgspec.json.Encoder()


class Message(msgspec.Struct, gc=False):
    """A message, or the delta of one in a stream."""

    content: str | list[Any] | None = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    reasoning_content: Any = None
    reasoning: Any = None


def told_reason(reason: FinishReason, *, has_calls: bool, has_refusal: bool) -> FinishReason:
    """The finish reason that says what came: a refusal is no stop, and a forced call ends with `stop`."""
    if has_refusal:
        return "refusal"
    return "tool_calls" if has_calls and reason == "stop" else reason


def content_parts(content: list[Any] | None) -> tuple[str, str]:
    """Text and thoughts of content that comes as an array of parts, as Mistral's does."""
    texts, thoughts = [], []
    for part in content or ():
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            texts.append(first_text(part.get("text")))
            thinking = part.get("thinking")
            thoughts.append(content_parts(thinking)[0] if isinstance(thinking, list) else first_text(thinking))
    return "".join(texts), "".join(thoughts)


def tool_calls_of(message: Message) -> tuple[ToolCall, ...]:
    """The calls that a whole message asks for."""
    return tuple(map(tool_call, tool_entries(message)))


def tool_entries(message: Message) -> list[dict[str, Any]]:
    """The entries of its calls as sent."""
    calls = message.tool_calls if isinstance(message.tool_calls, list) else []
    if not calls and isinstance(message.function_call, dict):  # the form before tools
        calls = [{"function": message.function_call}]
    return [call for call in calls if isinstance(call, dict)]


def tool_call(call: dict[str, Any]) -> ToolCall:
    """One entry as a call, or a piece of one; arguments that came as an object are written as JSON."""
    function = call.get("function") or call.get("custom")
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments", function.get("input"))
    if arguments is None:
        arguments = ""
    elif not isinstance(arguments, str):
        arguments = _ENCODER.encode(arguments).decode()
    return ToolCall(id=first_text(call.get("id")), name=first_text(function.get("name")), arguments=arguments)


def first_text(*values: Any) -> str:
    """The first of these that is a text and not empty, else an empty one."""
    return next((value for value in values if value and isinstance(value, str)), "")


def usage_of(usage: Any) -> Usage | None:
    """Cached tokens are part of the input, reasoning tokens of the output; DeepSeek counts hits at the top level."""
    if not isinstance(usage, dict) or not ("prompt_tokens" in usage or "completion_tokens" in usage):
        return None
    of_prompt, of_completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    cached = of_prompt.get("cached_tokens") if isinstance(of_prompt, dict) else None
    reasoning = of_completion.get("reasoning_tokens") if isinstance(of_completion, dict) else None
    return Usage(
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _count(cached if cached is not None else usage.get("prompt_cache_hit_tokens")),
        _count(reasoning),
    )


def _count(value: Any) -> int:
    """A number of tokens, which some servers write as a float or as text; 0 for what is none."""
    if isinstance(value, str):
        value = int(value) if value.isdecimal() and len(value) < 16 else 0
    if type(value) is float:
        value = int(value) if value.is_integer() else 0
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else 0
