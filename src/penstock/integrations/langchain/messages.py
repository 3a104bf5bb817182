"""LangChain's messages into ours and back: what is asked, what came, and the pieces of a stream.

It translates and decides nothing else. Of LangChain's content blocks it leaves out what stands elsewhere (calls of tools have
a place beside the content) and what no provider takes back by Chat Completions (the model's thoughts).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    InvalidToolCall,
    ToolCall,
    UsageMetadata,
    convert_to_openai_messages,
)
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from penstock import records
from penstock.errors import InputError
from penstock.records import Chunk, Response, Usage

_LEFT_OUT = frozenset(
    {
        *("tool_call", "tool_call_chunk", "invalid_tool_call", "server_tool_call", "server_tool_result"),
        *("thinking", "redacted_thinking", "reasoning", "reasoning_content"),
    }
)
_LONGEST_REASON = 200
"""Characters: LangChain puts the whole block into what it says, and a block may hold a film."""


def asked_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """The messages as Chat Completions has them. Raises `InputError` for content that has no form there."""
    asked: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        try:
            asked += convert_to_openai_messages([_without_what_is_left_out(message)])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"message {place}", str(error)[:_LONGEST_REASON]) from error
        last = asked[-1]
        if last["role"] == "tool":
            last.pop("name", None)  # no field of a tool's message, and some servers say so
        if isinstance(message, AIMessage) and message.invalid_tool_calls:
            # An answer to such a call may follow, and would otherwise answer nothing.
            last["tool_calls"] = last.get("tool_calls", []) + [_as_sent(call) for call in message.invalid_tool_calls]
    return asked


def _without_what_is_left_out(message: BaseMessage) -> BaseMessage:
    content = message.content
    if isinstance(content, str):
        return message
    kept = [block for block in content if isinstance(block, str) or block.get("type") not in _LEFT_OUT]
    return message if len(kept) == len(content) else message.model_copy(update={"content": kept})


def _as_sent(call: InvalidToolCall) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": call["args"] or ""}
    return {"type": "function", "id": call["id"], "function": function}


def result_of(response: Response, model: str) -> ChatResult:
    """A whole answer; `model` is its name where the provider does not tell it."""
    calls, invalid = _tool_calls(response.tool_calls)
    message = AIMessage(
        content=response.text,
        additional_kwargs=_beside_the_text(response) | _reasoning(response.reasoning),
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=_usage_metadata(response.usage),
        response_metadata={"model_name": response.model or model, **_ending(response)},
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def first_piece(model: str) -> dict[str, Any]:
    """What the first chunk of an answer tells of it. LangChain joins what several chunks tell, so no other repeats it."""
    return {"model_name": model}


def piece_of(chunk: Chunk, metadata: dict[str, Any]) -> ChatGenerationChunk:
    """A piece of an answer under way. Its end is told by the last piece only."""
    message = AIMessageChunk(
        content=chunk.text,
        additional_kwargs=_reasoning(chunk.reasoning),
        tool_call_chunks=[
            tool_call_chunk(name=part.name or None, args=part.arguments, id=part.id or None, index=part.index)
            for part in chunk.tool_calls
        ],
        response_metadata=metadata,
    )
    return ChatGenerationChunk(message=message)


def last_piece(response: Response, metadata: dict[str, Any]) -> ChatGenerationChunk:
    """The end of an answer: why it ended and what it used."""
    message = AIMessageChunk(
        content="",
        additional_kwargs=_beside_the_text(response),
        usage_metadata=_usage_metadata(response.usage),
        response_metadata=metadata | _ending(response),
        chunk_position="last",
    )
    return ChatGenerationChunk(message=message)


def _tool_calls(calls: Sequence[records.ToolCall]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """Those whose arguments are an object, and all others with what is wrong with them."""
    valid, invalid = [], []
    for call in calls:
        try:
            arguments = json.loads(call.arguments or "{}", strict=False)
            wrong = None if isinstance(arguments, dict) else "the arguments are no JSON object"
        except (ValueError, RecursionError) as error:
            wrong = f"the arguments are not JSON: {error}"
        if wrong is None:
            valid.append(tool_call(name=call.name, args=arguments, id=call.id))
        else:
            invalid.append(invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error=wrong))
    return valid, invalid


def _usage_metadata(usage: Usage | None) -> UsageMetadata | None:
    if usage is None:
        return None
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_token_details={"cache_read": usage.cached_tokens},
        output_token_details={"reasoning": usage.reasoning_tokens},
    )


def _reasoning(text: str) -> dict[str, Any]:
    """The model's thoughts where LangChain looks for them: it shows them as content blocks of their own."""
    return {"reasoning_content": text} if text else {}


def _beside_the_text(response: Response) -> dict[str, Any]:
    return {"refusal": response.text} if response.finish_reason == "refusal" else {}


def _ending(response: Response) -> dict[str, Any]:
    told = {"finish_reason": response.finish_reason}
    return told | {"request_id": response.request_id} if response.request_id else told
