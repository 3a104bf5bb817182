"""Tokens before the call, from bytes, corrected by the usage after it. Holds running sums; never counts tokens itself.

Bytes per token depend on the script, so each kind of script has its own ratio. It starts cautious (times 1.3) and follows the
ratio of sums, decayed by 0.998 a call: the mean of ratios is biased and cost 8 points of the limit (FLOW-CONTROL B2).
Output follows what the model has been answering.
"""

from __future__ import annotations

from penstock.records import Usage
from penstock.rules.charges import Estimate

CAUTION = 1.3
DECAY = 0.998
PRIOR_BYTES = 10_000.0
PRIOR_OUTPUT_TOKENS = 256.0
PRIOR_ANSWERS = 10.0
"""The priors count as about ten calls, so that one odd answer does not turn the estimate."""

SCRIPTS = (("ascii", 4.0), ("latin", 3.5), ("two bytes a letter", 4.0), ("three bytes a letter", 3.0))
"""Kinds of script by bytes a letter, with the bytes a token that are supposed before the first answer."""

SAMPLED_BYTES = 4_096

UNSEEN_OUTPUT_TOKENS = 4_096.0
SEEN_ENOUGH = 20
LOW = 2.0
"""A prompt is refused for its size only where half of its estimate is too large: else the provider decides."""

HIGH = 1.25
"""The upper range of an answer's length: a quarter above the longest lately seen; before twenty answers, a long one."""


def script_of(body: bytes) -> int:
    """The index in `SCRIPTS` of a body's kind, judged by its first 4 kB (of which the envelope is a little)."""
    if body.isascii():
        return 0
    sample = body[:SAMPLED_BYTES]
    letters = sum((byte & 0xC0) != 0x80 for byte in sample) / len(sample)
    return 1 if letters > 0.85 else 2 if letters > 0.45 else 3


class Estimator:
    """What one model's requests have cost so far, as a guess for the next."""

    def __init__(self) -> None:
        self._bytes = [PRIOR_BYTES] * len(SCRIPTS)
        self._input = [PRIOR_BYTES / size * CAUTION for _, size in SCRIPTS]
        self._answers = PRIOR_ANSWERS
        self._output = PRIOR_ANSWERS * PRIOR_OUTPUT_TOKENS
        self._longest = 0.0
        self.seen = 0

    def estimate(self, body_bytes: int, script: int, most_output: int | None) -> Estimate:
        """The tokens to expect of a body of that length and script; `most_output` is its token limit, if it has one."""
        return Estimate(
            body_bytes * self._input[script] / self._bytes[script], self._output / self._answers, most_output
        )

    def upper(self, estimate: Estimate) -> Usage:
        """The usage that a request of that estimate will hardly exceed, for what must be reserved in money."""
        longest = self._longest * HIGH if self.seen >= SEEN_ENOUGH else max(UNSEEN_OUTPUT_TOKENS, self._longest * HIGH)
        output = longest if estimate.most_output is None else float(estimate.most_output)
        return Usage(input_tokens=int(estimate.input_tokens * CAUTION) + 1, output_tokens=int(output) + 1)

    def lower(self, estimate: Estimate) -> Estimate:
        """What a request of that estimate will hardly fall short of."""
        return Estimate(estimate.input_tokens / LOW, 0.0, estimate.most_output)

    def learn(self, body_bytes: int, script: int, usage: Usage) -> None:
        """Take in the usage of one answer."""
        self.seen += 1
        self._bytes[script] = self._bytes[script] * DECAY + body_bytes
        self._input[script] = self._input[script] * DECAY + usage.input_tokens
        self._answers = self._answers * DECAY + 1
        self._output = self._output * DECAY + usage.output_tokens
        self._longest = max(self._longest * DECAY, usage.output_tokens)

    def statistics(self) -> dict[str, float]:
        """Answers seen, bytes a token for each script seen, output tokens an answer, the longest lately."""
        ratios = {
            f"bytes_per_token ({name})": self._bytes[k] / self._input[k]
            for k, (name, size) in enumerate(SCRIPTS)
            if self._input[k] != PRIOR_BYTES / size * CAUTION
        }
        output = {"output_tokens_per_answer": self._output / self._answers, "longest_answer_tokens": self._longest}
        return {"answers": float(self.seen)} | ratios | output
