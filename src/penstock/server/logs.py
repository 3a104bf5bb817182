"""Logs on standard error: one line of JSON for each event, with the id of its request, and without secrets.

It decides what may stand in a line. An event is one line whatever its text holds: no control character, line separator
or change of writing direction gets through. Prompts are not here, because nothing logs them; the request log has them
where they are asked for.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import msgspec

REQUEST_ID: ContextVar[str] = ContextVar("penstock_request_id", default="")
"""Whoever handles a request sets it; every event that is logged meanwhile carries it."""

SHORTEST_SECRET = 6
"""What is shorter cannot be told from ordinary words, so it is not taken out; the provider's translation does the same."""

HIDDEN = "[hidden]"

# DEL and C1, zero-width and direction marks, line and paragraph separators, the byte order mark, in UTF-8. JSON escapes C0 itself.
_UNSAFE = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf")
_CREDENTIAL = re.compile(
    r"""(?ix)
    ( \b (?: (?:proxy-)?authorization | x-api-key | api-?key | api_key | x-goog-api-key | cookie | set-cookie ) \b
      \\? ["']? \s* [:=,] \s* (?: b (?=["']) )? \\? ["']? )            # as a header, a keyword, an entry of a dict, a pair of bytes
    (?: (?: bearer | basic ) \s+ )? [^\s"',;)\]}\\]+
    | ( \b (?: bearer | basic ) \s+ ) [^\s"',;)\]}\\]{6,}
    | () \b sk-[\w-]{8,}
    """
)


def one_line(values: Mapping[str, Any]) -> bytes:
    """Values as one line of JSON, whatever their text, with its end."""
    try:
        line = msgspec.json.encode(values)
    except (UnicodeEncodeError, TypeError):
        # Half a surrogate pair, or a value that is none of JSON's: still worth a line.
        line = json.dumps(values, default=repr).encode()
    if not line.isascii() or b"\x7f" in line:
        line = _UNSAFE.sub(_escaped, line)
    return line + b"\n"


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())


def iso_time(unix_seconds: float) -> str:
    """A moment as RFC 3339 has it, in UTC, to the millisecond."""
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Redaction:
    """Takes out of a text what must not be logged: these secrets to the letter, and whatever looks like a credential."""

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first: one secret may be the beginning of another.
        self._secrets = sorted({s for s in secrets if len(s) >= SHORTEST_SECRET}, key=len, reverse=True)

    def __repr__(self) -> str:
        return f"Redaction({len(self._secrets)} secrets)"

    def __call__(self, text: str) -> str:
        """The text without them."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return _CREDENTIAL.sub(lambda found: f"{found[1] or found[2] or ''}{HIDDEN}", text)


class JsonFormatter(logging.Formatter):
    """A record as one line: `time`, `level`, `logger`, `message`, `request_id` where there is one, `exception` with its trace."""

    def __init__(self, redaction: Redaction | None = None) -> None:
        super().__init__()
        self._redaction = redaction or Redaction()

    def format(self, record: logging.LogRecord) -> str:
        values = {
            "time": iso_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redaction(_message(record)),
        }
        if request_id := getattr(record, "request_id", "") or REQUEST_ID.get():
            values["request_id"] = str(request_id)
        if record.exc_info and record.exc_info[0] is not None:
            values["exception"] = self._redaction(self.formatException(record.exc_info))
        if record.stack_info:
            values["stack"] = self._redaction(record.stack_info)
        return one_line(values).decode().removesuffix("\n")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return f"{record.msg} {record.args!r}"  # wrong placeholders: an event all the same


def log_config(redaction: Redaction | None = None, *, level: str = "INFO") -> dict[str, Any]:
    """For `logging.config.dictConfig` and uvicorn's `log_config`: everything to standard error, by `JsonFormatter`.

    uvicorn's access log is off: it would show the paths as callers wrote them, and the request log has what it has.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter, "redaction": redaction}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "uvicorn": {"handlers": [], "level": level, "propagate": True},
            "uvicorn.error": {"handlers": [], "level": level, "propagate": True},
            "uvicorn.access": {"handlers": [], "level": "CRITICAL", "propagate": False},
        },
    }
