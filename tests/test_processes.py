"""`Client(processes=N)`: the same names and results with others sending; and what is refused."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from penstock import Client, UsageError, access, blocking
from penstock.engine.workflow import Llm
from penstock.errors import RunStopped
from penstock.records import Result, RowChunk
from penstock.simulator.behaviour import Settings, expected_text
from penstock.simulator.server import serve
from penstock.testing import ScriptedTransport
from tests.kit.sending import children_of, wait_for_end
from tests.kit.simulated import simulated

PROMPTS = [f"What follows {number}?" for number in range(40)]
HERE = "http://127.0.0.1:9/v1"


async def test_a_client_answers_as_with_one_process() -> None:
    """`generate`, `stream`, `map`, `stream_many` and `run` over two processes, hedged too."""

    async def ask(row: Any, llm: Llm) -> str:
        return (await llm.generate(row["text"])).text

    async with (
        serve(Settings()) as server,
        Client("custom/m", base_url=server.base_url, processes=2, max_concurrency=8, hedge=True) as client,
    ):
        assert (await client.generate(PROMPTS[0])).text == expected_text(PROMPTS[0])
        assert "".join([chunk.text async for chunk in client.stream(PROMPTS[1])]) == expected_text(PROMPTS[1])
        results = await client.gather(PROMPTS)
        assert [result.text for result in results] == list(map(expected_text, PROMPTS))
        pieces = dict.fromkeys(range(len(PROMPTS)), "")
        async for item in client.stream_many(PROMPTS):
            if isinstance(item, RowChunk):
                pieces[item.index] += item.chunk.text
            else:
                assert isinstance(item, Result)
                assert item.text == pieces[item.index] == expected_text(PROMPTS[item.index])
        values = [result.value async for result in client.run(ask, [{"text": text} for text in PROMPTS], ordered=True)]
        assert values == list(map(expected_text, PROMPTS))


def test_code_without_an_event_loop_has_it_too() -> None:
    """The blocking client takes the option, and leaves no process behind."""
    with simulated() as provider:
        before = children_of(os.getpid())
        with blocking.Client("custom/m", base_url=provider.base_url, processes=2, max_concurrency=8) as client:
            assert [result.text for result in client.gather(PROMPTS)] == list(map(expected_text, PROMPTS))
            assert len(children_of(os.getpid())) == len(before) + 2
        assert children_of(os.getpid()) == before


async def test_the_built_in_model_is_served_to_the_processes() -> None:
    """It lives in this process and is asked over loopback by the others."""
    async with Client("builtin/extractive", processes=2, max_concurrency=4) as client:
        (result,) = await client.gather(["Penstocks carry water under control. They are closed pipes."])
        assert result.ok


async def test_a_run_that_begins_after_a_loss_is_refused_with_the_reason() -> None:
    """Also one that nothing has been sent for yet."""
    async with serve(Settings()) as server:
        client = Client("custom/m", base_url=server.base_url, processes=2, max_concurrency=4)
        async with client:
            await client.generate("Is there anybody?")
            transport: Any = client._access.account.transport  # type: ignore[union-attr]
            victim, *_ = transport._processes.values()
            os.kill(victim.pid, signal.SIGKILL)
            wait_for_end(victim.pid)
            with pytest.raises(RunStopped, match="was killed by SIGKILL"):
                await client.gather(PROMPTS)
            with pytest.raises(RunStopped, match="was killed by SIGKILL"):
                await client.gather(PROMPTS)
            assert (await client.generate("And now?")).text  # what belongs to no run goes on with those that are left


@pytest.mark.parametrize("processes", [0, -1, 1.5, True, "2", None])
def test_a_number_that_is_none_is_refused(processes: Any) -> None:
    with pytest.raises(UsageError, match="processes must be a positive whole number"):
        Client("custom/m", base_url=HERE, processes=processes)


def test_what_cannot_go_together_is_refused() -> None:
    """A transport of the caller's own, and more processes than may be in flight."""
    with pytest.raises(UsageError, match="processes: a transport of your own"):
        Client("custom/m", base_url=HERE, processes=2, transport=ScriptedTransport([]))
    with pytest.raises(UsageError, match="processes: 5 have no use for 4 requests in flight"):
        Client("custom/m", base_url=HERE, processes=5, max_concurrency=4)


def test_each_process_has_descriptors_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in flight at most is bounded for each process, not for all of them."""
    monkeypatch.setattr(access, "raise_descriptor_limit", lambda: 264)
    with pytest.raises(UsageError, match="at most 160"):
        Client("custom/m", base_url=HERE, max_concurrency=161)
    assert Client("custom/m", base_url=HERE, max_concurrency=320, processes=2).note == ""
    with pytest.raises(UsageError, match="at most 320"):
        Client("custom/m", base_url=HERE, max_concurrency=321, processes=2)
    assert "480 go at once" in Client("custom/m", base_url=HERE, processes=3).note
