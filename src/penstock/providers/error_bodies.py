"""Reads what a service sent instead of an answer, in any of its shapes, into one `ErrorBody`.

Decides only what was said: message, code, the words that can be classified. Never what it means (`error_kinds` does),
and never raises: an edge proxy may send HTML, plain text, or nothing at all.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import msgspec

_TITLE = re.compile(r"<title[^<>]*>([^<]*)", re.IGNORECASE)
_INVISIBLE = re.compile(r"<(script|style)\b[^<>]*>[^<]*", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_LOOKS_LIKE_HTML = re.compile(r"\s*<(?:!doctype|html|head|body|title|h\d|center)\b", re.IGNORECASE)
_LIMIT_ZERO = re.compile(r"\blimit:? 0\b", re.IGNORECASE)
_HTTP_STATUS = re.compile(r"[1-5]\d\d", re.ASCII)


class ErrorBody(msgspec.Struct, frozen=True):
    """One error as told.

    `type` and `param` are as sent where they are words.
    `words` are code, type and their relatives, most telling first; some are ours: `quota_per_day` and `quota_zero`
    for Google's violations, `moderation` for a flagged input. `retry_delay` is Google's `RetryInfo`, as sent.
    `reported` is false where nothing but the status can tell that the body is an error's.
    """

    message: str
    code: str | None = None
    words: tuple[str, ...] = ()
    retry_delay: str | None = None
    request_id: str | None = None
    reported: bool = True
    type: str | None = None
    param: str | None = None


def read_error(body: bytes) -> ErrorBody:
    """The error that a body tells of; for HTML and text its title or first words."""
    try:
        error = _read_json(msgspec.json.decode(body))
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested to exhaust the stack
        error = None
    return error or ErrorBody(message=visible_text(body), reported=False)


def visible_text(body: bytes) -> str:
    """What a person would read first: the title of an HTML page, else its text, else the body itself."""
    text = body.decode("utf-8", "replace")
    if not _LOOKS_LIKE_HTML.match(text):
        return text.strip()
    title = _TITLE.search(text)
    if title and title[1].strip():
        return html.unescape(title[1]).strip()
    return html.unescape(_TAG.sub(" ", _INVISIBLE.sub(" ", text))).strip()


def one_line(text: str, longest: int = 300) -> str:
    """The text on one line of printable characters, cut to `longest`: a message is shown on a terminal."""
    start = "".join(char if char.isprintable() else " " for char in text[: 8 * longest])
    line = " ".join(start.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _read_json(value: Any) -> ErrorBody | None:
    if isinstance(value, list) and value:  # Google wraps its errors in an array
        value = value[0]
    if not isinstance(value, dict):
        return None
    inner = value.get("error")
    if isinstance(inner, dict):
        return _read(inner, value)
    if inner:
        return _read({"message": inner if isinstance(inner, str) else value.get("message")}, value)
    return _read(value, value, reported=value.get("object") == "error" or "statusCode" in value)


def _read(inner: dict[str, Any], outer: dict[str, Any], *, reported: bool = True) -> ErrorBody:
    message = _message(inner)
    words = tuple(dict.fromkeys([*_plain_words(inner, outer), *_derived_words(inner, message)]))
    return ErrorBody(
        message=message,
        code=next((word for word in words if not _HTTP_STATUS.fullmatch(word)), None),
        words=words,
        retry_delay=_retry_delay(inner),
        request_id=_word(outer.get("request_id")) or _word(inner.get("request_id")),
        reported=reported,
        type=_word(inner.get("type")),
        param=_word(inner.get("param")),
    )


def _message(inner: dict[str, Any]) -> str:
    message = inner.get("message")
    if isinstance(message, str):
        return message
    if isinstance(message, dict):  # Mistral wraps the list of a validation error once more
        inner = message
    detail = inner.get("detail")
    if isinstance(detail, str):
        return detail
    return "; ".join(_complaints(detail))


def _complaints(detail: Any) -> Iterator[str]:
    """The entries of a validation error: `[{"loc": ["body", "seed"], "msg": "..."}]`."""
    for entry in _dicts(detail):
        place = entry.get("loc")
        where = ".".join(str(part) for part in place) + ": " if isinstance(place, list) else ""
        yield f"{where}{entry.get('msg', '')}"


def _plain_words(inner: dict[str, Any], outer: dict[str, Any]) -> Iterator[str]:
    details, metadata, nested = (_dict(inner.get(key)) for key in ("details", "metadata", "innererror"))
    found = [
        details.get("error_code"),
        nested.get("code"),
        inner.get("code"),
        *(entry.get("reason") for entry in _dicts(inner.get("details"))),
        metadata.get("error_type"),
        inner.get("error_type"),
        outer.get("error_type"),
        inner.get("status"),
        inner.get("type"),
        inner.get("statusCode"),
    ]
    yield from filter(None, map(_word, found))


def _derived_words(inner: dict[str, Any], message: str) -> Iterator[str]:
    metadata = _dict(inner.get("metadata"))
    if metadata.get("reasons") or metadata.get("flagged_input"):
        yield "moderation"
    if inner.get("status") != "RESOURCE_EXHAUSTED":
        return
    if _LIMIT_ZERO.search(message):
        yield "quota_zero"
    for violation in _violations(inner):
        if "PerDay" in str(violation.get("quotaId")):
            yield "quota_per_day"
        if str(violation.get("quotaValue")) == "0":
            yield "quota_zero"


def _violations(inner: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in _dicts(inner.get("details")):
        yield from _dicts(entry.get("violations"))


def _retry_delay(inner: dict[str, Any]) -> str | None:
    for entry in _dicts(inner.get("details")):
        if isinstance(entry.get("retryDelay"), str):
            return str(entry["retryDelay"])
    return None


def _word(value: Any) -> str | None:
    """A code as text: some services send numbers; None, containers, empty text and whole sentences are no word."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    word = str(value)
    return word if 0 < len(word) <= 100 else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, dict))
