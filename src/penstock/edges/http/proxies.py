"""Which proxy, if any, stands between us and an origin, out of the usual environment variables. Pure.

As curl and requests have it: `HTTP_PROXY`, `HTTPS_PROXY`, else `ALL_PROXY`, lower case before upper; `NO_PROXY` names
what is reached directly: `*`, a host and all below it (leading dot or not), `host:port`, an address, a network.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from penstock.edges.http.wire import Origin, checked_host
from penstock.errors import UsageError

_SCHEMES = {"http": 80, "https": 443}


class Proxy:
    """A proxy and what it wants to hear. Its repr never shows the password."""

    __slots__ = ("headers", "origin")

    def __init__(self, origin: Origin, headers: tuple[tuple[str, str], ...]) -> None:
        self.origin = origin
        self.headers = headers

    def __repr__(self) -> str:
        return f"Proxy({self.origin.scheme}://{self.origin.authority})"


class Proxies:
    """The choice of a proxy by origin."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # In a CGI program HTTP_PROXY is what the visitor's header "Proxy:" says (httpoxy, CVE-2016-5385).
        usable = {
            name: value for name, value in environ.items() if name != "HTTP_PROXY" or "REQUEST_METHOD" not in environ
        }
        everything = _variable(usable, "all_proxy")
        self._urls = {scheme: _variable(usable, f"{scheme}_proxy") or everything for scheme in _SCHEMES}
        self._direct = tuple(_Exception(entry) for entry in re.split(r"[,\s]+", _variable(usable, "no_proxy")) if entry)

    def proxy_for(self, origin: Origin) -> Proxy | None:
        """The proxy for this origin, None where there is none; `UsageError` where the variable is not a proxy URL."""
        url = self._urls[origin.scheme]
        if not url or any(entry.covers(origin) for entry in self._direct):
            return None
        return _parse(url)


def _variable(environ: Mapping[str, str], name: str) -> str:
    """Lower case wins, even where it is empty: that is how a proxy is switched off for one command."""
    return environ.get(name, environ.get(name.upper(), "")).strip()


def _parse(url: str) -> Proxy:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise UsageError("the proxy variable has no valid host and port; write http://host:port") from error
    if parts.scheme not in _SCHEMES:
        raise UsageError(f"a proxy with the scheme {parts.scheme!r} is not supported; use http://host:port")
    host = checked_host(parts.hostname or "")
    origin = Origin(parts.scheme, host, port or _SCHEMES[parts.scheme])
    if parts.username is None:
        return Proxy(origin, ())
    secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(origin, (("Proxy-Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}"),))


class _Exception:
    """One entry of NO_PROXY."""

    __slots__ = ("_network", "_port", "_suffix")

    def __init__(self, entry: str) -> None:
        name, self._port = _split_port(entry.lower())
        self._suffix = name.removeprefix("*").strip(".")
        self._network = _network(name)
        if name == "*":
            self._suffix = "*"

    def covers(self, origin: Origin) -> bool:
        if self._port is not None and self._port != origin.port:
            return False
        if self._network is not None:
            address = _address(origin.host)
            return address is not None and address in self._network
        host = origin.host.rstrip(".")
        return self._suffix in ("*", host) or (self._suffix != "" and host.endswith(f".{self._suffix}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    """`host:port`, `[v6]:port`, `[v6]`, or a bare name, address or network, an IPv6 one with its colons."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?", entry) or re.fullmatch(r"([^:]*):(\d+)", entry)
    if bracketed is None:
        return entry, None
    return bracketed[1], int(bracketed[2]) if bracketed[2] else None


def _network(name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(name, strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
