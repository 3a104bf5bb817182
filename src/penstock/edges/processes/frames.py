"""What goes over the socket between the parent and one sending process: frames, in both directions. It knows what they look
like, cuts the stream of bytes into them, and writes all of one turn of the loop at once; it decides nothing.

    parent -> sender                                 sender -> parent
    SETTINGS            once, first                  READY      it may be asked
    MANNER  argument    how calls that name this     ANSWER     the whole answer
                        number go out                HEAD       of a stream
    WHOLE   manner      a call for a whole answer    PIECE      of its body
    STREAM  manner      a call for a stream          END        of its body
    TAKEN   bytes       of the stream were read      FAILED     what became of the call instead
    CANCEL              nobody waits any more

A frame is a head (payload length, kind, argument, number of the call) and a payload. Payloads carry keys and texts, so frames are
plain tuples of bytes that nobody prints.
"""

from __future__ import annotations

import asyncio
from struct import Struct
from typing import Final, TypeAlias

import msgspec

from penstock.errors import Kind, RequestError, UsageError, request_error
from penstock.options import Timeouts
from penstock.records import HttpAnswer, HttpCall

SETTINGS: Final = 0
READY: Final = 1
MANNER: Final = 2
WHOLE: Final = 3
STREAM: Final = 4
TAKEN: Final = 5
CANCEL: Final = 6
ANSWER: Final = 7
HEAD: Final = 8
PIECE: Final = 9
END: Final = 10
FAILED: Final = 11

WINDOW_BYTES: Final = 256 * 1024
"""So much of one stream may be on its way or untaken; who sends it stops reading there until it is told of more taken."""

_HEAD = Struct("<IBIQ")
_HEAD_BYTES = _HEAD.size
_pack, _unpack_from = _HEAD.pack, _HEAD.unpack_from

Frame: TypeAlias = tuple[int, int, int, bytes]
"""Kind, argument, number of the call, payload."""

Headers: TypeAlias = list[tuple[bytes, bytes]]
Manner: TypeAlias = tuple[HttpCall, Timeouts]
"""A call without its body, and its time-outs: nearly all calls share them, so that they cross once."""


class Settings(msgspec.Struct, frozen=True):
    """What a sending process must know before its first call."""

    parent: int
    """The number of the process that it works for."""

    max_connections: int
    loopback_only: bool = False


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error that a `Transport` raises, in plain fields; without a `kind` it is a `UsageError`."""

    message: str
    kind: Kind | None = None
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    retry_after: float | None = None
    maybe_billed: bool = False

    @classmethod
    def of(cls, error: RequestError | UsageError) -> Failure:
        """The fields of an error."""
        if isinstance(error, UsageError):
            return cls(str(error))
        more = {name: getattr(error, name) for name in ("status", "code", "request_id", "retry_after", "maybe_billed")}
        return cls(error.message, error.kind, **more)

    def error(self) -> RequestError | UsageError:
        """The same error again."""
        if self.kind is None:
            return UsageError(self.message)
        return request_error(
            self.kind,
            self.message,
            status=self.status,
            code=self.code,
            request_id=self.request_id,
            retry_after=self.retry_after,
            maybe_billed=self.maybe_billed,
        )


encode = msgspec.msgpack.Encoder().encode
read_settings = msgspec.msgpack.Decoder(Settings).decode
read_manner = msgspec.msgpack.Decoder(Manner).decode
read_answer = msgspec.msgpack.Decoder(HttpAnswer).decode
read_headers = msgspec.msgpack.Decoder(Headers).decode
read_failure = msgspec.msgpack.Decoder(Failure).decode


class FrameReader:
    """Bytes in, whole frames out, however the bytes are cut. What is not whole yet is joined once, when it is."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0
        self._wanted = _HEAD_BYTES

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole now."""
        if self._parts:
            self._parts.append(data)
            self._held += len(data)
            if self._held < self._wanted:
                return []
            data = b"".join(self._parts)
            self._parts.clear()
        frames: list[Frame] = []
        start, size, wanted = 0, len(data), _HEAD_BYTES
        while size - start >= _HEAD_BYTES:
            length, kind, argument, number = _unpack_from(data, start)
            end = start + _HEAD_BYTES + length
            if end > size:
                wanted = end - start
                break
            frames.append((kind, argument, number, data[start + _HEAD_BYTES : end]))
            start = end
        if start < size:
            self._parts.append(data[start:])
            self._held, self._wanted = size - start, wanted
        return frames


class FrameWriter:
    """Frames out. All that one turn of the loop brings is one write, because a system call costs more than a frame."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []

    def put(self, kind: int, argument: int, number: int, payload: bytes = b"") -> None:
        """Send a frame at the end of this turn."""
        pieces = self._pieces
        if not pieces:
            self._loop.call_soon(self.flush)
        pieces.append(_pack(len(payload), kind, argument, number) + payload)

    def flush(self) -> None:
        """Send what is there."""
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))
