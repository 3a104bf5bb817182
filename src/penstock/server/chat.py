"""Chat completions on the wire: what a client asks for, and the events of a streamed answer. Pure; it sends nothing.

Fields that are not known here pass through in both directions as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from penstock.errors import RequestError
from penstock.records import Chunk, Request
from penstock.server.replies import Turned, error_body, error_reply

DONE = b"data: [DONE]\n\n"

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
        b"data: %b\n\n" % (chunk.raw or _made(chunk, head)) for chunk in chunks if wants_usage or not _only_usage(chunk)
    )


def head_of(model: str, request_id: str, created: int) -> bytes:
    """The beginning of the chunks that we make ourselves; the same for all of one answer."""
    fields = {"id": f"chatcmpl-{request_id}", "object": "chat.completion.chunk", "created": created, "model": model}
    return _encode(fields)[:-1]


def error_event(error: RequestError) -> bytes:
    """What tells, in the middle of a stream, that it has failed; nothing may follow."""
    return b"data: %b\n\n" % error_body(error)


def _made(chunk: Chunk, head: bytes) -> bytes:
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
    reason = chunk.finish_reason if chunk.finish_reason != "other" else "stop"
    choices = [] if _only_usage(chunk) else [{"index": 0, "delta": delta, "finish_reason": reason}]
    usage = chunk.usage
    told = None
    if usage is not None:
        told = {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
        }
    return b'%b,"choices":%b,"usage":%b}' % (head, _encode(choices), _encode(told))


def _only_usage(chunk: Chunk) -> bool:
    return chunk.usage is not None and not (
        chunk.text or chunk.reasoning or chunk.tool_calls or chunk.finish_reason or b'"choices":[{' in chunk.raw
    )


def _bad(message: str, param: str | None = None) -> Turned:
    return Turned(error_reply(400, message, param=param))
