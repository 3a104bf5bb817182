"""Takes in one uploaded file: multipart form data from the socket to the disk, piece by piece, within bounds.

No more of it is in memory than one piece. It decides what a form may look like, not what its fields mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from penstock.edges.batches import Content
from penstock.server.keeping import DISK_REFUSES, Keeping, in_thread
from penstock.server.replies import JSON, Reply, Turned, error_reply
from penstock.server.security import too_large
from penstock.server.visit import TOO_SLOW, Visit

MOST_PARTS = 16
MOST_FIELD_BYTES = 4096
SLOWEST_PIECE = 30.0
"""Seconds between two pieces of an upload, and what a whole one may take."""

SLOWEST_UPLOAD = 3600.0
PIECE_BYTES = 1 << 18
_FILE = "file"


class Uploaded(msgspec.Struct, frozen=True):
    """What came: the content, not kept yet; the name that its sender gave it; every other field of the form."""

    content: Content
    filename: str
    fields: Mapping[str, str]


async def receive(visit: Visit, keeping: Keeping, most_bytes: int) -> Uploaded:
    """The upload of a visit. Raises `Turned` for what is no upload, is too large or comes too slowly; nothing is left of it."""
    form, whole = _Form(_boundary(visit)), False
    content = await keeping.answer(keeping.store.new_content)
    try:
        async with asyncio.timeout(SLOWEST_UPLOAD):
            await _take_in(visit, form, content, most_bytes)
        uploaded = Uploaded(content, form.end(), form.fields)
        whole = True
    except TimeoutError as timeout:
        raise Turned(_final(TOO_SLOW)) from timeout
    except OSError as error:
        raise Turned(_final(DISK_REFUSES)) from error
    finally:
        if not whole:
            await in_thread(content.discard)
    return uploaded


async def _take_in(visit: Visit, form: _Form, content: Content, most_bytes: int) -> None:
    size, more = 0, True
    waiting = bytearray()
    while more:
        async with asyncio.timeout(SLOWEST_PIECE):
            message = await visit.receive()
        if message["type"] == "http.disconnect":
            raise Turned(TOO_SLOW)  # nobody is left to read this reply
        data, more = message.get("body", b""), message.get("more_body", False)
        size += len(data)
        if size > most_bytes:
            raise Turned(_final(too_large(most_bytes)))
        waiting += form.feed(data)
        if len(waiting) >= PIECE_BYTES or not more:
            piece, waiting = bytes(waiting), bytearray()
            await in_thread(partial(content.write, piece))


def _boundary(visit: Visit) -> bytes:
    kind = next((value for name, value in visit.scope["headers"] if name == b"content-type"), b"")
    name, options = parse_options_header(kind)
    if name.lower() != b"multipart/form-data" or not options.get(b"boundary"):
        raise _bad("send the file as multipart/form-data with a boundary: `curl -F purpose=batch -F file=@input.jsonl`")
    return options[b"boundary"]


class _Form:
    """Reads a form. `feed` gives back what belongs to the file."""

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, str] = {}
        self._filename: str | None = None
        self._parts = 0
        self._ended = False
        self._begin_part()
        callbacks: Any = {
            "on_part_begin": self._begin_part,
            "on_part_data": self._take_data,
            "on_part_end": self._end_part,
            "on_header_field": self._take_header_name,
            "on_header_value": self._take_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise _bad(f"the boundary cannot be used: {error}") from error

    def feed(self, data: bytes) -> bytes:
        """Read on. Raises `Turned` for what is no form."""
        self._found: list[bytes] = []
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _bad("the body is not valid multipart/form-data") from error
        return b"".join(self._found)

    def end(self) -> str:
        """The file's name; raises `Turned` where the form is not whole or has no file."""
        if not self._ended:
            raise _bad("the form was cut off before its last boundary")
        if self._filename is None:
            raise _bad("the form has no field `file` with a file name", _FILE)
        return self._filename

    # What the parser tells.

    def _begin_part(self) -> None:
        self._disposition = self._header_name = self._header_value = b""
        self._name, self._is_file = "", False
        self._data = bytearray()

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise _bad(f"the form has more than {MOST_PARTS} parts")
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._is_file = self._name == _FILE and b"filename" in options
        if self._is_file:
            if self._filename is not None:
                raise _bad("the form has more than one file", _FILE)
            self._filename = options[b"filename"].decode(errors="replace")
            if len(self._filename) > 512:
                raise _bad("the file's name is longer than 512 characters", _FILE)

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._found.append(data[start:end])
            return
        self._data += data[start:end]
        if len(self._data) > MOST_FIELD_BYTES:
            raise _bad(f"the form's field {self._name[:40]!r} is longer than {MOST_FIELD_BYTES:,} bytes")

    def _end_part(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._data.decode(errors="replace")

    def _end(self) -> None:
        self._ended = True


def _bad(message: str, param: str | None = None) -> Turned:
    return Turned(_final(error_reply(400, message, param=param)))


def _final(reply: Reply) -> Reply:
    """The rest of the body is not read, so the connection cannot be used again."""
    return Reply(reply.status, reply.body, (JSON, (b"connection", b"close")))
