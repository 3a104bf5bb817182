"""Who may ask: one door in front of everything. What is not let in by a rule here is turned away, whatever its route.

    every address    the Host header must be a name that the server answers to (no web page can point a name of its own at us)
    every method     a key, where any is configured, on every path but `/healthz`
    POST             `application/json` (no form of a web page can send it); multipart for uploads only, and only with a header
                     that a form cannot send
    any body         within its size

Keys are kept as SHA-256 hashes and compared in constant time.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from random import Random
from typing import Any

import msgspec

from penstock.errors import UsageError
from penstock.server.replies import Reply, Turned, error_reply
from penstock.server.settings import Key, variable_words

OPEN_PATHS = frozenset({"/healthz"})
UPLOAD_PATH = "/v1/files"
UPLOAD_HEADERS = (b"authorization", b"x-penstock-upload")
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
_BEARER = b"bearer "


class Guest(msgspec.Struct, frozen=True):
    """Who asks: the name of the key, empty where none is needed, and the lane of its requests."""

    key_name: str = ""
    lane: str = "interactive"


ANYBODY = Guest()


class Keys:
    """The keys that clients may send, as hashes."""

    def __init__(self, keys: Iterable[tuple[str, Guest]]) -> None:
        self._guests = [(sha256(key.encode()).digest(), guest) for key, guest in keys]

    def __bool__(self) -> bool:
        return bool(self._guests)

    def __repr__(self) -> str:
        return f"Keys({', '.join(guest.key_name for _, guest in self._guests)})"

    def guest(self, authorization: bytes | None) -> Guest | None:
        """Who sends this `Authorization` header; None for nobody we know. Every key is compared, so that time tells nothing."""
        if not self._guests:
            return ANYBODY
        if authorization is None or authorization[:7].lower() != _BEARER:
            return None
        sent, found = sha256(authorization[7:].strip()).digest(), None
        for known, guest in self._guests:
            if hmac.compare_digest(known, sent):
                found = guest
        return found


def keys_in(tables: Mapping[str, Key], environ: Mapping[str, str]) -> Keys:
    """The keys that the variables hold. Raises `UsageError` where one is not set, or is too short to be safe."""
    return Keys((_value_of(name, table, environ), Guest(name, table.lane)) for name, table in tables.items())


def _value_of(name: str, table: Key, environ: Mapping[str, str]) -> str:
    value = environ.get(table.variable, "").strip()
    if not value:
        raise UsageError(f"keys.{name}.variable: {variable_words(table.variable)} is not set")
    if len(value) < 16:
        words = variable_words(table.variable)
        raise UsageError(f"keys.{name}.variable: the key in {words} is shorter than 16 characters: it could be guessed")
    return value


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """By which rules requests are let in. `hosts` None: any name. Sizes in bytes."""

    keys: Keys
    hosts: frozenset[str] | None
    most_body_bytes: int
    most_upload_bytes: int

    def admit(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Guest:
        """Who asks. Raises `Turned` with the reply for whoever may not."""
        if path in OPEN_PATHS and method in ("GET", "HEAD"):
            return ANYBODY
        if not self._knows_host(headers.get(b"host", b"")):
            raise Turned(UNKNOWN_HOST)
        guest = self.keys.guest(headers.get(b"authorization"))
        if guest is None:
            raise Turned(NO_KEY if b"authorization" not in headers else WRONG_KEY)
        if method in BODY_METHODS:
            self._check_body(path, headers)
        return guest

    def most_bytes(self, path: str) -> int:
        """How large a body may be."""
        return self.most_upload_bytes if path == UPLOAD_PATH else self.most_body_bytes

    def _knows_host(self, host: bytes) -> bool:
        if self.hosts is None:
            return True
        name = host.decode("latin-1").lower()
        head, colon, port = name.rpartition(":")
        if colon and port.isdecimal():
            name = head
        return name in self.hosts

    def _check_body(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind == b"multipart/form-data" and path == UPLOAD_PATH:
            if not any(name in headers for name in UPLOAD_HEADERS):
                raise Turned(UPLOAD_NEEDS_HEADER)
        elif kind != b"application/json":
            raise Turned(NOT_JSON)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self.most_bytes(path):
            raise Turned(too_large(self.most_bytes(path)))


UNKNOWN_HOST = error_reply(
    421, "this server does not answer to that host name: add it to `hosts` in the table [server]", code="unknown_host"
)
NO_KEY = error_reply(401, "a key is needed: send it as `Authorization: Bearer KEY`", code="missing_api_key")
WRONG_KEY = error_reply(401, "that key is not known here", code="invalid_api_key")
NOT_JSON = error_reply(415, "send the body as `Content-Type: application/json`", code="unsupported_media_type")
UPLOAD_NEEDS_HEADER = error_reply(
    415, "an upload needs the header `Authorization` or `X-Penstock-Upload: 1`", code="unsupported_media_type"
)


def too_large(most_bytes: int) -> Reply:
    """The reply to a body above the limit."""
    return error_reply(
        413, f"the body is larger than the {most_bytes:,} bytes that are taken here", code="body_too_large"
    )


def named_headers(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The headers of an ASGI request by their (lower-case) names; the first of several counts.

    Raises `Turned` where one stands twice that decides whether to let it in.
    """
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if headers.setdefault(name, value) is not value and name in _ONCE:
            raise Turned(error_reply(400, f"the header {name.decode('latin-1')} stands twice", code="bad_request"))
    return headers


_CHANCE = Random(os.urandom(32))
"""Asking the system for chance costs 20 us here, a tenth of a whole request."""

_ONCE = frozenset({b"host", b"authorization", b"content-type", b"content-length"})


def new_request_id() -> str:
    """Names one request in headers and logs: never taken from the client, never the same, no secret."""
    return f"req_{_CHANCE.getrandbits(96):024x}"
