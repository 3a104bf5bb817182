"""Long texts by map and reduce: cut where sentences end, each part asked about, the answers combined until one is left."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from typing import Any

from penstock.engine.workflow import Llm
from penstock.rules.estimate import SCRIPTS, script_of

PART_TOKENS = 3_000
SUMMARISE = "Summarise the following text in a few sentences, in its own language:\n\n{text}"
COMBINE = "Make one summary of these summaries of the parts of one text, in their language:\n\n{text}"
_END_OF_SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[\u3002\uff01\uff1f])|\n\s*\n")
"""A full stop and white space, a full stop of the kind that none follows, or an empty line."""


async def summarise(row: Any, llm: Llm, *, part_tokens: int = PART_TOKENS) -> str:
    """A short summary of a text of any length: of the row itself, or of its column `text`.

    A text of at most about `part_tokens` is one request. A longer one is cut into such parts; their summaries are put
    together in groups of that size and summarised again, until there is one.
    """
    text = row if isinstance(row, str) else row["text"]
    if not text.strip():
        raise ValueError("there is no text to summarise")
    answers = await _asked(llm, SUMMARISE, grouped(sentences(text, part_tokens), part_tokens))
    while len(answers) > 1:
        answers = await _asked(llm, COMBINE, grouped([f"{text}\n\n" for text in answers], part_tokens, at_least=2))
    return answers[0]


async def _asked(llm: Llm, prompt: str, parts: Iterable[str]) -> list[str]:
    """The answers to one prompt over several parts, all at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(llm.generate(prompt.format(text=part.strip()))) for part in parts]
    return [task.result().text for task in tasks]


def tokens_in(text: str) -> float:
    """About how many tokens a text has, by its bytes and its script."""
    body = text.encode(errors="replace")
    return len(body) / SCRIPTS[script_of(body)][1]


def sentences(text: str, most_tokens: int) -> Iterator[str]:
    """The sentences of a text, with the space between them: joined they are the text. What is too long is cut at a space."""
    start = 0
    for end in [*(match.end() for match in _END_OF_SENTENCE.finditer(text)), len(text)]:
        while start < end:
            cut = start + _fitting(text[start : min(end, start + 4 * most_tokens + 1)], most_tokens)
            if cut < end:
                cut = text.rfind(" ", (start + cut) // 2, cut) + 1 or cut
            yield text[start:cut]
            start = cut


def _fitting(text: str, most_tokens: int) -> int:
    """How many characters of a text fit; at least one. No token is supposed to have more than four."""
    length = len(text)
    while length > 1 and (tokens := tokens_in(text[:length])) > most_tokens:
        length = max(1, min(length - 1, int(length * most_tokens / tokens)))
    return length


def grouped(pieces: Iterable[str], most_tokens: int, at_least: int = 1) -> list[str]:
    """Pieces joined in order to parts of at most so many tokens, `at_least` so many pieces each but for the last one."""
    parts: list[str] = []
    part, count, size = "", 0, 0.0
    for piece in pieces:
        tokens = tokens_in(piece)
        if count >= at_least and size + tokens > most_tokens:
            parts.append(part)
            part, count, size = "", 0, 0.0
        part, count, size = part + piece, count + 1, size + tokens
    return [*parts, part] if part.strip() else parts
