"""What a simulated model writes where a form is asked for: a call of a tool, or JSON that a schema allows.

Pure. Values are taken from the prompt in order, its numbers and its quoted words, so that an answer follows from its prompt:
"What is 3 + 4?" for a tool of `a` and `b` makes `{"a":3,"b":4}`. It decides what is written, never whether it is asked for.

Read of a schema are its types, `properties`, `required`, `items`, `prefixItems`, `enum`, `const`, `anyOf`, `oneOf`, `allOf`,
`$ref` within it, bounds of numbers, and lengths. `pattern` is not: what it allows cannot be made up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_QUOTED = re.compile(r"(?<!\w)['\"]([^'\"]+)['\"](?!\w)")
_WORD = re.compile(r"[^\W_]{4,}")
_DEEPEST = 6
"""Below it only what is required is made, for schemas that contain themselves."""

_MOST_STEPS = 6
"""References and joins that lead to one schema, at most."""

_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def value_of(schema: Any, prompt: str, text: str) -> Any:
    """A value that the schema allows; `text` stands where it wants words and the prompt has none in quotes."""
    return _Maker(schema, prompt, text).value(schema, 0)


def object_of(prompt: str, text: str) -> dict[str, str]:
    """A JSON object without a schema: its keys are the words that the prompt has in quotes."""
    return dict.fromkeys(_QUOTED.findall(prompt) or ["text"], text)


def asks_for(prompt: str, name: str) -> bool:
    """True where a word of a tool's name, of four letters or more, is in the prompt."""
    words = {word.lower() for word in _WORD.findall(prompt.replace("_", " "))}
    return any(word.lower() in words for word in _WORD.findall(name.replace("_", " ")))


class _Maker:
    """Values for one schema; `root` is where its references point."""

    def __init__(self, root: Any, prompt: str, text: str) -> None:
        self._root = root
        numbers = [float(number) for number in _NUMBER.findall(prompt)]
        self._numbers: Iterator[float] = chain(numbers, repeat(1.0))
        self._words: Iterator[str] = chain(_QUOTED.findall(prompt), repeat(text))

    def value(self, schema: Any, depth: int) -> Any:
        """One value, at so many levels below the root."""
        if depth > 2 * _DEEPEST:
            return None  # it is required of itself: no value that has an end is allowed, and any will do
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        for word in ("anyOf", "oneOf"):
            if schema.get(word):
                return self._one_of(schema[word], depth)
        match _type_of(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer" | "number" as kind:
                return _within(schema, next(self._numbers), whole=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
        return self._string(schema)

    def _resolved(self, schema: Any, steps: int = _MOST_STEPS) -> dict[str, Any]:
        """The schema with its reference followed and its parts joined; one that is none allows anything."""
        if not isinstance(schema, dict) or steps == 0:
            return {}
        if "$ref" in schema:
            return self._resolved(self._pointed_at(schema["$ref"]), steps - 1)
        joined: dict[str, Any] = {}
        for part in (self._resolved(part, steps - 1) for part in schema.get("allOf", ())):
            properties = {**joined.get("properties", {}), **part.get("properties", {})}
            required = [*joined.get("required", ()), *part.get("required", ())]
            joined = {**joined, **part, "properties": properties, "required": required}
        return {**joined, **schema}

    def _pointed_at(self, reference: Any) -> Any:
        found = self._root
        for name in str(reference).removeprefix("#").split("/")[1:]:
            found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        return found

    def _one_of(self, choices: list[Any], depth: int) -> Any:
        """The first that is not null; null, if it is one of them, where a schema might contain itself."""
        null = [choice for choice in choices if self._resolved(choice).get("type") == "null"]
        if null and depth >= _DEEPEST:
            return None
        return self.value(next((choice for choice in choices if choice not in null), choices[0]), depth + 1)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        names = properties if depth < _DEEPEST else [name for name in schema.get("required", ()) if name in properties]
        return {name: self.value(properties[name], depth + 1) for name in names}

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        if "prefixItems" in schema:
            return [self.value(item, depth + 1) for item in schema["prefixItems"]]
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        count = least if depth >= _DEEPEST else max(least, min(1, most))
        return [self.value(schema.get("items"), depth + 1) for _ in range(count)]

    def _string(self, schema: dict[str, Any]) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        words = next(self._words)
        return words.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]


def _type_of(schema: dict[str, Any]) -> str:
    named = schema.get("type")
    if isinstance(named, list):
        return next((name for name in named if name != "null"), "null")
    if named is None:
        return "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(named)


def _within(schema: dict[str, Any], number: float, *, whole: bool) -> float:
    """The number, brought within the bounds of the schema."""
    step = schema.get("multipleOf") or (1 if whole else 0)
    nudge = step or 1e-6
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf) + nudge)
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf) - nudge)
    number = max(low, min(high, number))
    if step:
        number = step * math.ceil(number / step)
        number -= step if number > high else 0
    return int(number) if float(number).is_integer() else number
