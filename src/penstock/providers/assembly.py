"""One answer put together from the pieces of a stream, as the body that it would have had unstreamed.

Decides which piece belongs to which tool call, and which of two finish reasons counts. Never whether the answer is
whole, and never what a piece means to the reader (`streams` does).
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.providers.messages import Message, tool_call, tool_entries
from penstock.records import ToolCallPart

_OWN_KEYS = frozenset({"index", "id", "type", "function", "custom"})


class _Call(msgspec.Struct):
    """A tool call so far; `more` is what a service adds, such as the thought signatures that Gemini wants back."""

    type: str
    id: str = ""
    name: str = ""
    arguments: list[str] = []
    more: dict[str, Any] = {}


class ToolCalls:
    """The tool calls of one stream, by the order in which they began."""

    __slots__ = ("_calls", "_places")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._places: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, delta: Message) -> tuple[ToolCallPart, ...]:
        """Take the pieces of a delta; they are told with the places that their calls have here."""
        return tuple(map(self._add, tool_entries(delta)))

    def _add(self, entry: dict[str, Any]) -> ToolCallPart:
        told, index = tool_call(entry), entry.get("index")
        place = self._place(index if isinstance(index, int) else None, told.id, told.name)
        if place == len(self._calls):
            self._calls.append(_Call("custom" if "custom" in entry else "function"))
        call = self._calls[place]
        call.id, call.name = call.id or told.id, call.name or told.name
        call.arguments.append(told.arguments)
        call.more.update((key, value) for key, value in entry.items() if key not in _OWN_KEYS)
        return ToolCallPart(place, told.id, told.name, told.arguments)

    def _place(self, index: int | None, id_: str, name: str) -> int:
        """Where the call of this piece stands; the length of the list for a new one.

        Gemini sends no index, and some servers give 0 to each of several calls: there the id tells them apart.
        """
        new = len(self._calls)
        place = max(0, new - 1) if index is None else self._places.get(index, new)
        if place < new and self._begins(self._calls[place], id_, name, indexed=index is not None):
            place = new
        if index is not None:
            self._places[index] = place
        return place

    @staticmethod
    def _begins(last: _Call, id_: str, name: str, *, indexed: bool) -> bool:
        """True where a piece begins another call than the one that its index, or its place in line, points to."""
        if not name:
            return False  # some servers draw a new id for each piece
        if id_ and last.id:
            return id_ != last.id
        return not indexed and bool(last.name)

    def body(self) -> list[dict[str, Any]]:
        """The calls as an unstreamed message has them."""
        return [_call_body(call) for call in self._calls]


def _call_body(call: _Call) -> dict[str, Any]:
    content = "input" if call.type == "custom" else "arguments"
    inner = {"name": call.name, content: "".join(call.arguments)}
    return {"id": call.id, "type": call.type, call.type: inner, **call.more}


class Assembly:
    """What came of one answer. The lists are added to as pieces come; `head` holds what describes the answer.

    `finish_reason` and `usage` are as sent. `has_message` is true once there was a delta, however empty.
    """

    __slots__ = (
        "calls",
        "finish_reason",
        "has_choice",
        "has_message",
        "head",
        "refusals",
        "texts",
        "thoughts",
        "usage",
    )

    def __init__(self) -> None:
        self.head: dict[str, Any] = {}
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.refusals: list[str] = []
        self.calls = ToolCalls()
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] | None = None
        self.has_choice = self.has_message = False

    def body(self) -> bytes:
        """The whole as a `chat.completion`. Raises `RecursionError` for what is nested too deep to be written."""
        choice = {"index": 0, "message": self._message(), "finish_reason": self.finish_reason}
        answer = {**self.head, "object": "chat.completion", "choices": [choice] if self.has_choice else []}
        return msgspec.json.encode(answer if self.usage is None else {**answer, "usage": self.usage})

    def _message(self) -> dict[str, Any] | None:
        if not self.has_message:
            return None
        text = "".join(self.texts)
        # Without a text, content is null beside a refusal or a call, and an empty text elsewhere.
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text or (None if self.refusals or self.calls else ""),
        }
        if self.refusals:
            message["refusal"] = "".join(self.refusals)
        if self.thoughts:
            message["reasoning_content"] = "".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = self.calls.body()
        return message
