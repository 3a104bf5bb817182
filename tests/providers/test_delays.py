"""Waits and limits in every form that a service writes them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.providers.delays import duration, limits_of, retry_after
from penstock.providers.error_bodies import ErrorBody, read_error
from penstock.records import HttpAnswer, Told

WALL = 1_777_709_700.0  # 2026-05-02 08:15:00 UTC
SILENT = ErrorBody(message="")


def wait(*headers: tuple[str, str], error: ErrorBody = SILENT) -> float | None:
    answer = HttpAnswer(429, [(name.encode(), value.encode("latin-1")) for name, value in headers], b"")
    return retry_after(answer, error, WALL)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("8.25s", 8.25),
        ("1m30.5s", 90.5),
        ("1h0m0s", 3600.0),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("5ns", 5e-9),
        ("45", 45.0),
        ("0.5", 0.5),
        ("17.5s", 17.5),
        (" 2s ", 2.0),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "0s",
        "0m0s",
        "-1",
        "-1s",
        "nan",
        "inf",
        "1e5",
        "1_000",
        "s",
        "1x",
        "\u0661s",
        "1 s",
        "1.s",
        "9" * 400,
        "0x10",
    ],
)
def test_what_cannot_be_a_wait_is_unknown(text: str) -> None:
    assert duration(text) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("20", 20.0),
        ("0.5", 0.5),
        ("24s", 24.0),
        ("Sat, 02 May 2026 08:16:00 GMT", 60.0),
        ("Sat, 02 May 2026 08:14:00 GMT", None),
        ("Sat, 31 Feb 2026 08:16:00 GMT", None),
        ("Sat, 02 Mai 2026 08:16:00 GMT", None),
        ("Sat, 02 anF 2026 08:16:00 GMT", None),
        ("0", None),
        ("-1", None),
        ("soon", None),
        ("NaN", None),
        ("86400000", 86_400_000.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert wait(("Retry-After", value)) == seconds


def test_milliseconds_come_before_seconds() -> None:
    assert wait(("retry-after", "2"), ("retry-after-ms", "1840")) == 1.84
    assert wait(("retry-after", "2"), ("retry-after-ms", "-5")) == 2.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "6m0s")], 360.0),
        ([("x-ratelimit-remaining-tokens", "5"), ("x-ratelimit-reset-tokens", "6m0s")], None),
        ([("x-ratelimit-reset-tokens", "6m0s")], None),
        (
            [
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "17ms"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "1m30.5s"),
            ],
            90.5,
        ),
        ([("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "45")], 45.0),
        ([("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1777709760000")], 60.0),
        ([("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1777709760")], 60.0),
        ([("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1777709000000")], None),
        (
            [
                ("anthropic-ratelimit-output-tokens-remaining", "0"),
                ("anthropic-ratelimit-output-tokens-reset", "2026-05-02T08:15:30Z"),
            ],
            30.0,
        ),
        (
            [
                ("anthropic-ratelimit-requests-remaining", "0"),
                ("anthropic-ratelimit-requests-reset", "2026-05-02T03:15:30-05:00"),
            ],
            30.0,
        ),
        (
            [
                ("anthropic-ratelimit-tokens-remaining", "0"),
                ("anthropic-ratelimit-tokens-reset", "2026-05-02T08:15:30"),
            ],
            None,
        ),
        ([("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "-1")], None),
    ],
)
def test_a_used_up_budget_tells_when_it_is_full(headers: list[tuple[str, str]], seconds: float | None) -> None:
    assert wait(*headers) == pytest.approx(seconds)


def test_googles_delay_is_read_from_the_body() -> None:
    body = {"error": {"code": 429, "message": "m", "details": [{"@type": "x.RetryInfo", "retryDelay": "17.5s"}]}}
    assert wait(error=read_error(msgspec.json.encode([body]))) == 17.5


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Please try again in 1.2s. Visit", 1.2),
        ("Please try again in 6m0s.", 360.0),
        ("Try again in 20ms.", 0.02),
        ("Please retry after 30 seconds.", 30.0),
        ("Please retry in 24.5s.", 24.5),
        ("please wait 2 minutes", 120.0),
        ("Retry your request after 1 hour", 3600.0),
        ("try again in 5 bananas", None),
        ("try again later", None),
        ("Limit 3, Used 3", None),
        ("try again in 0s", None),
    ],
)
def test_the_message_is_the_last_resort(message: str, seconds: float | None) -> None:
    assert wait(error=ErrorBody(message=message)) == pytest.approx(seconds)
    assert wait(("retry-after", "9"), error=ErrorBody(message=message)) == 9.0


@given(st.text(max_size=30))
def test_no_text_makes_a_wait_that_is_not_a_positive_number(text: str) -> None:
    answer = HttpAnswer(429, [(b"retry-after", text.encode())], b"")
    seconds = retry_after(answer, ErrorBody(message=f"try again in {text}", retry_delay=text), WALL)
    assert seconds is None or 0 < seconds < float("inf")


@pytest.mark.parametrize(
    ("service", "headers", "limits"),
    [
        (
            "openai",
            {
                "X-RateLimit-Limit-Requests": "3500",
                "x-ratelimit-remaining-requests": "3499",
                "x-ratelimit-reset-requests": "17ms",
                "x-ratelimit-limit-tokens": "200000",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            {
                "requests_per_minute": Told(3500, 3499, 0.017),
                "tokens_per_minute": Told(200_000, 0, 360),
            },
        ),
        (
            "azure",
            {
                "x-ratelimit-limit-tokens": "30000",
                "x-ratelimit-remaining-tokens": "29000",
                "x-ratelimit-reset-tokens": "6",
            },
            {"tokens_per_minute": Told(30_000, 29_000, 6)},
        ),
        (
            "anthropic",
            {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": "49",
                "anthropic-ratelimit-requests-reset": "2026-05-02T08:15:07Z",
                "anthropic-ratelimit-tokens-limit": "38000",
                "anthropic-ratelimit-input-tokens-limit": "30000",
                "anthropic-ratelimit-input-tokens-remaining": "29000",
                "anthropic-ratelimit-input-tokens-reset": "2026-05-02T08:15:02-01:00",
                "anthropic-ratelimit-output-tokens-limit": "8000",
                "anthropic-ratelimit-output-tokens-remaining": "7000",
                "anthropic-ratelimit-output-tokens-reset": "2026-05-02T08:14:59Z",
            },
            {
                "requests_per_minute": Told(50, 49, 7),
                "tokens_per_minute": Told(38_000),
                "input_tokens_per_minute": Told(30_000, 29_000, 3_602),
                "output_tokens_per_minute": Told(8_000, 7_000),
            },
        ),
        (
            "groq",
            {
                "x-ratelimit-limit-requests": "14400",
                "x-ratelimit-remaining-requests": "14370",
                "x-ratelimit-reset-requests": "2m59.56s",
                "x-ratelimit-limit-tokens": "18000",
                "x-ratelimit-remaining-tokens": "17997",
                "x-ratelimit-reset-tokens": "7.66s",
            },
            {"requests_per_day": Told(14_400, 14_370, 179.56), "tokens_per_minute": Told(18_000, 17_997, 7.66)},
        ),
        (
            "together",
            {"x-ratelimit-limit": "10", "x-tokenlimit-limit": "3000", "x-ratelimit-remaining": "9"},
            {"requests_per_minute": Told(600), "tokens_per_minute": Told(180_000)},
        ),
        ("openrouter", {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0"}, {}),
        ("openai", {"x-ratelimit-limit-requests": "0", "x-ratelimit-limit-tokens": "-1"}, {}),
        ("openai", {"x-ratelimit-limit-requests": "many", "x-ratelimit-reset-requests": "soon"}, {}),
        ("mistral", {}, {}),
    ],
)
def test_the_accounts_limits_are_read_by_budget(service: str, headers: dict[str, str], limits: dict[str, Told]) -> None:
    told = limits_of(service, HttpAnswer(200, [(k.encode(), v.encode()) for k, v in headers.items()], b""), WALL)
    assert told.keys() == limits.keys()
    for name, expected in limits.items():
        assert told[name].limit == expected.limit
        assert told[name].remaining == expected.remaining
        assert told[name].reset_s == pytest.approx(expected.reset_s)
