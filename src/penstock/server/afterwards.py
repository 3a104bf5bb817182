"""What happens to a request once it is over and nobody waits: the request log, post-processing, traces.

It opens and closes them with the server; each decides for itself what it tells.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import UsageError
from penstock.server.exchange import Exchange
from penstock.server.request_log import PostProcessing, RequestLog, Step
from penstock.server.settings import Listening

if TYPE_CHECKING:
    from penstock.edges.opentelemetry import Telemetry


class Afterwards:
    """`listeners` are given each exchange; none of them waits. Raises `UsageError` for a step that cannot be found."""

    def __init__(self, listening: Listening, data: Path) -> None:
        self._log = (
            RequestLog(data / "requests.jsonl", content=listening.log_content) if listening.request_log else None
        )
        self._telemetry = _telemetry() if listening.otel else None
        steps = [_step(name) for name in listening.after]
        if self._telemetry is not None:
            steps.append(self._telemetry.exchange)  # the SDK takes 140 us for one, which no request should wait for
        self._steps = PostProcessing(steps) if steps else None
        self.listeners: list[Callable[[Exchange], object]] = [
            part.record for part in (self._log, self._steps) if part is not None
        ]

    def log_statistics(self) -> Mapping[str, float]:
        """Of the request log; empty without one."""
        return self._log.statistics() if self._log is not None else {}

    def step_statistics(self) -> Mapping[str, float]:
        """Of the post-processing; empty without any."""
        return self._steps.statistics() if self._steps is not None else {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Take exchanges until the block is left, then write and send what waits."""
        async with AsyncExitStack() as stack:
            if self._telemetry is not None:
                stack.push_async_callback(self._telemetry.aclose)
            for part in (self._log, self._steps):
                if part is not None:
                    await part.start()
                    stack.push_async_callback(part.aclose)
            yield


def make_private_folder(path: Path) -> None:
    """The folder that holds the server's state; raises `UsageError` where it cannot be made."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--data {path} cannot be used: {error.strerror or error}; name another folder") from error


def _telemetry() -> Telemetry:
    try:
        from penstock.edges.opentelemetry import exporting
    except ImportError as error:
        raise UsageError(
            f"server.otel needs the extra `otel` ({error.name} is missing): pip install 'penstock[otel]'"
        ) from error
    return exporting()


def _step(name: str) -> Step:
    """The function that `module:function` names, looked for in the current folder too."""
    module, colon, function = name.partition(":")
    if not colon:
        raise UsageError(f"server.after: {name!r} must be module:function")
    sys.path.insert(0, "")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"server.after: {name} cannot be found: {error}") from error
    finally:
        sys.path.remove("")
    if not callable(found):
        raise UsageError(f"server.after: {name} is not a function")
    step: Step = found
    return step
