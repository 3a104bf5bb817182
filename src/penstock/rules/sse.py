"""Server-sent events out of bytes, in any chunking, by the rules of the WHATWG HTML standard (9.2.6).

Decides where an event begins and ends and what its lines say. Never what its data means: JSON, `[DONE]` and the end
of a stream are the provider's. `id` and `retry` are read and dropped: they serve a reconnection that takes a stream
up again, which no API of chat completions offers. A stream that is not UTF-8 is an error: a replaced character would
pass for the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from penstock.errors import request_error

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The longest event accepted: an image comes as base64 in one; whatever is longer is no chunk of an answer."""

_DATA = b"data: "
_BLANK_LINE = b"\n\n"


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event: its data, lines joined by LF, and its name, empty where it has none."""

    data: str
    name: str = ""


class EventReader:
    """Reads one stream; made anew for each. Events that have no data, comments for one, are not told."""

    __slots__ = ("_at_start", "_buffer", "_max_event_bytes", "_skip_lf")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._buffer = bytearray()
        self._max_event_bytes = max_event_bytes
        self._at_start = True
        self._skip_lf = False

    def feed(self, data: bytes) -> Iterable[Event]:
        """The events that these bytes complete; draw them all before the next feed.

        Raises `RequestError` after the events that came before the trouble: `malformed` where the bytes are no UTF-8,
        `too_large` where one event is longer than allowed. Nothing can be read after that.
        """
        if self._skip_lf or b"\r" in data:
            data = self._with_lf(data)
        if not self._buffer and (event := self._alone(data)) is not None:
            return (event,)
        block = self._grown(data) if self._buffer else self._cut(data)
        return self._events(block.split(_BLANK_LINE) if block is not None else [])

    def flush(self) -> Event | None:
        """The event that the end of the stream leaves without its blank line, which some servers do not send.

        The standard drops it. Whether it is whole is for the caller to say; one cut inside a character is none.
        """
        piece = bytes(self._buffer)
        self._buffer.clear()
        try:
            return self._event(piece)
        except UnicodeDecodeError:
            return None

    def _alone(self, data: bytes) -> Event | None:
        """The event of a read that brings just one, of one line, which is how tokens come; the long way takes twice as long."""
        end = len(data) - len(_BLANK_LINE)
        if data.find(b"\n") != end or not data.startswith(_DATA) or end > self._max_event_bytes:
            return None
        try:
            event = Event(data[len(_DATA) : end].decode())
        except UnicodeDecodeError:
            return None
        self._at_start = False
        return event

    def _with_lf(self, data: bytes) -> bytes:
        """The same with LF as the only line end. A CR ends its line at once; an LF right after it belongs to it."""
        if self._skip_lf and data:
            data = data.removeprefix(b"\n")
            self._skip_lf = False
        if b"\r" in data:
            self._skip_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _cut(self, data: bytes) -> bytes | None:
        """The whole events in what comes while nothing is kept; the usual case, without a copy of its own."""
        end = data.rfind(_BLANK_LINE)
        if end < 0:
            self._buffer += data
            return None
        self._buffer += data[end + len(_BLANK_LINE) :]
        return data[:end]

    def _grown(self, data: bytes) -> bytes | None:
        """The whole events in what is kept with this added."""
        buffer = self._buffer
        # Only what is new is searched, else an event in many pieces would cost the square of its length.
        start = len(buffer) - 1
        buffer += data
        end = buffer.rfind(_BLANK_LINE, start)
        if end < 0:
            return None
        block = bytes(buffer[:end])
        del buffer[: end + len(_BLANK_LINE)]
        return block

    def _events(self, pieces: list[bytes]) -> Iterator[Event]:
        for piece in pieces:
            if len(piece) > self._max_event_bytes:
                self._check(piece)
            try:
                if piece.startswith(_DATA) and b"\n" not in piece:
                    self._at_start = False
                    event: Event | None = Event(piece[len(_DATA) :].decode())
                else:
                    event = self._event(piece)
            except UnicodeDecodeError as cause:
                raise request_error("malformed", "an event that is not UTF-8", maybe_billed=True) from cause
            if event is not None:
                yield event
        if len(self._buffer) > self._max_event_bytes:
            self._check(self._buffer)

    def _check(self, piece: bytes | bytearray) -> None:
        # The line ends around an event are no part of it: how many stand there depends on the chunking.
        if len(piece.strip(b"\n")) > self._max_event_bytes:
            message = f"an event longer than {self._max_event_bytes} bytes"
            raise request_error("too_large", message, maybe_billed=True)

    def _event(self, piece: bytes) -> Event | None:
        at_start, self._at_start = self._at_start, False
        text = str(piece, "utf-8")
        if at_start:
            text = text.removeprefix("\ufeff")
        return _of_lines(text.split("\n"))


def _of_lines(lines: list[str]) -> Event | None:
    """The event of these lines; None where no line of them has data."""
    name, data = "", []
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
    return Event("\n".join(data), name) if data else None
