"""Summaries made of sentences that stand in the text, by TextRank. It is no language model and writes no word itself.

Sentences are the nodes of a graph (Mihalcea and Tarau, "TextRank: Bringing Order into Texts", EMNLP 2004). The weight
between two of them is the number of words that both have, over the logarithms of their lengths in words:

    w(i, j) = |W(i) and W(j)| / (ln |W(i)| + ln |W(j)|)

and the score of a sentence is the fixed point of

    S(i) = (1 - d) * b(i) + d * sum over j of w(j, i) / (sum over k of w(j, k)) * S(j),        d = 0.85

Restarts are biased (Kazemi, Perez-Rosas and Mihalcea, "Biased TextRank", COLING 2020), here to the lead of the text:
b(i) is proportional to 1 / (1 + i). The best sentences are given in the order of the text.

Pure and deterministic. Headings, tables, grammar and code are left out, because only prose is worth quoting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import islice

_DAMPING = 0.85
_ROUNDS = 20
_MOST_SENTENCES = 100
_SHORTEST_WORDS, _LONGEST_WORDS = 4, 50
_LONGEST_FRAGMENT = 300

_RULE = re.compile(r"^(\S)\1{2,}$")
_NOT_PROSE = re.compile(
    r"""::=                                      # a grammar
    |^\s*[+|][-=|\s]                             # a table
    |^[=\-]{3,}\s+[=\-]{3,}                      # a simple table
    |^\s*(>>>|\.\.\.\s|\.\.\s|\[\d+\]|\$\s)      # a session, a directive, a footnote
    |^\s*(def|class|import|from|return|raise|try|else|print|for|while|if|with)\b.*[:()]\s*$
    |^\s*(async\s|@\w)|\w\s=\s\S.{0,200}\)$      # code
    |[{};]\s*$""",
    re.VERBOSE | re.MULTILINE,
)
_MARK = re.compile(r"^\s*([*+•-]|\d{1,3}[.)])\s+")
_SIDE_NOTE = re.compile(r"^(New in|Changed in|Deprecated since|Added in|See\b|Note:|CPython |\()")
_LEANING = re.compile(r"^(This|That|These|Those|They|It|Its|Such|Thus|Hence|Therefore|Similarly|However|Otherwise)\b")
# Escapes keep look-alikes of ASCII out of the source: Latin marks before white space, CJK marks (\u3002 and full-width
# ! and ?) anywhere, the Hindi, Urdu and Arabic ones; then whatever closes a quotation.
_END = re.compile(
    r"[.!?\u2026]+[\"'\u201d\u2019\u00bb)\]]*(?=\s|$)"
    r"|[\u3002\uff01\uff1f\uff61]+[\u300d\u300f\u201d\u2019\uff09]*"
    r"|[\u0964\u06d4\u061f](?=\s|$)"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'])(?:e\.g|i\.e|cf|vs|etc|Dr|Mr|Mrs|Ms|Prof|St|No|Nr|Fig|Sec|pp|ca|z\.B|d\.h|\w)\.$"
)
_WORD = re.compile(r"[^\W\d_]+")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

_INSTRUCTION = re.compile(
    r"\s*(?:please\s+)?(?:summari[sz]e|sum\s+up|condense|shorten|abridge|extract)\b([^:\uff1a\n]{0,200})[:\uff1a\n]",
    re.IGNORECASE,
)
_COUNT = re.compile(
    r"\b(\d{1,2}|one|two|three|four|five|six|seven|eight|nine|ten|a single)\s+sentences?\b", re.IGNORECASE
)
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def answer(prompt: str, _: int | None = None) -> str:
    """The answer to a prompt such as `Summarise in two sentences: TEXT`; without an instruction all of it is the text.

    The length that a simulator may ask for is passed over: sentences are not stretched.
    """
    instruction = _INSTRUCTION.match(prompt)
    if instruction is None:
        return summarise(prompt)
    return summarise(prompt[instruction.end() :], _sentence_count(instruction[1]))


def _sentence_count(instruction: str) -> int:
    found = _COUNT.search(instruction)
    if found is None:
        return 2
    number = found[1].lower()
    if number.isdigit():
        return max(1, int(number))
    return _NUMBERS.index(number) if number in _NUMBERS else 1


def summarise(text: str, sentences: int = 2) -> str:
    """The `sentences` best sentences of a text in their order, white space normalised; shorter where it has fewer.

    A sentence that leans on the one before it ("This is why ...") is taken only where there is no better one. A text
    without any prose gives its longest sentence or first line as it stands; an empty one gives an empty string.
    """
    found = prose(text)
    if not found:
        return _fragment(text)
    scores = _rank(found)
    best = sorted(range(len(found)), key=lambda i: (_LEANING.match(found[i]) is not None, -scores[i], i))[:sentences]
    return " ".join(found[i] for i in sorted(best))


def prose(text: str) -> list[str]:
    """The first 100 sentences of a text that are prose, in order, each once."""
    sentences = (sentence for block in _blocks(text) for sentence in _sentences(block) if _is_prose(sentence))
    return list(dict.fromkeys(islice(sentences, _MOST_SENTENCES)))


def _blocks(text: str) -> Iterator[str]:
    """Paragraphs as one line each, without headings, tables, grammar and code."""
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        if not _NOT_PROSE.search(block):
            line = _joined(block)
            if line:
                yield line


def _joined(block: str) -> str:
    lines = block.split("\n")
    kept = [
        line
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if not _RULE.match(line.strip()) and not _RULE.match(after.strip())
    ]
    whole = re.sub(r"(?<=\w)-\n\s*(?=\w)", "-", "\n".join(kept))
    return " ".join(_MARK.sub("", whole).split())


def _sentences(line: str) -> Iterator[str]:
    start = 0
    for mark in _END.finditer(line):
        end = mark.end()
        follows = line[end : end + 2].lstrip()[:1]
        # A few characters tell an abbreviation; slices of the whole line would cost its square.
        if follows.islower() or _ABBREVIATION.search(line[max(start, mark.start() - 9) : mark.start() + 1]):
            continue
        yield line[start:end].strip()
        start = end


def _is_prose(sentence: str) -> bool:
    if sentence[0].islower() or _SIDE_NOTE.match(sentence):
        return False
    if _CJK.search(sentence):
        return len(sentence) >= _SHORTEST_WORDS
    words = len(_WORD.findall(sentence))
    letters = sum(character.isalpha() or character.isspace() for character in sentence)
    return _SHORTEST_WORDS <= words <= _LONGEST_WORDS and letters >= 0.8 * len(sentence)


def _fragment(text: str) -> str:
    """What comes nearest to prose: the sentence of the most words, else the first line."""
    sentences = (sentence for block in _blocks(text) for sentence in _sentences(block))
    longest = max(sentences, key=lambda sentence: len(_WORD.findall(sentence)), default="")
    lines = (" ".join(line.split()) for line in text.split("\n") if line.strip())
    return longest or next(lines, "")[:_LONGEST_FRAGMENT]


def _words(sentence: str) -> frozenset[str]:
    """Words that carry meaning: of four letters and more; of scripts without spaces, every two characters."""
    words: set[str] = set()
    for word in _WORD.findall(sentence.lower()):
        if _CJK.search(word):
            words.update(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        elif len(word) > 3:
            words.add(word)
    return frozenset(words)


def _rank(sentences: Sequence[str]) -> list[float]:
    edges = _edges([_words(sentence) for sentence in sentences])
    lead = [1 / (1 + i) for i in range(len(sentences))]
    bias = [len(sentences) * share / sum(lead) for share in lead]
    scores = bias
    for _ in range(_ROUNDS):
        flow = [0.0] * len(sentences)
        for i, neighbours in enumerate(edges):
            total = sum(neighbours.values())
            for j, weight in neighbours.items():
                flow[j] += scores[i] * weight / total
        scores = [(1 - _DAMPING) * b + _DAMPING * f for b, f in zip(bias, flow, strict=True)]
    return scores


def _edges(words: Sequence[frozenset[str]]) -> list[dict[int, float]]:
    edges: list[dict[int, float]] = [{} for _ in words]
    for i, mine in enumerate(words):
        for j in range(i):
            shared = len(mine & words[j])
            if shared:
                # One is added inside each logarithm, so that two sentences of one word do not divide by zero.
                weight = shared / (math.log(1 + len(mine)) + math.log(1 + len(words[j])))
                edges[i][j] = edges[j][i] = weight
    return edges
