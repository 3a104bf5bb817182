"""Map and reduce over long texts: nothing of the text is lost, no part is too long, it always comes to one summary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import WorkflowFailed
from penstock.records import HttpAnswer, HttpCall
from penstock.simulator.clock import run
from penstock.testing import MemoryLedger, ScriptedTransport, completion
from penstock.workflows import summarise
from penstock.workflows.long_texts import COMBINE, SUMMARISE, grouped, sentences, tokens_in
from tests.kit.rows import VirtualClient
from tests.kit.workflows import prompt_in, run_all

TEXTS = st.text(alphabet=st.sampled_from("ab .!?\n\u3002\ud55c\u0301é"), max_size=400) | st.text(max_size=200)
PARTS = SUMMARISE.partition("{")[0]
SUMMARIES = COMBINE.partition("{")[0]


@given(text=TEXTS, most=st.integers(1, 40))
def test_sentences_are_the_text_and_none_is_too_long(text: str, most: int) -> None:
    """Joined they are the text again; a piece above the limit is a single character."""
    pieces = list(sentences(text, most))
    assert "".join(pieces) == text
    assert all(tokens_in(piece) <= most or len(piece) == 1 for piece in pieces)
    assert all(pieces)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One. Two! Three?  Four", ["One. ", "Two! ", "Three?  ", "Four"]),
        ("A title\n\nA text", ["A title\n\n", "A text"]),
        ("3.14 is pi. So it is.", ["3.14 is pi. ", "So it is."]),
        ("\u4e00\u3002\u4e8c\uff01\u4e09", ["\u4e00\u3002", "\u4e8c\uff01", "\u4e09"]),
        ("", []),
    ],
)
def test_a_text_is_cut_where_sentences_end(text: str, pieces: list[str]) -> None:
    assert list(sentences(text, 1_000)) == pieces


def test_a_sentence_that_is_too_long_is_cut_between_words() -> None:
    assert list(sentences("word " * 20, 10)) == ["word " * 8, "word " * 8, "word " * 4]


@given(
    pieces=st.lists(st.text(alphabet="ab c", min_size=1, max_size=30)),
    most=st.integers(1, 20),
    at_least=st.integers(1, 3),
)
def test_groups_are_the_pieces_in_order(pieces: list[str], most: int, at_least: int) -> None:
    """Nothing is lost but white space at the end; a group is too large only where it has no more than it must have."""
    groups = grouped(pieces, most, at_least)
    assert "".join(groups).rstrip() == "".join(pieces).rstrip()
    longest = max(map(tokens_in, pieces), default=0)
    assert all(tokens_in(group) <= max(most, at_least * longest) + 0.01 for group in groups)
    if at_least > 1 and len(pieces) > 1:
        assert len(groups) < len(pieces)


class Summariser:
    """A model whose every summary has so many characters; it keeps what it was asked."""

    def __init__(self, characters: int) -> None:
        self.asked: list[str] = []
        self._characters = characters

    def __call__(self, call: HttpCall) -> HttpAnswer:
        self.asked.append(prompt_in(call))
        return completion(f"<{len(self.asked)}>".ljust(self._characters, "s"))


@pytest.mark.parametrize("summary_characters", [40, 4_000])
def test_a_text_of_any_length_comes_to_one_summary(summary_characters: int) -> None:
    """Also where summaries are as long as what they summarise. Every word is asked about once, and each part fits."""
    text = " ".join(f"Sentence number {index} of a long book." for index in range(2_000))
    model = Summariser(summary_characters)

    async def main() -> None:
        async with VirtualClient(transport=ScriptedTransport(model)) as client:
            (result,) = await run_all(client, summarise, [{"text": text}], ledger=MemoryLedger())
            assert result.value == f"<{len(model.asked)}>".ljust(summary_characters, "s")
            assert result.attempts == len(model.asked)

    run(main())
    parts = [prompt.removeprefix(PARTS) for prompt in model.asked if prompt.startswith(PARTS)]
    assert " ".join(parts) == text
    assert 6 <= len(parts) <= 8
    assert all(tokens_in(part) <= 3_000 for part in parts)
    assert sum(prompt.startswith(SUMMARIES) for prompt in model.asked) == len(model.asked) - len(parts) >= 1


def test_a_short_text_is_one_request_and_may_be_the_row_itself() -> None:
    model = Summariser(10)

    async def main() -> None:
        async with VirtualClient(transport=ScriptedTransport(model)) as client:
            results = await run_all(client, summarise, ["A short text.", {"text": " "}, {"title": "none"}])
            assert [result.ok for result in results] == [True, False, False]
            assert isinstance(results[1].error, WorkflowFailed)
            assert "no text to summarise" in results[1].error.message

    run(main())
    assert model.asked == [SUMMARISE.format(text="A short text.")]
