"""F1, F2, F3, F6, F7: in front of every server model, from twenty seeds, 10,000 rows over fifteen virtual minutes.

Servers whose limit is known are tried from all of their seeds each time; of the others a few, and all by `make conformance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest
from _pytest.mark import ParameterSet

from tests.simulation.running import audit
from tests.simulation.servers import MODELS
from tests.simulation.summary import PROPERTY
from tests.simulation.table import failures

KNOWN = ("exact", "noise")
A_FEW = 4


def _trials() -> Iterator[ParameterSet]:
    for name, model in MODELS.items():
        for count, seed in enumerate(model.seeds):
            slow = count >= A_FEW and not name.endswith(KNOWN)
            yield pytest.param(name, seed, marks=[pytest.mark.conformance] if slow else [])


@pytest.mark.parametrize(("name", "seed"), list(_trials()))
def test_the_figures_hold(name: str, seed: int, record_property: Callable[[str, object], None]) -> None:
    """Use of the limit, throttles, recovery, sends and waits obeyed are what the model asks for, and every row is answered."""
    found = audit(MODELS[name], seed)
    record_property(PROPERTY, msgspec.json.encode(found).decode())
    assert not found.broken, "\n" + "\n".join(failures(found))


def test_a_run_replays() -> None:
    """The same seed gives the same figures, another one others: what a failure names can be looked at again."""
    model = MODELS["bucket 1 s, noise"]
    assert audit(model, 1, rows=500) == audit(model, 1, rows=500)
    assert audit(model, 1, rows=500) != audit(model, 2, rows=500)
