"""LiteLLM as a client of the gateway: chat, streams, tools, its mapping of errors, its router, files and batches."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.simulator.answers import count_tokens
from penstock.simulator.behaviour import expected_text
from tests.conformance.gateway import Session, session

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).with_name("litellm_gateway.py")
PROMPT = "Row 1 asks"
SPENT, MADE = count_tokens(PROMPT), count_tokens(expected_text(PROMPT))
USAGE = [SPENT, MADE, SPENT + MADE]
CALL = ["tool_calls", "add_numbers", '{"a":3,"b":4}']
LIMITS = {f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining") for unit in ("requests", "tokens")}
ERROR_CLASSES = {
    "400": ("BadRequestError", 400),
    "401": ("AuthenticationError", 401),
    "403": ("APIError", 403),
    "404": ("NotFoundError", 404),
    "422": ("BadRequestError", 422),
    "500": ("InternalServerError", 500),
    "502": ("BadGatewayError", 502),
    "503": ("ServiceUnavailableError", 503),
    "throttle": ("RateLimitError", 429),
    "too-long": ("ContextWindowExceededError", 400),
    "model": ("NotFoundError", 404),
    "gateway's time-out": ("Timeout", 504),
    "own time-out": ("Timeout", 408),
    "cut": ("MidStreamFallbackError", 500),
    "embedding": ("BadRequestError", 404),
}
"""As LiteLLM maps what the service itself sends; it has no class of its own for 403, nor for a route that is not there."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return session("litellm", SCRIPT, tmp_path_factory.mktemp("litellm"))


def test_a_whole_answer(told: Session) -> None:
    """Text, usage and the headers that LiteLLM looks for, from both of its ways to ask."""
    chat = told("chat")
    assert chat["text"] == chat["blocking"] == expected_text(PROMPT)
    assert (chat["finish_reason"], chat["usage"]) == ("stop", USAGE)
    assert set(chat["headers"]) >= LIMITS
    assert chat["headers"]["llm_provider-x-request-id"].startswith("req_")


def test_streams(told: Session) -> None:
    """The same text in pieces, and usage for whoever asked for it."""
    streams = told("streams")
    for streamed in streams.values():
        assert streamed["text"] == streamed["built"] == expected_text(PROMPT)
        assert streamed["finish_reasons"] == ["stop"]
    assert (streams["with"]["usage"], streams["without"]["usage"]) == ([USAGE], [])


def test_calls_of_tools(told: Session) -> None:
    """The same whole and built of pieces."""
    assert told("tools") == [CALL, CALL]


def test_each_error_has_its_class(told: Session) -> None:
    """As the service's own would have; the provider's words are in the message."""
    refusals = told("refusals")
    assert {name: (error["class"], error["status"]) for name, error in refusals.items()} == ERROR_CLASSES
    for status in ("400", "401", "403", "404", "422", "500", "502", "503"):
        assert f"no: {status}" in refusals[status]["said"]


def test_what_was_retried_here_is_not_retried_there(told: Session) -> None:
    """LiteLLM with two retries asks once; it was sent twice."""
    assert told("retries")["class"] == "InternalServerError"
    assert (told.arrived["once-more"], told.sent["once-more"]) == (1, 2)


def test_the_router_falls_back(told: Session) -> None:
    """A model that is not there sends its requests to one that is, whole and streamed."""
    assert told("router") == [expected_text(PROMPT)] * 3


def test_fifty_at_once(told: Session) -> None:
    """Each gets the answer to its own question."""
    assert told("many") == [expected_text(f"Row {index} asks: what follows {index}?") for index in range(50)]


def test_a_batch(told: Session) -> None:
    """From its file to its output, by LiteLLM's own calls."""
    assert told("batches") == ["completed", 1, expected_text(PROMPT)]


def test_keys(told: Session) -> None:
    """The right one is answered, a wrong one is an AuthenticationError."""
    reason, refused = told("keys")
    assert (reason, refused["class"], refused["status"]) == ("stop", "AuthenticationError", 401)


def test_the_gateway_logged_no_fault_of_its_own(told: Session) -> None:
    """No traceback, no error, whatever was asked of it."""
    assert told.failures == []
