"""A gateway as a process: how it is started, when it serves, what memory and time it takes. Linux only: it reads /proc.

It knows no gateway; each has a file of its own here, which makes a `Gateway`.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tests.kit.environment import OFFLINE

KEY = "sk-bench-7d2c1f9be4a85036"
"""What every gateway that can is told to ask of its callers."""

MODEL = "m"
REST_SECONDS = 10
_TICKS = os.sysconf("SC_CLK_TCK")


class Missing(Exception):
    """This gateway cannot be set up here; the text says why."""


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway in front of one upstream. `base_url` finds its address in what it has said, or gives None so far."""

    name: str
    version: str
    does: str
    """What it does with each request, for the reader of the table."""

    command: Sequence[str | Path] = ()
    base_url: Callable[[str], str | None]
    environment: dict[str, str] = {}  # msgspec copies it
    headers: dict[str, str] = {}
    model: str = MODEL


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def bearer(key: str = KEY) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def chat(model: str, prompt: str, stream: bool = False) -> str:
    """The body of a request, whole or streamed."""
    asked = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    return json.dumps(asked | {"stream": True} if stream else asked)


class Started:
    """A gateway that was started; `base_url` once it serves."""

    base_url: str

    def __init__(self, gateway: Gateway, process: subprocess.Popen[bytes] | None, log: Path) -> None:
        self.gateway = gateway
        self._process = process
        self._log = log

    def await_answer(self, prompt: str, until: float) -> None:
        """Ask until it answers; raises `Missing` where it ends, refuses, or has not come up at that (monotonic) time."""
        why = "it never said where it serves"
        while time.monotonic() < until:
            if self._process is not None and self._process.poll() is not None:
                raise Missing(f"it ended with status {self._process.returncode}: {self._last_line()}")
            if base_url := self.gateway.base_url(self._log.read_text(errors="replace")):
                self.base_url = base_url
                with suppress(OSError, http.client.HTTPException):
                    status, body = self._ask(prompt)
                    if status == 200:
                        return
                    why = f"it answers {status}: {body[:200]}"
            time.sleep(0.2)
        raise Missing(f"not ready in time: {why}; {self._last_line()}")

    def _ask(self, prompt: str) -> tuple[int, str]:
        url = urlsplit(self.base_url)
        assert url.hostname is not None
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
        try:
            headers = {"content-type": "application/json", **self.gateway.headers}
            connection.request("POST", f"{url.path}/chat/completions", chat(self.gateway.model, prompt), headers)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()

    def _last_line(self) -> str:
        return (self._log.read_text(errors="replace").strip() or "it said nothing").splitlines()[-1][:200]

    def _processes(self) -> list[int]:
        """It and all that it started: they share its session."""
        if self._process is None:
            return []
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and _session(int(entry.name)) == self._process.pid
        ]

    def forget_peak(self) -> None:
        """From now on the peak of memory counts anew, where the kernel lets us."""
        for number in self._processes():
            with suppress(OSError):
                Path(f"/proc/{number}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        return sum(_peak_kb(number) for number in self._processes()) / 1024

    def cpu_seconds(self) -> float:
        return sum(_cpu_ticks(number) for number in self._processes()) / _TICKS

    def come_to_rest(self) -> None:
        """Wait a while until it is idle: one that was left with unanswered requests may still be at work on them."""
        until, used = time.monotonic() + REST_SECONDS, self.cpu_seconds()
        while time.monotonic() < until:
            time.sleep(0.25)
            before, used = used, self.cpu_seconds()
            if used - before < 0.05:
                return


def _session(number: int) -> int:
    try:
        return os.getsid(number)
    except OSError:
        return 0


def _peak_kb(number: int) -> int:
    try:
        status = Path(f"/proc/{number}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) if "VmHWM:" in status else 0


def _cpu_ticks(number: int) -> int:
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


@contextmanager
def started(gateway: Gateway, folder: Path) -> Iterator[Started]:
    """Start it, in a session of its own, its home a folder of its own, with no way beyond loopback; kill all of it at the end."""
    log = folder / "said.log"
    if not gateway.command:
        log.touch()
        yield Started(gateway, None, log)
        return
    env = OFFLINE | {"HOME": str(folder)} | gateway.environment
    with (
        log.open("wb") as said,
        subprocess.Popen(
            gateway.command, stdout=said, stderr=said, cwd=folder, env=env, start_new_session=True
        ) as process,
    ):
        try:
            yield Started(gateway, process, log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def version_in(python: Path, distribution: str) -> str:
    """What version an environment has of a distribution."""
    ask = f"from importlib.metadata import version; print(version({distribution!r}))"
    return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
