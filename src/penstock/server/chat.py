"""Chat completions on the wire: what a client asks for, and the events of a streamed answer. Pure; it sends nothing.

Fields that are not known here pass through in both directions as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from penstock.errors import RequestError
from penstock.records import Chunk, Request
from penstock.server.replies import Turned, error_body, error_reply

DONE = b"data: [DONE]\n\n"

_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter"})
"""Those that clients know."""

_A_CHOICE = re.compile(rb'"choices"\s*:\s*\[\s*\{')

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Chat(msgspec.Struct, frozen=True):
    """A request for a chat completion. `wants_usage`: whether a stream is to tell it at its end."""

    model: object
    request: Request
    streamed: bool
    wants_usage: bool


def read_chat(body: bytes) -> Chat:
    """What a body asks for. Raises `Turned` with the reply for one that can be no request."""
    try:
        fields = _decode(body)
    except (ValueError, RecursionError) as error:
        raise _bad(f"the body is not valid JSON: {str(error)[:200]}") from error
    if not isinstance(fields, dict):
        raise _bad("the body must be a JSON object")
    messages = fields.pop("messages", None)
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise _bad("messages must be a list of one or more objects", "messages")
    model = fields.pop("model", None)
    if model is None:
        raise _bad("you must provide a model parameter", "model")
    streamed = fields.pop("stream", None)
    if streamed not in (None, True, False):
        raise _bad("stream must be true or false", "stream")
    options = fields.pop("stream_options", None)
    if options is not None and not isinstance(options, dict):
        raise _bad("stream_options must be an object", "stream_options")
    wants_usage = bool(options and options.get("include_usage"))
    return Chat(model, Request(messages, params=fields), bool(streamed), wants_usage)


def events(chunks: Iterable[Chunk], head: bytes, *, wants_usage: bool) -> bytes:
    """The pieces of an answer as events: as they came, or made of their fields where they did not come as events.

    The chunk that has nothing but usage is for those who asked for it: many clients expect a choice in every chunk.
    """
    return b"".join(
        b"data: %b\n\n" % data
        for chunk in chunks
        for data in ((chunk.raw,) if chunk.raw else _made(chunk, head))
        if wants_usage or chunk.usage is None or not _only_usage(data)
    )


def head_of(model: str, request_id: str, created: int) -> bytes:
    """The beginning of the chunks that we make ourselves; the same for all of one answer."""
    fields = {"id": f"chatcmpl-{request_id}", "object": "chat.completion.chunk", "created": created, "model": model}
    return _encode(fields)[:-1]


def error_event(error: RequestError) -> bytes:
    """What tells, in the middle of a stream, that it has failed; nothing may follow."""
    return b"data: %b\n\n" % error_body(error)


def _made(chunk: Chunk, head: bytes) -> list[bytes]:
    """A whole answer as the chunks of a stream: what it says, and then what it took."""
    delta: dict[str, Any] = {"role": "assistant", "content": chunk.text}
    if chunk.reasoning:
        delta["reasoning_content"] = chunk.reasoning
    if chunk.tool_calls:
        delta["tool_calls"] = [
            {
                "index": part.index,
                "id": part.id,
                "type": "function",
                "function": {"name": part.name, "arguments": part.arguments},
            }
            for part in chunk.tool_calls
        ]
    reason = chunk.finish_reason if chunk.finish_reason in _REASONS else "stop"
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    made = [b'%b,"choices":%b,"usage":null}' % (head, _encode([choice]))]
    if (usage := chunk.usage) is not None:
        told = {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
        }
        made.append(b'%b,"choices":[],"usage":%b}' % (head, _encode(told)))
    return made


def _only_usage(data: bytes) -> bool:
    """True for the data of an event that has no choice."""
    return _A_CHOICE.search(data) is None


def _bad(message: str, param: str | None = None) -> Turned:
    return Turned(error_reply(400, message, param=param))
