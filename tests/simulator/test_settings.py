"""What a simulated provider cannot be is refused at once, by name."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.errors import UsageError
from penstock.simulator.behaviour import Phase, Settings


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        ({"input_tokens_per_minute": 0}, "input_tokens_per_minute"),
        ({"requests_per_day": -1}, "requests_per_day"),
        ({"slots": 0}, "slots"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"batch_slowdown": -0.1}, "batch_slowdown"),
        ({"window": "open"}, "window must be one of bucket, fixed, sliding"),
        ({"charge": "nothing"}, "charge must be one of reserved, unset, actual"),
        ({"headers": "false"}, "headers must be one of right"),
        ({"schedule": (Phase(at=2.0), Phase(at=2.0))}, "order of time"),
    ],
)
def test_what_cannot_be_is_refused(chosen: dict[str, Any], name: str) -> None:
    """With the name of the setting and what it may be."""
    with pytest.raises(UsageError, match=name):
        Settings(**chosen)


@pytest.mark.parametrize("chosen", [{"at": -1.0}, {"at": 0.0, "limit_share": 0.0}, {"at": 0.0, "foreign_share": -0.1}])
def test_a_phase_that_cannot_be_is_refused(chosen: dict[str, float]) -> None:
    """A limit of nothing is an outage, and is told as one."""
    with pytest.raises(UsageError, match="a phase needs"):
        Phase(**chosen)
