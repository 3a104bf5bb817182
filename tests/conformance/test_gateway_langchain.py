"""ChatOpenAI through the gateway: as good as straight at the provider, by hand and by LangChain's own suites."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.simulator.answers import count_tokens
from penstock.simulator.behaviour import expected_text
from tests.conformance.gateway import Session, serving, session
from tests.conformance.test_langchain import Outcomes, outcomes
from tests.kit.simulated import simulated

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).with_name("langchain_gateway.py")
PROMPT = "Row 1 asks"
TEXT = expected_text(PROMPT)
SPENT, MADE = count_tokens(PROMPT), count_tokens(TEXT)
USAGE = {"input_tokens": SPENT, "output_tokens": MADE, "total_tokens": SPENT + MADE}
CALL = ["add_numbers", {"a": 3, "b": 4}]
ERROR_CLASSES = {
    "401": ["AuthenticationError", 401, "their_code"],
    "404": ["NotFoundError", 404, "their_code"],
    "422": ["UnprocessableEntityError", 422, "their_code"],
    "429": ["RateLimitError", 429, "their_code"],
    "503": ["InternalServerError", 503, "their_code"],
    "too-long": ["BadRequestError", 400, "context_length_exceeded"],
    "model": ["NotFoundError", 404, "model_not_found"],
    "retried": ["InternalServerError", 500, "server_error"],
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return session("langchain", SCRIPT, tmp_path_factory.mktemp("langchain"))


def test_a_whole_answer(told: Session) -> None:
    """Text, usage, model, reason and headers; by itself and out of a chain."""
    answer = told("invoke")
    assert answer["text"] == answer["chain"] == TEXT
    assert answer["usage"].items() >= USAGE.items()
    assert answer["told"] == ["m", "stop"]
    assert answer["request_id"].startswith("req_")


def test_a_stream(told: Session) -> None:
    """The same in several pieces, with usage for whoever asked for it."""
    stream = told("stream")
    text, usage, *ended = stream["with"]
    assert (text, ended) == (TEXT, ["stop", True])
    assert usage.items() >= USAGE.items()
    assert stream["without"] == [TEXT, None, "stop", True]


def test_calls_of_tools(told: Session) -> None:
    """The same whole and streamed; its result is answered."""
    tools = told("tools")
    assert tools == {"calls": [CALL, CALL], "follows": expected_text("Please add_numbers: 3 and 4")}


def test_structured_output(told: Session) -> None:
    """By a call, by a schema, as any JSON."""
    structured = told("structured")
    assert structured["function_calling"] == structured["json_schema"] == {"first": 3, "second": 4}
    assert list(structured["json_mode"]) == ["answer"]


def test_each_error_has_its_class(told: Session) -> None:
    """As straight at the provider; what was retried here is asked for once."""
    assert told("errors") == ERROR_CLASSES
    assert (told.arrived["once-more"], told.sent["once-more"]) == (1, 2)


def test_fifty_at_once(told: Session) -> None:
    """Each gets the answer to its own question."""
    assert told("many") == [expected_text(f"Row {index} asks: what follows {index}?") for index in range(50)]


def test_keys(told: Session) -> None:
    """The right one is answered, a wrong one is an AuthenticationError."""
    assert told("keys") == [TEXT, ["AuthenticationError", 401, "invalid_api_key"]]


def test_the_gateway_logged_no_fault_of_its_own(told: Session) -> None:
    """No traceback, no error, whatever was asked of it."""
    assert told.failures == []


def failed(found: Outcomes) -> set[tuple[str, str]]:
    return {name for name, outcome in found.items() if outcome in ("failure", "error")}


def test_langchains_suites_pass_as_they_do_without_a_gateway(tmp_path: Path) -> None:
    """Every test of the suites ends through the gateway as it does straight at the provider, and none fails."""
    with simulated() as provider:
        models = ["-m", "custom/m", "-m", "custom/other", "--base-url", provider.base_url]
        straight = outcomes("OpenAI", provider.base_url, tmp_path / "straight.xml")
        with serving(*models, "--data", tmp_path / "data") as gateway:
            through = outcomes("OpenAI", gateway.base_url, tmp_path / "through.xml")
    assert len(through) > 100
    assert failed(through) == set()
    assert through == straight
