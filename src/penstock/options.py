"""What a caller may set, as few frozen values. A bad value is told at once, by name, before anything is sent.

None means "no such limit", everywhere. Durations are seconds.
"""

from __future__ import annotations

import math

import msgspec

from penstock.errors import UsageError


def _positive(**values: object) -> None:
    """Refuse zero, negative, infinite and not-a-number; None passes."""
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{name} must be a number, not {value!r}")
        if not value > 0 or math.isinf(value):
            raise UsageError(f"{name} must be a positive number, not {value!r}")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the account allows, per minute. Without any, Penstock sends 100 at a time and obeys what the provider answers."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        _positive(**msgspec.structs.asdict(self))


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How long to go on trying.

    `max_retries` counts what may be billed again (a lost or useless answer) and a 5xx while others are answered;
    throttles and refused connections cost none. `deadline` bounds one row with all its attempts and waits.
    """

    max_retries: int = 5
    deadline: float | None = None

    def __post_init__(self) -> None:
        _positive(deadline=self.deadline)
        retries: object = self.max_retries
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise UsageError(f"max_retries must be 0 or a positive whole number, not {retries!r}")


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one attempt.

    `first_byte` is long because an answer that is not streamed starts only when it is complete; killing it early
    bills it twice (the official clients also wait 600 s). `total` is what users set as `timeout`.
    """

    connect: float = 5.0
    first_byte: float = 600.0
    between_bytes: float = 60.0
    total: float | None = None

    def __post_init__(self) -> None:
        _positive(
            timeout=self.total, connect=self.connect, first_byte=self.first_byte, between_bytes=self.between_bytes
        )
