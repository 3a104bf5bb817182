"""What nearly every answer is like, read quickly: one text that ended well, with its usage; and nearly every piece of a stream:
some text.

It decides only whether an answer or a piece is that plain. What is not goes to the reading that knows every deviation, which
costs four times as much: this one takes a tenth off a whole call, and a fifth off a chunk. Both must tell the same of what is
plain, which a test holds.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from penstock.providers.messages import MOST_TOKENS
from penstock.records import HttpAnswer, Response, Usage

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]


class _Message(msgspec.Struct, gc=False):
    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    reasoning_content: None = None
    reasoning: None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message
    finish_reason: Literal["stop", "length"]
    error: None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: None = None


class _Completion(msgspec.Struct, gc=False):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    model: str
    usage: _Usage
    error: None = None


class _Delta(msgspec.Struct, gc=False):
    content: Annotated[str, msgspec.Meta(min_length=1)]
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    reasoning_content: None = None
    reasoning: None = None


class _PieceChoice(msgspec.Struct, gc=False):
    delta: _Delta
    index: Literal[0] = 0
    finish_reason: None = None
    error: None = None


class _Piece(msgspec.Struct, gc=False):
    choices: Annotated[list[_PieceChoice], msgspec.Meta(min_length=1, max_length=1)]
    usage: None = None
    error: None = None
    x_groq: None = None


_decode = msgspec.json.Decoder(_Completion).decode
_decode_piece = msgspec.json.Decoder(_Piece).decode


def plain_response(answer: HttpAnswer, request_id: str | None) -> Response | None:
    """The response of a plain answer; None for any other."""
    try:
        completion = _decode(answer.body)
    except (ValueError, RecursionError):
        return None
    choice, usage = completion.choices[0], completion.usage
    of_input, of_output = usage.prompt_tokens_details, usage.completion_tokens_details
    return Response(
        choice.message.content,
        choice.finish_reason,
        completion.model,
        Usage(
            usage.prompt_tokens,
            usage.completion_tokens,
            (of_input.cached_tokens or 0) if of_input is not None else 0,
            (of_output.reasoning_tokens or 0) if of_output is not None else 0,
        ),
        request_id=request_id,
        raw=answer.body,
    )


def plain_text(data: str) -> str | None:
    """The text of a piece of a stream that brings nothing else; None for any other."""
    try:
        return _decode_piece(data).choices[0].delta.content
    except (ValueError, RecursionError):
        return None
