"""All rows read once before anything is sent: how many there are, and which can never be sent or have the id of another.

It tells what is wrong with rows; what of a row is asked is decided elsewhere.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise

import msgspec

from penstock.errors import InputError
from penstock.records import RawRow, Row
from penstock.rules.template import shown


class InputCheck(msgspec.Struct, frozen=True):
    """What the first reading found: how many rows there are, and what is wrong; with errors it may have ended early."""

    rows: int
    errors: list[InputError]


def check_rows(read: Callable[[], Iterable[RawRow]], render: Callable[[RawRow], Row], at_most: int = 20) -> InputCheck:
    """Read all rows once; tell up to `at_most` that cannot be sent (`render` raises) or whose id another row has.

    `read` starts over each time; a second reading is made only where two ids may be equal. Memory is 8 bytes for each
    row that has an id of its own.
    """
    count, errors, ids = 0, [], _SeenIds()
    for raw in read():
        count += 1
        try:
            ids.add(raw.index, render(raw).id)
        except InputError as error:
            errors.append(error)
            if len(errors) >= at_most:
                return InputCheck(count, errors)
    suspects = ids.suspects()
    if suspects:
        errors += islice(_duplicates(read(), render, suspects), at_most - len(errors))
    return InputCheck(count, errors)


def _duplicates(rows: Iterable[RawRow], render: Callable[[RawRow], Row], suspects: set[int]) -> Iterator[InputError]:
    """The rows whose id an earlier one has, among ids whose hash is suspect: equal hashes need not be equal ids."""
    first: dict[str | int, str] = {}
    for raw in rows:
        try:
            row_id = render(raw).id
        except InputError:
            continue  # told by the first reading
        if _id_hash(row_id) not in suspects:
            continue
        if row_id in first:
            yield InputError(raw.where, f"the id {shown(row_id)} is also that of {first[row_id]}; ids must differ")
        else:
            first[row_id] = raw.where


def _id_hash(row_id: str | int) -> int:
    """64 bits of an id. Whole numbers are hashed as text: their own hash is the number, which fills one part only."""
    return hash(row_id if type(row_id) is str else f"\0{row_id}") & 0xFFFF_FFFF_FFFF_FFFF


class _SeenIds:
    """Hashes of ids, 8 bytes each, in parts by their top byte so that one part at a time is sorted.

    As long as each id is the row's own index nothing is stored, for these differ by themselves.
    """

    _MAX_SUSPECTS = 1_000  # far more than are ever told; bounds the second reading where every id is a duplicate

    def __init__(self) -> None:
        self._natural = 0
        self._parts = [array("Q") for _ in range(256)]
        self._suspects: set[int] = set()

    def add(self, index: int, row_id: str | int) -> None:
        if type(row_id) is int and 0 <= row_id < self._natural:
            if len(self._suspects) < self._MAX_SUSPECTS:
                self._suspects.add(_id_hash(row_id))
        elif row_id == index == self._natural:
            self._natural += 1
        else:
            hashed = _id_hash(row_id)
            self._parts[hashed >> 56].append(hashed)

    def suspects(self) -> set[int]:
        """Hashes that came more than once: all of them, or about as many as `_MAX_SUSPECTS`."""
        suspects = set(self._suspects)
        for part in self._parts:
            if len(suspects) >= self._MAX_SUSPECTS:
                break
            suspects.update(hashed for hashed, following in pairwise(sorted(part)) if hashed == following)
        return suspects
