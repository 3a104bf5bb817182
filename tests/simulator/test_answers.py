"""The bytes on the wire are those that OpenAI sends."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import Refused
from penstock.simulator import answers
from penstock.simulator.answers import Told

TOLD = Told("chatcmpl-1", 'odd "%d" model', "Tea, then rain.", "stop", 41, 6)
GO_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?|(\d+)ms")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0ms"),
        (0.0006, "1ms"),
        (0.174, "174ms"),
        (0.644, "644ms"),
        (1, "1s"),
        (3.89, "3.89s"),
        (18.642, "18.642s"),
        (90.5, "1m30.5s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
    ],
)
def test_durations_have_the_form_of_openai(seconds: float, told: str) -> None:
    """Each row is a documented or observed form."""
    assert answers.duration(seconds) == told


@given(st.floats(0, 1e5))
def test_a_duration_reads_back_to_the_nearest_millisecond(seconds: float) -> None:
    """Whatever the size, the form follows Go's grammar and loses half a millisecond at most."""
    found = GO_DURATION.fullmatch(answers.duration(seconds))
    assert found is not None
    hours, minutes, rest, ms = (float(part or 0) for part in found.groups())
    read = hours * 3600 + minutes * 60 + rest + ms / 1000
    assert abs(read - seconds) <= 0.0005 + 1e-6


def test_retry_after_is_whole_seconds_and_at_least_one() -> None:
    """`retry-after-ms` is rounded up to the millisecond, `retry-after` to whole seconds."""
    assert answers.retry_headers(0.1741) == [(b"retry-after", b"1"), (b"retry-after-ms", b"175")]
    assert answers.retry_headers(0.2) == [(b"retry-after", b"1"), (b"retry-after-ms", b"200")]
    assert answers.retry_headers(1.84) == [(b"retry-after", b"2"), (b"retry-after-ms", b"1840")]


def test_a_whole_answer_has_the_documented_fields() -> None:
    """Model names and texts of any characters survive."""
    body = json.loads(answers.completion(TOLD))
    assert body["object"] == "chat.completion"
    assert body["model"] == 'odd "%d" model'
    assert body["choices"][0]["message"]["content"] == "Tea, then rain."
    assert body["choices"][0]["finish_reason"] == "stop"
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (41, 6)
    assert body["usage"]["total_tokens"] == 47


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_stream_has_the_documented_order(include_usage: bool) -> None:
    """Role, words, finish, usage only if asked for (and null before), then [DONE]."""
    events = [event.decode() for _, event in answers.events(TOLD, include_usage)]
    assert all(event.startswith("data: ") and event.endswith("\n\n") for event in events)
    assert events.pop() == "data: [DONE]\n\n"
    chunks = [json.loads(event[6:]) for event in events]
    if include_usage:
        last = chunks.pop()
        assert (last["choices"], last["usage"]["total_tokens"]) == ([], 47)
    assert all(("usage" in chunk) == include_usage and chunk.get("usage") is None for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(delta["content"] for delta in deltas[1:-1]) == "Tea, then rain."
    assert deltas[-1] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"model": "\xff"}', "not valid JSON"),
        (b"[]", "Expected `object`"),
        (b'{"messages": []}', "model"),
        (b'{"model": "m", "messages": []}', "empty array"),
        (b'{"model": "m", "messages": [{"content": "x"}]}', "role"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "max_tokens"),
    ],
)
def test_a_bad_body_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    """No body makes the simulator fail; the message names what is wrong."""
    with pytest.raises(Refused, match=reason) as caught:
        answers.read(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("messages", "prompt", "text"),
    [
        ([{"role": "user", "content": "a"}], "a", "a"),
        ([{"role": "system", "content": "s"}, {"role": "user", "content": "a"}], "a", "s\na"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}], "a", "a"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": None}], "a", "a\n"),
        ([{"role": "system", "content": "s"}], "s", "s"),
    ],
)
def test_the_prompt_is_the_last_user_message(messages: list[object], prompt: str, text: str) -> None:
    """Parts are joined, and a request without a user message is answered on its last one."""
    ask = answers.read(json.dumps({"model": "m", "messages": messages}).encode())
    assert (ask.prompt(), ask.text()) == (prompt, text)


@given(st.text(), st.integers(1, 20))
def test_a_cut_text_has_at_most_its_tokens(text: str, tokens: int) -> None:
    """A token is 4 bytes of UTF-8; cutting never breaks a character and keeps a start of the text."""
    cut = answers.cut(text, tokens)
    assert answers.count_tokens(cut) <= tokens
    assert text.encode("utf-8", "replace").startswith(cut.encode())
