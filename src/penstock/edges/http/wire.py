"""What goes onto the wire for a call: which origin, and the bytes of the request head. Pure; it never opens anything.

A head depends on the URL, the headers and the method only, so it is made once for each such triple and kept: on the
hot path a request is one look-up and one concatenation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv6Address
from urllib.parse import urlsplit

import msgspec

from penstock.errors import UsageError
from penstock.records import HttpCall

DEFAULT_PORTS = {"http": 80, "https": 443}
_KEPT_HEADS = 1024

_VISIBLE_ASCII = re.compile(r"[!-~]+")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, 5.5: no CR, LF, NUL or other control character
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_OURS = {"host", "content-length", "transfer-encoding", "connection", "proxy-authorization"}
# The answer to HEAD announces a body that never comes, and CONNECT and TRACE mean something else: no API needs them.
_REFUSED_METHODS = {"HEAD", "CONNECT", "TRACE"}
_WITHOUT_BODY = {"GET", "DELETE", "OPTIONS"}


class Origin(msgspec.Struct, frozen=True, cache_hash=True):
    """Scheme, host (without brackets, lower case) and port: what a connection belongs to and a key may be sent to."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """`host:port` with the brackets of an IPv6 address, as `CONNECT` and messages write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def host_header(self) -> str:
        """The Host header: the port only where it is not the scheme's own."""
        authority = self.authority
        return authority.rpartition(":")[0] if self.port == DEFAULT_PORTS[self.scheme] else authority


class RequestHead:
    """The head of a request, ready but for its length. Its repr never shows the bytes: they contain the key."""

    __slots__ = ("_prefix", "_without_body", "origin")

    def __init__(self, origin: Origin, prefix: bytes, *, may_lack_body: bool) -> None:
        self.origin = origin
        self._prefix = prefix
        self._without_body = prefix + b"\r\n" if may_lack_body else None

    def __repr__(self) -> str:
        return f"RequestHead({self.origin.authority})"

    def payload(self, body: bytes) -> bytes:
        """Head and body as one piece, because one write is one packet and one system call."""
        if not body and self._without_body is not None:
            return self._without_body
        return b"%sContent-Length: %d\r\n\r\n%s" % (self._prefix, len(body), body)


NO_CALL = HttpCall("", (), b"")


class RequestHeads:
    """Heads by (URL, headers, method), made on first use. `proxied(origin)` gives the extra header lines of a plain
    HTTP proxy, or None where the request goes to the origin itself."""

    def __init__(self, proxied: Callable[[Origin], tuple[tuple[str, str], ...] | None]) -> None:
        self._proxied = proxied
        self._kept: dict[tuple[str, tuple[tuple[str, str], ...], str], RequestHead] = {}
        self._last = (NO_CALL, RequestHead(Origin("", "", 0), b"", may_lack_body=False))
        """Nearly every call is like the one before it, and says so by the same objects: no hash need be taken."""

    def get(self, call: HttpCall) -> RequestHead:
        """The head of a call; `UsageError` where it could not be sent as it stands."""
        last, head = self._last
        if call.headers is last.headers and call.url is last.url and call.method is last.method:
            return head
        head = self._kept_for(call)
        self._last = call, head
        return head

    def _kept_for(self, call: HttpCall) -> RequestHead:
        key = (call.url, call.headers, call.method)
        head = self._kept.get(key)
        if head is None:
            if len(self._kept) >= _KEPT_HEADS:
                self._kept.clear()
            head = self._kept[key] = self._make(call)
        return head

    def _make(self, call: HttpCall) -> RequestHead:
        origin, target = parse_url(call.url)
        if not _TOKEN.fullmatch(call.method) or call.method in _REFUSED_METHODS:
            raise UsageError(f"the HTTP method {call.method!r} cannot be sent; use POST or GET")
        extra = self._proxied(origin)
        if extra is not None:
            target = f"{origin.scheme}://{origin.host_header}{target}"
        lines = [f"{call.method} {target} HTTP/1.1", f"Host: {origin.host_header}", "Accept-Encoding: identity"]
        lines += [header_line(name, value) for name, value in call.headers if not _is_identity(name, value)]
        lines += [header_line(name, value, ours=True) for name, value in extra or ()]
        prefix = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
        return RequestHead(origin, prefix, may_lack_body=call.method in _WITHOUT_BODY)


def parse_url(url: str) -> tuple[Origin, str]:
    """The origin and the request target (path and query) of an absolute http or https URL; else `UsageError`."""
    # urlsplit drops line breaks and tabs without a word, so what is not plain must be refused before it.
    if not _VISIBLE_ASCII.fullmatch(url):
        raise UsageError(
            "the URL has spaces, control or non-ASCII characters; percent-encode them (punycode for hosts)"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError("the URL has no valid host and port") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise UsageError("the URL must start with http:// or https://")
    if "@" in parts.netloc:
        raise UsageError("the URL must not carry a user name or password; send them in a header")
    host = checked_host(parts.hostname or "")
    target = parts.path or "/"
    return Origin(parts.scheme, host, DEFAULT_PORTS[parts.scheme] if port is None else port), (
        f"{target}?{parts.query}" if parts.query else target
    )


def checked_host(host: str) -> str:
    """The host as it is, if it is a name or an address; else `UsageError`."""
    if ":" in host:
        try:
            return str(IPv6Address(host))
        except ValueError as error:
            raise UsageError(f"the URL's host [{host}] is not an IPv6 address") from error
    if not _HOST.fullmatch(host):
        raise UsageError("the URL has no valid host name")
    return host


def header_line(name: str, value: str, *, ours: bool = False) -> str:
    """`Name: value`; `UsageError` where it would break the head apart. The value is never shown: it may be a key."""
    if not _TOKEN.fullmatch(name):
        raise UsageError(f"{name!r} is not a header name")
    if not ours and name.lower() in _OURS:
        raise UsageError(f"the header {name} is set by the transport; leave it out")
    if name.lower() == "accept-encoding":
        raise UsageError("compressed answers are not read; leave the header Accept-Encoding out")
    if not _HEADER_VALUE.fullmatch(value):
        raise UsageError(f"the value of the header {name} has a line break, a control or a non-Latin-1 character")
    return f"{name}: {value}"


def _is_identity(name: str, value: str) -> bool:
    return name.lower() == "accept-encoding" and value.strip().lower() == "identity"
