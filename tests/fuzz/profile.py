"""How long to look: a few fixed examples in `make test`, as many drawn ones as PENSTOCK_FUZZ_EXAMPLES says in `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "0"))
"""Read at import, because every test starts without the machine's own variables."""

FEW = 60

fuzz = settings(
    max_examples=EXAMPLES or FEW,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def check_told(error: Exception, words: str = "") -> None:
    """A typed error says something, and these words."""
    assert words in str(error)
    assert str(error).strip()
