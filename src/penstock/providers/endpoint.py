"""Where a call goes and what stands above its body: the base URL and the headers, checked once, before a send.

Decides the URL of a call and that a key goes nowhere else. Never shows a key, or what may be one, in a message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from penstock.errors import UsageError
from penstock.providers.catalog import Service

_URL = re.compile(
    r"(?P<origin>https?://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?)(?P<path>/[!-~]*?)?", re.IGNORECASE | re.ASCII
)
_API_VERSION = re.compile(r"api-version=([\w.-]+)", re.ASCII)
_PATH = "/chat/completions"
_KEY = re.compile(r"[!-~]+")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t -~]*")


class Endpoint(msgspec.Struct, frozen=True):
    """The URL of every call: whole, or, where the model stands in it, what comes before and after the model."""

    before_model: str
    after_model: str | None = None

    def url(self, model: str) -> str:
        """The URL of a call to that model."""
        if self.after_model is None:
            return self.before_model
        return f"{self.before_model}{quote(model, safe='')}{self.after_model}"


def endpoint_of(service: Service, base_url: str | None) -> Endpoint:
    """The endpoint below a base URL, or below the service's own.

    A trailing slash and a whole path that ends in `/chat/completions` are understood. Raises `UsageError` for anything
    that is not a plain http or https URL; only Azure's classic form may have a query, `api-version`.
    """
    given = base_url or service.base_url
    if given is None:
        raise UsageError(f"{service.name} has no fixed address; give its --base-url, such as https://HOST/v1")
    bare, _, query = given.strip().partition("?")
    match = _URL.fullmatch(bare)
    if match is None or "#" in bare or "@" in bare:
        raise UsageError(
            f"not a base URL: {_harmless(given)!r}; write http(s)://HOST[:PORT][/PATH], such as https://HOST/v1"
        )
    below = match["origin"] + (match["path"] or "").rstrip("/").removesuffix(_PATH).rstrip("/")
    if service.deployments_api_version is not None and not below.endswith("/openai/v1"):
        return _deployments(below, query, service.deployments_api_version)
    if query:
        raise UsageError(f"the base URL {_harmless(given)!r} must not have a query; remove what follows the '?'")
    return Endpoint(below + _PATH)


def headers_of(service: Service, api_key: str | None, extra: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """All headers but Host and length, made once. Raises `UsageError` for a key or header that HTTP cannot carry."""
    headers = [("Content-Type", "application/json"), ("Accept", "application/json"), ("User-Agent", "penstock")]
    if api_key:
        if not _KEY.fullmatch(api_key):
            raise UsageError(
                f"the key for {service.name} has blanks or other characters that no key has; copy it again"
            )
        bearer = ("Authorization", f"Bearer {api_key}")
        headers.append(bearer if service.key_header == "bearer" else ("api-key", api_key))
    for name, value in extra.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise UsageError(f"the header {name!r} has a name or value that HTTP cannot carry")
    replaced = {name.lower() for name in extra}
    return (*(header for header in headers if header[0].lower() not in replaced), *extra.items())


def _deployments(below: str, query: str, default_version: str) -> Endpoint:
    """Azure's classic form; a deployment that the base URL names stands for every model."""
    version = _API_VERSION.fullmatch(query) if query else None
    if query and version is None:
        raise UsageError("the only query that Azure's base URL may have is api-version=YYYY-MM-DD")
    after = f"{_PATH}?api-version={version[1] if version else default_version}"
    if "/openai/deployments/" in below:
        return Endpoint(below + after)
    return Endpoint(f"{below.removesuffix('/openai')}/openai/deployments/", after)


def _harmless(url: str) -> str:
    """A URL without the places where people put secrets: what stands before its last `@`, and after a `?` or `#`."""
    bare = re.split(r"[?#]", url)[0]
    if "@" in url.removeprefix(bare):  # a password with such a character in it
        return "[hidden]"
    return re.sub(r"^([a-z]{1,5}://)?.*@", r"\1[hidden]@", bare, flags=re.IGNORECASE)
