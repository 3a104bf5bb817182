"""Summaries are sentences of the text, the best of them, in its order."""

from __future__ import annotations

from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from penstock.simulator.extractive import answer, prose, summarise

RAIN = (
    "Rain is water that falls from clouds. Clouds are made of water that rose from the sea. "
    "Some people collect stamps. The sea gets its water back when rain falls from clouds into rivers."
)


def flat(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("topic", sorted(topics))
def test_every_topic_of_the_manual_has_a_summary_out_of_its_own_text(topic: str) -> None:
    """Each chosen sentence stands in the text (white space apart), nothing is empty, and the order is the text's."""
    source = flat(topics[topic])
    summary = summarise(topics[topic])
    assert summary
    assert "::=" not in summary
    sentences = [sentence for sentence in prose(topics[topic]) if sentence in summary] or [summary]
    places = [source.find(flat(sentence)) for sentence in sentences]
    assert -1 not in places
    assert places == sorted(places)


def test_prose_is_found_in_nearly_every_topic() -> None:
    """At most one topic in twenty is so full of code that only a fragment can be quoted."""
    assert sum(not prose(text) for text in topics.values()) <= len(topics) // 20


def test_the_central_sentences_are_chosen_and_the_aside_is_not() -> None:
    """What shares no word with the rest says little of it."""
    summary = summarise(RAIN, 3)
    assert "stamps" not in summary
    assert summary == RAIN.replace("Some people collect stamps. ", "")


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        (RAIN, 2),
        (f"Summarise in two sentences: {RAIN}", 2),
        (f"Summarize in one sentence: {RAIN}", 1),
        (f"Please summarise this in 3 sentences:\n\n{RAIN}", 3),
        (f"Summarise the text below\n{RAIN}", 2),
        (f"SUMMARISE IN A SINGLE SENTENCE: {RAIN}", 1),
        (f"Summarise in 0 sentences: {RAIN}", 1),
    ],
)
def test_the_instruction_sets_the_number_of_sentences_and_is_not_text(prompt: str, count: int) -> None:
    """The instruction itself is never quoted."""
    text = answer(prompt)
    assert text.count(".") == count
    assert "ummari" not in text


def test_code_tables_headings_and_grammar_are_left_out() -> None:
    """Only prose is worth quoting."""
    text = """Heading of this section
=======================

A loop repeats its body, e.g. until a condition holds. Loops may be nested in other loops.

   while_stmt ::= "while" expression. And more of the grammar follows here.

   >>> print("The shell says this here.")

   while True:
       print("This is code and no prose.")

+-----------------+---------------------+
| A table is none | of the prose there. |
+-----------------+---------------------+

* A bullet may be a sentence about the body of loops.
"""
    assert prose(text) == [
        "A loop repeats its body, e.g. until a condition holds.",
        "Loops may be nested in other loops.",
        "A bullet may be a sentence about the body of loops.",
    ]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (
            "雨は雲から降る水です。雲は海の水からできます。雨は海に戻ります。",
            "雨は雲から降る水です。",
        ),
        (
            "Regen ist Wasser aus den Wolken. Die Wolken bestehen aus Wasser des Meeres.",
            "Regen ist Wasser aus den Wolken.",
        ),
        ("Дождь есть вода из облаков. Облака сделаны из воды моря.", "Дождь есть вода из облаков."),
    ],
)
def test_other_languages_are_split_into_sentences_too(text: str, first: str) -> None:
    """Latin and CJK marks end a sentence, with and without a space after them."""
    assert prose(text)[0] == first
    assert summarise(text, 1) in text


@given(st.text(max_size=400), st.integers(1, 4))
@hypothesis_settings(max_examples=150)
def test_any_text_gives_the_same_summary_twice_and_nothing_of_its_own(text: str, sentences: int) -> None:
    """Total and deterministic; every character of the summary stands in the text."""
    summary = summarise(text, sentences)
    assert summary == summarise(text, sentences)
    assert set(flat(summary)) <= set(text)
    assert bool(summary) == bool(text.strip())


@pytest.mark.timeout(30)
@pytest.mark.parametrize("unit", ["a. ", "x = y ", "e.g. ", "\n ", "word ", "Sentence one is here. "])
def test_long_texts_of_one_kind_cost_no_square(unit: str) -> None:
    """A megabyte of the worst kind is summarised at once; a quadratic step would run into the time limit."""
    assert len(summarise(unit * (1_000_000 // len(unit)))) < 1_000_000
