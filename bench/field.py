"""Who is measured and how one is started: contenders, providers, one turn. It decides nothing about figures."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import msgspec

from bench.points import Case, Told
from tests.kit.environment import OFFLINE, environment
from tests.kit.simulated import simulated

HERE = Path(__file__).parent
PROGRAMS = HERE / "contenders"
QUIET = {
    f"LITELLM_LOCAL_{name}": "true"
    for name in ("MODEL_COST_MAP", "ANTHROPIC_BETA_HEADERS", "BLOG_POSTS", "POLICY_TEMPLATES")
}
"""What keeps LiteLLM from looking for news in the network."""


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers the calls: a program in `contenders/`, in the project's environment or in one of its own."""

    name: str
    program: str
    arguments: tuple[str, ...] = ()
    environment: tuple[str, str] | None = None
    """Purpose and name, as `requirements/PURPOSE-NAME.txt` has it."""

    whole: bool = True
    streams: bool = True
    slow: bool = False
    """A call costs it milliseconds, and its start seconds: it gets fewer rounds and places (`points.Length`)."""

    least_in_flight: int = 1

    def takes(self, case: Case) -> bool:
        return self.streams if case.streams else self.whole

    def spared(self, case: Case, in_flight: int) -> str | None:
        """Why it need not be measured there, where time is short."""
        if in_flight < self.least_in_flight:
            return f"meant for {self.least_in_flight:,} and more"
        if self.slow and case.slow_levels is not None and in_flight not in case.slow_levels:
            return "not measured, to spare time"
        return None


CONTENDERS = (
    Contender(name="floor", program="floor.py", streams=False),
    Contender(name="penstock", program="penstock_map.py"),
    Contender(name="penstock, ledger", program="penstock_map.py", arguments=("--ledger",), streams=False),
    Contender(name="penstock run", program="penstock_run.py", streams=False),
    Contender(
        name="penstock run, 2 processes",
        program="penstock_run.py",
        arguments=("--processes", "2"),
        streams=False,
        least_in_flight=64,
    ),
    Contender(
        name="aiohttp on uvloop",
        program="aiohttp_session.py",
        arguments=("--uvloop",),
        environment=("bench", "aiohttp"),
    ),
    Contender(name="aiohttp", program="aiohttp_session.py", environment=("bench", "aiohttp")),
    Contender(name="httpx2", program="httpx_client.py", environment=("conformance", "openai3"), slow=True),
    Contender(name="openai", program="openai_sdk.py", environment=("conformance", "openai3"), slow=True),
    Contender(name="langchain", program="langchain_chat.py", environment=("bench", "langchain"), slow=True),
    Contender(name="litellm", program="litellm_sdk.py", environment=("conformance", "litellm"), slow=True),
)
BY_NAME = {contender.name: contender for contender in CONTENDERS}


class Ended(Exception):
    """A contender ended before its work, or went on for too long; the text says how."""


class Provider(msgspec.Struct, frozen=True):
    """A running simulator and the variables that a client needs to trust it."""

    base_url: str
    variables: dict[str, str] = {}  # msgspec copies it


@contextmanager
def provided(case: Case, folder: Path) -> Iterator[Provider]:
    """The provider of a case, in a process of its own."""
    if not case.tls:
        with simulated(*case.options) as server:
            yield Provider(server.base_url)
        return
    authority = folder / "authority.pem"
    with subprocess.Popen(
        [sys.executable, HERE / "tls_simulator.py", authority], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield Provider(process.stdout.readline().split()[-1], {"SSL_CERT_FILE": str(authority)})
        finally:
            process.kill()


@cache
def python_of(contender: Contender) -> Path:
    """The interpreter of its environment, which is made if need be; raises `Ended` where it cannot be."""
    if contender.environment is None:
        return Path(sys.executable)
    purpose, name = contender.environment
    try:
        return environment(name, purpose)
    except subprocess.SubprocessError as error:
        raise Ended(f"its environment cannot be made: {error}") from error


def command_of(contender: Contender) -> Sequence[str | Path]:
    return [python_of(contender), PROGRAMS / contender.program, *contender.arguments]


def turn(contender: Contender, case: Case, provider: Provider, calls: int, in_flight: int, patience: float) -> Told:
    """One contender at so many calls; raises `Ended`."""
    work = {"base_url": provider.base_url, "calls": calls, "in_flight": in_flight, "streams": case.streams}
    with tempfile.TemporaryDirectory() as home:
        try:
            done = subprocess.run(
                command_of(contender),
                input=json.dumps(work),
                capture_output=True,
                text=True,
                cwd=home,
                env=OFFLINE | QUIET | provider.variables | {"HOME": home},
                timeout=patience,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise Ended(f"not done after {patience:,.0f} s") from late
    if done.returncode:
        raise Ended((done.stderr.strip() or "it said nothing").splitlines()[-1][:200])
    told = msgspec.json.decode(done.stdout.splitlines()[-1], type=Told)
    return msgspec.structs.replace(told, calls=calls)
