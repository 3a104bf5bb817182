"""An event is one line of JSON whatever its text, carries the id of its request, and holds no secret."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.server.logs import HIDDEN, REQUEST_ID, JsonFormatter, Redaction, iso_time, log_config, one_line
from tests.security.capturing import KEY, found_in

HOSTILE = "a\r\nb\x00\x1b[31m\x7f\x85\u2028\u2029\u202e\u200b\u2066\ufeff\x0b\x0c\x1c\x1d\x1e end"


def event(message: object, *args: object, redaction: Redaction | None = None, **fields: object) -> str:
    """What is logged of one record."""
    record = logging.LogRecord("penstock.test", logging.WARNING, "f.py", 1, message, args, None)
    for name, value in fields.items():
        setattr(record, name, value)
    return JsonFormatter(redaction).format(record)


def test_a_line_says_when_where_and_what() -> None:
    told = json.loads(event("%d of %s", 3, "four", request_id="r-1"))
    assert told.pop("time").endswith("Z")
    assert told == {"level": "warning", "logger": "penstock.test", "message": "3 of four", "request_id": "r-1"}


def test_every_event_of_a_request_has_its_id() -> None:
    token = REQUEST_ID.set("r-2")
    try:
        assert json.loads(event("hello"))["request_id"] == "r-2"
    finally:
        REQUEST_ID.reset(token)
    assert "request_id" not in json.loads(event("hello"))


def test_hostile_text_stays_on_its_line_and_comes_back_whole() -> None:
    line = event(HOSTILE)
    assert len(line.splitlines()) == 1
    assert all(" " <= character <= "~" for character in line)
    assert json.loads(line)["message"] == HOSTILE


@settings(max_examples=300)
@given(st.text(st.characters(codec=None)))
def test_any_text_is_one_line_without_control_characters(text: str) -> None:
    line = one_line({"text": text})
    assert line.endswith(b"\n")
    decoded = line.decode()
    assert len(decoded.splitlines()) == 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in decoded[:-1])
    assert json.loads(decoded)["text"] == text


def test_what_is_readable_stays_readable() -> None:
    assert one_line({"text": "Grüße, 世界 🎉"}) == '{"text":"Grüße, 世界 🎉"}\n'.encode()


def test_a_value_that_json_does_not_know_is_still_an_event() -> None:
    assert json.loads(one_line({"value": object, "half": "\ud800"}))["half"] == "\ud800"


def test_an_exception_is_told_on_the_same_line() -> None:
    try:
        int(f"with {KEY}\nand more")
    except ValueError:
        line = event("failed", exc_info=sys.exc_info(), redaction=Redaction([KEY]))
    assert len(line.splitlines()) == 1
    assert "ValueError" in json.loads(line)["exception"]
    assert found_in(line.encode(), KEY) == []


def test_wrong_placeholders_are_no_lost_event() -> None:
    assert "no %d numbers" in json.loads(event("no %d numbers", "three"))["message"]


SECRET = "abc/def+0123456789=="

SHOWN: list[Callable[[str], str]] = [
    lambda s: f"Authorization: Bearer {s}",
    lambda s: f"authorization: {s}",
    lambda s: f"Proxy-Authorization: Basic {s}",
    lambda s: f"{{'Authorization': 'Bearer {s}'}}",
    lambda s: f'{{"authorization": "Bearer {s}"}}',
    lambda s: f"[(b'authorization', b'Bearer {s}')]",
    lambda s: f"(b'x-api-key', b'{s}')",
    lambda s: f"api_key={s}",
    lambda s: f"GET /v1/models?api-key={s} HTTP/1.1",
    lambda s: f"bearer {s} was refused",
    lambda s: f"X-Goog-Api-Key: {s}",
    lambda s: f"Cookie: session={s}",
]


@pytest.mark.parametrize("shown", SHOWN)
def test_what_looks_like_a_credential_is_hidden_although_nobody_named_it(shown: Callable[[str], str]) -> None:
    line = event(shown(SECRET))
    assert SECRET not in json.loads(line)["message"]
    assert HIDDEN in line


@pytest.mark.parametrize("text", ["sk-proj-0123456789abcdef", "sk-ant-api03-AAAAAAAA"])
def test_keys_of_the_usual_form_are_hidden_anywhere(text: str) -> None:
    assert text not in event(f"the key {text}, was it?")


@pytest.mark.parametrize(
    "text", ["the author authorised it", "basic", "a bearer of news", "task-force", "authorization failed for 3 of 4"]
)
def test_ordinary_words_stay(text: str) -> None:
    assert json.loads(event(text))["message"] == text


def test_named_secrets_are_hidden_to_the_letter_the_longest_first() -> None:
    redaction = Redaction(["secret-1", "secret-1-and-more", "short"])
    assert redaction("x secret-1-and-more y secret-1 short") == f"x {HIDDEN} y {HIDDEN} short"
    assert "secret" not in repr(redaction).replace("secrets", "")


def test_the_configuration_covers_every_logger_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn's too; but nothing of its access log, which has paths as callers wrote them."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        logging.config.dictConfig(log_config(Redaction([KEY]), level="DEBUG"))
        for name in ("penstock.server", "uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "some.library"):
            logging.getLogger(name).info("hello from %s with %s", name, KEY)
    finally:
        root.handlers[:], root.level = before
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
            logging.getLogger(name).setLevel(logging.NOTSET)
            logging.getLogger(name).propagate = True
    told = [json.loads(line)["logger"] for line in stderr.getvalue().splitlines()]
    assert told == ["penstock.server", "uvicorn", "uvicorn.error", "asyncio", "some.library"]
    assert found_in(stderr.getvalue().encode(), KEY) == []


def test_times_are_utc_to_the_millisecond() -> None:
    assert iso_time(1_767_225_600.0625) == "2026-01-01T00:00:00.062Z"
