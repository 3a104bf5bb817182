"""What a caller may set, as few frozen values. A bad value is told at once, by name, before anything is sent.

None means "no such limit", everywhere. Durations are seconds.
"""

from __future__ import annotations

import math
from functools import cache

import msgspec

from penstock.errors import UsageError


def positive(**values: object) -> None:
    """Refuse zero, negative, infinite and not-a-number; None passes."""
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{name} must be a number, not {value!r}")
        if not value > 0 or math.isinf(value):
            raise UsageError(f"{name} must be a positive number, not {value!r}")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the account allows. What is not set is learned: from the provider's headers, or from what it lets through.

    `share` is how much of every limit to use, told and learned ones too: 0.6 leaves 40 % to others on the same key.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None
    requests_per_day: float | None = None
    tokens_per_day: float | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        positive(**msgspec.structs.asdict(self))
        if self.share > 1:
            raise UsageError(f"share must be above 0 and at most 1 (0.6 is 60 % of the limit), not {self.share!r}")


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """A line of requests of its own: where several wait, turns are shared by weight, whatever the length of each line."""

    name: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        positive(weight=self.weight)


INTERACTIVE = Lane(name="interactive", weight=8.0)
"""Single calls: somebody waits for each, so that they need not stand behind a batch."""

BATCH = Lane(name="batch")
"""The rows of a run."""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How long to go on trying.

    `max_retries` counts what may be billed again (a lost or useless answer) and a 5xx while others are answered;
    throttles and refused connections cost none. `deadline` bounds one row with all its attempts and waits.
    """

    max_retries: int = 5
    deadline: float | None = None

    def __post_init__(self) -> None:
        positive(deadline=self.deadline)
        retries: object = self.max_retries
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise UsageError(f"max_retries must be 0 or a positive whole number, not {retries!r}")


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a request waits for its turn, in seconds and all in all, and behind how many others at most."""

    longest_wait: float = 60.0
    longest_line: int = 1_000

    def __post_init__(self) -> None:
        positive(max_wait=self.longest_wait, max_waiting=self.longest_line)


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one attempt.

    `first_byte` is long because an answer that is not streamed starts only when it is complete; killing it early
    bills it twice (the official clients also wait 600 s). `total` is what users set as `timeout`.
    """

    connect: float = 5.0
    first_byte: float = 600.0
    between_bytes: float = 60.0
    total: float | None = None
    first_byte_of_stream: float = 120.0

    def __post_init__(self) -> None:
        positive(timeout=self.total, connect=self.connect, first_byte=self.first_byte, between_bytes=self.between_bytes)


@cache
def for_streams(timeouts: Timeouts) -> Timeouts:
    """The same bounds where the answer is read as it comes: its first byte comes sooner than a whole answer."""
    return msgspec.structs.replace(timeouts, first_byte=min(timeouts.first_byte, timeouts.first_byte_of_stream))
