"""A stream of chat completions: bytes in, chunks out as they come, and at its end the whole answer or an error.

Decides what each event adds, and whether the stream is whole: `[DONE]` and a finish reason, or what its service is
known to send instead. Never waits, and never asks again. A stream that ended early is `truncated`, however much text
it brought. What came instead of a stream, an error or a whole answer, is read as such.

The order of calls, for one answer: `feed` each piece of the body; `flush` where the body ended by itself; `end`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from penstock.errors import Kind, RequestError
from penstock.providers.assembly import Assembly
from penstock.providers.catalog import Service
from penstock.providers.error_bodies import read_error
from penstock.providers.messages import Message, content_parts, first_text, told_reason, usage_of
from penstock.providers.plain import plain_text
from penstock.records import Chunk, FinishReason, HttpAnswer, Response, ToolCallPart, Usage
from penstock.rules.sse import Event, EventReader

_DONE = "[DONE]"
# What may stand before anything else: blank lines that keep a connection alive, and a byte order mark.
_PADDING = b" \t\r\n\xef\xbb\xbf"
# How a body begins that is no stream: JSON or HTML. No line of an event stream that means anything begins so.
_WHOLE_BODY = b"{[<"
# Of an event that has no name; the second is what the standard reads in its place.
_PLAIN_NAMES = ("", "message")
_NOTHING = Chunk()


class AnswerReader(Protocol):
    """What a decoder asks of its provider: to read a whole answer, and to tell an error with the answer's own fields."""

    def decode(self, answer: HttpAnswer, wall: float) -> Response: ...
    def finish_reason(self, sent: str) -> FinishReason: ...
    def failure_in_stream(self, event: HttpAnswer, wall: float, *, begun: bool) -> RequestError: ...
    def unusable_stream(self, answer: HttpAnswer, wall: float, kind: Kind, reason: str) -> RequestError: ...


class _Choice(msgspec.Struct, gc=False):
    index: Any = 0
    delta: Message | None = None
    finish_reason: str | None = None
    error: Any = None


class _Piece(msgspec.Struct, gc=False):
    """The data of one event; `x_groq` is where Groq also puts usage and errors."""

    choices: list[_Choice | None] | None = None
    usage: Any = None
    error: Any = None
    x_groq: Any = None


class _FirstPiece(_Piece, gc=False):
    """The same with what describes the answer, which every event repeats and which is read until one tells it."""

    id: Any = None
    created: Any = None
    model: Any = None
    service_tier: Any = None
    system_fingerprint: Any = None

    def head(self) -> dict[str, Any]:
        """What describes the answer; empty where it is not told yet, as in Azure's first event."""
        if not (self.id or self.model):
            return {}
        return {name: value for name in _HEAD if (value := getattr(self, name)) is not None}


_HEAD = ("id", "created", "model", "service_tier", "system_fingerprint")
_FIRST_PIECE = msgspec.json.Decoder(_FirstPiece)
_PIECE = msgspec.json.Decoder(_Piece)


class StreamDecoder:
    """Reads one answer; made by `ChatCompletions.decoder`.

    `over` is true once nothing that follows can count: after `[DONE]`, or after an error, which `end` raises.
    """

    __slots__ = (
        "_answer",
        "_assembly",
        "_failure",
        "_provider",
        "_reader",
        "_response",
        "_service",
        "_told_reason",
        "_told_usage",
        "_undecided",
        "_wall",
        "_whole_body",
        "over",
    )

    def __init__(self, provider: AnswerReader, service: Service, head: HttpAnswer, wall: float) -> None:
        self.over = False
        self._provider = provider
        self._service = service
        self._answer = head
        self._wall = wall
        self._assembly = Assembly()
        self._reader = EventReader()
        self._undecided = 200 <= head.status < 300
        self._whole_body: bytearray | None = None if self._undecided else bytearray()
        self._failure: RequestError | None = None
        self._response: Response | None = None
        self._told_reason: FinishReason | None = None
        self._told_usage: Usage | None = None

    def __repr__(self) -> str:
        return f"StreamDecoder({self._service.name!r}, {'over' if self.over else 'under way'})"

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks that these bytes complete; never raises, so that none is lost to an error that follows it."""
        if self._undecided:
            data = self._decided(data)
        if self._whole_body is None:
            return [] if self.over else self._taken(self._reader.feed(data))
        self._whole_body += data
        return []

    def flush(self) -> list[Chunk]:
        """The chunks that only the end of the body completes; for a body that ended by itself. Never raises."""
        if self.over:
            return []
        if self._whole_body is not None:
            return self._read_whole(bytes(self._whole_body))
        event = self._reader.flush()
        # What is cut off is no event: it must not turn a truncated answer into a malformed one.
        return self._taken([event]) if event is not None and _is_whole(event.data) else []

    def end(self, broken: RequestError | None = None) -> Response:
        """The whole answer; `broken` is how the transport ended the body, None where it ended by itself.

        `raw` is the body that the answer would have had unstreamed. Raises the typed `RequestError` of the answer,
        `broken` where the stream was not over before, and `truncated` where it ended without its terminal event.
        """
        if broken is None:
            self.flush()
        if self._failure is not None:
            raise self._failure
        if self._response is None:
            self._response = self._assembled(broken)
        return self._response

    # -- the forms of a body

    def _decided(self, data: bytes) -> bytes:
        """The bytes to go on with. A stream or a whole body, by the first byte that is no padding: not every server
        names the type rightly."""
        beginning = data.lstrip(_PADDING)
        self._undecided = not beginning
        if beginning and beginning[0] in _WHOLE_BODY:
            self._whole_body = bytearray()
            return beginning
        return data

    def _read_whole(self, body: bytes) -> list[Chunk]:
        self.over = True
        try:
            self._response = response = self._provider.decode(self._with_body(body), self._wall)
        except RequestError as error:
            self._failure = error
            return []
        calls = enumerate(response.tool_calls)
        parts = tuple(ToolCallPart(index, call.id, call.name, call.arguments) for index, call in calls)
        return [Chunk(response.text, response.reasoning, parts, response.finish_reason, response.usage)]

    def _taken(self, events: Iterable[Event]) -> list[Chunk]:
        chunks = []
        try:
            for event in events:
                chunk = self._take(event)
                if chunk is not None:
                    chunks.append(chunk)
                if self.over:
                    break
        except RequestError as error:  # what cannot be an event
            self._fail(self._unusable(error.kind, error.message), error)
        return chunks

    # -- one event

    def _take(self, event: Event) -> Chunk | None:
        assembly = self._assembly
        if assembly.head and not event.name and (text := plain_text(event.data)) is not None:
            assembly.has_choice = assembly.has_message = True
            assembly.texts.append(text)
            return Chunk(text)
        try:
            piece = _PIECE.decode(event.data) if assembly.head else self._first_piece(event.data)
            if event.name == "error" or piece.error or piece.choices is None or piece.x_groq:
                return self._take_odd(event, piece)
            return self._chunk(piece)
        except (ValueError, RecursionError) as cause:  # not JSON, of another form, or nested too deep
            if event.data.startswith(_DONE):
                self.over = True
            else:
                self._take_unreadable(event, cause)
            return None

    def _first_piece(self, data: str) -> _Piece:
        piece = _FIRST_PIECE.decode(data)
        self._assembly.head = piece.head()
        return piece

    def _take_odd(self, event: Event, piece: _Piece) -> Chunk | None:
        """An event that may be an error, under any of its disguises, or one that has no choices."""
        groq = piece.x_groq if isinstance(piece.x_groq, dict) else {}
        if groq.get("error"):
            self._fail_with(_error_body(groq["error"]), piece)
        elif event.name == "error" and not piece.error:
            self._fail_with(_named_error_body(event.data), piece)
        elif piece.error or (piece.choices is None and read_error(event.data.encode()).reported):
            self._fail_with(event.data.encode(), piece)
        else:
            piece.usage = piece.usage or groq.get("usage")
            return self._chunk(piece)
        return None

    def _take_unreadable(self, event: Event, cause: Exception) -> None:
        if event.name == "error":
            self._fail_with(_error_body(event.data))
        elif event.name in _PLAIN_NAMES and event.data.strip():
            body = self._with_body(event.data.encode())
            self._fail(self._provider.failure_in_stream(body, self._wall, begun=True), cause)

    def _chunk(self, piece: _Piece) -> Chunk | None:
        assembly = self._assembly
        usage = self._usage(piece.usage) if piece.usage else None
        choice = _first_choice(piece.choices)
        if choice is None:
            return Chunk(usage=usage) if usage is not None else None
        assembly.has_choice = True
        if choice.error:
            self._fail_with(_error_body(choice.error), piece)
            return None
        text, thoughts, calls = self._delta(choice.delta) if choice.delta is not None else ("", "", ())
        reason = self._finish_reason(choice.finish_reason) if choice.finish_reason else None
        if text or thoughts or calls or reason or usage is not None:
            return Chunk(text, thoughts, calls, reason, usage)
        return None

    def _delta(self, delta: Message) -> tuple[str, str, tuple[ToolCallPart, ...]]:
        """Text, thoughts and pieces of tool calls; a refusal is the text of an answer that refuses."""
        assembly, thoughts = self._assembly, ""
        assembly.has_message = True
        text = delta.content
        if not isinstance(text, str):
            text, thoughts = content_parts(text)
        if text:
            assembly.texts.append(text)
        if delta.reasoning_content or delta.reasoning:
            thoughts = first_text(delta.reasoning_content, delta.reasoning) or thoughts
        if thoughts:
            assembly.thoughts.append(thoughts)
        if delta.refusal and isinstance(delta.refusal, str):
            assembly.refusals.append(delta.refusal)
            text += delta.refusal
        calls = assembly.calls.add(delta) if delta.tool_calls or delta.function_call else ()
        return text, thoughts, calls

    def _finish_reason(self, sent: str) -> FinishReason | None:
        """Our word for it where it is news. Some servers send one twice, some `stop` with every piece: it yields."""
        assembly = self._assembly
        reason = self._provider.finish_reason(sent)
        if assembly.finish_reason is None or reason != "stop":
            assembly.finish_reason = sent
        else:
            reason = self._provider.finish_reason(assembly.finish_reason)
        told = told_reason(reason, has_calls=bool(assembly.calls), has_refusal=bool(assembly.refusals))
        if told == self._told_reason:
            return None
        self._told_reason = told
        return told

    def _usage(self, sent: Any) -> Usage | None:
        """The tokens where they are news: the last that were sent count, and repeated ones are the same."""
        usage = usage_of(sent)
        if usage is None or usage == self._told_usage:
            return None
        self._assembly.usage = sent
        self._told_usage = usage
        return usage

    # -- the end

    def _assembled(self, broken: RequestError | None) -> Response:
        if not self.over:
            if broken is not None:
                raise broken
            if not self._may_end_so():
                raise self._truncated()
        try:
            body = self._assembly.body()
        except RecursionError as cause:
            raise self._unusable("malformed", "a stream that is nested too deep to be kept") from cause
        return self._provider.decode(self._with_body(body), self._wall)

    def _may_end_so(self) -> bool:
        """True where the service is known to end a stream without `[DONE]`, as this one did."""
        end = self._service.stream_end
        return end == "close" or (end == "finish_reason" and self._assembly.finish_reason is not None)

    def _truncated(self) -> RequestError:
        lacks = "[DONE]" if self._assembly.finish_reason else "a finish_reason and [DONE]"
        return self._unusable("truncated", f"a stream that ended without {lacks}")

    # -- failures

    def _fail_with(self, body: bytes, piece: _Piece | None = None) -> None:
        """The stream failed with an error as sent. It may be billed once any choice was there, this piece's too."""
        begun = self._assembly.has_choice or bool(piece and piece.choices)
        self._fail(self._provider.failure_in_stream(self._with_body(body), self._wall, begun=begun), None)

    def _fail(self, failure: RequestError, cause: Exception | None) -> None:
        failure.__cause__ = cause
        self._failure = failure
        self.over = True

    def _unusable(self, kind: Kind, reason: str) -> RequestError:
        return self._provider.unusable_stream(self._answer, self._wall, kind, reason)

    def _with_body(self, body: bytes) -> HttpAnswer:
        return HttpAnswer(self._answer.status, self._answer.headers, body)


class RelayDecoder(StreamDecoder):
    """A decoder for who passes the stream on: every event becomes a chunk, also one that adds nothing, with its data.

    Neither `[DONE]` nor an error does, nor an event that adds nothing and goes by a name of its own (`ping`): told
    without its name it would be another one.
    """

    __slots__ = ()

    def _take(self, event: Event) -> Chunk | None:
        chunk = super()._take(event)
        data = event.data
        if chunk is None:
            if self.over or event.name not in _PLAIN_NAMES or not data.strip():
                return None
            chunk = _NOTHING
        raw = data.replace("\n", " ").encode()
        return Chunk(chunk.text, chunk.reasoning, chunk.tool_calls, chunk.finish_reason, chunk.usage, raw=raw)


def _first_choice(choices: list[_Choice | None] | None) -> _Choice | None:
    """The choice of index 0: of several, the first is the answer, and pieces of the others come between."""
    for choice in choices or ():
        if choice is not None and not choice.index:
            return choice
    return None


def _error_body(error: Any) -> bytes:
    return msgspec.json.encode({"error": error})


def _named_error_body(data: str) -> bytes:
    """The body of an event whose name alone says that it is an error."""
    body = data.encode()
    return body if read_error(body).reported else _error_body(msgspec.Raw(body))


def _is_whole(data: str) -> bool:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except ValueError:
        return data.startswith(_DONE)
    return True
