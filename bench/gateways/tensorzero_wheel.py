"""TensorZero (Rust), from its PyPI wheel: no observability, no database, no authentication (that needs PostgreSQL)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from gateways.started import MODEL, Gateway, Missing, bearer, version_in

from tests.kit.environment import environment

CONFIGURATION = """
[gateway]
observability.enabled = false
disable_pseudonymous_usage_analytics = true

[models.{model}]
routing = ["upstream"]

[models.{model}.providers.upstream]
type = "openai"
model_name = "{model}"
api_base = "{upstream}/"
api_key_location = "none"
"""

DOES = (
    "no keys, no log, no limits; it leaves Nagle's algorithm on, so that a stream alone on its connection waits about 40 ms for"
    " the client's delayed acknowledgement (2 ms in all where the client acknowledges at once, which clients do not)"
)


def gateway(upstream: str, folder: Path) -> Gateway:
    try:
        python = environment("gateway-tensorzero", "bench")
    except subprocess.SubprocessError as error:
        raise Missing(f"its wheel cannot be installed: {error}") from error
    configuration = folder / "tensorzero.toml"
    configuration.write_text(CONFIGURATION.format(model=MODEL, upstream=upstream))
    return Gateway(
        name="tensorzero",
        version=f"TensorZero {version_in(python, 'tensorzero')}",
        does=DOES,
        command=[python, Path(__file__).with_name("tensorzero_server.py"), configuration],
        base_url=_announced,
        headers=bearer(),
        model=f"tensorzero::model_name::{MODEL}",
    )


def _announced(said: str) -> str | None:
    found = re.search(r"^serves (\S+)$", said, re.MULTILINE)
    return found[1] if found else None
