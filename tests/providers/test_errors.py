"""Error answers to kinds: one row for each line of the services' error tables."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.errors import KINDS, RequestError
from penstock.providers.catalog import SERVICES
from penstock.providers.error_bodies import read_error
from penstock.providers.openai import chat_completions
from penstock.records import HttpAnswer

KEY = "sk-canary-1234567890"

Headers = list[tuple[bytes, bytes]]


def failure(
    service: str, status: int, body: Any = b"", headers: Headers | None = None, wall: float = 0.0
) -> RequestError:
    provider = chat_completions(SERVICES[service], base_url="http://127.0.0.1:1/v1", api_key=KEY)
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    with pytest.raises(RequestError) as failed:
        provider.decode(HttpAnswer(status, headers or [], raw), wall)
    assert type(failed.value) is KINDS[failed.value.kind]
    assert failed.value.status == status
    return failed.value


def openai(message: str = "m", type_: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


def google(code: int, status: str, message: str = "m", *details: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"error": {"code": code, "message": message, "status": status, "details": list(details)}}]


def violation(**fields: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [fields]}


def anthropic(type_: str, message: str = "m", **more: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"type": type_, "message": message, **more}, "request_id": "req_a"}


def openrouter(code: int, **metadata: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": "m", "metadata": metadata}, "user_id": "u"}


PER_MINUTE = violation(quotaId="GenerateRequestsPerMinutePerProjectPerModel-FreeTier", quotaValue="10")
PER_DAY = violation(quotaId="GenerateRequestsPerDayPerProjectPerModel-FreeTier", quotaValue="250")
RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "24s"}
TOO_LARGE = "Request too large for m on tokens per min (TPM): Limit 30000, Requested 30601. Reduce the input."
BUSY = "Rate limit reached for m on tokens per min (TPM): Limit 30,000, Used 29,500, Requested 900. Try again in 800ms."

OPENAI: list[tuple[int, Any, str]] = [
    (400, openai("too long", "invalid_request_error", "context_length_exceeded"), "context_too_long"),
    (400, openai("This model's maximum context length is 8192 tokens"), "context_too_long"),
    (400, openai("no such thing", "invalid_request_error", "unsupported_parameter"), "invalid_request"),
    (400, openai("bad schema", "invalid_request_error", "invalid_json_schema"), "invalid_request"),
    (400, openai("no", "invalid_request_error", "content_policy_violation"), "content_blocked"),
    (400, openai("no", "invalid_request_error", "invalid_prompt"), "content_blocked"),
    (401, openai("bad key", "invalid_request_error", "invalid_api_key"), "auth"),
    (401, openai("bad key", "authentication_error"), "auth"),
    (403, openai("region", "request_forbidden", "unsupported_country_region_territory"), "auth"),
    (403, openai("scope", "permission_error"), "auth"),
    (403, openai("project", "invalid_request_error", "model_not_found"), "not_found"),
    (404, openai("none", "invalid_request_error", "model_not_found"), "not_found"),
    (404, openai("Invalid URL", "invalid_request_error"), "not_found"),
    (405, b"", "invalid_request"),
    (408, openai("slow"), "server_error"),
    (409, openai("lock"), "server_error"),
    (412, b"", "invalid_request"),
    (413, b"<html><title>413 Request Entity Too Large</title></html>", "invalid_request"),
    (415, openai("type", "invalid_request_error"), "invalid_request"),
    (418, b"", "invalid_request"),
    (422, openai("form"), "invalid_request"),
    (429, openai(BUSY, "tokens", "rate_limit_exceeded"), "rate_limited"),
    (429, openai("slower", "requests", "rate_limit_exceeded"), "rate_limited"),
    (429, openai("slower", "rate_limit_error", "rate_limit_exceeded"), "rate_limited"),
    (429, b"", "rate_limited"),
    (429, openai(TOO_LARGE, "tokens", "rate_limit_exceeded"), "never_fits"),
    (429, openai("on requests per day (RPD): Limit 0, Requested 1."), "billing"),
    (429, openai("ramp", "rate_limit_error", "slow_down"), "overloaded"),
    (429, openai("flex", None, "resource_unavailable"), "overloaded"),
    (429, openai("credit", "insufficient_quota", "insufficient_quota"), "billing"),
    (429, openai("credit", "insufficient_quota"), "billing"),
    (429, openai("credit", None, "credit_balance_exhausted"), "billing"),
    (429, openai("credit", "insufficient_quota", "organization_spend_limit_exceeded"), "billing"),
    (429, openai("credit", None, "project_spend_limit_exceeded"), "billing"),
    (429, openai("credit", None, "organization_usage_limit_exceeded"), "billing"),
    (500, openai("oops", "server_error", "server_error"), "server_error"),
    (502, b"<html><head><title>502 Bad Gateway</title></head></html>", "server_error"),
    (503, openai("busy", "service_unavailable_error", "server_is_overloaded"), "overloaded"),
    (503, b"no healthy upstream", "overloaded"),
    (504, b"", "server_error"),
    (520, b"<!DOCTYPE html><title>Web server is returning an unknown error</title>", "server_error"),
    (524, b"error code: 524", "server_error"),
    (599, b"", "server_error"),
    (301, b"", "not_found"),
    (307, b"", "not_found"),
    (101, b"", "malformed"),
    (999, b"", "malformed"),
]
OTHERS: list[tuple[str, int, Any, str]] = [
    ("azure", 400, {"error": {"message": "b", "code": "content_filter", "status": 400}}, "content_blocked"),
    (
        "azure",
        400,
        {"error": {"message": "b", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        "content_blocked",
    ),
    ("azure", 400, openai("m", None, "OperationNotSupported"), "invalid_request"),
    ("azure", 401, {"error": {"code": "401", "message": "denied"}}, "auth"),
    ("azure", 401, {"statusCode": 401, "message": "denied"}, "auth"),
    ("azure", 401, openai("m", None, "PermissionDenied"), "auth"),
    ("azure", 404, openai("m", None, "DeploymentNotFound"), "not_found"),
    ("azure", 404, openai("m", None, "404"), "not_found"),
    ("azure", 408, openai("m", None, "Timeout"), "server_error"),
    ("azure", 424, openai("m"), "server_error"),
    ("azure", 429, openai("m", None, "429"), "rate_limited"),
    ("azure", 429, openai("m", None, "RateLimitReached"), "rate_limited"),
    ("azure", 500, openai("m", None, "InternalServerError"), "server_error"),
    (
        "anthropic",
        400,
        anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000"),
        "context_too_long",
    ),
    ("anthropic", 400, anthropic("invalid_request_error", "Your credit balance is too low"), "billing"),
    ("anthropic", 400, anthropic("invalid_request_error", "You reached your specified API usage limits"), "billing"),
    ("anthropic", 400, anthropic("invalid_request_error"), "invalid_request"),
    ("anthropic", 401, anthropic("authentication_error"), "auth"),
    ("anthropic", 402, anthropic("billing_error"), "billing"),
    ("anthropic", 403, anthropic("permission_error"), "auth"),
    ("anthropic", 404, anthropic("not_found_error"), "not_found"),
    ("anthropic", 409, anthropic("conflict_error"), "server_error"),
    ("anthropic", 413, anthropic("request_too_large"), "invalid_request"),
    ("anthropic", 429, anthropic("rate_limit_error"), "rate_limited"),
    (
        "anthropic",
        429,
        anthropic("rate_limit_error", details={"error_code": "enforced_spend_limit_reached"}),
        "billing",
    ),
    ("anthropic", 500, anthropic("api_error"), "server_error"),
    ("anthropic", 504, anthropic("timeout_error"), "server_error"),
    ("anthropic", 529, anthropic("overloaded_error"), "overloaded"),
    ("gemini", 400, google(400, "INVALID_ARGUMENT"), "invalid_request"),
    ("gemini", 400, google(400, "INVALID_ARGUMENT", "m", {"reason": "API_KEY_INVALID"}), "auth"),
    ("gemini", 400, google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."), "auth"),
    (
        "gemini",
        400,
        google(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens allowed (8)."),
        "context_too_long",
    ),
    ("gemini", 400, google(400, "FAILED_PRECONDITION"), "billing"),
    ("gemini", 402, google(402, "RESOURCE_EXHAUSTED"), "billing"),
    ("gemini", 401, google(401, "UNAUTHENTICATED"), "auth"),
    ("gemini", 403, google(403, "PERMISSION_DENIED"), "auth"),
    ("gemini", 404, google(404, "NOT_FOUND"), "not_found"),
    (
        "gemini",
        429,
        google(429, "RESOURCE_EXHAUSTED", "check your plan and billing", PER_MINUTE, RETRY_INFO),
        "rate_limited",
    ),
    ("gemini", 429, google(429, "RESOURCE_EXHAUSTED", "m", PER_MINUTE, PER_DAY, RETRY_INFO), "billing"),
    ("gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Quota exceeded, limit: 0, model: x"), "billing"),
    ("gemini", 429, google(429, "RESOURCE_EXHAUSTED", "m", violation(quotaId="PerMinute", quotaValue="0")), "billing"),
    ("gemini", 499, google(499, "CANCELLED"), "server_error"),
    ("gemini", 500, google(500, "INTERNAL"), "server_error"),
    ("gemini", 503, google(503, "UNAVAILABLE"), "overloaded"),
    ("gemini", 504, google(504, "DEADLINE_EXCEEDED"), "server_error"),
    (
        "mistral",
        429,
        {"object": "error", "message": "slow down", "type": "rate_limited", "code": "1300"},
        "rate_limited",
    ),
    ("mistral", 429, {"object": "error", "message": "x", "type": "y", "code": "3505"}, "overloaded"),
    ("mistral", 429, {"message": "Service tier capacity exceeded for this model."}, "overloaded"),
    ("mistral", 503, {"message": "Service tier capacity exceeded for this model."}, "overloaded"),
    (
        "mistral",
        400,
        {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"},
        "not_found",
    ),
    ("mistral", 401, {"message": "Unauthorized", "request_id": "r1"}, "auth"),
    (
        "mistral",
        422,
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "user"], "msg": "no"}]},
        "invalid_request",
    ),
    ("groq", 400, openai("m", "invalid_request_error", "json_validate_failed"), "malformed"),
    ("groq", 400, openai("m", "invalid_request_error", "tool_use_failed"), "malformed"),
    ("groq", 400, openai("m", "invalid_request_error"), "invalid_request"),
    ("groq", 413, openai(TOO_LARGE, "tokens", "rate_limit_exceeded"), "never_fits"),
    ("groq", 429, openai(BUSY, "tokens", "rate_limit_exceeded"), "rate_limited"),
    ("groq", 498, openai("m", None, "capacity_exceeded"), "rate_limited"),
    ("together", 402, openai("m"), "billing"),
    ("together", 403, openai("m"), "context_too_long"),
    ("together", 429, {"error": {"message": "m"}, "error_type": "dynamic_token_limited"}, "rate_limited"),
    ("together", 503, openai("m"), "overloaded"),
    ("openrouter", 400, openrouter(400, error_type="context_length_exceeded"), "context_too_long"),
    ("openrouter", 400, openrouter(400, error_type="token_limit_exceeded"), "context_too_long"),
    ("openrouter", 400, openrouter(400, error_type="max_tokens_exceeded"), "invalid_request"),
    ("openrouter", 400, openrouter(400, error_type="invalid_prompt"), "invalid_request"),
    ("openrouter", 400, {"error": {"code": 400, "message": "x/y is not a valid model ID"}}, "not_found"),
    ("openrouter", 401, openrouter(401, error_type="authentication"), "auth"),
    ("openrouter", 402, openrouter(402, error_type="payment_required"), "billing"),
    ("openrouter", 403, openrouter(403, error_type="permission_denied"), "auth"),
    ("openrouter", 403, openrouter(403, reasons=["violence"], flagged_input="..."), "content_blocked"),
    ("openrouter", 408, openrouter(408), "server_error"),
    ("openrouter", 412, openrouter(412, error_type="precondition_failed"), "invalid_request"),
    ("openrouter", 413, openrouter(413, error_type="payload_too_large"), "invalid_request"),
    ("openrouter", 429, openrouter(429, error_type="rate_limit_exceeded"), "rate_limited"),
    ("openrouter", 502, openrouter(502, error_type="provider_unavailable"), "server_error"),
    ("openrouter", 503, openrouter(503, error_type="provider_overloaded"), "overloaded"),
    ("deepseek", 400, openai("Model Not Exist", "invalid_request_error"), "not_found"),
    ("deepseek", 402, openai("Insufficient Balance"), "billing"),
    ("deepseek", 422, openai("m"), "invalid_request"),
    ("deepseek", 503, openai("m"), "overloaded"),
    ("vllm", 401, {"error": "Unauthorized"}, "auth"),
    ("vllm", 404, {"object": "error", "message": "no model", "type": "NotFoundError", "code": 404}, "not_found"),
    ("vllm", 400, {"error": {"message": "maximum context length is 8", "code": 400}}, "context_too_long"),
    ("vllm", 400, {"object": "error", "message": "maximum context length is 8", "code": 400}, "context_too_long"),
    ("ollama", 404, openai("model not found, try pulling it", "not_found_error"), "not_found"),
    ("ollama", 503, openai("server busy", "api_error"), "overloaded"),
    ("ollama", 499, openai("cancelled", "api_error"), "server_error"),
    ("custom", 498, b"", "invalid_request"),
    ("custom", 403, b"", "auth"),
]


@pytest.mark.parametrize(("status", "body", "kind"), OPENAI)
def test_openai_errors_have_their_kind(status: int, body: Any, kind: str) -> None:
    assert failure("openai", status, body).kind == kind


@pytest.mark.parametrize(("service", "status", "body", "kind"), OTHERS)
def test_the_errors_of_the_compatible_services_have_their_kind(service: str, status: int, body: Any, kind: str) -> None:
    assert failure(service, status, body).kind == kind


def test_a_402_of_openrouter_with_a_wait_is_a_budget_in_flight() -> None:
    error = failure("openrouter", 402, openrouter(402), [(b"Retry-After", b"7")])
    assert (error.kind, error.retry_after) == ("rate_limited", 7.0)


def test_only_a_sample_that_failed_its_form_may_be_billed_among_error_statuses() -> None:
    assert failure("groq", 400, openai("m", None, "json_validate_failed")).maybe_billed
    assert not failure("openai", 500, openai("m")).maybe_billed


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (openai("m", "invalid_request_error", "context_length_exceeded"), "context_length_exceeded"),
        (openai("m", "server_error"), "server_error"),
        (google(429, "RESOURCE_EXHAUSTED"), "RESOURCE_EXHAUSTED"),
        (openrouter(429, error_type="rate_limit_exceeded"), "rate_limit_exceeded"),
        ({"object": "error", "message": "m", "type": "rate_limited", "code": "1300"}, "1300"),
        ({"error": {"message": "m", "code": 400}}, None),
        (b"<html>", None),
    ],
)
def test_the_code_is_the_providers_own_and_not_the_status_again(body: Any, code: str | None) -> None:
    assert failure("openai", 400, body).code == code


@pytest.mark.parametrize(
    ("service", "headers", "request_id"),
    [
        ("openai", [(b"x-request-id", b"req_1")], "req_1"),
        ("azure", [(b"x-request-id", b"x"), (b"apim-request-id", b"apim")], "apim"),
        ("azure", [(b"x-request-id", b"x")], "x"),
        ("anthropic", [(b"Request-Id", b"req_h")], "req_h"),
        ("anthropic", [], "req_a"),
        ("openrouter", [(b"X-Generation-Id", b"gen-1")], "gen-1"),
        ("mistral", [(b"x-kong-request-id", b"k")], "k"),
        ("deepseek", [(b"x-ds-trace-id", b"d")], "d"),
    ],
)
def test_the_request_id_comes_from_the_services_header_or_from_the_body(
    service: str, headers: Headers, request_id: str
) -> None:
    assert failure(service, 500, anthropic("api_error"), headers).request_id == request_id


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>", "502 Bad Gateway"),
        (b"<!doctype html><title>A &amp; B</title>", "A & B"),
        (b"<html><style>p {}</style><body><h1>Sorry</h1><p>later</p></body></html>", "Sorry later"),
        (b"upstream connect error", "upstream connect error"),
        (b"two\nlines\twith\x1b[31mcolour", "two lines with [31mcolour"),
        (b"\xff\xfe", "answered 502"),
        (b"", "no reason given"),
        ({"detail": "Not here"}, "Not here"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "extra"}, {"msg": "b"}]}, "body.seed: extra; b"),
        ({"message": {"detail": [{"loc": ["body", "n"], "msg": "big"}]}}, "body.n: big"),
        ({"error": {"message": None}}, "no reason given"),
    ],
)
def test_the_message_is_what_a_person_would_read(body: Any, told: str) -> None:
    message = failure("openai", 502, body).message
    assert told in message
    assert message.isprintable()


def test_long_messages_are_cut() -> None:
    message = failure("openai", 400, openai("x" * 100_000)).message
    assert len(message) < 350
    assert message.endswith("…")


@pytest.mark.parametrize("status", [401, 403, 402, 404])
def test_what_stops_a_run_says_what_to_do(status: int) -> None:
    assert "(" in failure("openai", status, openai("m")).message


def test_a_refused_key_names_the_variable_that_holds_it() -> None:
    assert "MISTRAL_API_KEY" in failure("mistral", 401, {"message": "Unauthorized"}).message


@pytest.mark.parametrize(
    "body",
    [
        openai(f"Incorrect API key provided: {KEY}."),
        openai("m", None, KEY),
        {"error": KEY, "request_id": KEY},
        f"<html><title>{KEY}</title>".encode(),
        f"<html>{'<br>' * 50}{KEY}".encode(),
        ("x" * 290 + KEY).encode(),
        f"Bearer {KEY}".encode(),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_key_that_the_provider_echoes_is_never_told(status: int, body: Any) -> None:
    error = failure("openai", status, body, [(b"x-request-id", KEY.encode())])
    assert "canary" not in f"{error}{error!r}{error.message}{error.code}{error.request_id}"


def test_a_stand_in_for_a_key_does_not_garble_messages() -> None:
    provider = chat_completions(SERVICES["ollama"], api_key="o")
    with pytest.raises(RequestError, match="model not found"):
        provider.decode(HttpAnswer(404, [], b'{"error": "model not found"}'), 0.0)


@pytest.mark.parametrize(
    ("status", "waits"), [(429, True), (503, True), (500, True), (400, False), (401, False), (404, False)]
)
def test_a_wait_is_told_only_where_waiting_helps(status: int, waits: bool) -> None:
    error = failure("openai", status, openai("m"), [(b"retry-after", b"3")])
    assert error.retry_after == (3.0 if waits else None)


def test_the_misleading_delay_of_a_daily_quota_is_not_passed_on() -> None:
    assert failure("gemini", 429, google(429, "RESOURCE_EXHAUSTED", "m", PER_DAY, RETRY_INFO)).retry_after is None


def test_a_page_of_open_brackets_is_read_in_linear_time() -> None:
    body = b"<html>" + b"<" * 500_000 + b"<title" * 50_000
    assert not read_error(body).reported
