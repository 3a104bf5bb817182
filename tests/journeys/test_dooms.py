"""What dooms a whole run, what dooms one row, and what dooms nothing: seen from outside, through the command."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest

from tests.journeys.recording import recording
from tests.kit.journey import (
    beside,
    finish,
    output_lines,
    penstock,
    prompt_of,
    under_way,
    write_input,
    wrong_lines,
)
from tests.kit.simulated import Simulated, simulated

ROWS = 400
CONCURRENCY = 16
KEY = "right-key"
