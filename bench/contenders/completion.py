"""As much of a chat completion as must be decoded to have its text."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    message: Message


class Completion(msgspec.Struct):
    choices: list[Choice]
