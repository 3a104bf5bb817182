"""The simulator is a fair stand-in: the real openai SDKs take it for the service, whole answers, streams and errors alike.

And what Penstock writes for a batch is what the SDK's own types accept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.simulator.answers import count_tokens
from penstock.simulator.behaviour import expected_text
from tests.kit.command import json_lines
from tests.kit.environment import environment, told_by
from tests.kit.journey import penstock
from tests.kit.simulated import simulated

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).with_name("openai_sdk.py")
PROMPT = "Row 1 asks"
WAIT = 0.05
CUT_STREAM = {"openai3": "APIConnectionError", "openai2": "RemoteProtocolError"}
"""What each SDK raises for a stream that ends in the middle: version 2 lets its HTTP library's error through."""

Tell = Callable[[str], Any]


@pytest.fixture(scope="module", params=sorted(CUT_STREAM))
def sdk(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """The name of an SDK and the Python that has it."""
    return request.param, environment(request.param)


@pytest.fixture
def told(sdk: tuple[str, Path]) -> Iterator[Tell]:
    """What the SDK tells of a scenario with a simulator of its own, which knows one key and one model."""
    with simulated("--api-key", "sk-right", "--model", "m", "--retry-after", str(WAIT)) as provider:
        yield lambda scenario: told_by(sdk[1], SCRIPT, scenario, provider.base_url)


def usage() -> dict[str, Any]:
    spent, made = count_tokens(PROMPT), count_tokens(expected_text(PROMPT))
    return {"prompt_tokens": spent, "completion_tokens": made, "total_tokens": spent + made}


def test_a_whole_answer(told: Tell) -> None:
    """It passes the SDK's types; text, usage and request id arrive, and a limit cuts it off as `length`."""
    answer = told("complete")
    assert (answer["text"], answer["finish_reason"]) == (expected_text(PROMPT), "stop")
    assert answer["usage"].items() >= usage().items()
    assert answer["request_id"].startswith("req_")
    assert answer["limited"] == ["length", 2]


def test_a_stream(told: Tell) -> None:
    """Every chunk passes the SDK's types; together they are the same text, one finish and one usage."""
    streamed = told("stream")
    assert (streamed["text"], streamed["finish_reasons"], streamed["ids"]) == (expected_text(PROMPT), ["stop"], 1)
    [counted] = streamed["usage"]
    assert counted.items() >= usage().items()


def test_the_models(told: Tell) -> None:
    """The list has the models that are served."""
    assert told("models") == ["m"]


def test_each_refusal_is_the_error_class_that_the_service_would_cause(told: Tell) -> None:
    """Class, status and code, for key, model, request, throttle, credit, server and connection."""
    assert told("refusals") == {
        "key": ["AuthenticationError", 401, "invalid_api_key"],
        "model": ["NotFoundError", 404, "model_not_found"],
        "400": ["BadRequestError", 400, None],
        "too-long": ["BadRequestError", 400, "context_length_exceeded"],
        "429": ["RateLimitError", 429, "rate_limit_exceeded"],
        "no-credit": ["RateLimitError", 429, "insufficient_quota"],
        "500": ["InternalServerError", 500, None],
        "503": ["InternalServerError", 503, "server_is_overloaded"],
        "reset": ["APIConnectionError", None, None],
    }


def test_the_wait_of_a_throttle_is_honoured(told: Tell) -> None:
    """The SDK retries by itself, and waits just as long as the headers say."""
    assert told("again") == {"retries": 2, "waits": [WAIT, WAIT], "finish_reason": "stop"}


def test_a_cut_stream_does_not_pass_for_an_answer(told: Tell, sdk: tuple[str, Path]) -> None:
    """Some chunks arrive, then an error."""
    cut = told("cut_stream")
    assert cut["chunks"] > 0
    assert cut["error"] == CUT_STREAM[sdk[0]]


FATES = {
    "well": PROMPT,
    "long": "[[simulate:length]] the answer is cut off by its limit",
    "bad": "[[simulate:too-long]]",
    "lost": "[[simulate:truncate]]",
}


def batch_lines(fates: dict[str, str]) -> bytes:
    """Lines of the OpenAI batch format."""
    return json_lines(
        {
            "custom_id": name,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": prompt}]},
        }
        for name, prompt in fates.items()
    )


def test_the_output_of_a_batch_passes_the_types_of_the_sdk(tmp_path: Path) -> None:
    """Answered, cut off, refused and lost rows each have the form that the service's own batches give them."""
    rows, output = tmp_path / "batch.jsonl", tmp_path / "out.jsonl"
    rows.write_bytes(batch_lines(FATES))
    with simulated() as provider:
        run = ["run", rows, "-o", output, "-m", "custom/m", "--base-url", provider.base_url]
        done = penstock(*run, "--max-retries", 0, "--no-progress")
    assert done.returncode == 1, done.stderr
    told = told_by(environment("openai3"), SCRIPT, "batch", output)
    assert told["well"] == ["answered", "stop", expected_text(PROMPT)]
    assert told["long"][:2] == ["answered", "length"]
    assert told["bad"] == ["refused", "context_length_exceeded"]
    assert told["lost"][0] == "not answered"
    assert {json.loads(line)["custom_id"] for line in output.read_bytes().splitlines()} == set(FATES)
