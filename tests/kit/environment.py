"""Virtual environments for packages of others, each made once from its own hash-locked requirements.

They never share one with the project, nor with each other: their requirements exclude one another.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
PATIENCE_SECONDS = 300
CLOSED_PORT = "http://127.0.0.1:9"
OFFLINE = {
    "PATH": "/usr/bin:/bin",
    "HTTP_PROXY": CLOSED_PORT,
    "HTTPS_PROXY": CLOSED_PORT,
    "NO_PROXY": "127.0.0.1",
    "PYTHONUNBUFFERED": "1",
}
"""The whole environment of a program of others: it has no key, and its only way beyond loopback is a closed port."""


def environment(name: str, purpose: str = "conformance") -> Path:
    """The Python of `.venv-PURPOSE/NAME`, which `requirements/PURPOSE-NAME.txt` locks; made where it is missing or stale.

    Two processes may ask at once: the second waits. Raises CalledProcessError where it cannot be installed.
    """
    lock = ROOT / "requirements" / f"{purpose}-{name}.txt"
    folder = ROOT / f".venv-{purpose}"
    home = folder / name
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        stamp = home / f"installed-{hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]}"
        if not stamp.exists():
            _make(home, lock)
            stamp.touch()
    return home / "bin" / "python"


def _make(home: Path, lock: Path) -> None:
    python = home / "bin" / "python"
    _uv("venv", "--quiet", "--clear", "--python", sys.executable, home)
    # The system's certificates, as in the Makefile: for a machine behind a proxy that has its own.
    _uv("pip", "install", "--quiet", "--system-certs", "--python", python, "--require-hashes", "-r", lock)


def _uv(*arguments: str | Path) -> None:
    subprocess.run([UV, *arguments], check=True, timeout=PATIENCE_SECONDS)


def told_by(python: Path, script: Path, *arguments: object) -> Any:
    """The JSON that a script prints in its environment; fails with what it said where it fails."""
    command = [python, script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=OFFLINE, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
