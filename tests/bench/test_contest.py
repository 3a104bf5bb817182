"""What every contender of the benchmark is given, and that those of the project still run."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.contenders.contest import Work, by_workers, gathered, measure, prompts
from bench.field import BY_NAME, Ended, Provider, provided, turn
from bench.guarded import WORKS
from bench.points import CASES
from tests.kit.environment import ROOT

ZERO, _, TLS, TOGETHER, _ = CASES


@pytest.mark.parametrize("kind", [gathered, by_workers])
async def test_no_more_are_asked_at_once_than_may_be_in_flight_and_all_are_asked(kind) -> None:
    asked: list[str] = []
    at_once = most = 0

    async def answer(prompt: str) -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        asked.append(prompt)
        return "yes"

    assert await kind(answer, 3)(prompts(20)) == 20
    assert most == 3
    assert sorted(asked) == sorted(prompts(20))


def test_a_contender_that_does_not_answer_all_has_no_figures() -> None:
    def all_but_one(asked: Iterable[str]) -> int:
        count = len(list(asked))
        return count if count == 1 else count - 1

    with pytest.raises(AssertionError, match="9 of 10 calls were answered"):
        measure(all_but_one, Work("http://127.0.0.1:9/v1", 10, 1))


def test_the_warm_up_is_no_part_of_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    rounds: list[list[str]] = []

    def answer_all(asked: Iterable[str]) -> int:
        rounds.append(list(asked))
        return len(rounds[-1])

    measure(answer_all, Work("http://127.0.0.1:9/v1", 5, 1), "msgspec")
    assert [len(asked) for asked in rounds] == [1, 5]
    told = json.loads(capsys.readouterr().out)
    assert told["versions"][0].startswith("msgspec ")
    assert told["peak_mb"] > 1


SPIN = "import time\nwhile time.process_time() < 0.2: pass"


def test_the_cpu_of_processes_that_a_contender_starts_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """A fifth of a second in a process of its own, at the measured calls only, is seen as at least that."""

    def answer_all(asked: Iterable[str]) -> int:
        count = len(list(asked))
        if count > 1:
            subprocess.run([sys.executable, "-c", SPIN], check=True)
        return count

    measure(answer_all, Work("http://127.0.0.1:9/v1", 10, 1))
    assert json.loads(capsys.readouterr().out)["cpu_us"] * 10 > 190_000


def test_a_contender_that_leaves_a_process_behind_has_no_figures() -> None:
    """Its CPU would be missing."""
    left: list[subprocess.Popen[str]] = []

    def answer_all(asked: Iterable[str]) -> int:
        count = len(list(asked))
        if count > 1:
            left.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True))
        return count

    with pytest.raises(AssertionError, match="still there"):
        measure(answer_all, Work("http://127.0.0.1:9/v1", 10, 1))
    with left[0] as process:
        process.kill()


@pytest.mark.parametrize("name", ["floor", "penstock", "penstock, ledger", "penstock run"])
def test_contenders_of_the_project_run(name: str, tmp_path: Path) -> None:
    with provided(ZERO, tmp_path) as provider:
        told = turn(BY_NAME[name], ZERO, provider, 20, 4, 60)
    assert told.calls == 20
    assert told.cpu_us > 0
    assert told.rate > 0


def test_they_run_over_tls_and_trust_nobody_else(tmp_path: Path) -> None:
    with provided(TLS, tmp_path) as provider:
        assert provider.base_url.startswith("https://")
        assert turn(BY_NAME["floor"], TLS, provider, 5, 2, 60).calls == 5
        with pytest.raises(Ended, match=r"(?i)certificate"):
            turn(BY_NAME["floor"], TLS, Provider(provider.base_url), 5, 2, 60)


def test_streams_run(tmp_path: Path) -> None:
    with provided(TOGETHER, tmp_path) as provider:
        assert turn(BY_NAME["penstock"], TOGETHER, provider, 5, 2, 60).calls == 5


def test_one_that_cannot_go_on_says_why(tmp_path: Path) -> None:
    with pytest.raises(Ended):
        turn(BY_NAME["floor"], ZERO, Provider("http://127.0.0.1:9/v1"), 5, 2, 60)


@pytest.mark.parametrize("name", WORKS)
def test_what_the_guard_counts_runs(name: str) -> None:
    subprocess.run([sys.executable, ROOT / "bench" / "guarded.py", name, "3"], check=True, timeout=60)
