"""What the guide says of the plain programs is so: they are run, in front of the same provider as Penstock's."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from tests.examples.pages import GUIDES, Block, blocks, is_plain, without_figures
from tests.examples.plain_side import CALLERS, CHAPTERS, Told, ours, plain, services

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

CHAPTER = {chapter.name: chapter for chapter in CHAPTERS}
SHOWN = [block for block in blocks(GUIDES[0]) if is_plain(block)]

both = {True: cache(lambda name: plain(CHAPTER[name])), False: cache(lambda name: ours(CHAPTER[name]))}


def bare(name: str) -> Told:
    return both[True](name)


def penstock(name: str) -> Told:
    return both[False](name)


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", line)]


def chapter_of(block: Block) -> str:
    return re.findall(r"examples/(\w+)_plain\.py", block.names)[0]


@pytest.mark.parametrize("block", SHOWN, ids=chapter_of)
def test_it_prints_what_the_guide_says(block: Block) -> None:
    """But for the figures, which were measured."""
    said = "\n".join(bare(chapter_of(block)).lines)
    assert without_figures(said, whole_numbers=True) == without_figures(block.body.rstrip("\n"), whole_numbers=True)


def test_each_pair_is_shown() -> None:
    assert {chapter_of(block) for block in SHOWN} == set(CHAPTER)


def test_gather_loses_a_hundred_answers_and_map_none() -> None:
    assert bare("01_why_async").lines[-1].startswith("0 summaries")
    assert bare("01_why_async").stats["throttled"] > 0
    assert penstock("01_why_async").lines[-1].startswith("100 summaries")
    assert penstock("01_why_async").stats["throttled"] == 0


def test_one_refusal_takes_the_others_along_or_not() -> None:
    assert bare("02_one_and_many").lines[-1] == "0 answers"
    assert [line[:2] for line in penstock("02_one_and_many").lines[-3:]] == ["0:", "1:", "2:"]


def test_groups_wait_for_their_slowest_and_a_window_does_not() -> None:
    """How much of the time ten lines were idle: most of it, and less than a third."""
    (_, groups, groups_ideal), (_, window, window_ideal) = (
        numbers(side("03_batches").lines[0].replace("ten ", "")) for side in (bare, penstock)
    )
    assert groups > 1.7 * groups_ideal
    assert window < 1.5 * window_ideal


def test_a_semaphore_is_throttled_and_a_limit_is_kept() -> None:
    assert bare("04_concurrency_limit").stats["throttled"] > 0
    assert numbers(bare("04_concurrency_limit").lines[0])[1] > 0
    assert penstock("04_concurrency_limit").stats["throttled"] < bare("04_concurrency_limit").stats["throttled"] / 4
    assert penstock("04_concurrency_limit").stats["answered"] == 120


def test_a_failure_passes_for_an_answer_or_not() -> None:
    said = bare("05_errors_and_retries").lines
    assert (said[0][:20], said[1]) == ("50 of 50 answered in", "answers that are none: 2")
    assert penstock("05_errors_and_retries").lines[0].startswith("48 of 50 answered")
    assert penstock("05_errors_and_retries").stats["arrived"] < bare("05_errors_and_retries").stats["arrived"]


def test_after_a_crash_answers_are_paid_twice_or_not() -> None:
    """The plain program asks for everything again; Penstock for nothing that is recorded."""
    assert bare("05_after_a_crash").stats["answered"] >= 140
    assert penstock("05_after_a_crash").stats["answered"] <= 110
    assert penstock("05_after_a_crash").lines[-1].startswith("100 answers")


def test_half_a_story_passes_for_a_whole_one_or_not() -> None:
    whole, half = numbers(bare("06_streaming").lines[0])
    assert half < whole
    assert "-- broke off, truncated; what came is kept: True" in penstock("06_streaming").lines


def test_one_row_ends_a_chain_over_all_or_not() -> None:
    assert bare("07_langchain_chain").lines[-1].startswith("0 labels")
    assert [line[:2] for line in penstock("07_langchain_chain").lines[-3:]] == ["0:", "1:", "2:"]


def test_callers_of_a_service_get_a_500_or_an_answer() -> None:
    """Fifty at once, in front of a provider that takes twenty at once."""
    found: tuple[tuple[Any, Any], ...] = services()
    (plain_calls, plain_stats), (our_calls, our_stats) = found
    assert plain_calls.statuses.get(500, 0) > 0
    assert plain_stats["throttled"] > 0
    assert our_calls.statuses == {200: CALLERS}
    assert our_stats["throttled"] == 0
