"""What an error means: status, then the words of the body, then, last, patterns of its text; all of it as tables.

Decides the `Kind` of an error. Never whether it is tried again (`rules.retry` does). The message texts are no
contract, so a pattern only ever refines what the status says.
"""

from __future__ import annotations

import re

from penstock.errors import Kind
from penstock.providers.error_bodies import ErrorBody

# One service's own meaning of (status, word); the empty word stands for any. These come first.
SERVICE_KINDS: dict[str, dict[tuple[int, str], Kind]] = {
    "groq": {
        (400, "json_validate_failed"): "malformed",  # the model's output did not fit: another sample may
        (400, "tool_use_failed"): "malformed",
        (498, ""): "rate_limited",  # the flex tier is full
    },
    "together": {(403, ""): "context_too_long"},  # input plus max_tokens above the context, not a permission
    "openrouter": {
        (402, "retry-after"): "rate_limited",  # a budget in flight, not an empty account
        (400, "invalid_prompt"): "invalid_request",
    },
    "gemini": {(400, "FAILED_PRECONDITION"): "billing"},  # no billing, or a region where it is required
}

# Words that say more than the status that they come with.
WORD_KINDS: dict[str, Kind] = {
    # the key
    "API_KEY_INVALID": "auth",
    "UNAUTHENTICATED": "auth",
    "authentication_error": "auth",
    "authentication": "auth",
    "invalid_api_key": "auth",
    # the credit
    "insufficient_quota": "billing",
    "credit_balance_exhausted": "billing",
    "organization_spend_limit_exceeded": "billing",
    "project_spend_limit_exceeded": "billing",
    "organization_usage_limit_exceeded": "billing",
    "enforced_spend_limit_reached": "billing",
    "billing_error": "billing",
    "billing_not_active": "billing",
    "billing_hard_limit_reached": "billing",
    "quota_per_day": "billing",
    "quota_zero": "billing",
    # the request
    "context_length_exceeded": "context_too_long",
    "token_limit_exceeded": "context_too_long",
    "content_filter": "content_blocked",
    "ResponsibleAIPolicyViolation": "content_blocked",
    "content_policy_violation": "content_blocked",
    "invalid_prompt": "content_blocked",
    "moderation": "content_blocked",
    "model_not_found": "not_found",
    "DeploymentNotFound": "not_found",
    "invalid_model": "not_found",
    # the provider's capacity
    "slow_down": "overloaded",
    "resource_unavailable": "overloaded",
    "overloaded_error": "overloaded",
    "server_is_overloaded": "overloaded",
    "provider_overloaded": "overloaded",
    "capacity_exceeded": "overloaded",
    "3505": "overloaded",
}

# Words that only repeat what a status says; they count where the status does not tell: under a 200.
STATUS_WORDS: dict[str, Kind] = {
    "rate_limit_exceeded": "rate_limited",
    "rate_limit_error": "rate_limited",
    "rate_limited": "rate_limited",
    "RateLimitReached": "rate_limited",
    "too_many_requests": "rate_limited",
    "RESOURCE_EXHAUSTED": "rate_limited",
    "tokens": "rate_limited",
    "requests": "rate_limited",
    "service_unavailable_error": "overloaded",
    "UNAVAILABLE": "overloaded",
    "permission_error": "auth",
    "permission_denied": "auth",
    "PERMISSION_DENIED": "auth",
    "payment_required": "billing",
    "not_found": "not_found",
    "not_found_error": "not_found",
    "NOT_FOUND": "not_found",
    "NotFoundError": "not_found",
    "invalid_request": "invalid_request",
    "invalid_request_error": "invalid_request",
    "INVALID_ARGUMENT": "invalid_request",
    "BadRequestError": "invalid_request",
    "request_too_large": "invalid_request",
    "payload_too_large": "invalid_request",
    "unprocessable": "invalid_request",
}

# (statuses, pattern, kind): the last resort, for services that tell it in words only.
TEXT_KINDS: tuple[tuple[frozenset[int], re.Pattern[str], Kind], ...] = (
    (
        frozenset({400, 413, 422, 500}),
        re.compile(
            r"maximum context length|context (?:length|window)|(?:prompt|input) is too long"
            r"|exceeds the maximum number of tokens",
            re.IGNORECASE,
        ),
        "context_too_long",
    ),
    (
        frozenset({400}),
        re.compile(
            r"api key (?:not valid|expired|not found)|(?:invalid|incorrect) api key"
            r"|missing or invalid authorization header",
            re.IGNORECASE,
        ),
        "auth",
    ),
    (
        frozenset({400, 403, 429}),
        re.compile(
            r"credit balance is too low|specified api usage limits|spend(?:ing)? limit|insufficient balance",
            re.IGNORECASE,
        ),
        "billing",
    ),
    (
        frozenset({400}),
        re.compile(r"is not a valid model|model not exist|invalid model\b", re.IGNORECASE),
        "not_found",
    ),
    (frozenset({429}), re.compile(r"capacity exceeded|at capacity|overloaded", re.IGNORECASE), "overloaded"),
)

STATUS_KINDS: dict[int, Kind] = {
    401: "auth",
    402: "billing",
    403: "auth",
    404: "not_found",
    408: "server_error",
    409: "server_error",
    424: "server_error",  # a dependency of the service failed
    429: "rate_limited",
    499: "server_error",  # cancelled on the far side: we did not leave, for the answer is here
    503: "overloaded",
    529: "overloaded",
}

# What remains, by hundreds. A redirect is not followed; it means that the base URL is wrong for every row alike.
STATUS_CLASS_KINDS: dict[int, Kind] = {3: "not_found", 4: "invalid_request", 5: "server_error"}

_ASKED = re.compile(
    r"\blimit:?\s*([\d,]+)\b[^\d]{1,20}(?:used:?\s*[\d,]+[^\d]{1,20})?requested:?\s*([\d,]+)", re.IGNORECASE | re.ASCII
)
_FAILED_STATUS = re.compile(r"[45]\d\d", re.ASCII)
_MAY_NAME_A_LIMIT = frozenset({400, 413, 429})


def kind_of(service: str, status: int, error: ErrorBody, *, named_wait: bool) -> Kind:
    """The kind of an answer that is no 2xx. `named_wait` is true where a header says when to come again."""
    words = (*error.words, "retry-after") if named_wait else error.words
    own = SERVICE_KINDS.get(service, {})
    for word in (*words, ""):
        if kind := own.get((status, word)):
            return kind
    for word in error.words:
        if kind := WORD_KINDS.get(word):
            return kind
    return _kind_of_text(status, error.message) or kind_of_status(status)


def kind_in_success(service: str, error: ErrorBody) -> Kind:
    """The kind of an error that came under a 2xx: by the status or code in its body, else the service is in trouble."""
    for word in error.words:
        if _FAILED_STATUS.fullmatch(word):
            return kind_of(service, int(word), error, named_wait=False)
    for word in error.words:
        if kind := WORD_KINDS.get(word) or STATUS_WORDS.get(word):
            return kind
    return "server_error"


def kind_of_status(status: int) -> Kind:
    """What the bare status says."""
    return STATUS_KINDS.get(status) or STATUS_CLASS_KINDS.get(status // 100, "malformed")


def _kind_of_text(status: int, message: str) -> Kind | None:
    if status in _MAY_NAME_A_LIMIT and (kind := _kind_of_numbers(message)):
        return kind
    for statuses, pattern, kind in TEXT_KINDS:
        if status in statuses and pattern.search(message):
            return kind
    return None


def _kind_of_numbers(message: str) -> Kind | None:
    """`Limit 30000, Requested 30601`: more than the whole limit never fits; of a limit of 0 nothing does."""
    asked = _ASKED.search(message[:2_000])
    if asked is None:
        return None
    limit, requested = (int(number.replace(",", "") or "0") for number in (asked[1][:20], asked[2][:20]))
    if limit == 0:
        return "billing"
    return "never_fits" if requested > limit else None
