"""`penstock generate -f`: several answers, in turn or side by side, as they come; bad input is refused before anything is sent."""

from __future__ import annotations

import io
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rich.console import Console

from penstock.cli.showing import InTurn, SideBySide, Window
from penstock.errors import request_error
from penstock.records import Chunk, RawRow, Response, Result, RowChunk
from penstock.simulator.behaviour import expected_text
from penstock.simulator.server import Settings
from tests.kit.command import Command, Ran, Recorder, in_process_of_its_own, json_lines, on_a_terminal
from tests.kit.simulated import Simulated

MODEL = ("-m", "openai/m", "--base-url")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-4711")


def answer_to(prompt: str) -> str:
    return expected_text(prompt, Settings().output_tokens)


def test_the_answers_come_in_the_order_of_the_rows_each_headed_by_its_id(penstock: Command, sim: Simulated) -> None:
    Path("towns.csv").write_bytes(b"town,land\nOslo,Norway\nBergen,Norway\nTurku,Finland\n")
    ran = penstock("generate", "-f", "towns.csv", *MODEL, sim.base_url, "--id", "town", "--prompt", "On {town}")
    parts = [f"== {town} ==\n{answer_to(f'On {town}')}\n" for town in ("Oslo", "Bergen", "Turku")]
    assert ran == Ran(0, "\n".join(parts), "")


def test_a_prompt_that_fails_is_told_and_the_others_are_answered(penstock: Command, sim: Simulated) -> None:
    """Exit 1; what came of an answer that broke off is shown, and that it broke off."""
    Path("in.txt").write_text("one\n[[simulate:400]] two\n[[simulate:truncate]] three\nfour\n")
    ran = penstock("generate", "-f", "in.txt", *MODEL, sim.base_url)
    assert ran.status == 1
    assert f"== 0 ==\n{answer_to('one')}\n\n== 1 ==\n\n== 2 ==\n" in ran.out
    assert ran.out.endswith(f"\n\n== 3 ==\n{answer_to('four')}\n")
    assert "row 1 (1): invalid_request: " in ran.err
    assert "row 2 (2): truncated: " in ran.err
    assert ran.err.endswith("2 of 4 prompts have no answer\n")


def test_what_dooms_all_prompts_stops_at_once(penstock: Command, sim: Simulated) -> None:
    Path("in.txt").write_text("[[simulate:401]] one\n")
    ran = penstock("generate", "-f", "in.txt", *MODEL, sim.base_url)
    assert (ran.status, ran.out) == (3, "")
    assert "check OPENAI_API_KEY" in ran.err


def test_rows_are_read_from_standard_input(sim: Simulated) -> None:
    rows = json_lines([{"prompt": "one"}, {"prompt": "two"}, {"prompt": "three"}])
    ran = in_process_of_its_own("generate", "-f", "-", *MODEL, sim.base_url, "--limit", "2", stdin=rows)
    assert ran == Ran(0, f"== 0 ==\n{answer_to('one')}\n\n== 1 ==\n{answer_to('two')}\n", "")


def test_limits_are_kept(penstock: Command, provider: Recorder) -> None:
    """One at a time where that is said."""
    Path("in.txt").write_text("one\ntwo\nthree\n")
    ran = penstock("generate", "-f", "in.txt", *MODEL, provider.base_url, "--max-concurrency", "1", "--rpm", "60000")
    assert ran.status == 0
    assert provider.prompts == ["one", "two", "three"]
    assert provider.connections == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give one prompt"),
        (["hi", "-f", "in.jsonl"], "give one prompt"),
        (["hi", "--prompt", "{x}"], "--prompt is about the rows of -f FILE"),
        (["hi", "--side-by-side"], "--side-by-side is about the rows of -f FILE"),
        (["-f", "none.jsonl"], "none.jsonl"),
        (["-f", "bad.jsonl"], "bad.jsonl:2"),
        (["-f", "empty.jsonl"], "no rows"),
        (["-f", "in.jsonl", "--prompt", "{town}"], "town"),
        (["hi", "--stream-end", "eof"], "not one of 'done', 'finish_reason', 'close'"),
    ],
)
def test_bad_usage_and_bad_rows_are_refused_before_anything_is_sent(
    arguments: list[str], says: str, penstock: Command, provider: Recorder
) -> None:
    Path("in.jsonl").write_bytes(json_lines([{"prompt": "one"}]))
    Path("bad.jsonl").write_bytes(b'{"prompt": "one"}\n{"prompt": \n')
    Path("empty.jsonl").write_bytes(b"")
    ran = penstock("generate", *arguments, *MODEL, provider.base_url)
    assert (ran.status, ran.out) == (2, "")
    assert says in ran.err
    assert not provider.bodies


def test_side_by_side_on_a_terminal_shows_every_answer_whole(sim: Simulated) -> None:
    Path("in.txt").write_text("".join(f"number {index}\n" for index in range(7)))
    status, screen = on_a_terminal("generate", "-f", "in.txt", "--side-by-side", *MODEL, sim.base_url)
    assert status == 0
    assert all(f"number {index}" in screen for index in range(7))


def test_side_by_side_into_a_file_is_in_turn(penstock: Command, sim: Simulated) -> None:
    Path("in.txt").write_text("one\n")
    ran = penstock("generate", "-f", "in.txt", "--side-by-side", *MODEL, sim.base_url)
    assert ran == Ran(0, f"== 0 ==\n{answer_to('one')}\n", "")


# -- what is shown


def row(index: int, *words: str) -> list[RowChunk | Result]:
    """What comes of a row: its chunks, then its result."""
    response = Response("".join(words), "stop", "m")
    return [*(RowChunk(index, f"r{index}", Chunk(word)) for word in words), Result(index, f"r{index}", response)]


def mixed(rows: list[list[RowChunk | Result]], seed: int) -> list[RowChunk | Result]:
    """The same as a run tells it: the order within each row kept, the rows in any order."""
    chance, left, items = random.Random(seed), [list(row) for row in rows], []
    while left:
        some = chance.choice(left)
        items.append(some.pop(0))
        left = [row for row in left if row]
    return items


@pytest.mark.parametrize("seed", range(5))
def test_in_turn_no_answer_comes_into_another_however_they_arrive(
    seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(index, f"one{index} ", "two ", "three") for index in range(6)]
    marks: list[int] = []
    with InTurn() as show:
        for item in mixed(rows, seed):
            show.take(item, marks.append)
    assert capsys.readouterr().out == "\n".join(f"== r{index} ==\none{index} two three\n" for index in range(6))
    assert marks == [InTurn.ahead + turn for turn in range(1, 7)]


def test_the_answer_in_turn_is_shown_as_it_comes_and_the_others_later(capsys: pytest.CaptureFixture[str]) -> None:
    with InTurn() as show:
        for item in [*row(1, "late"), row(0, "one ", "two")[0]]:
            show.take(item, int)
        assert capsys.readouterr().out == "== r0 ==\none "
        for item in row(0, "one ", "two")[1:]:
            show.take(item, int)
    assert capsys.readouterr().out == "two\n\n== r1 ==\nlate\n"


def test_side_by_side_starts_the_next_row_of_columns_when_one_is_whole() -> None:
    screen = io.StringIO()
    show, marks = SideBySide(Console(file=screen, width=90, height=20)), []
    failed = Result(3, "r3", error=request_error("server_error", "lost"))
    with show:
        for item in [*row(1, "beta"), *row(0, "alpha"), *row(2, "gamma"), failed, *row(4, "delta")]:
            show.take(item, marks.append)
    lines = screen.getvalue().splitlines()
    assert show.ahead == 2
    assert marks == [4, 6]
    assert any("alpha" in line and "beta" in line for line in lines)
    assert any("gamma" in line for line in lines)
    assert "server_error: lost" in screen.getvalue()
    assert "delta" in screen.getvalue()


async def test_rows_are_drawn_up_to_the_mark_and_no_more_than_the_limit() -> None:
    drawn: list[int] = []

    async def source() -> AsyncIterator[RawRow]:
        for index in range(10):
            drawn.append(index)
            yield RawRow(index, "", "text")

    window = Window(source(), until=3, limit=5)
    rows = window.rows()
    assert [(await anext(rows)).index for _ in range(3)] == drawn == [0, 1, 2]
    window.move(100)
    assert [row.index async for row in rows] == [3, 4]
    assert drawn == [0, 1, 2, 3, 4]
