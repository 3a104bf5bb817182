"""How many connections are begun in one turn of the loop: a burst of thousands must not stop whatever else runs there."""

from __future__ import annotations

import asyncio

import pytest

from penstock.edges.http import HttpTransport, dial, turns
from penstock.edges.http.turns import BEGUN_IN_ONE_TURN, Turns
from tests.kit.hostile import Peer, answer, hostile
from tests.kit.http_probe import PATIENT, nothing_leaks, post

MANY = 3 * BEGUN_IN_ONE_TURN + 5


async def begun_each_turn(line: Turns, tasks: list[asyncio.Task[None]]) -> list[int]:
    """How many of the tasks have gone on in each turn, until all are done."""
    counts, before = list[int](), 0
    while before < len(tasks):
        await asyncio.sleep(0)
        done = sum(task.done() for task in tasks)
        counts.append(done - before)
        before = done
        assert len(counts) < 100, "nobody goes on any more"
    return counts


async def test_each_turn_lets_so_many_go_on_and_no_more() -> None:
    line = Turns()
    tasks = [asyncio.create_task(line.take()) for _ in range(MANY)]
    counts = await begun_each_turn(line, tasks)
    assert max(counts) == BEGUN_IN_ONE_TURN
    assert sum(counts) == MANY


async def test_they_go_on_in_the_order_they_came() -> None:
    line, order = Turns(), list[int]()

    async def one(number: int) -> None:
        await line.take()
        order.append(number)

    await asyncio.gather(*map(one, range(MANY)))
    assert order == list(range(MANY))


async def test_whoever_leaves_the_line_takes_no_ones_turn() -> None:
    line = Turns()
    tasks = [asyncio.create_task(line.take()) for _ in range(MANY)]
    await asyncio.sleep(0)
    for task in tasks[BEGUN_IN_ONE_TURN:-1]:
        task.cancel()
    async with asyncio.timeout(5):
        await tasks[-1]
    assert sum(task.cancelled() for task in tasks) == MANY - BEGUN_IN_ONE_TURN - 1


async def test_after_a_burst_the_next_one_need_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is empty again, and nothing keeps the loop turning."""
    line = Turns()
    await asyncio.gather(*(line.take() for _ in range(MANY)))
    for _ in range(5):
        await asyncio.sleep(0)
    armed = list[object]()
    monkeypatch.setattr(line, "_next", lambda _: armed.append(None))
    taken = asyncio.create_task(line.take())
    await asyncio.sleep(0)
    assert taken.done()
    await asyncio.sleep(0)
    assert len(armed) == 1


async def test_connections_are_begun_a_few_each_turn_and_all_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "BEGUN_IN_ONE_TURN", 4)
    turn = 0
    begun = dict[int, int]()
    connect = dial._connect_to

    async def counted(address: dial.Address) -> object:
        begun[turn] = begun.get(turn, 0) + 1
        return await connect(address)

    async def answers(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(answer())

    monkeypatch.setattr(dial, "_connect_to", counted)
    async with nothing_leaks(), hostile(answers) as server, HttpTransport(environ={}) as client:
        sent = [asyncio.create_task(client.send(post(server.url()), PATIENT)) for _ in range(30)]
        while not all(task.done() for task in sent):
            await asyncio.sleep(0)
            turn += 1
            assert turn < 20_000
        assert [task.result().status for task in sent] == [200] * 30
    assert max(begun.values()) <= 2 * 4  # the end of one turn and the beginning of the next may lie between two looks
    assert sum(begun.values()) == 30
