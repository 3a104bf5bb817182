"""Chains over many inputs: each row at its own pace, right answers in right rows, nothing asked twice after a cut."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel, RunnablePassthrough
from pydantic import BaseModel

from penstock.errors import UsageError
from penstock.integrations.langchain import ChatPenstock, run
from penstock.integrations.langchain.runs import digest_of, models_of
from penstock.jobs import progress
from penstock.options import Limits
from penstock.records import Result
from penstock.simulator.behaviour import Settings, expected_text
from penstock.simulator.server import Server, serve
from tests.kit.simulated import simulated

ROWS = [{"id": f"r{index}", "text": f"text {index} of all"} for index in range(40)]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve(Settings(latency=0.001)) as running:
        yield running


def model_for(server: Server, **options: Any) -> ChatPenstock:
    return ChatPenstock(**{"model": "custom/m", "base_url": server.base_url, **options})


def two_steps(model: Any) -> Runnable[Any, Any]:
    """Summarise, then classify the summary."""
    summary = PromptTemplate.from_template("Summarise: {text}") | model | StrOutputParser()
    return {"summary": summary} | PromptTemplate.from_template("Classify: {summary}") | model | StrOutputParser()


def expected(row: dict[str, str]) -> str:
    return expected_text(f"Classify: {expected_text('Summarise: ' + row['text'])}")


async def all_of(results: AsyncIterator[Result]) -> list[Result]:
    return [result async for result in results]


async def test_each_row_has_its_own_answer(server: Server, tmp_path: Path) -> None:
    """With its id, its sums over both calls, and nothing lost."""
    results = await all_of(run(two_steps(model_for(server)), ROWS, ledger=tmp_path / "a.ledger", ordered=True))
    assert [result.id for result in results] == [row["id"] for row in ROWS]
    assert [result.value for result in results] == [expected(row) for row in ROWS]
    assert {result.attempts for result in results} == {2}
    assert all(result.usage is not None and result.usage.output_tokens > 20 for result in results)
    assert server.stats().answered == 2 * len(ROWS)


async def test_a_run_that_was_cut_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    """No answer that is recorded is asked for again, also one of a row that was half-way."""
    ledger, chain = tmp_path / "a.ledger", two_steps(model_for(server))
    first: list[Result] = []
    async with aclosing(run(chain, ROWS, ledger=ledger)) as results_so_far:
        async for result in results_so_far:
            first.append(result)
            if len(first) == 7:
                break
    results = await all_of(run(chain, ROWS, ledger=ledger, ordered=True))
    assert [result.value for result in results] == [expected(row) for row in ROWS]
    assert [result.reused for result in results].count(True) >= 7
    again = await all_of(run(chain, ROWS, ledger=ledger, ordered=True))
    assert [result.value for result in again] == [result.value for result in results]


ROWS_UNDER_WAY = 8 + 8 // 4 + 1
"""Of the program below: its `max_concurrency`, and a few that wait."""

PROGRAM = """
import asyncio, sys
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from penstock.integrations.langchain import ChatPenstock, run

base_url, ledger = sys.argv[1:]
model = ChatPenstock(model="custom/m", base_url=base_url, max_concurrency=8)
first, second = (PromptTemplate.from_template(word + ": {text}") | model | StrOutputParser() for word in ("One", "Two"))

async def main():
    rows = [{"text": f"row {index}"} for index in range(150)]
    async for result in run(first | second, rows, ledger=ledger):
        print(result.index, result.value, flush=True)

asyncio.run(main())
"""


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """After kill -9 no answer that was recorded is asked for again: at most one of each row that was under way then."""
    with simulated("--latency", "0.002") as provider:
        command = [sys.executable, "-c", PROGRAM, provider.base_url, str(tmp_path / "a.ledger")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
            assert killed.stdout is not None
            seen = [killed.stdout.readline() for _ in range(60)]
            killed.kill()
        assert all(seen)
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        values = dict(line.split(" ", 1) for line in done.stdout.splitlines())
        assert values == {
            str(index): expected_text(f"Two: {expected_text(f'One: row {index}')}") for index in range(150)
        }
        assert provider.stats()["prompts"] == 300
        assert provider.stats()["duplicates"] <= ROWS_UNDER_WAY


async def test_a_step_that_fails_is_paid_for_once(server: Server, tmp_path: Path) -> None:
    """The second step breaks for some rows: the same call runs them again, and their first answers come from the ledger."""
    broken = True

    def classify(summary: str) -> str:
        if broken and summary.endswith(("3 of all", "7 of all")):
            raise RuntimeError("out of order")
        return summary.upper()

    chain = PromptTemplate.from_template("Summarise: {text}") | model_for(server) | StrOutputParser() | classify
    results = await all_of(run(chain, ROWS, ledger=tmp_path / "a.ledger", ordered=True))
    failed = [result for result in results if not result.ok]
    assert [result.index % 10 for result in failed] == [3, 7] * 4
    assert {result.error.kind for result in failed if result.error} == {"workflow"}
    broken = False
    results = await all_of(run(chain, ROWS, ledger=tmp_path / "a.ledger", ordered=True))
    assert [result.value for result in results] == [expected_text(f"Summarise: {row['text']}").upper() for row in ROWS]
    assert (server.stats().answered, server.stats().duplicates) == (len(ROWS), 0)


async def test_a_failed_row_never_has_the_answer_of_another(server: Server) -> None:
    """LangChain's retried batches did (langchain 35475): here each input is a row, whatever fails around it."""
    rows = [f"[[simulate:400]] row {index}" if index % 3 == 1 else f"row {index}" for index in range(30)]
    chain = model_for(server, max_retries=0).with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    results = await all_of(run(chain | StrOutputParser(), rows))
    assert sorted(result.index for result in results) == list(range(30))
    for result in results:
        if result.index % 3 == 1:
            assert result.error is not None
            assert (result.value, result.error.kind) == (None, "invalid_request")
        else:
            assert result.value == expected_text(rows[result.index])


async def test_rows_do_not_wait_for_one_another_between_steps(server: Server) -> None:
    """The first step of one row waits until another row is through all steps: with a barrier it would wait for ever."""
    through = asyncio.Event()

    async def first(row: dict[str, str]) -> dict[str, str]:
        if row["id"] == "r0":
            await through.wait()
        return row

    async def last(text: str) -> str:
        if "text 1 of" in text:
            through.set()
        return text

    chain = RunnableLambda(first) | two_steps(model_for(server)) | RunnableLambda(last)
    async with asyncio.timeout(60):
        results = await all_of(run(chain, ROWS[:2]))
    assert [result.id for result in results] == ["r1", "r0"]


async def test_as_many_rows_at_once_as_was_said(server: Server) -> None:
    """And inputs are drawn only as they are used."""
    under_way = most = 0

    async def counted(row: dict[str, str]) -> dict[str, str]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(100):
            await asyncio.sleep(0)
        under_way -= 1
        return row

    await all_of(run(RunnableLambda(counted) | two_steps(model_for(server)), ROWS, max_concurrency=3))
    assert most == 3


class Watched:
    """The lines of progress, each as soon as can be; `views` is where they had their figures. `told` is set by the first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.views: list[progress.View] = []
        self.told = asyncio.Event()
        self._figures = progress.figures
        monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0.0)
        monkeypatch.setattr(progress, "figures", self.figures)

    def figures(self, view: progress.View, rate: float) -> str:
        self.views.append(view)
        self.told.set()
        return self._figures(view, rate)

    async def hold(self, row: Any) -> Any:
        """A step that nothing passes before there was a line."""
        await self.told.wait()
        return row


async def test_progress_is_told_on_standard_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of how many, and what they took; rows out of the ledger count. Without `progress` nothing is said."""
    watched = Watched(monkeypatch)
    chain, ledger = RunnableLambda(watched.hold) | two_steps(model_for(server)), tmp_path / "a.ledger"
    await all_of(run(chain, ROWS, ledger=ledger, progress=True))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("0/40 rows: 0 ok · 0 failed · ")
    tally = watched.views[-1].tally
    assert (tally.done, tally.sent, tally.reused) == (40, 80, 0)
    assert tally.totals.output_tokens > 40 * 20
    await all_of(run(chain, ROWS, ledger=ledger))
    assert capsys.readouterr() == ("", "")
    await all_of(run(chain, (row for row in [*ROWS, {"text": "one more"}]), ledger=ledger, progress=True))
    assert capsys.readouterr().err.startswith("0 rows: 0 ok")
    again = watched.views[-1].tally
    assert (again.done, again.sent, again.reused) == (41, 2, 40)


async def test_progress_ends_with_the_run(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with one that is left early: no task goes on telling of it."""
    watched = Watched(monkeypatch)
    before = asyncio.all_tasks()
    async with aclosing(run(RunnableLambda(watched.hold) | model_for(server), ROWS, progress=True)) as results:
        await anext(results)
    assert watched.views
    assert {task for task in asyncio.all_tasks() - before if "progress" in repr(task)} == set()


class Labels(BaseModel):
    """What a text is about."""

    topic: str
    pages: int


async def test_whatever_asks_inside_a_chain_is_recorded(server: Server, tmp_path: Path) -> None:
    """Structured answers, streams, calls of threads and branches side by side."""
    model = model_for(server)

    async def streamed(row: dict[str, str]) -> str:
        return "".join([chunk.text async for chunk in model.astream(f"Stream {row['text']}")])

    def in_a_thread(row: dict[str, str]) -> str:
        return model.invoke(f"Thread {row['text']}").text + "".join(
            chunk.text for chunk in model.stream(f"Thread stream {row['text']}")
        )

    labels = PromptTemplate.from_template("Label: {text}") | model.with_structured_output(Labels)
    chain = RunnableParallel(
        streamed=RunnableLambda(streamed),
        threaded=RunnableLambda(in_a_thread),
        labels=labels,
        row=RunnablePassthrough(),
    )
    ledger = tmp_path / "a.ledger"
    results = await all_of(run(chain, ROWS[:5], ledger=ledger, ordered=True))
    for row, result in zip(ROWS, results, strict=False):
        assert result.error is None
        text = row["text"]
        assert result.value["streamed"] == expected_text(f"Stream {text}")
        threaded = expected_text(f"Thread {text}") + expected_text(f"Thread stream {text}")
        assert result.value["threaded"] == threaded
        assert result.value["labels"]["pages"] == int(text.split()[1])
        assert result.value["row"] == row
        assert result.calls is not None
        assert result.calls.answers == 4
    assert server.stats().answered == 20


async def test_a_step_that_would_stop_the_loop_says_so(server: Server) -> None:
    """`invoke` inside an async step of a recorded row can only wait for itself."""
    model = model_for(server)

    async def wrong(row: str) -> str:
        return model.invoke(row).text

    (result,) = await all_of(run(RunnableLambda(wrong), ["row"]))
    assert result.error is not None
    assert "ainvoke" in result.error.message


async def test_other_limits_make_no_other_chain(server: Server, tmp_path: Path) -> None:
    """How fast and how often is asked is no part of what is asked: all rows are there already."""
    ledger = tmp_path / "a.ledger"
    await all_of(run(two_steps(model_for(server)), ROWS[:3], ledger=ledger))
    faster = model_for(server, limits=Limits(requests_per_minute=60_000), max_retries=1, timeout=20)
    results = await all_of(run(two_steps(faster), ROWS[:3], ledger=ledger))
    assert all(result.reused for result in results)
    assert server.stats().answered == 6


async def test_a_chain_that_was_changed_is_run_again(server: Server, tmp_path: Path) -> None:
    """The rows have other values now; what its steps ask as before is answered from the ledger."""
    ledger, model = tmp_path / "a.ledger", model_for(server)
    await all_of(run(two_steps(model), ROWS[:3], ledger=ledger))
    changed = two_steps(model) | RunnableLambda(shout)
    results = await all_of(run(changed, ROWS[:3], ledger=ledger, ordered=True))
    assert [result.value for result in results] == [expected(row).upper() for row in ROWS[:3]]
    assert server.stats().answered == 6


def shout(text: str) -> str:
    return text.upper()


def whisper(text: str) -> str:
    return text.lower()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PromptTemplate.from_template("A {x}"), PromptTemplate.from_template("B {x}")),
        (RunnableLambda(shout), RunnableLambda(whisper)),
        (StrOutputParser(), RunnableLambda(shout)),
        (RunnableParallel(a=shout), RunnableParallel(b=shout)),
        (RunnableParallel(a=shout), RunnableParallel(a=whisper)),
    ],
)
def test_what_tells_a_chain_from_another(one: Any, other: Any) -> None:
    """Prompts, functions, forms; the same chain made twice is the same."""
    tail = RunnableLambda(shout)
    assert digest_of(one | tail) != digest_of(other | tail)
    assert digest_of(one | RunnableLambda(shout)) == digest_of(one | tail)


def named_alike(loud: bool) -> Any:
    """One of two functions that differ in what they do, and in nothing that a repr shows."""
    if loud:

        def step(text: str) -> str:
            return text.upper()
    else:

        def step(text: str) -> str:
            return text.lower()

    return RunnableLambda(step)


def test_a_function_that_was_changed_makes_another_chain() -> None:
    """Its source counts, not its name."""
    chains = [StrOutputParser() | named_alike(loud) for loud in (True, False, True)]
    one, other, again = map(digest_of, chains)
    assert one == again
    assert one != other


def test_models_are_found_wherever_a_chain_has_them() -> None:
    """Bound, configured, as fallback, side by side, inside a function."""
    model = ChatPenstock(model="custom/m", base_url="http://127.0.0.1:9/v1")

    def inside(text: str) -> Any:
        return model.invoke(text)

    for chain in (
        model,
        model.bind(stop=["a"]),
        StrOutputParser().with_fallbacks([model]),
        RunnableParallel(a=shout, b=model | shout),
        RunnableLambda(inside),
        {"a": model.with_retry()} | RunnableLambda(shout),
        model.bind_tools([]).with_config(tags=["a"]) | StrOutputParser(),
    ):
        assert list(models_of(chain)) == [model]
    assert list(models_of(StrOutputParser())) == []


async def test_models_of_several_accounts(server: Server, tmp_path: Path) -> None:
    """Two models of one account share a ledger; of two accounts they do not, and without a ledger both are asked."""
    summary = model_for(server) | StrOutputParser()
    chain = summary | model_for(server, model="custom/n") | StrOutputParser()
    results = await all_of(run(chain, ["a", "b"], ledger=tmp_path / "a.ledger", ordered=True))
    assert [result.value for result in results] == [expected_text(expected_text(text)) for text in "ab"]
    apart = summary | model_for(server, api_key="sk-another") | StrOutputParser()
    with pytest.raises(UsageError, match="account"):
        await all_of(run(apart, ["a"], ledger=tmp_path / "b.ledger"))
    (result,) = await all_of(run(apart, ["a"]))
    assert result.value == expected_text(expected_text("a"))


async def test_a_model_that_was_not_found_is_told(server: Server, tmp_path: Path) -> None:
    """A function makes it as it runs: its answers could not be recorded, unless it is named."""
    chain = RunnableLambda(lambda text: model_for(server)) | StrOutputParser()
    (result,) = await all_of(run(chain, ["a"], ledger=tmp_path / "a.ledger"))
    assert result.error is not None
    assert "model=" in result.error.message
    (result,) = await all_of(run(chain, ["a"], ledger=tmp_path / "b.ledger", model=model_for(server)))
    assert result.value == expected_text("a")


async def test_a_chain_of_models_of_others(tmp_path: Path) -> None:
    """Its rows are recorded as wholes."""
    chain = GenericFakeChatModel(messages=iter(["one", "two"])) | StrOutputParser()
    for _ in range(2):
        results = await all_of(run(chain, ["a", "b"], ledger=tmp_path / "a.ledger"))
        assert sorted(result.value for result in results) == ["one", "two"]
