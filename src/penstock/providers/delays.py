"""Waits and limits that an answer names, in every form seen, as seconds and units per minute.

Decides only what was said. A wait is returned as it is, however long; whether to obey it is the engine's matter.
Values that cannot be right (zero, negative, not a number, a date gone by) count as not said.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from penstock.records import HttpAnswer, Told

if TYPE_CHECKING:
    from penstock.providers.error_bodies import ErrorBody

_UNIT_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "millisecond": 1e-3,
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86400.0,
}
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,15})?", re.ASCII)
_GO_PART = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_GO_DURATION = re.compile(rf"(?:{_GO_PART.pattern})+", re.ASCII)
# These two are compiled at their first use, and then kept by `re`: they cost most, and only a failure needs them.
_IN_WORDS = (
    r"(?:try again|retry|wait)(?: \w{1,20}){0,2}? (?:in|after|for)? ?"
    rf"(?:({_NUMBER.pattern}) ?(millisecond|second|minute|hour|day)s?\b|({_GO_DURATION.pattern}))"
)
_HTTP_DATE = r"\w{3}, (\d\d) (\w{3}) (\d{4}) (\d\d):(\d\d):(\d\d) (?:GMT|UTC)"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# A bare number this large is a moment, not a wait: Unix seconds, or Unix milliseconds (OpenRouter).
_LEAST_UNIX_SECONDS = 1e9
_LEAST_UNIX_MS = 1e11

_BUDGETS = (
    *((f"x-ratelimit-remaining{kind}", f"x-ratelimit-reset{kind}") for kind in ("-requests", "-tokens", "")),
    *(
        (f"anthropic-ratelimit-{kind}-remaining", f"anthropic-ratelimit-{kind}-reset")
        for kind in ("requests", "tokens", "input-tokens", "output-tokens")
    ),
)


def retry_after(answer: HttpAnswer, error: ErrorBody, wall: float) -> float | None:
    """Seconds to wait before asking again; None where nothing says so. `wall` is Unix seconds.

    First match wins: `retry-after-ms`, `retry-after`, the longest reset of a used-up budget, Google's `retryDelay`,
    and last the message itself, as no client can rely on its wording.
    """
    return (
        wait_in_headers(answer, wall)
        or _used_up(answer, wall)
        or duration(error.retry_delay or "")
        or _in_words(error.message)
    )


def wait_in_headers(answer: HttpAnswer, wall: float) -> float | None:
    """The wait that `retry-after-ms` or `retry-after` names."""
    if milliseconds := _number(answer.header(b"retry-after-ms")):
        return milliseconds / 1e3
    text = answer.header(b"retry-after") or ""
    return duration(text) or _until(_http_date(text), wall)


def duration(text: str) -> float | None:
    """Seconds of `20`, `0.5`, `1s`, `6m0s`, `12ms`, `1m30.5s`; None where it is none of these or not positive."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text) or None
    if not _GO_DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _GO_PART.findall(text)) or None


def _used_up(answer: HttpAnswer, wall: float) -> float | None:
    waits = (
        _until_reset(answer.header(reset.encode()) or "", wall)
        for remaining, reset in _BUDGETS
        if _count(answer.header(remaining.encode())) == 0
    )
    return max((wait for wait in waits if wait), default=None)


def _until_reset(text: str, wall: float) -> float | None:
    seconds = duration(text)
    if seconds is None:
        return _until(_rfc_3339(text), wall)
    if seconds >= _LEAST_UNIX_MS:
        return _until(seconds / 1e3, wall)
    return _until(seconds, wall) if seconds >= _LEAST_UNIX_SECONDS else seconds


def _until(moment: float | None, wall: float) -> float | None:
    return moment - wall if moment is not None and moment > wall else None


def _http_date(text: str) -> float | None:
    match = re.fullmatch(_HTTP_DATE, text, re.ASCII)
    if match is None:
        return None
    day, year, hour, minute, second = (int(match[group]) for group in (1, 3, 4, 5, 6))
    try:
        return datetime(year, _MONTHS.index(match[2]) + 1, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:  # a date that no calendar has
        return None


def _rfc_3339(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.timestamp()


def _in_words(message: str) -> float | None:
    match = re.search(_IN_WORDS, message[:2_000], re.ASCII | re.IGNORECASE)
    if match is None:
        return None
    if match[2]:
        return float(match[1]) * _UNIT_SECONDS[match[2].lower()] or None
    return duration(match[3].lower())


def _number(text: str | None) -> float | None:
    """A positive number."""
    return float(text) or None if text and _NUMBER.fullmatch(text) else None


def _count(text: str | None) -> float | None:
    """A number that may be 0."""
    return float(text) if text and _NUMBER.fullmatch(text) else None


_FAMILIES = {
    "openai": ("x-ratelimit-{field}-{unit}", ("requests", "tokens")),
    "anthropic": ("anthropic-ratelimit-{unit}-{field}", ("requests", "tokens", "input-tokens", "output-tokens")),
}
_Places: TypeAlias = dict[bytes, tuple[str, str]]
"""Header -> the budget that it is of, and the field of `Told` that it fills."""


def _family(name: str) -> _Places:
    pattern, units = _FAMILIES[name]
    return {
        pattern.format(unit=unit, field=field).encode(): (f"{unit.replace('-', '_')}_per_minute", told)
        for unit in units
        for field, told in (("limit", "limit"), ("remaining", "remaining"), ("reset", "reset_s"))
    }


_USUAL = _family("openai") | _family("anthropic")
_BY_SERVICE: dict[str, _Places] = {
    # Its headers count the requests of a day and the tokens of a minute.
    "groq": {
        header: (budget.replace("requests_per_minute", "requests_per_day"), told)
        for header, (budget, told) in _family("openai").items()
    },
    "together": {
        b"x-ratelimit-limit": ("requests_per_minute", "limit"),
        b"x-tokenlimit-limit": ("tokens_per_minute", "limit"),
    },
    # What its headers count differs from model to model, and is not told.
    "openrouter": {},
}
_SECONDS_IN_A_MINUTE = 60.0
_PER_SECOND = frozenset({"together"})


def limits_of(service: str, answer: HttpAnswer, wall: float) -> dict[str, Told]:
    """The account's limits by budget, as the headers of any answer of that service tell them. `wall` is Unix seconds."""
    places = _BY_SERVICE.get(service, _USUAL)
    found: dict[str, dict[str, float]] = {}
    for key, value in answer.headers:
        if (place := places.get(key.lower())) is None:
            continue
        budget, field = place
        text = value.decode("latin-1").strip()
        number = _until_reset(text, wall) if field == "reset_s" else _count(text)
        if number is not None and (number or field == "remaining"):
            found.setdefault(budget, {})[field] = number
    scale = _SECONDS_IN_A_MINUTE if service in _PER_SECOND else 1.0
    return {
        budget: Told(**(fields | ({"limit": fields["limit"] * scale} if "limit" in fields else {})))
        for budget, fields in found.items()
    }
