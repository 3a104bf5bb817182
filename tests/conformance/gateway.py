"""The gateway as clients of others meet it: `penstock serve` in a process of its own, and the two providers behind it.

A client is a script that goes through scenarios in an environment of its own; `session` is what it tells. One provider is the
simulator. The other is obedient: it answers with the status, headers and error that its prompt names as JSON, or with the body
that it was sent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kit.environment import environment, told_by
from tests.kit.simulated import Simulated, simulated
from tests.kit.threaded import Handler, threaded

KEY = "sk-conformance-5d1e0a7c"
"""Long enough for the gateway to take it."""

SERVE = (sys.executable, "-m", "penstock", "serve", "--port", "0")
READY = "listening on "
PATIENCE_SECONDS = 60
LIMITS = ("--rpm", "60000", "--tpm", "90000000")
"""Of the simulator: more than any client here uses, so that its headers tell limits and nothing is throttled."""


class Gateway:
    """A running gateway. `base_url` ends in `/v1`; `said` is what it has told on standard error."""

    def __init__(self, url: str, said: list[str], key: str | None) -> None:
        self.url, self.base_url, self.said, self.key = url, f"{url}/v1", said, key

    def fetch(self, path: str) -> bytes:
        """The answer to a GET."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key is not None else {}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=30) as answer:
            return bytes(answer.read())

    def arrived(self, model: str) -> int:
        """How many requests for a model have been answered, however they ended."""
        return self._counted("penstock_requests_total", model)

    def sent(self, model: str) -> int:
        """How often one was sent to the provider."""
        return self._counted("penstock_attempts_total", model)

    def _counted(self, metric: str, model: str) -> int:
        lines = [line for line in self.fetch("/metrics").decode().splitlines() if line.startswith(f"{metric}{{")]
        return sum(round(float(line.rpartition(" ")[2])) for line in lines if f'model="{model}"' in line)

    @property
    def failures(self) -> list[str]:
        """What it logged as its own fault."""
        return [line for line in self.said if '"level":"error"' in line or "Traceback" in line]


@contextmanager
def serving(*options: str | Path, key: str | None = None, env: dict[str, str] | None = None) -> Iterator[Gateway]:
    """`penstock serve OPTIONS` until the end of the block."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
    if key is not None:
        env["PENSTOCK_SERVER_KEY"] = key
    with subprocess.Popen(
        [*SERVE, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        said: list[str] = []
        ready = threading.Event()
        reader = threading.Thread(target=_read, args=(process, said, ready))
        reader.start()
        try:
            assert ready.wait(PATIENCE_SECONDS), said
            urls = [line.removeprefix(READY).strip() for line in said if line.startswith(READY)]
            assert urls, said
            yield Gateway(urls[0], said, key)
        finally:
            process.kill()
            reader.join()


def _read(process: subprocess.Popen[str], said: list[str], ready: threading.Event) -> None:
    """Keep what it says, so that it never has to wait for a reader."""
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        if line.startswith(READY):
            ready.set()
    ready.set()


class Obedient:
    """A provider that does what its prompt says; `bodies` is what it was sent."""

    def __init__(self) -> None:
        self.base_url = ""
        self.bodies: list[dict[str, Any]] = []

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers and body of an answer."""
        self.bodies.append(body)
        asked = wish(body["messages"][-1]["content"])
        headers = asked.get("headers", {})
        if "error" in asked:
            return asked["status"], headers, {"error": asked["error"]}
        message = {"role": "assistant", "content": json.dumps(body), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        known = {"id": "chatcmpl-told", "object": "chat.completion", "created": 1, "model": body["model"]}
        return 200, headers, {**known, "choices": [choice], "usage": usage, "x_told": {"by": "the provider"}}


def wish(prompt: Any) -> dict[str, Any]:
    """What a prompt asks for; nothing where it is no JSON object."""
    try:
        asked = json.loads(prompt)
    except (TypeError, ValueError):
        return {}
    return asked if isinstance(asked, dict) else {}


@contextmanager
def obedient() -> Iterator[Obedient]:
    """An obedient provider on loopback, in threads."""
    provider = Obedient()

    class Wished(Handler):
        def answer(self, body: bytes) -> None:
            status, headers, told = provider.answer(json.loads(body))
            self.tell(json.dumps(told).encode(), status, headers)

    with threaded(Wished) as base_url:
        provider.base_url = base_url
        yield provider


CONFIGURATION = """
[server]
grace = 1
max_wait = 2

[endpoints.simulator]
base_url = "{simulator}"

[endpoints.obedient]
base_url = "{obedient}"

[models."custom/m"]
endpoint = "simulator"

[models.once-more]
model = "custom/once-more"
endpoint = "simulator"
max_retries = 1

[models.hasty]
model = "custom/hasty"
endpoint = "simulator"
max_retries = 0
timeout = 0.5

[models.told]
model = "custom/told"
endpoint = "obedient"
max_retries = 0

[models.throttled]
model = "custom/throttled"
endpoint = "obedient"

[models.penniless]
model = "custom/penniless"
endpoint = "obedient"

[models.paced]
model = "custom/paced"
endpoint = "simulator"
rpm = 20
"""
"""Whoever asks for a model of its own counts its own requests: nothing else asks for it."""

MODELS = ["m", "once-more", "hasty", "told", "throttled", "penniless", "paced"]


class Stage:
    """A gateway and the providers behind it."""

    def __init__(self, gateway: Gateway, simulator: Simulated, told: Obedient) -> None:
        self.gateway, self.simulator, self.obedient = gateway, simulator, told
        self.base_url = gateway.base_url


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """All of `CONFIGURATION`, with no key."""
    with simulated(*LIMITS) as simulator, obedient() as told:
        folder.mkdir()
        configuration = folder / "penstock.toml"
        configuration.write_text(CONFIGURATION.format(simulator=simulator.base_url, obedient=told.base_url))
        with serving("--config", configuration, "--data", folder / "data") as gateway:
            yield Stage(gateway, simulator, told)


@contextmanager
def locked(folder: Path) -> Iterator[Gateway]:
    """A gateway of one model, started by the command line alone, that wants a key."""
    with simulated(*LIMITS) as simulator:
        options = ["-m", "custom/m", "--base-url", simulator.base_url, "--data", folder / "data"]
        with serving(*options, key=KEY) as gateway:
            yield gateway


class Session:
    """What a client tells of its scenarios, and the account of the gateway and of the simulator after them."""

    def __init__(self, told: dict[str, Any], scene: Stage, behind_a_key: Gateway) -> None:
        self._told = told
        self.seconds = {name: round(scenario["seconds"], 2) for name, scenario in told.items()}
        self.simulator = scene.simulator.stats()
        self.arrived = {model: scene.gateway.arrived(model) for model in MODELS}
        self.sent = {model: scene.gateway.sent(model) for model in MODELS}
        self.failures = [*scene.gateway.failures, *behind_a_key.failures]

    def __call__(self, scenario: str) -> Any:
        """What it tells of one; fails with its trace where that broke."""
        told = self._told[scenario]
        assert "broke" not in told, told["broke"]
        return told["told"]


def session(client: str, script: Path, folder: Path) -> Session:
    """One process of a client goes through all its scenarios: to import it takes longer than they do."""
    python = environment(client)
    with stage(folder / "open") as scene, locked(folder / "locked") as behind_a_key:
        told = told_by(python, script, scene.base_url, behind_a_key.base_url, KEY)
        return Session(told, scene, behind_a_key)
