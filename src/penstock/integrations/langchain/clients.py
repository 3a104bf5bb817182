"""Which client carries a call: one for each event loop, one for calls without a loop; equal settings share them.

It opens, finds and closes clients; what is sent through them it never sees.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import Any, Self

import msgspec

from penstock.blocking import Client as BlockingClient
from penstock.client import Client
from penstock.options import Limits


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What makes two clients the same: the arguments of `Client`. Its repr shows no key."""

    model: str
    base_url: str | None = None
    api_key: str | None = None
    limits: Limits | None = None
    max_concurrency: int | None = None
    max_retries: int = 5
    timeout: float | None = None

    def __repr__(self) -> str:
        return f"Settings({self.model!r}, {self.base_url!r})"

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of a client."""
        return msgspec.structs.asdict(self)


class Clients:
    """The clients of some settings. They are opened as they are needed, and again after a close.

    A loop that is ended as `asyncio.run` does it ends its generators first, and a transport is closed by one; the client for
    calls without a loop is closed at the exit of the program; all of them when nobody holds this object any more. Raises
    `UsageError` for settings that cannot be right.
    """

    def __init__(self, settings: Settings) -> None:
        Client(**settings.arguments())  # it holds nothing open yet; what is wrong is told here
        self.settings = settings
        self._lock = threading.Lock()
        self._by_loop: dict[asyncio.AbstractEventLoop, Client] = {}
        self._blocking: BlockingClient | None = None
        self._finalizer: weakref.finalize[[BlockingClient], Clients] | None = None

    # One object for all copies: a model that is copied deep shares its clients too, and one from a pickle finds them.

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, tuple[Settings]]:
        return shared, (self.settings,)

    def here(self) -> Client:
        """The client of the running loop."""
        loop = asyncio.get_running_loop()
        client = self._by_loop.get(loop)
        if client is None:
            client = Client(**self.settings.arguments())
            with self._lock:
                self._by_loop = {known: one for known, one in self._by_loop.items() if not known.is_closed()}
                self._by_loop[loop] = client
        return client

    def blocking(self) -> BlockingClient:
        """The client for calls without a loop."""
        with self._lock:
            if self._blocking is None:
                self._blocking = BlockingClient(**self.settings.arguments())
                self._finalizer = weakref.finalize(self, _close_apart, self._blocking)
                self._finalizer.atexit = False  # the client closes itself at the exit, when no thread can be started
            return self._blocking

    def close(self) -> None:
        """Close the client for calls without a loop. Calling it twice does no harm."""
        with self._lock:
            client, self._blocking = self._blocking, None
            if self._finalizer is not None:
                self._finalizer.detach()
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close the client of the running loop, and the one for calls without a loop."""
        with self._lock:
            client = self._by_loop.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()
        await asyncio.to_thread(self.close)


def _close_apart(client: BlockingClient) -> None:
    """Close in a thread of its own: what collects garbage may be the client's own loop, which cannot wait for itself."""
    threading.Thread(target=client.close, name="penstock-close", daemon=True).start()


_shared: weakref.WeakValueDictionary[Settings, Clients] = weakref.WeakValueDictionary()
_sharing = threading.Lock()


def shared(settings: Settings) -> Clients:
    """The clients of these settings, made for the first who asks; raises `UsageError` for what cannot be right."""
    with _sharing:
        found = _shared.get(settings)
        if found is None:
            found = _shared[settings] = Clients(settings)
        return found
