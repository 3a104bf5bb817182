"""The blocking client: the same results without `async`, from scripts, threads and notebooks."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from penstock import Llm
from penstock.blocking import Client
from penstock.errors import Refused, UsageError
from penstock.options import Timeouts
from penstock.records import HttpAnswer, HttpCall, RowChunk
from penstock.testing import ScriptedTransport, completion, error


def scripted() -> ScriptedTransport:
    return ScriptedTransport(lambda _: completion("fine"))


def test_the_same_names_and_results_without_async() -> None:
    with Client("openai/m", transport=scripted()) as client:
        assert client.generate("hi").text == "fine"
        assert sorted(result.index for result in client.map(["a", "b", "c"])) == [0, 1, 2]
        assert [result.text for result in client.gather(["a", "b"])] == ["fine", "fine"]


def test_a_workflow_runs_in_the_clients_own_thread(tmp_path: Path) -> None:
    async def twice(row: str, llm: Llm) -> list[str]:
        threads.add(threading.current_thread().name)
        return [(await llm.generate(f"{row} {number}")).text for number in range(2)]

    threads: set[str] = set()
    with Client("openai/m", transport=scripted()) as client:
        results = list(client.run(twice, ["a", "b"], ledger=tmp_path / "x.ledger"))
    assert [result.value for result in results] == [["fine", "fine"]] * 2
    assert threads == {"penstock-loop"}


def test_a_stream_is_read_by_a_plain_loop_and_may_be_left() -> None:
    with Client("builtin/extractive") as client:
        with client.stream("One sentence here. Another one there.") as stream:
            texts = [chunk.text for chunk in stream]
        assert "".join(texts) == stream.text == stream.response.text
        assert stream.first_token_s is not None
        for _ in client.stream("One sentence here. Another one there."):
            break
        assert client.generate("Still here.").text


def test_many_streams_are_read_by_one_plain_loop_and_may_be_left() -> None:
    rows = ["One sentence here. Another one there."] * 3
    with Client("builtin/extractive") as client:
        texts, results = [""] * 3, [""] * 3
        for item in client.stream_many(rows):
            if isinstance(item, RowChunk):
                texts[item.index] += item.chunk.text
            else:
                results[item.index] = item.unwrap().text
        assert texts == results
        assert all(texts)
        for _ in client.stream_many(rows):
            break
        assert client.generate("Still here.").text


def test_errors_arrive_as_they_are() -> None:
    transport = ScriptedTransport([error("invalid_request", "no")])
    with Client("openai/m", transport=transport) as client:
        with pytest.raises(Refused, match="no"):
            client.generate("hi")
        with pytest.raises(UsageError):
            client.gather("one prompt")


async def test_it_works_inside_a_running_loop_as_notebooks_have_one() -> None:
    with Client("openai/m", transport=scripted()) as client:
        assert client.generate("hi").text == "fine"


def test_threads_share_one_client_and_its_limits() -> None:
    transport, texts = scripted(), []
    with Client("openai/m", transport=transport) as client:
        threads = [threading.Thread(target=lambda: texts.append(client.generate("hi").text)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == ["fine"] * 8


class Waiting(ScriptedTransport):
    """Never answers; tells when it was asked and when the asking was given up."""

    def __init__(self) -> None:
        super().__init__([])
        self.asked, self.given_up = threading.Event(), threading.Event()

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
        import asyncio

        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.given_up.set()
        raise AssertionError


def test_an_abandoned_iterator_cancels_what_is_under_way(tmp_path: Path) -> None:
    with Client("openai/m", transport=scripted(), max_concurrency=3) as client:
        results = client.map((f"row {k}" for k in range(10_000)), ledger=tmp_path / "x.ledger")
        next(results)
        results.close()
        again = list(client.map((f"row {k}" for k in range(20)), ledger=tmp_path / "x.ledger"))
        assert len(again) == 20


def test_an_interrupt_of_the_waiting_thread_cancels_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import Future

    transport = Waiting()
    client = Client("openai/m", transport=transport)

    def interrupted(self: Future[object], timeout: float | None = None) -> object:
        transport.asked.wait(10)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.generate("hi")
    assert transport.given_up.wait(10)
    client.close()


def test_closing_twice_and_forgetting_to_close_do_no_harm() -> None:
    client = Client("openai/m", transport=scripted())
    client.generate("hi")
    client.close()
    client.close()
    forgotten = Client("openai/m", transport=scripted())
    forgotten.generate("hi")
    del forgotten
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name == "penstock-loop"]


def test_a_script_that_does_not_close_ends_with_its_ledger_whole(tmp_path: Path) -> None:
    script = f"""
from penstock.blocking import Client
client = Client("builtin/extractive")
for result in client.map(["One. Two.", "Three. Four."], ledger={str(tmp_path / "x.ledger")!r}):
    print(result.text)
    break
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_a_client_that_is_collected_in_its_own_thread_closes_all_the_same() -> None:
    """A client in a cycle of references is found by the collector wherever it comes by, its own loop's thread included."""
    client = Client("openai/m", transport=scripted())
    client.generate("hi")
    loop, thread = client._loop._loop, client._loop._thread
    client.cycle = client  # type: ignore[attr-defined]
    del client

    async def collect() -> None:
        gc.collect()

    asyncio.run_coroutine_threadsafe(collect(), loop).result(30)
    thread.join(30)
    assert not thread.is_alive()
