"""Bytes to events: what the standard says of lines and fields, in any chunking, within bounds, and UTF-8 only."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import RequestError
from penstock.rules.sse import Event, EventReader


def read(pieces: Iterable[bytes], max_event_bytes: int = 1_000) -> tuple[list[Event], str | None]:
    """The events, with the one that the end leaves over, and the kind of the error that ended them."""
    reader, events = EventReader(max_event_bytes), []
    try:
        for piece in pieces:
            for event in reader.feed(piece):
                events.append(event)  # noqa: PERF402 - those before an error are kept
    except RequestError as error:
        return events, error.kind
    left_over = reader.flush()
    return [*events, *([left_over] if left_over is not None else [])], None


def bytewise(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


CASES = {
    "usual": (b'data: {"a": 1}\n\n', [Event('{"a": 1}')]),
    "several": (b"data: a\n\ndata: b\n\n", [Event("a"), Event("b")]),
    "crlf": (b"data: a\r\n\r\ndata: b\r\n\r\n", [Event("a"), Event("b")]),
    "cr": (b"data: a\r\rdata: b\r\r", [Event("a"), Event("b")]),
    "mixed line ends": (b"data: a\r\n\ndata: b\n\r\ndata: c\r\n\r", [Event("a"), Event("b"), Event("c")]),
    "lf after a cr belongs to it": (b"data: a\r\ndata: b\r\n\r\n", [Event("a\nb")]),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
    "a second mark is text": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [Event("a")]),
    "a mark after a blank line is text": (b"\n\xef\xbb\xbfdata: b\n\n", []),
    "no space after the colon": (b"data:a\n\n", [Event("a")]),
    "one space is dropped": (b"data:  a\n\n", [Event(" a")]),
    "no colon": (b"data\n\n", [Event("")]),
    "empty data": (b"data:\n\n", [Event("")]),
    "several data lines": (b"data: a\ndata:\ndata: b\n\n", [Event("a\n\nb")]),
    "comment": (b": OPENROUTER PROCESSING\n\n:\n\n: keep-alive\ndata: a\n\n", [Event("a")]),
    "name": (b"event: error\ndata: a\n\ndata: b\n\n", [Event("a", "error"), Event("b")]),
    "name after the data": (b"data: a\nevent: ping\n\n", [Event("a", "ping")]),
    "name without data": (b"event: ping\n\ndata: a\n\n", [Event("a")]),
    "id and retry": (b"id: 7\nretry: 100\ndata: a\n\nretry: x\n\n", [Event("a")]),
    "unknown and indented fields": (b"foo: a\n data: b\ndataset: c\ndata: d\n\n", [Event("d")]),
    "colon in the value": (b"data: a: b\n\n", [Event("a: b")]),
    "blank lines": (b"\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [Event("a"), Event("b")]),
    "trailing space": (b"data: {}  \n\n", [Event("{}  ")]),
    "no line ends but the three": (
        "data: a\u2028b\x0bc\x0cd\x85e\x1cf\n\n".encode(),
        [Event("a\u2028b\x0bc\x0cd\x85e\x1cf")],
    ),
    "null": (b"data: a\x00b\n\n", [Event("a\x00b")]),
    "characters of four bytes": ("data: \U0001f375é\n\n".encode(), [Event("\U0001f375é")]),
    "left over without blank line": (b"data: a\n\ndata: b\n", [Event("a"), Event("b")]),
    "left over without line end": (b"data: a\n\ndata: b", [Event("a"), Event("b")]),
    "nothing left over": (b"data: a\n\n: bye\n", [Event("a")]),
    "cut inside a character": ("data: a\n\ndata: é".encode()[:-1], [Event("a")]),
    "nothing": (b"", []),
}


@pytest.mark.parametrize(("stream", "events"), CASES.values(), ids=CASES)
def test_events_are_read_as_the_standard_says(stream: bytes, events: list[Event]) -> None:
    """In one piece and a byte at a time."""
    assert read([stream]) == (events, None)
    assert read(bytewise(stream)) == (events, None)


def test_an_event_is_told_with_its_blank_line_and_not_later() -> None:
    reader = EventReader()
    assert list(reader.feed(b"data: a\n")) == []
    assert list(reader.feed(b"\n")) == [Event("a")]
    assert list(reader.feed(b"data: b\r\n\r")) == [Event("b")]
    assert list(reader.feed(b"\ndata: c\n\n")) == [Event("c")]
    assert reader.flush() is None


@pytest.mark.parametrize("trouble", [b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xe9t\xe9"])
@pytest.mark.parametrize("line", [b"data: %b\n\n", b": %b\n\n", b"data: a\nevent: %b\n\n"])
def test_what_is_not_utf_8_is_an_error_and_never_replaced(line: bytes, trouble: bytes) -> None:
    """Wherever it stands; the events before it are told."""
    stream = b"data: first\n\n" + line % trouble + b"data: last\n\n"
    assert read([stream]) == ([Event("first")], "malformed")
    assert read(bytewise(stream)) == ([Event("first")], "malformed")


@pytest.mark.parametrize("event", [b"data: %b", b"data: a\ndata: %b", b": %b", b"%b"])
@pytest.mark.parametrize("around", [b"", b"\n", b"\n\n"])
def test_an_event_may_have_as_many_bytes_as_allowed_and_no_more(event: bytes, around: bytes) -> None:
    """The same bound in every chunking, wherever line ends stand; the events before it are told."""
    for length, kind in ((50, None), (51, "too_large")):
        long = event % (b"x" * (length - len(event) + 2))
        assert len(long) == length
        stream = b"data: a\n\n" + around + long + b"\n\n" + around
        for pieces in ([stream], bytewise(stream), [stream[:20], stream[20:]]):
            events, ended = read(pieces, 50)
            assert (events[0], ended) == (Event("a"), kind)


def test_an_endless_line_ends_in_an_error_and_not_in_memory() -> None:
    """At the first byte too many, though no line end came."""
    reader = EventReader(1_000)
    assert [list(reader.feed(b"x")) for _ in range(1_000)] == [[]] * 1_000
    with pytest.raises(RequestError) as failed:
        list(reader.feed(b"x"))
    assert (failed.value.kind, failed.value.maybe_billed) == ("too_large", True)


def test_keep_alives_without_end_take_no_memory() -> None:
    """Comments and blank lines are forgotten as they come, however many there are."""
    events, ended = read([b": keep-alive\n\n", b"\n", b"\r\n"] * 1_000, 20)
    assert (events, ended) == ([], None)


FRAGMENTS = [
    b"data: ",
    b"data:",
    b"data",
    b"event: x",
    b": c",
    b"a",
    b" ",
    b"\n",
    b"\n\n",
    b"\r\n",
    b"\r",
    b"\xef\xbb\xbf",
]
FRAGMENTS += [b"data: a\n\n", b"data: b\r\n\r\n", "é\U0001f375".encode(), b"\xff", b"id: 1\n"]
STREAMS = st.lists(st.sampled_from(FRAGMENTS), max_size=25).map(b"".join)


def by_the_standard(stream: bytes) -> list[Event]:
    """A second reading, line by line as the standard's text goes; with the event that the end leaves over."""
    events: list[Event] = []
    name, data = "", None
    for line in [*re.split("\r\n|\r|\n", stream.decode().removeprefix("\ufeff")), ""]:
        if not line:
            events += [] if data is None else [Event(data[:-1], name)]
            name, data = "", None
        elif line.partition(":")[0] == "data":
            data = (data or "") + line.partition(":")[2].removeprefix(" ") + "\n"
        elif line.partition(":")[0] == "event":
            name = line.partition(":")[2].removeprefix(" ")
    return events


@settings(max_examples=400, deadline=None)
@given(stream=STREAMS.filter(lambda stream: b"\xff" not in stream))
def test_any_stream_reads_as_the_standard_read_line_by_line(stream: bytes) -> None:
    assert read([stream]) == (by_the_standard(stream), None)


@settings(max_examples=400, deadline=None)
@given(stream=STREAMS, cuts=st.lists(st.integers(0, 120), max_size=8), bound=st.sampled_from([8, 1_000]))
def test_any_chunking_gives_the_same_events_and_the_same_error(stream: bytes, cuts: list[int], bound: int) -> None:
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    whole = read([stream], bound)
    assert read(pieces, bound) == whole
    assert read(bytewise(stream), bound) == whole


def test_a_byte_order_mark_after_an_event_that_came_alone_is_none() -> None:
    """It belongs to a field's name then, which nobody knows."""
    reader = EventReader()
    assert list(reader.feed(b"data: a\n\n")) == [Event("a")]
    assert list(reader.feed(b"\xef\xbb\xbfdata: b\n\ndata: c\n\n")) == [Event("c")]
