"""A simulated provider in a process of its own, as users start it: `with simulated("--fault", "reset=0.1") as sim:`."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

PROGRAM = (sys.executable, "-m", "penstock", "simulate")


class Simulated:
    """A running simulator; `base_url` ends in `/v1`."""

    def __init__(self, process: subprocess.Popen[str], base_url: str) -> None:
        assert process.stdout is not None
        self.process = process
        self.output = process.stdout
        self.base_url = base_url
        self.port = urlsplit(base_url).port

    def stats(self) -> dict[str, Any]:
        """The account so far."""
        return json.loads(self.fetch("GET", "/stats")[1])

    def fetch(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of one plain HTTP request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """End it by a signal; returns its exit status and the rest of its output."""
        self.process.send_signal(number)
        status = self.process.wait(timeout=30)
        return status, self.output.read()


@contextmanager
def simulated(*options: str, port: int = 0) -> Iterator[Simulated]:
    """Start `python -m penstock simulate` with these options, wait until it listens, kill it at the end."""
    command = [*PROGRAM, "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    with process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first.startswith("listening on "), f"simulate said {first!r}, exit {process.wait(timeout=30)}"
            yield Simulated(process, first.split()[-1])
        finally:
            process.kill()
