"""Frames: whatever way the bytes are cut, the same frames come out; errors cross as they are."""

from __future__ import annotations

import asyncio
import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.edges.processes.frames import (
    ANSWER,
    PIECE,
    WHOLE,
    Failure,
    Frame,
    FrameReader,
    FrameWriter,
    encode,
    read_answer,
    read_failure,
    read_manner,
)
from penstock.errors import KINDS, Kind, RequestError, UsageError, request_error
from penstock.options import Timeouts
from penstock.records import HttpAnswer, HttpCall

FRAMES = st.lists(
    st.tuples(
        st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=60)
    ),
    max_size=8,
)  # fmt: skip


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing


async def written(frames: list[Frame]) -> bytes:
    """The bytes of some frames."""
    wire = Wire()
    writer = FrameWriter(wire)
    for kind, argument, number, payload in frames:
        writer.put(kind, argument, number, payload)
    writer.flush()
    return b"".join(wire.writes)


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 600), max_size=20))
def test_however_the_bytes_are_cut_the_frames_are_the_same(frames: list[Frame], cuts: list[int]) -> None:
    """None is lost, doubled, joined or early."""
    data = asyncio.run(written(frames))
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    reader, came = FrameReader(), list[Frame]()
    for start, end in itertools.pairwise(places):
        came += reader.feed(data[start:end])
    assert came == frames


@given(frames=FRAMES)
def test_a_frame_is_there_with_its_last_byte(frames: list[Frame]) -> None:
    """Byte by byte: after each frame's last byte it is out, and not before."""
    reader = FrameReader()
    for frame in frames:
        data = asyncio.run(written([frame]))
        assert [reader.feed(data[at : at + 1]) for at in range(len(data) - 1)] == [[]] * (len(data) - 1)
        assert reader.feed(data[-1:]) == [frame]


async def test_a_long_frame_is_joined_once() -> None:
    """Eight megabytes in small pieces: they are put together at the end, not anew with every piece."""
    payload = bytes(8 << 20)
    data = await written([(ANSWER, 0, 7, payload)])
    reader = FrameReader()
    came = [frame for at in range(0, len(data), 1000) for frame in reader.feed(data[at : at + 1000])]
    assert came == [(ANSWER, 0, 7, payload)]
    assert reader._parts == []


async def test_one_turn_of_the_loop_is_one_write() -> None:
    """What is put in one turn goes out together at its end; nothing is written to a socket that is closing."""
    wire = Wire()
    writer = FrameWriter(wire)
    for number in range(10):
        writer.put(PIECE, 0, number, b"piece")
    assert wire.writes == []
    await asyncio.sleep(0)
    assert len(wire.writes) == 1
    assert [frame[2] for frame in FrameReader().feed(wire.writes[0])] == list(range(10))
    wire.closing = True
    writer.put(WHOLE, 0, 11)
    await asyncio.sleep(0)
    assert len(wire.writes) == 1


@pytest.mark.parametrize("kind", get_args(Kind))
def test_an_error_crosses_with_its_fields(kind: Kind) -> None:
    """The same class with the same kind, message and fields."""
    fields = {"status": 503, "code": "reset", "request_id": "req-1", "retry_after": 1.5, "maybe_billed": True}
    error = request_error(kind, "it went wrong", **fields)  # type: ignore[typeddict-item]
    again = read_failure(encode(Failure.of(error))).error()
    assert type(again) is KINDS[kind]
    assert isinstance(again, RequestError)
    assert vars(again) == vars(error)


def test_a_usage_error_crosses_as_one() -> None:
    again = read_failure(encode(Failure.of(UsageError("the URL has no host")))).error()
    assert type(again) is UsageError
    assert str(again) == "the URL has no host"


def test_calls_and_answers_cross_whole() -> None:
    """Every byte of headers and body, with repeats, order and what is no UTF-8."""
    answer = HttpAnswer(429, [(b"A", b"\xff1"), (b"a", b""), (b"A", b"2")], bytes(range(256)))
    assert read_answer(encode(answer)) == answer
    manner = HttpCall("http://x/v1", (("Authorization", "Bearer \xe9"), ("A", "1")), b"", "GET"), Timeouts(total=3)
    assert read_manner(encode(manner)) == manner


def test_no_key_shows_in_what_stands_for_a_manner() -> None:
    """Its headers, and so the key, are in no repr."""
    manner = HttpCall("http://x/v1", (("Authorization", "Bearer sk-canary"),), b""), Timeouts()
    assert "canary" not in repr(manner)
    assert "canary" not in repr(read_manner(encode(manner)))
