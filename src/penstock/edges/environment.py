"""What the process was given: variables, descriptor limits, terminals. The one place that asks for them.

It decides how they are read; what to do with them is decided by the callers. It never prints a value of a variable.
"""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import Mapping, Sequence
from typing import IO

from penstock.edges._loop import loop_factory
from penstock.errors import UsageError

RARE_COLLECTIONS = (20_000, 50, 1_000)
"""Python's thresholds by generation; the usual ones are 700, 10, 10."""

_OWN_DESCRIPTORS = 64  # ledger, files, pipes, the loop's own


def api_key(names: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """The first of these variables that is set, without the white space around it; one that is empty is not set.

    Raises `UsageError`, which names the variable and not its value, where it cannot be a header's value.
    """
    for name in names:
        key = environ.get(name, "").strip()
        if not key:
            continue
        if not all("!" <= character <= "~" for character in key):
            raise UsageError(f"{name} has a character that no key has (space, line break, or not ASCII); set it again")
        return key
    return None


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one, where the system lets us; returns the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft  # macOS refuses an unlimited soft limit; the one that holds will do
    return hard


def connection_cap(limit: int) -> int:
    """How many connections fit under a limit of open files: four fifths of what is not our own, at least one.

    No limit at all (RLIM_INFINITY) counts as 2**20, the most that Linux gives by default.
    """
    files = 1 << 20 if limit == resource.RLIM_INFINITY else limit
    return max(1, (files - _OWN_DESCRIPTORS) * 4 // 5)


def runner() -> asyncio.Runner:
    """What runs the loop of a process that is ours alone: on uvloop, where there is one, and hardly ever held up by the collector.

    Requests leave few cycles, and these die young. A full collection finds next to nothing, and with 5,000 streams under way
    it stopped the loop for up to 230 ms; programs of our users decide that for themselves.
    """
    gc.freeze()
    gc.set_threshold(*RARE_COLLECTIONS)
    return asyncio.Runner(loop_factory=loop_factory())


def is_terminal(stream: IO[str] | None) -> bool:
    """True where somebody may be looking: false for files, pipes, a closed stream and none at all."""
    return stream is not None and not stream.closed and stream.isatty()
