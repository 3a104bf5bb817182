"""Whatever a server streams: chunks and then a response or a typed error, the same in every chunking."""

from __future__ import annotations

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import RequestError
from penstock.providers.catalog import SERVICES
from penstock.providers.openai import chat_completions
from penstock.records import Chunk, Response
from penstock.rules.sse import Event, EventReader
from tests.fuzz.profile import check_told, fuzz

KEY = "sk-canary-1234567890"
PROVIDERS = {
    f"{name} {end}": chat_completions(
        msgspec.structs.replace(SERVICES[name], stream_end=end), base_url="http://127.0.0.1:1/v1", api_key=KEY
    )
    for name in ("openai", "custom", "groq")
    for end in ("done", "finish_reason", "close")
}
DELTAS = [b'{"content":"a"}', b'{"refusal":"no"}', b'{"reasoning":"h"}', b'{"content":[{"text":"t"},7]}', b"null", b"7"]
DELTAS += [
    b'{"tool_calls":[{"index":0,"id":"i","function":{"name":"f","arguments":"{"}},{"function":{"arguments":[]}}]}'
]
DELTAS += [b'{"tool_calls":[{"index":-1,"custom":{"name":"g","input":null},"x":{}},{"index":true,"id":"j"},[]]}']
DELTAS += [b'{"function_call":{"name":"f","arguments":{"a":1e99}}}']
EVENTS = [b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":%b}]}\n\n' % delta for delta in DELTAS]
EVENTS += [b'data: {"choices":[{"delta":{"content":"%b"},"finish_reason":"stop"}]}\n\n' % KEY.encode()]
EVENTS += [b'data: {"choices":[{"index":1,"delta":{},"finish_reason":"length"},null]}\r\n\r\n']
EVENTS += [b'data: {"choices":[{"finish_reason":"error"}],"usage":{"prompt_tokens":1e400}}\n\n']
EVENTS += [b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":"4"}}\n\n', b"data: [DONE]\n\n"]
EVENTS += [b'data: {"x_groq":{"usage":{"prompt_tokens":1}},"choices":[]}\n\n', b'data: {"x_groq":{"error":"lost"}}\n\n']
EVENTS += [b'data: {"error":{"code":429,"message":"key %b"}}\n\n' % KEY.encode(), b'event: error\ndata: {"a":1}\n\n']
EVENTS += [b'data: {"object":"error","message":[]}\n\n', b": ping\n\n", b"event: ping\ndata: x\n\n"]
SCRAPS = [
    b"data: ",
    b"data: [DONE]",
    b"[DONE]",
    b"\n",
    b"\r",
    b"\n\n",
    b"\xef\xbb\xbf",
    b"\xff",
    b"{",
    b"}",
    b'"',
    b"<html>",
]
SCRAPS += [
    b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}',
    b"[" * 2_000,
    b'\\ud800"',
    "é☔".encode(),
]
BODIES = st.lists(st.sampled_from(EVENTS) | st.sampled_from(EVENTS + SCRAPS) | st.binary(max_size=12), max_size=12).map(
    b"".join
)
CUTS = st.lists(st.integers(0, 1_500), max_size=12)


def pieces_of(body: bytes, cuts: list[int]) -> list[bytes]:
    return [body[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(body)])]


def came(provider: str, pieces: list[bytes], status: int) -> tuple[list[Chunk], Response | str]:
    """What a body in these pieces comes to; an error by its text, which tells kind and message."""
    decoder = PROVIDERS[provider].decoder(status, [], 0.0)
    chunks = [chunk for piece in pieces for chunk in decoder.feed(piece)]
    chunks += decoder.flush()
    try:
        return chunks, decoder.end()
    except RequestError as failed:
        error = failed
    check_told(error)
    assert KEY not in repr(error.__dict__)
    return chunks, repr(error)


@fuzz
@given(
    body=BODIES, cuts=CUTS, provider=st.sampled_from(sorted(PROVIDERS)), status=st.sampled_from([200, 200, 200, 500])
)
def test_any_bytes_as_a_stream_are_an_answer_or_a_typed_error(
    body: bytes, cuts: list[int], provider: str, status: int
) -> None:
    """Nothing but a `RequestError` is raised, and only at the end; an answer ended, and revives as it was told."""
    chunks, result = came(provider, [body], status)
    assert came(provider, pieces_of(body, cuts), status) == (chunks, result)
    if isinstance(result, Response):
        assert PROVIDERS[provider].revive(result.raw) == result
        assert b"[DONE]" in body or b'"message"' in body or not provider.endswith(" done")
        if result.finish_reason != "refusal":
            assert "".join(chunk.text for chunk in chunks) == result.text


@fuzz
@given(body=BODIES, cuts=CUTS, bound=st.sampled_from([16, 10_000]))
def test_any_bytes_are_events_or_a_typed_error(body: bytes, cuts: list[int], bound: int) -> None:
    """The same in every chunking, and no event longer than allowed."""

    def events(pieces: list[bytes]) -> list[Event | str | None]:
        reader, found = EventReader(bound), list[Event | str | None]()
        try:
            for piece in pieces:
                for event in reader.feed(piece):
                    found.append(event)
            found.append(reader.flush())
        except RequestError as error:
            found.append(error.kind)
        return found

    told = events([body])
    assert events(pieces_of(body, cuts)) == told
    assert all(len(event.data.encode()) <= bound for event in told if isinstance(event, Event))
