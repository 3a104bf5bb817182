"""Portkey's gateway from npm, on Node: no keys of its own; headers of the request choose the upstream.

Its lock holds `@hono/node-server` at 1.13.8: with what npm would choose, every stream is a 500 (Portkey-AI/gateway#1389).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

from gateways.started import Gateway, Missing, bearer, free_port

from tests.kit.environment import PATIENCE_SECONDS, ROOT

LOCK = ROOT / "requirements" / "bench-gateway-portkey"
HOME = ROOT / ".venv-bench" / "gateway-portkey"
PACKAGE = "@portkey-ai/gateway"


def gateway(upstream: str, _: Path) -> Gateway:
    node = shutil.which("node")
    if node is None:
        raise Missing("there is no node")
    package, port = installed(), free_port()
    version = json.loads((package / "package.json").read_text())["version"]
    says = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return Gateway(
        name="portkey",
        version=f"Portkey {version}, Node {says}",
        does="no keys, no log, no limits",
        command=[node, package / "build" / "start-server.js", f"--port={port}", "--headless"],
        base_url=lambda _: f"http://127.0.0.1:{port}/v1",
        environment={"NODE_ENV": "production"},
        headers=bearer() | {"x-portkey-provider": "openai", "x-portkey-custom-host": upstream},
    )


def installed() -> Path:
    """The package's folder, installed by its lock where that is not done yet; no script of a package runs."""
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("there is no npm")
    stamp = HOME / f"installed-{hashlib.sha256((LOCK / 'package-lock.json').read_bytes()).hexdigest()[:16]}"
    if not stamp.exists():
        shutil.rmtree(HOME, ignore_errors=True)
        shutil.copytree(LOCK, HOME)
        command = [npm, "ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund"]
        try:
            subprocess.run(command, cwd=HOME, check=True, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        except subprocess.CalledProcessError as error:
            raise Missing(f"npm cannot install it: {error.stderr.strip().splitlines()[-1:]}") from error
        except subprocess.TimeoutExpired as error:
            raise Missing(f"npm has not installed it in {PATIENCE_SECONDS} s") from error
        stamp.touch()
    return HOME / "node_modules" / PACKAGE
