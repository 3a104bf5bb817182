"""No gateway: the load asks the simulated provider itself. What all others are compared with."""

from __future__ import annotations

import platform
from pathlib import Path

from gateways.started import Gateway, bearer


def gateway(upstream: str, _: Path) -> Gateway:
    return Gateway(
        name="none",
        version=f"penstock simulate, Python {platform.python_version()}",
        does="the provider itself",
        base_url=lambda _: upstream,
        headers=bearer(),
    )
