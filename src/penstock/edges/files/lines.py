"""Bytes into numbered lines: the one place that knows about line ends, byte order marks and lines without end.

It decides what a line is. It never decides what a line means, and it never holds more than one chunk and one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from penstock.errors import InputError

CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20

_UTF8_MARK = b"\xef\xbb\xbf"
# UTF-32 little-endian starts with the same two bytes as UTF-16; UTF-32 big-endian with two zero bytes before its mark.
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    r"""Every line without its `\n`; a last line needs none.

    A line over MAX_LINE_BYTES comes cut, yet longer than that, so that the caller can tell; its rest is dropped.
    """
    pending = bytearray()
    for chunk in chunks:
        pieces = chunk.split(b"\n")
        if len(pending) <= MAX_LINE_BYTES:
            pending += pieces[0]
        if len(pieces) > 1:
            yield bytes(pending)
            yield from pieces[1:-1]
            pending = bytearray(pieces[-1])
    if pending:
        yield bytes(pending)


def text_lines(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The lines of UTF-8 text without its byte order mark; raises `InputError` for UTF-16 and UTF-32."""
    lines = split_lines(chunks)
    first = next(lines, None)
    if first is None:
        return
    yield without_mark(first, name)
    yield from lines


def without_mark(start: bytes, name: str) -> bytes:
    """The start of a text without the UTF-8 byte order mark; raises `InputError` for UTF-16 and UTF-32."""
    if start.startswith(_WIDE_MARKS):
        raise InputError(name, "this is UTF-16 or UTF-32; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)")
    return start.removeprefix(_UTF8_MARK)


def numbered_lines(chunks: Iterable[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of every line that is not blank."""
    for number, line in enumerate(text_lines(chunks, name), 1):
        if line and not line.isspace():
            yield number, line
