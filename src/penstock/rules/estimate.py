"""Tokens before the call, from bytes, corrected by the usage after it. Holds two running sums; never counts tokens itself.

Bytes per token start cautious (4 bytes a token in prose, times 1.3) and follow the ratio of sums, decayed by 0.998 a
call: the mean of ratios is biased (FLOW-CONTROL B2).
"""

from __future__ import annotations

from penstock.records import Usage
from penstock.rules.governor import Charge

BYTES_PER_TOKEN = 4.0
CAUTION = 1.3
DECAY = 0.998
PRIOR_OUTPUT_TOKENS = 256.0
PRIOR_WEIGHT = 10.0
"""The prior counts as this many calls, so that one odd answer does not turn the estimate."""


class Estimator:
    """What one model's requests have cost so far, as a guess for the next."""

    def __init__(self) -> None:
        self._bytes = PRIOR_WEIGHT * 1_000
        self._input = self._bytes / BYTES_PER_TOKEN * CAUTION
        self._answers = PRIOR_WEIGHT
        self._output = PRIOR_WEIGHT * PRIOR_OUTPUT_TOKENS

    def charge(self, body_bytes: int, most_output: int | None) -> Charge:
        """The charge to reserve for a body of that length; `most_output` is its token limit, if it has one."""
        output = self._output / self._answers
        if most_output is not None:
            output = min(output, most_output)
        return Charge(input_tokens=body_bytes * self._input / self._bytes, output_tokens=output)

    def learn(self, body_bytes: int, usage: Usage) -> None:
        """Take in the usage of one answer."""
        self._bytes = self._bytes * DECAY + body_bytes
        self._input = self._input * DECAY + usage.input_tokens
        self._answers = self._answers * DECAY + 1
        self._output = self._output * DECAY + usage.output_tokens
