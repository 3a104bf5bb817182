"""LiteLLM's proxy: one worker, a master key, no database, logs of errors only."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from gateways.started import KEY, MODEL, Gateway, Missing, bearer, free_port, version_in

from bench.field import QUIET
from tests.kit.environment import environment


def gateway(upstream: str, folder: Path) -> Gateway:
    try:
        python = environment("litellm")
    except subprocess.SubprocessError as error:
        raise Missing(f"litellm[proxy] cannot be installed: {error}") from error
    params = {"model": f"openai/{MODEL}", "api_base": upstream, "api_key": "unused"}
    told = {
        "model_list": [{"model_name": MODEL, "litellm_params": params}],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"telemetry": False},
    }
    configuration, port = folder / "litellm.yaml", free_port()
    configuration.write_text(json.dumps(told))  # JSON is YAML
    program = python.with_name("litellm")
    return Gateway(
        name="litellm",
        version=f"LiteLLM {version_in(python, 'litellm')}",
        does="master key; 1 worker, no database",
        command=[program, "--config", configuration, "--host", "127.0.0.1", "--port", str(port)],
        base_url=lambda _: f"http://127.0.0.1:{port}/v1",
        environment=QUIET | {"LITELLM_LOG": "ERROR"},
        headers=bearer(),
    )
