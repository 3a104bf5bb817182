"""`penstock run --workflow`: a function from a file of the current folder over rows; resumable, and clear about what is wrong."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.simulator.behaviour import expected_text
from tests.kit.command import Command, Ran, Recorder, ended, in_process_of_its_own, json_lines, read_lines, started
from tests.kit.simulated import Simulated, simulated

KEYS = ["id", "index", "value", "usage", "cost", "attempts", "latency_s", "error"]
REVIEW = """
async def review(row, llm):
    summary = await llm.generate(f"Summarise: {row['text']}")
    label = await llm.generate(f"Classify: {summary.text}")
    return {"summary": summary.text, "label": label.text}
"""
PICKY = """
async def review(row, llm):
    summary = await llm.generate(f"Summarise: {row['text']}")
    if row["text"] == "two":
        raise LookupError("no label for it")
    return summary.text
"""


@pytest.fixture(autouse=True)
def _modules() -> Iterator[None]:
    """A module that a test wrote is not there for the next one."""
    before, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith("penstock"):
            del sys.modules[name]
    sys.path[:] = path


def write(code: str, *texts: str, module: str = "reviews") -> None:
    """The workflow and its rows."""
    sys.modules.pop(module, None)
    Path(f"{module}.py").write_text(code)
    Path("in.jsonl").write_bytes(json_lines({"id": f"r-{text}", "text": text} for text in texts))


def run_over(base_url: str, *options: str, workflow: str = "reviews:review") -> list[str]:
    given = ["run", "in.jsonl", "-o", "out.jsonl", "-m", "openai/m", "--base-url", base_url, "--workflow", workflow]
    return [*given, *options]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")


def value_of(text: str) -> dict[str, str]:
    summary = expected_text(f"Summarise: {text}")
    return {"summary": summary, "label": expected_text(f"Classify: {summary}")}


def test_each_line_has_the_value_of_its_row_and_the_sums_of_its_calls(penstock: Command, sim: Simulated) -> None:
    """Keys in the order that is promised; a kept column may be called `text`, for no key of the line is."""
    write(REVIEW, "one", "two", "three")
    ran = penstock(*run_over(sim.base_url, "--keep", "text", "--summary", "sum.json"))
    assert ran.status == 0, ran.err
    lines = read_lines("out.jsonl")
    assert [list(line) for line in lines] == [[*KEYS, "text"]] * 3
    assert [line["value"] for line in lines] == [value_of(text) for text in ("one", "two", "three")]
    assert [(line["id"], line["index"], line["attempts"], line["error"]) for line in lines] == [
        (f"r-{text}", index, 2, None) for index, text in enumerate(("one", "two", "three"))
    ]
    summary = json.loads(Path("sum.json").read_bytes())
    assert (summary["sent"], summary["ok"]) == (6, 3)
    assert summary["calls"] == {"answers": 6, "dropped": 0, "unused": 0, "unused_cost": 0.0}
    assert summary["input_tokens"] == sum(line["usage"]["input_tokens"] for line in lines)
    assert "6 answers to the calls of rows" in ran.err


def test_results_and_verify_know_the_lines_of_a_workflow(penstock: Command, sim: Simulated) -> None:
    write(PICKY, "one", "two")
    assert penstock(*run_over(sim.base_url)).status == 1
    written = Path("out.jsonl").read_text()
    assert penstock("results", "out.jsonl").out == written
    (failed,) = penstock("results", "out.jsonl", "--failed").out.splitlines()
    error = json.loads(failed)["error"]
    assert (error["kind"], error["code"], error["message"]) == (
        "workflow",
        "LookupError",
        "LookupError: no label for it",
    )
    assert 'raise LookupError("no label for it")' in error["trace"]
    verified = penstock("verify", "out.jsonl")
    assert verified.status == 0
    assert "2 rows = 1 ok + 1 failed + 0 left" in verified.out
    assert "2 answers to the calls of rows" in verified.out
    Path("out.jsonl").write_text(written.replace("echo", "Echo", 1))
    assert penstock("verify", "out.jsonl").status == 1


def test_a_row_whose_code_failed_is_run_again_by_the_same_command_at_no_cost(
    penstock: Command, provider: Recorder
) -> None:
    """A helper outside of the function is not seen in its hash: what it does may have changed meanwhile."""
    helper = "from helper import right\n" + PICKY.replace('row["text"] == "two"', 'not right(row["text"])')
    Path("helper.py").write_text("def right(text):\n    return text != 'two'\n")
    write(helper, "one", "two")
    assert penstock(*run_over(provider.base_url)).status == 1
    asked = len(provider.bodies)
    Path("helper.py").write_text("def right(text):\n    return len(text) < 100\n")
    sys.modules.pop("helper"), sys.modules.pop("reviews")
    ran = penstock(*run_over(provider.base_url))
    assert (ran.status, asked, len(provider.bodies)) == (0, 2, 2)
    assert [line["value"] for line in read_lines("out.jsonl")] == [
        "answer to Summarise: one",
        "answer to Summarise: two",
    ]


def test_code_that_changed_is_told_and_an_update_takes_the_answers_that_are_there(
    penstock: Command, provider: Recorder
) -> None:
    write(REVIEW, "one", "two")
    assert penstock(*run_over(provider.base_url)).status == 0
    asked = len(provider.bodies)
    write(REVIEW.replace("Classify: {summary.text}", "Label: {summary.text}"), "one", "two")
    told = penstock(*run_over(provider.base_url))
    assert (told.status, len(provider.bodies)) == (2, asked)
    assert "code changed" in told.err
    assert "2 of 2 rows have no value" in told.err
    assert "--update" in told.err
    updated = penstock(*run_over(provider.base_url, "--update"))
    assert (updated.status, len(provider.bodies) - asked) == (0, 2), updated.err
    assert [line["value"]["label"] for line in read_lines("out.jsonl")] == [
        f"answer to Label: answer to Summarise: {text}" for text in ("one", "two")
    ]
    assert penstock("verify", "out.jsonl").status == 0


def test_rows_that_changed_leave_the_others_as_they_are(penstock: Command, provider: Recorder) -> None:
    write(REVIEW, "one", "two")
    assert penstock(*run_over(provider.base_url)).status == 0
    write(REVIEW, "new", "one", "two")
    told = penstock(*run_over(provider.base_url))
    assert told.status == 2
    assert "the rows changed" in told.err
    assert "1 of 3 rows have no value" in told.err
    assert penstock(*run_over(provider.base_url, "--update", "--summary", "sum.json")).status == 0
    assert len(provider.bodies) == 6
    assert json.loads(Path("sum.json").read_bytes())["reused"] == 2
    verified = penstock("verify", "out.jsonl")
    assert verified.status == 0
    assert "6 answers to the calls" in verified.out


def test_system_message_and_parameters_are_those_of_every_call(penstock: Command, provider: Recorder) -> None:
    write(REVIEW, "one")
    assert penstock(*run_over(provider.base_url, "--system", "Be brief.", "--param", "top_p=0.5")).status == 0
    assert [body["messages"][0]["content"] for body in provider.bodies] == ["Be brief."] * 2
    assert [body["top_p"] for body in provider.bodies] == [0.5, 0.5]


def test_a_ready_made_workflow_goes_by_its_bare_name(penstock: Command, provider: Recorder) -> None:
    write("", "Rain fell all day.")
    assert penstock(*run_over(provider.base_url, workflow="summarise")).status == 0
    (line,) = read_lines("out.jsonl")
    assert line["value"].startswith("answer to Summarise the following text")


def test_a_limit_of_rows_and_equal_rows(penstock: Command, provider: Recorder) -> None:
    write(REVIEW, "one", "one", "one", "two")
    Path("in.jsonl").write_bytes(json_lines({"text": text} for text in ("one", "one", "one", "two")))
    assert penstock(*run_over(provider.base_url, "--limit", "3", "--dedupe")).status == 0
    assert len(provider.bodies) == 2
    lines = read_lines("out.jsonl")
    assert len({json.dumps(line["value"]) for line in lines}) == 1
    assert sum(line["attempts"] for line in lines) == 2
    assert penstock("verify", "out.jsonl").status == 0


def test_a_signal_lets_what_is_in_flight_finish_and_the_same_command_asks_for_nothing_again(penstock: Command) -> None:
    write(REVIEW, *(f"text {index}" for index in range(40)))
    with simulated("--latency", "0.02..0.06") as provider:
        arguments = run_over(provider.base_url, "--max-concurrency", "4", "--summary", "sum.json")
        with started(*arguments) as process:
            while provider.stats()["answered"] < 15:
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            ran: Ran = ended(process)
        assert ran.status == 130, ran.err
        stopped = json.loads(Path("sum.json").read_bytes())
        before = provider.stats()
        assert stopped["calls"]["answers"] == before["answered"] == before["arrived"]
        ran = in_process_of_its_own(*arguments)
        assert ran.status == 0, ran.err
        assert provider.stats()["arrived"] == 80
    assert [line["value"] for line in read_lines("out.jsonl")] == [value_of(f"text {index}") for index in range(40)]
    assert penstock("verify", "out.jsonl").status == 0


def test_rows_from_standard_input_are_counted_once_when_they_come_again(penstock: Command, sim: Simulated) -> None:
    write(PICKY, "one", "two")
    rows = Path("in.jsonl").read_bytes()
    arguments = ["run", "-", *run_over(sim.base_url, "--summary", "sum.json")[2:]]
    for code, sent in ((PICKY, 2), (PICKY, 0)):
        assert in_process_of_its_own(*arguments, stdin=rows).status == 1, code
        summary = json.loads(Path("sum.json").read_bytes())
        assert (summary["rows"], summary["ok"], summary["failed"], summary["sent"]) == (2, 1, 1, sent)
        assert summary["calls"]["answers"] == 2


# -- bad usage


@pytest.mark.parametrize(
    ("workflow", "said"),
    [
        ("nowhere:review", "there is no module 'nowhere'"),
        ("reviews:nothing", "has no 'nothing'"),
        ("reviews:plain", "plain is not async"),
        ("reviews:three", r"three cannot be called as three(row, llm)"),
        ("reviews:number", "is no function"),
        ("summarize", "there is none of that name (summarise)"),
        ("broken:review", "raised ZeroDivisionError"),
        ("needs:review", "needs the module not_installed_anywhere"),
    ],
)
def test_what_is_no_workflow_is_told_before_anything_is_touched(
    penstock: Command, provider: Recorder, workflow: str, said: str
) -> None:
    """Exit 2; no request, no ledger."""
    write("def plain(row, llm): ...\nasync def three(row, llm, more): ...\nnumber = 7\n", "one")
    Path("broken.py").write_text("1 / 0\n")
    Path("needs.py").write_text("import not_installed_anywhere\n")
    ran = penstock(*run_over(provider.base_url, workflow=workflow))
    assert ran.status == 2
    assert said in ran.err
    assert provider.bodies == []
    assert not Path("out.jsonl.ledger").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--prompt", "Summarise {text}"], "--workflow or --prompt"),
        (["--keep", "value"], "has a value of its own"),
        (["--id", "nope"], "there is no column 'nope'"),
        (["--keep", "nope"], "there is no column 'nope'"),
    ],
)
def test_options_and_rows_are_checked_first(
    penstock: Command, provider: Recorder, options: list[str], said: str
) -> None:
    write(REVIEW, "one")
    ran = penstock(*run_over(provider.base_url, *options))
    assert ran.status == 2
    assert said in ran.err
    assert provider.bodies == []


def test_an_update_that_was_cut_goes_on_with_the_answers_of_the_run_before(
    penstock: Command, provider: Recorder
) -> None:
    """The same command after it finds what the update had not come to, and sends none of it."""
    Path("in.jsonl").write_bytes(json_lines({"prompt": f"p {index}"} for index in range(10)))
    command = ["run", "in.jsonl", "-o", "out.jsonl", "-m", "openai/m", "--base-url", provider.base_url]
    assert penstock(*command).status == 0
    Path("in.jsonl").write_bytes(json_lines({"prompt": f"p {index}"} for index in range(-1, 10)))
    assert penstock(*command, "--update", "--limit", "4").status == 0
    assert penstock(*command).status == 0
    assert len(provider.bodies) == 11
