"""What is asked of one answer, and of every row of a run, as one value. How it becomes requests is `rules.template`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from penstock.records import Request
from penstock.rules.template import OUTPUT_KEYS, Template

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]] | Request
"""What one answer is asked for by: a text, messages, or a request that is whole."""


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of every row; the fields are those of `rules.template.Template`."""

    prompt: str | None = None
    system: str | None = None
    params: dict[str, Any] = {}
    id_column: str | None = None
    keep: tuple[str, ...] = ()

    def template(self, taken: frozenset[str] = OUTPUT_KEYS) -> Template:
        """The rule that turns rows into requests; raises `UsageError` where it can be right for no row.

        `taken` are the keys that the output has of its own.
        """
        return Template(**{name: getattr(self, name) for name in self.__struct_fields__}, taken=taken)
