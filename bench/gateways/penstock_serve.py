"""Penstock's own server, with authentication, limits, accounting and metrics on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gateways.started import KEY, MODEL, Gateway, Missing, bearer, free_port, version_in

from tests.kit.simulated import PROGRAM

REQUESTS_PER_MINUTE = 100_000_000
TOKENS_PER_MINUTE = 100_000_000_000
"""Limits that are kept count of and never reached."""


def gateway(upstream: str, folder: Path) -> Gateway:
    serve = [*PROGRAM[:-1], "serve"]
    if subprocess.run([*serve, "--help"], capture_output=True, check=False).returncode:
        raise Missing("`penstock serve` is not there: is the extra `server` installed?")
    port = free_port()
    limits = ["--rpm", str(REQUESTS_PER_MINUTE), "--tpm", str(TOKENS_PER_MINUTE)]
    address: list[str | Path] = ["--port", str(port), "--data", folder / "data"]
    return Gateway(
        name="penstock",
        version=f"Penstock {version_in(Path(sys.executable), 'penstock')}",
        does="keys, limits, accounting, metrics",
        command=[*serve, "-m", f"custom/{MODEL}", "--base-url", upstream, *limits, *address],
        base_url=lambda _: f"http://127.0.0.1:{port}/v1",
        environment={"PENSTOCK_SERVER_KEY": KEY},
        headers=bearer(),
        model=f"custom/{MODEL}",
    )
