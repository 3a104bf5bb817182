"""What the plain programs of `examples/` do in front of the same simulated provider as Penstock's.

`python -m tests.examples.plain_side` prints both, chapter by chapter: the figures of docs/guide.md. It judges nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.kit.environment import OFFLINE, ROOT, environment
from tests.kit.simulated import Simulated, simulated

EXAMPLES = ROOT / "examples"
PATIENCE_SECONDS = 90
CALLERS = 50


class Chapter(NamedTuple):
    """A pair of programs: the environment of the plain one, the provider in front of both, the arguments of each run."""

    name: str
    packages: tuple[str, str]
    provider: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...] = ((),)


OPENAI = ("openai3", "conformance")
CHAPTERS = (
    Chapter("01_why_async", OPENAI, ("--rpm", "600", "--burst", "5", "--latency", "0.2")),
    Chapter("02_one_and_many", OPENAI, ("--latency", "0.1")),
    Chapter("03_batches", OPENAI, ("--latency", "0.05,1.0")),
    Chapter("04_concurrency_limit", OPENAI, ("--rpm", "1200", "--burst", "1", "--latency", "0.05")),
    Chapter("05_errors_and_retries", ("tenacity", "bench"), ("--latency", "0.1", "--retry-after", "0.3")),
    Chapter("05_after_a_crash", OPENAI, ("--latency", "0.1"), (("--die-after", "40"), ())),
    Chapter("06_streaming", OPENAI, ("--output-tokens", "22", "--latency", "0.1", "--token-latency", "0.01")),
    Chapter("07_langchain_chain", ("langchain", "conformance"), ("--latency", "0.1")),
    Chapter("09_good_practice", OPENAI, ("--latency", "0.1")),
)


class Told(NamedTuple):
    """What a program printed, on both streams, and the account of the provider afterwards."""

    lines: list[str]
    stats: dict[str, Any]


def plain(chapter: Chapter) -> Told:
    """The plain program, all its runs, in an environment that has nothing of this project."""
    program = [environment(*chapter.packages), EXAMPLES / f"{chapter.name}_plain.py"]
    with simulated(*chapter.provider) as provider:
        key = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": provider.base_url}
        return Told(_printed(program, chapter, key), provider.stats())


def ours(chapter: Chapter) -> Told:
    """Penstock's program in front of an equal provider."""
    with simulated(*chapter.provider) as provider:
        there = ("-m", "custom/simulated", "--base-url", provider.base_url)
        return Told(_printed([sys.executable, EXAMPLES / f"{chapter.name}.py", *there], chapter, {}), provider.stats())


def _printed(program: list[Any], chapter: Chapter, variables: dict[str, str]) -> list[str]:
    with TemporaryDirectory() as folder:
        said = []
        for arguments in chapter.runs:
            done = subprocess.run(
                [*program, *arguments],
                cwd=folder,
                env={**OFFLINE, **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
            said += done.stdout.splitlines()
    return said


class Calls(NamedTuple):
    """How many callers of a service got which status, and how long that took."""

    statuses: dict[int, int]
    seconds: float


@contextmanager
def service(python: str | Path, name: str, variables: dict[str, str]) -> Iterator[str]:
    """One of the services of `examples/` on a free port; its address."""
    code = f"import runpy, uvicorn; uvicorn.run(runpy.run_path({str(EXAMPLES / name)!r})['app'], port=0)"
    command = [python, "-c", code]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**OFFLINE, **variables}
    )
    with process:
        try:
            assert process.stderr is not None
            said = [""]
            while "running on" not in said[-1]:
                assert process.poll() is None, said
                said.append(process.stderr.readline())
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield re.findall(r"http://[\d.:]+", said[-1])[0]
        finally:
            process.kill()


def called(base_url: str, callers: int = CALLERS) -> Calls:
    """So many callers of `/generate` at once."""
    statuses: Counter[int] = Counter()

    def call(number: int) -> None:
        body = json.dumps({"prompt": f"Caller {number} asks."}).encode()
        try:
            with urlopen(Request(f"{base_url}/generate", body, {"content-type": "application/json"})) as answer:
                statuses[answer.status] += 1
        except HTTPError as error:
            with error:
                statuses[error.code] += 1

    began = time.perf_counter()
    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    return Calls(dict(statuses), time.perf_counter() - began)


SERVICE_PROVIDER = ("--rpm", "600", "--burst", "2", "--latency", "0.2")


def services() -> tuple[tuple[Calls, dict[str, Any]], tuple[Calls, dict[str, Any]]]:
    """The plain service and ours, each with the account of its provider."""

    def measured(python: str | Path, name: str, provider: Simulated, variables: dict[str, str]) -> Any:
        with service(python, name, variables) as base_url:
            return called(base_url), provider.stats()

    with simulated(*SERVICE_PROVIDER) as provider:
        key = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": provider.base_url}
        bare = measured(environment("litellm"), "08_own_service_plain.py", provider, key)
    with simulated(*SERVICE_PROVIDER) as provider:
        there = {"MODEL": "custom/simulated", "BASE_URL": provider.base_url}
        return bare, measured(sys.executable, "08_own_service.py", provider, there)


def _told() -> Iterator[str]:
    """All of it, line by line."""
    for chapter in CHAPTERS:
        yield f"\n== {chapter.name}  ({' '.join(chapter.provider)})"
        for side in (plain, ours):
            told = side(chapter)
            yield from (f"{side.__name__}:", *told.lines, _account(told.stats))
    yield "\n== 08_own_service"
    for calls, stats in services():
        yield from (f"{calls.statuses} in {calls.seconds:.1f} s", _account(stats))


def _account(stats: dict[str, Any]) -> str:
    return "provider: " + ", ".join(f"{stats[name]} {name}" for name in ("arrived", "answered", "throttled", "peak"))


if __name__ == "__main__":
    for line in _told():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
