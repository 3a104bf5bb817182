"""A file of prompts in, a file of answers out: checked before anything is sent, recorded as it goes, resumed where it stopped.

It puts a client, an input, a ledger and an output together; the order of its steps is its promise. Bad input or usage
raises before any file is touched; OUTPUT appears whole, when every row is over.
"""

from __future__ import annotations

from penstock.jobs.account import Account, verify
from penstock.jobs.preparing import Job, Prepared, Tick, ledger_of, prepare
from penstock.jobs.running import carry_out, recorded_results, start, tally_of, write_output

__all__ = [
    "Account",
    "Job",
    "Prepared",
    "Tick",
    "carry_out",
    "ledger_of",
    "prepare",
    "recorded_results",
    "start",
    "tally_of",
    "verify",
    "write_output",
]
