"""LangChain's own suites for chat models: ChatPenstock passes what ChatOpenAI passes before the same simulator."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.kit.environment import OFFLINE, PATIENCE_SECONDS, ROOT, environment
from tests.kit.simulated import simulated

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

SUITE = Path(__file__).with_name("langchain_suite.py")
LOOPS = {"Penstock": "function", "OpenAI": "session"}
"""How long an event loop lives in a suite. ChatOpenAI keeps connections of a loop that is closed, so that it gets one for all."""

KNOWN_BY_A_TABLE = {("Units", "test_serdes")}
"""What a class outside of LangChain cannot pass: `load` takes such a class only if it is named, which the suite does not do."""

Outcomes = dict[tuple[str, str], str]
"""By suite and test: passed, skipped, failed or error."""


def outcomes(whose: str, base_url: str, report: Path) -> Outcomes:
    """What became of each test of one chat model."""
    options = [
        *("-q", "--noconftest", f"--rootdir={SUITE.parent}", f"--junitxml={report}", "--benchmark-disable"),
        *("-pno:cacheprovider", "-plangchain_tests.conftest", "-oasyncio_mode=auto", f"-kTest{whose}"),
        f"-oasyncio_default_test_loop_scope={LOOPS[whose]}",
    ]
    command = [environment("langchain"), "-m", "pytest", "-c", os.devnull, *options, SUITE]
    variables = {**OFFLINE, "BASE_URL": base_url, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert report.exists(), done.stdout + done.stderr
    return dict(read(report))


def read(report: Path) -> Iterator[tuple[tuple[str, str], str]]:
    for case in ElementTree.parse(report).iter("testcase"):
        suite = re.sub(r".*\.Test(Penstock|OpenAI)", "", case.get("classname", ""))
        ends = [child.tag for child in case if child.tag in ("skipped", "failure", "error")]
        yield (suite, case.get("name", "")), ends[0] if ends else "passed"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcomes]:
    """The outcomes of both, each before a simulator of its own."""
    folder = tmp_path_factory.mktemp("langchain")
    found = {}
    for whose in LOOPS:
        with simulated("--api-key", "sk-right") as provider:
            found[whose] = outcomes(whose, provider.base_url, folder / f"{whose}.xml")
    return found


def test_nothing_fails(told: dict[str, Outcomes]) -> None:
    """Whole suites, of units and of calls: not one test of ChatPenstock fails."""
    assert len(told["Penstock"]) > 100
    assert {name for name, outcome in told["Penstock"].items() if outcome in ("failure", "error")} == set()


def test_it_passes_all_that_chat_openai_passes(told: dict[str, Outcomes]) -> None:
    """Nothing is skipped that the chat model of OpenAI passes, which passes nearly all."""
    passed = {whose: {name for name, outcome in all_.items() if outcome == "passed"} for whose, all_ in told.items()}
    assert len(passed["OpenAI"]) > 100
    assert passed["OpenAI"] - passed["Penstock"] == KNOWN_BY_A_TABLE
