"""Names to addresses, kept for a short while, and the no-network switch: whatever connects asks here first.

The switch cannot sit in `socket`: uvloop connects without it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, TypeAlias, cast

from penstock.errors import NotSent

# Shorter than any usual DNS time to live that matters, long enough for a burst of connections.
CACHE_SECONDS = 30.0

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
Address: TypeAlias = tuple[socket.AddressFamily, SocketAddress]
AddressInfo: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]

_forbidden = 0


def forbid_network() -> Callable[[], None]:
    """Forbid every address but loopback, in this process; returns the function that lifts this ban again.

    Bans nest. A forbidden address raises `NotSent("connect")` with code "forbidden".
    """
    global _forbidden
    _forbidden += 1
    lifted = False

    def lift() -> None:
        global _forbidden
        nonlocal lifted
        if not lifted:
            lifted = True
            _forbidden -= 1

    return lift


def network_is_forbidden() -> bool:
    """True while a ban holds; another process has to be told of it."""
    return _forbidden > 0


class Resolver:
    """Looks names up through the event loop; one look-up serves all who ask for the same name meanwhile."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._lookups: dict[tuple[str, int], asyncio.Task[list[Address]]] = {}

    async def addresses(self, host: str, port: int) -> list[Address]:
        """The addresses of a host, in the order to try; `NotSent` where it has none or must not be reached."""
        literal = _literal(host, port)
        if _forbidden and not _is_loopback(host):
            raise NotSent("connect", f"{host}: the network is switched off, only loopback is allowed", code="forbidden")
        return [literal] if literal is not None else await self._lookup(host, port)

    async def _lookup(self, host: str, port: int) -> list[Address]:
        key = (host, port)
        kept = self._kept.get(key)
        if kept is not None and monotonic() < kept[0]:
            return kept[1]
        task = self._lookups.get(key)
        if task is None:
            task = self._lookups[key] = asyncio.create_task(_find(host, port))
            task.add_done_callback(lambda done: self._looked_up(key, done))
        # Waited for and not awaited, because the others who wait for the same name must not be cancelled along.
        await asyncio.wait([task])
        if task.cancelled():
            raise NotSent("connect", f"{host}: the transport was closed meanwhile", code="closed")
        return task.result()

    def _looked_up(self, key: tuple[str, int], task: asyncio.Task[list[Address]]) -> None:
        self._lookups.pop(key, None)
        # Failures are not kept: a name may be back in a second. Asking for the exception marks it as seen.
        if not task.cancelled() and task.exception() is None:
            self._kept[key] = (monotonic() + CACHE_SECONDS, task.result())

    async def aclose(self) -> None:
        """Give up the look-ups under way."""
        lookups = tuple(self._lookups.values())
        for task in lookups:
            task.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)


async def _find(host: str, port: int) -> list[Address]:
    try:
        found = await _ask_system(host, port)
    except (OSError, UnicodeError) as error:
        raise NotSent("connect", f"{host}: the name was not found ({error}); check the base URL", code="dns") from error
    addresses: list[Address] = [
        (family, cast("SocketAddress", address)) for family, _, _, _, address in found if family in _FAMILIES
    ]
    if not addresses:
        raise NotSent("connect", f"{host}: the name has no address", code="dns")
    return list(dict.fromkeys(addresses))


async def _ask_system(host: str, port: int) -> Sequence[AddressInfo]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def _literal(host: str, port: int) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return socket.AF_INET, (host, port)
    return socket.AF_INET6, (host, port, 0, 0)


def _is_loopback(host: str) -> bool:
    """Decided without DNS, which is a network too: only addresses and the name that is loopback by RFC 6761."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
