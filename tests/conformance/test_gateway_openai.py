"""The openai SDKs take the gateway for the service: chat, streams, tools, errors and their classes, retries, files and batches."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.simulator.answers import count_tokens
from penstock.simulator.behaviour import expected_text
from tests.conformance.gateway import MODELS, Session, session

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).with_name("openai_gateway.py")
PROMPT = "Row 1 asks"
SPENT, MADE = count_tokens(PROMPT), count_tokens(expected_text(PROMPT))
ARGUMENTS = '{"a":3,"b":4}'
ERROR_CLASSES = {
    "400": "BadRequestError",
    "401": "AuthenticationError",
    "402": "APIStatusError",
    "403": "PermissionDeniedError",
    "404": "NotFoundError",
    "409": "ConflictError",
    "413": "APIStatusError",
    "422": "UnprocessableEntityError",
    "429": "RateLimitError",
    "500": "InternalServerError",
    "502": "InternalServerError",
    "503": "InternalServerError",
    "529": "InternalServerError",
}
NOT_TO_BE_RETRIED = {"402", "500", "502", "503", "529"}
WAIT = 30


@pytest.fixture(scope="module", params=["openai3", "openai2"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    return session(request.param, SCRIPT, tmp_path_factory.mktemp(request.param))


# -- answers


def test_a_whole_answer(told: Session) -> None:
    """It passes the SDK's types under both names of a model; text, usage, limit and the gateway's own request id arrive."""
    chat = told("chat")
    assert (chat["text"], chat["same"], chat["finish_reasons"]) == (expected_text(PROMPT), True, ["stop", "length"])
    assert (
        chat["usage"].items()
        >= {
            "prompt_tokens": SPENT,
            "completion_tokens": MADE,
            "total_tokens": SPENT + MADE,
        }.items()
    )
    assert chat["request_id"].startswith("req_")


def test_streams(told: Session) -> None:
    """The same text in chunks of one id; the chunk of usage is the last and is there only for whoever asked for it."""
    streams = told("streams")
    for streamed in streams.values():
        assert (streamed["text"], streamed["role"]) == (expected_text(PROMPT), "assistant")
        assert (streamed["finish_reasons"], streamed["ids"]) == (["stop"], 1)
    [usage] = streams["with"]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (SPENT, MADE, SPENT + MADE)
    assert streams["with"]["without_choice"] == [1]
    assert (streams["without"]["usage"], streams["without"]["without_choice"]) == ([], [])


def test_calls_of_tools(told: Session) -> None:
    """A call is the same whole, in pieces and as the SDK puts it together; its result can be sent back."""
    tools = told("tools")
    assert (tools["finish_reason"], tools["follows"]) == ("tool_calls", "stop")
    assert tools["whole"] == tools["final"] == [["add_numbers", ARGUMENTS]]
    assert tools["parts"] == ["add_numbers", ARGUMENTS]


def test_answers_in_a_form(told: Session) -> None:
    """`parse` and the streaming helper make the value that was asked for."""
    assert told("forms") == [{"first": 3, "operation": "plus"}] * 2


def test_headers(told: Session) -> None:
    """Request id, the provider's own id and its limits are with every kind of answer, and each has an id of its own."""
    headers = told("headers")
    assert (headers["read"], headers["retries"]) == ("chat.completion", [0, 0])
    for each in (headers[kind] for kind in ("whole", "stream", "slow")):
        assert each["x-request-id"].startswith("req_")
        assert each["x-penstock-upstream-request-id"].startswith("req_")
        for unit in ("requests", "tokens"):
            for what in ("limit", "remaining", "reset"):
                assert each[f"x-ratelimit-{what}-{unit}"]
    assert len({headers[kind]["x-request-id"] for kind in ("whole", "stream", "slow")}) == 3
    assert headers["stream"]["content-type"].startswith("text/event-stream")


def test_fields_that_nobody_knows_pass_both_ways(told: Session) -> None:
    """Parameters of the SDK's and of nobody's reach the provider as they are, and nothing else does."""
    fields = told("fields")
    sent = {
        "model": "told",
        "messages": [{"role": "user", "content": PROMPT}],
        "seed": 7,
        "temperature": 0.5,
        "logit_bias": {"1": -100},
        "user": "someone",
        "stop": ["a"],
        "n": 1,
        "x_asked": {"by": "me"},
    }
    assert fields == {"sent": sent, "told": {"by": "the provider"}}


def test_the_models(told: Session) -> None:
    """The list passes the SDK's types; a model is found by its bare and its whole name; an unknown one is a 404."""
    models = told("models")
    assert (models["listed"], models["one"]) == (MODELS, ["m", "m"])
    assert (models["none"]["class"], models["none"]["code"]) == ("NotFoundError", "model_not_found")


def test_fifty_at_once(told: Session) -> None:
    """Whole and streamed, each gets the answer to its own question."""
    assert told("many") == [expected_text(f"Row {index} asks: what follows {index}?") for index in range(50)]


# -- errors


def test_each_error_of_the_provider_has_its_class(told: Session) -> None:
    """Class, status, code, type, param and message are the provider's; the request id is the gateway's."""
    refusals = told("refusals")
    assert {status: error["class"] for status, error in refusals.items()} == ERROR_CLASSES
    for status, error in refusals.items():
        said = (error["status_code"], error["code"], error["type"], error["param"], error["said"])
        assert said == (int(status), "their_code", "their_type", "their_param", f"no: {status}")
        assert error["request_id"].startswith("req_")
    silenced = {status for status, error in refusals.items() if error["headers"].get("x-should-retry") == "false"}
    assert silenced == NOT_TO_BE_RETRIED
    assert refusals["429"]["headers"] == {"retry-after": str(WAIT), "retry-after-ms": str(WAIT * 1000)}


def test_each_error_of_the_gateway_has_its_class(told: Session) -> None:
    """An unknown model, a bad request, and what is not served here: 404s and a 400 in the one form."""
    refusals = told("own_refusals")
    messages = refusals.pop("messages")
    assert (messages["class"], messages["param"]) == ("BadRequestError", "messages")
    assert (refusals["model"]["code"], refusals["model"]["param"]) == ("model_not_found", "model")
    assert {name: error["class"] for name, error in refusals.items()} == dict.fromkeys(refusals, "NotFoundError")
    assert {error["type"] for error in refusals.values()} == {"invalid_request_error"}
    assert all(error["request_id"].startswith("req_") for error in refusals.values())


def test_keys(told: Session) -> None:
    """The right key opens chat, models and files; a wrong one is an AuthenticationError on each."""
    keys = told("keys")
    assert (keys["right"], keys["models"], keys["file"]) == ("stop", ["m"], "processed")
    for refused in (keys["chat"], keys["list"], keys["upload"]):
        assert (refused["class"], refused["code"]) == ("AuthenticationError", "invalid_api_key")


def test_what_was_retried_here_is_not_retried_by_the_sdk(told: Session) -> None:
    """An SDK that would retry twice asks once, whole or streamed; each request was sent twice; what a retry mended is no error."""
    retries = told("retries")
    for failed in (retries["failed"], retries["failed_stream"]):
        assert (failed["class"], failed["headers"]["x-should-retry"]) == ("InternalServerError", "false")
    assert retries["mended"] == 0
    assert (told.arrived["once-more"], told.sent["once-more"]) == (3, 6)


def test_a_throttle_is_waited_out_by_the_sdk(told: Session) -> None:
    """It comes again after the wait that it is told, as often as it may, and the provider sees none of that."""
    retries = told("retries")
    first, second = retries["waits"]
    assert first == WAIT
    assert 0 < second < WAIT
    assert (retries["throttled"]["class"], retries["throttled"]["status_code"]) == ("RateLimitError", 429)
    assert (told.arrived["throttled"], told.sent["throttled"]) == (3, 1)


def test_the_gateways_own_limit_paces_the_sdk(told: Session) -> None:
    """The second of two comes too early, waits as it is told, and is answered; the provider sees two."""
    assert told("paced") == [0, 1]
    assert (told.arrived["paced"], told.sent["paced"]) == (3, 2)


def test_an_empty_account_is_asked_once(told: Session) -> None:
    """The provider tells it as a 429, which the SDK would retry; no wait mends it."""
    refused = told("no_credit")
    assert (refused["class"], refused["code"]) == ("RateLimitError", "insufficient_quota")
    assert (told.arrived["penniless"], told.sent["penniless"]) == (1, 1)


def test_time_outs(told: Session) -> None:
    """The client's own is its own error; the gateway's is a 504 that is not asked again. Nothing goes on at the provider."""
    timeouts = told("timeouts")
    assert timeouts["client"]["class"] == "APITimeoutError"
    assert (timeouts["gateway"]["class"], timeouts["gateway"]["status_code"]) == ("InternalServerError", 504)
    assert told.arrived["hasty"] == told.sent["hasty"] == 1
    assert told.simulator["in_flight"] == 0


def test_a_cut_stream_does_not_pass_for_an_answer(told: Session) -> None:
    """Some chunks arrive, then an error that the SDK raises with its code."""
    cut = told("cut_stream")
    assert cut["chunks"] > 0
    for error in (cut["error"], cut["again"]):
        assert (error["class"], error["code"]) == ("APIError", "truncated")


# -- files and batches


def test_files(told: Session) -> None:
    """Upload with an expiry, retrieve, list by pages, content to the byte, delete; each passes the SDK's types."""
    files = told("files")
    assert files["object"] == ["in.jsonl", "batch", "processed", 19, 3600]
    assert (files["same"], files["all"], files["content"], files["processed"]) == (True, True, True, "processed")
    assert (files["by_purpose"], files["deleted"], files["left"]) == (3, [True] * 3, 0)
    for gone in (files["gone"], files["gone_content"], files["gone_again"]):
        assert gone["class"] == "NotFoundError"
    assert (files["purpose"]["class"], files["purpose"]["param"]) == ("BadRequestError", "purpose")


def test_a_batch(told: Session) -> None:
    """From upload to both outputs by the SDK alone: every row answered by its own answer, the refused one in the error file."""
    batches = told("batches")
    assert batches["begun"] == ["batch", "/v1/chat/completions", "24h", "me"]
    assert batches["ended"] == ["completed", {"completed": 20, "failed": 1, "total": 21}]
    assert batches["moments"] == ["completed_at", "created_at", "expires_at", "finalizing_at", "in_progress_at"]
    assert batches["usage"]
    prompts = {f"row-{n}": f"Row {n} asks: what follows {n}?" for n in range(20)}
    assert batches["output"] == {name: ["answered", "stop", expected_text(prompt)] for name, prompt in prompts.items()}
    assert batches["errors"] == {"bad": ["refused", "context_length_exceeded"]}
    assert batches["purpose"] == "batch_output"


def test_batches_that_cannot_be(told: Session) -> None:
    """A bad input fails with its errors; unknown ids are 404s; what has ended cannot be cancelled; the newest is listed first."""
    batches = told("batches")
    status, errors = batches["bad"]
    assert status == "failed"
    assert errors
    assert batches["listed"]
    assert batches["unknown"]["class"] == batches["no_file"]["class"] == "NotFoundError"
    assert batches["late"]["class"] == "ConflictError"


def test_a_batch_is_cancelled(told: Session) -> None:
    """What was answered by then is in the output, every other row in the error file."""
    cancelled = told("cancelled")
    assert cancelled["told"]
    assert cancelled["ended"][0] == "cancelled"
    assert cancelled["output"] == {"well": ["answered", "stop", expected_text(PROMPT)]}
    assert cancelled["errors"] == {f"stuck-{n}": ["not answered", "batch_cancelled"] for n in range(5)}


def test_the_gateway_logged_no_fault_of_its_own(told: Session) -> None:
    """No traceback, no error, whatever was asked of it."""
    assert told.failures == []
