"""F1, F2, F3, F6, F7: in front of every server model, from twenty seeds, 10,000 rows over fifteen virtual minutes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from tests.simulation.running import audit
from tests.simulation.servers import MODELS
from tests.simulation.summary import PROPERTY
from tests.simulation.table import failures


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, model in MODELS.items() for seed in model.seeds])
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
