"""What `penstock.toml` may say, and what that means. Every mistake is told with its place in the file, before anything starts.

Keys never stand in the file: it names the environment variables that hold them.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from penstock.errors import UsageError
from penstock.options import Limits, positive

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_USUAL_VARIABLE = re.compile(r"[A-Z]{1,12}|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+", re.ASCII)
_ANY_HOST = "*"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MIB = 1024 * 1024


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file: a name that is not one of its fields is a mistake."""


class Listening(_Table, frozen=True):
    """`[server]`: where to listen, whom to believe, how much to take. Durations in seconds, sizes in MiB."""

    host: str = "127.0.0.1"
    port: int = 8000
    hosts: list[str] = []
    """Further names under which the server may be addressed; `*` for any."""
    data: str = "./penstock-data"
    grace: float = 30.0
    max_wait: float = 60.0
    max_waiting: int = 1_000
    max_body_mib: float = 32.0
    max_upload_mib: float = 200.0
    max_batch_lines: int = 50_000
    request_log: bool = True
    log_content: bool = False
    otel: bool = False
    after: list[str] = []
    """`module:function`: called with the `Exchange` of every request, once it is over and nobody waits."""


class Key(_Table, frozen=True):
    """`[keys.NAME]`: a key that clients may send; `variable` holds it, `lane` is where its requests stand in line."""

    variable: str
    lane: str = "interactive"


class LaneWeight(_Table, frozen=True):
    """`[lanes.NAME]`: where several lanes wait, turns are shared by weight."""

    weight: float = 1.0


class Endpoint(_Table, frozen=True):
    """`[endpoints.NAME]`: a server of one's own, or a provider by another address; `key` names the variable of its key."""

    base_url: str
    key: str | None = None


class Served(_Table, frozen=True):
    """`[models.NAME]`: a model to serve. `model` is `provider/model`, by default NAME itself."""

    model: str | None = None
    endpoint: str | None = None
    key: str | None = None
    rpm: float | None = None
    tpm: float | None = None
    input_tpm: float | None = None
    output_tpm: float | None = None
    rpd: float | None = None
    tpd: float | None = None
    share: float = 1.0
    max_concurrency: int | None = None
    max_retries: int = 5
    timeout: float | None = None
    deadline: float | None = None
    hedge: bool = False

    @property
    def limits(self) -> Limits:
        """What the account allows."""
        return Limits(
            requests_per_minute=self.rpm,
            tokens_per_minute=self.tpm,
            input_tokens_per_minute=self.input_tpm,
            output_tokens_per_minute=self.output_tpm,
            requests_per_day=self.rpd,
            tokens_per_day=self.tpd,
            share=self.share,
        )


class Settings(_Table, frozen=True):
    """The whole file."""

    server: Listening = Listening()
    models: dict[str, Served] = {}
    endpoints: dict[str, Endpoint] = {}
    keys: dict[str, Key] = {}
    lanes: dict[str, LaneWeight] = {}

    def check(self) -> None:
        """Raises `UsageError` for what cannot be right although every field is of its kind."""
        if not self.models:
            raise UsageError(
                "no model to serve: name one by -m PROVIDER/MODEL, or by a table [models.NAME] in the file"
            )
        listening = self.server
        positive(
            **{f"server.{name}": getattr(listening, name) for name in ("grace", "max_wait", "max_waiting")},
            **{f"server.{name}": getattr(listening, name) for name in ("max_body_mib", "max_upload_mib")},
            **{"server.max_batch_lines": listening.max_batch_lines},
            **{f"lanes.{name}.weight": lane.weight for name, lane in self.lanes.items()},
        )
        if not 0 <= listening.port <= 65_535:
            raise UsageError(f"server.port must be from 0 to 65535, not {listening.port}")
        if not self.keys and not is_loopback(listening.host):
            raise UsageError(
                f"refusing to listen on {listening.host} without a key: whoever reaches it could spend your money. Name the "
                "variable of a key by --key or in [keys.NAME], or listen on 127.0.0.1"
            )
        self._check_names()

    def _check_names(self) -> None:
        known = {"interactive", "batch", *self.lanes}
        for name, key in self.keys.items():
            _check_variable(f"keys.{name}.variable", key.variable)
            if key.lane not in known:
                raise UsageError(f"keys.{name}.lane: no lane {key.lane!r}; known are {', '.join(sorted(known))}")
        for name, endpoint in self.endpoints.items():
            _check_variable(f"endpoints.{name}.key", endpoint.key)
        for name, served in self.models.items():
            _check_variable(f"models.{name}.key", served.key)
            if served.endpoint is not None and served.endpoint not in self.endpoints:
                raise UsageError(f"models.{name}.endpoint: there is no table [endpoints.{served.endpoint}]")

    @property
    def variables(self) -> list[str]:
        """The environment variables that hold keys."""
        own = [key.variable for key in self.keys.values()]
        upstream = [endpoint.key for endpoint in self.endpoints.values()] + [
            served.key for served in self.models.values()
        ]
        return own + [name for name in upstream if name is not None]

    @property
    def host_names(self) -> frozenset[str] | None:
        """Under which names the server answers, in lower case and without the port; None for any."""
        listening = self.server
        if _ANY_HOST in listening.hosts:
            return None
        own = [] if listening.host in ("0.0.0.0", "::") else [_in_brackets(listening.host)]  # noqa: S104  compared, not bound
        return frozenset(name.lower() for name in (*LOOPBACK_NAMES, *own, *map(_in_brackets, listening.hosts)))


def read_settings(path: Path) -> Settings:
    """The settings in a file. Raises `UsageError` that names the file and the place in it."""
    try:
        with path.open("rb") as stream:
            values = tomllib.load(stream)
        return msgspec.convert(values, Settings)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {_with_its_place(values, str(error))}") from error


def _with_its_place(values: dict[str, Any], message: str) -> str:
    """What is wrong, with the name of its table where the checker says `[...]`: it tells no keys of a mapping."""
    for kind, table in (("models", Served), ("endpoints", Endpoint), ("keys", Key), ("lanes", LaneWeight)):
        named = values.get(kind)
        for name, fields in named.items() if isinstance(named, dict) else ():
            try:
                msgspec.convert(fields, table)
            except msgspec.ValidationError as error:
                if f"`$.{kind}[...]" in message:
                    return (
                        str(error).replace("`$", f"`{kind}.{name}")
                        if "`$" in str(error)
                        else f"{error} - at `{kind}.{name}`"
                    )
    return message.replace("$.", "")


def is_loopback(host: str) -> bool:
    """True where only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def variable_words(name: str) -> str:
    """An environment variable in words; by its name only where that cannot be a key which was put in its place."""
    return (
        f"the environment variable {name}"
        if _USUAL_VARIABLE.fullmatch(name)
        else "the environment variable that it names"
    )


def _in_brackets(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _check_variable(where: str, name: str | None) -> None:
    """The value is not repeated: it may be the key itself."""
    if name is not None and not _VARIABLE.fullmatch(name):
        raise UsageError(f"{where} must be the name of an environment variable that holds the key, not the key itself")
