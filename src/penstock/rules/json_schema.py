"""JSON Schema, as much of it as the answers need that nothing else reads: whether a schema is one, and whether data fits it.

Only schemas that a caller gives as such are read by these checks; classes are read by pydantic or msgspec. Checked are
`type`, `enum`, `const`, `properties`, `required`, `additionalProperties`, `patternProperties`, `items`, `prefixItems`,
`minItems`, `maxItems`, `uniqueItems`, `minLength`, `maxLength`, `pattern`, `minimum`, `maximum`, `exclusiveMinimum`,
`exclusiveMaximum`, `multipleOf`, `anyOf`, `oneOf`, `allOf`, `not` and `$ref` within the schema. Any other keyword
(`format`, `if`, `contains`, `dependentRequired`, `unevaluatedProperties`, ...) is told to the model and not checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from penstock.errors import UsageError

Schema: TypeAlias = dict[str, Any]

DEFINITIONS = ("$defs", "definitions")
MOST_TOLD = 8
"""More mismatches at once help no model to mend its answer."""


def mismatches(value: Any, root: Schema) -> list[str]:
    """What of plain data does not fit a `well_formed` schema, each as `at $.a[0]: why`; the first `MOST_TOLD` of them."""
    return list(islice(_Check(root).node(value, root, "$"), MOST_TOLD))


class _Check(msgspec.Struct, frozen=True):
    """One schema as the data is held against it."""

    root: Schema

    def node(self, value: Any, schema: Any, where: str) -> Iterator[str]:
        if schema is False:
            yield f"at {where}: nothing may stand here"
        if not isinstance(schema, dict):
            return
        for keyword, wanted in schema.items():
            if (simple := _SIMPLE.get(keyword)) is not None:
                if (told := simple(value, wanted)) is not None:
                    yield f"at {where}: {told}"
            elif (nested := _NESTED.get(keyword)) is not None:
                yield from nested(self, value, schema, where)

    def fits(self, value: Any, schema: Any) -> bool:
        return next(self.node(value, schema, "$"), None) is None

    def reference(self, value: Any, schema: Schema, where: str) -> Iterator[str]:
        yield from self.node(value, resolve(schema["$ref"], self.root), where)

    def properties(self, value: Any, schema: Schema, where: str) -> Iterator[str]:
        if isinstance(value, dict):
            for name, part in schema["properties"].items():
                if name in value:
                    yield from self.node(value[name], part, f"{where}.{name}")

    def by_pattern(self, value: Any, schema: Schema, where: str) -> Iterator[str]:
        for name in value if isinstance(value, dict) else ():
            for pattern, part in schema["patternProperties"].items():
                if re.search(pattern, name):
                    yield from self.node(value[name], part, f"{where}.{name}")

    def additional(self, value: Any, schema: Schema, where: str) -> Iterator[str]:
        patterns = schema.get("patternProperties", ())
        for name in value if isinstance(value, dict) else ():
            if name in schema.get("properties", ()) or any(re.search(pattern, name) for pattern in patterns):
                continue
            if schema["additionalProperties"] is False:
                yield f"at {where}: {shown(name)} is no property of it"
            else:
                yield from self.node(value[name], schema["additionalProperties"], f"{where}.{name}")

    def items(self, value: Any, schema: Schema, where: str) -> Iterator[str]:
        if isinstance(value, list):
            first = len(schema.get("prefixItems", ()))
            for place, item in enumerate(value[first:], first):
                yield from self.node(item, schema["items"], f"{where}[{place}]")

    def prefix(self, value: Any, schema: Schema, where: str) -> Iterator[str]:
        if isinstance(value, list):
            for place, (item, part) in enumerate(zip(value, schema["prefixItems"], strict=False)):
                yield from self.node(item, part, f"{where}[{place}]")

    def all_of(self, value: Any, schema: Schema, where: str) -> Iterator[str]:
        for part in schema["allOf"]:
            yield from self.node(value, part, where)

    def any_of(self, value: Any, schema: Schema, where: str) -> Iterator[str]:
        whys = []
        for choice in schema["anyOf"]:
            why = next(self.node(value, choice, where), None)
            if why is None:
                return
            whys.append(why)
        yield f"at {where}: it fits none of {len(whys)} choices ({'; '.join(whys[:MOST_TOLD])})"

    def one_of(self, value: Any, schema: Schema, where: str) -> Iterator[str]:
        fitting = sum(self.fits(value, choice) for choice in schema["oneOf"])
        if fitting == 0:
            yield from self.any_of(value, {"anyOf": schema["oneOf"]}, where)
        elif fitting > 1:
            yield f"at {where}: it fits {fitting} choices and may fit only one"

    def is_not(self, value: Any, schema: Schema, where: str) -> Iterator[str]:
        if self.fits(value, schema["not"]):
            yield f"at {where}: {shown(value)} is ruled out"


_NESTED: dict[str, Callable[[_Check, Any, Schema, str], Iterator[str]]] = {
    "$ref": _Check.reference,
    "properties": _Check.properties,
    "patternProperties": _Check.by_pattern,
    "additionalProperties": _Check.additional,
    "items": _Check.items,
    "prefixItems": _Check.prefix,
    "allOf": _Check.all_of,
    "anyOf": _Check.any_of,
    "oneOf": _Check.one_of,
    "not": _Check.is_not,
}


def type_of(value: Any) -> str:
    return _NAMES.get(type(value), "null")


def _is(value: Any, name: str) -> bool:
    own = type_of(value)
    if own == "number" and name == "integer":
        return bool(value.is_integer())
    return own == name or (own == "integer" and name == "number")


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1, 1 is 1.0."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def types_of(schema: Schema) -> tuple[str, ...]:
    wanted = schema.get("type", ())
    return (wanted,) if isinstance(wanted, str) else tuple(wanted)


def _wrong_type(value: Any, wanted: Any) -> str | None:
    types = types_of({"type": wanted})
    return None if any(_is(value, name) for name in types) else f"expected {' or '.join(types)}, got {type_of(value)}"


def _not_listed(value: Any, wanted: list[Any]) -> str | None:
    if any(_same(value, one) for one in wanted):
        return None
    return f"{shown(value)} is none of {', '.join(map(shown, wanted[:20]))}"


def _missing(value: Any, wanted: list[str]) -> str | None:
    missing = [name for name in wanted if name not in value] if isinstance(value, dict) else []
    return f"{', '.join(map(shown, missing))} must not be left out" if missing else None


def _twice(value: Any, wanted: bool) -> str | None:
    if not wanted or not isinstance(value, list):
        return None
    seen = {msgspec.json.encode(item, order="deterministic") for item in value}
    return None if len(seen) == len(value) else "an item is there twice"


def _no_match(value: Any, wanted: str) -> str | None:
    return (
        f"{shown(value)} does not match {wanted!r}" if isinstance(value, str) and not re.search(wanted, value) else None
    )


def _bound(
    kind: type | tuple[type, ...], holds: Callable[[Any, Any], bool], words: str
) -> Callable[[Any, Any], str | None]:
    def check(value: Any, wanted: Any) -> str | None:
        if not isinstance(value, kind) or isinstance(value, bool) or holds(value, wanted):
            return None
        return f"{shown(value)} must {words} {wanted}"

    return check


def _is_multiple(value: float, step: float) -> bool:
    """0.3 is a multiple of 0.1, although no binary fraction says so."""
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    quotient = value / step
    return abs(quotient - round(quotient)) < 1e-9 if abs(quotient) < 1e15 else True


_NUMBER = (int, float)
_SIMPLE: dict[str, Callable[[Any, Any], str | None]] = {
    "type": _wrong_type,
    "enum": _not_listed,
    "const": lambda value, wanted: _not_listed(value, [wanted]),
    "required": _missing,
    "uniqueItems": _twice,
    "pattern": _no_match,
    "minimum": _bound(_NUMBER, lambda value, least: value >= least, "be at least"),
    "maximum": _bound(_NUMBER, lambda value, most: value <= most, "be at most"),
    "exclusiveMinimum": _bound(_NUMBER, lambda value, least: value > least, "be more than"),
    "exclusiveMaximum": _bound(_NUMBER, lambda value, most: value < most, "be less than"),
    "multipleOf": _bound(_NUMBER, _is_multiple, "be a multiple of"),
    "minLength": _bound(str, lambda value, least: len(value) >= least, "have a length of at least"),
    "maxLength": _bound(str, lambda value, most: len(value) <= most, "have a length of at most"),
    "minItems": _bound(list, lambda value, least: len(value) >= least, "have a length of at least"),
    "maxItems": _bound(list, lambda value, most: len(value) <= most, "have a length of at most"),
}
_NAMES: dict[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
}


def shown(value: Any) -> str:
    """A value as JSON for a message, short."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


def resolve(reference: str, root: Schema) -> Any:
    """What a local reference names: `#` is the root, `#/$defs/Name` a part of it. Raises `UsageError` where it names nothing."""
    if not reference.startswith("#"):
        raise UsageError(f"the JSON schema refers to {reference!r}; only references within it (#/...) can be followed")
    node: Any = root
    for step in reference.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, Mapping) and name in node:
            node = node[name]
        else:
            raise UsageError(f"the JSON schema refers to {reference!r}, which is not in it")
    return node


# -- whether a schema is one

_TYPES = frozenset({*_NAMES.values(), "null"})


def well_formed(schema: Schema) -> None:
    """Raises `UsageError`, which says where, for a schema that no answer could be checked by."""
    _well_formed(schema, schema, "#")


def _well_formed(node: Any, root: Schema, where: str) -> None:
    if isinstance(node, bool):
        return
    if not isinstance(node, dict):
        raise UsageError(f"the JSON schema needs an object at {where}, not {shown(node)}")
    for keyword, value in node.items():
        if not _RIGHT.get(keyword, _anything)(value):
            raise UsageError(f"the JSON schema cannot have {shown(value)} as {keyword!r} at {where}")
        for name, part in _parts(keyword, value):
            _well_formed(part, root, f"{where}/{keyword}{name}")
    if "$ref" in node:
        resolve(node["$ref"], root)


def _parts(keyword: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The schemas that stand under a keyword."""
    if keyword in _OF_NAMES:
        yield from ((f"/{name}", part) for name, part in value.items())
    elif keyword in _OF_PARTS:
        yield from ((f"/{place}", part) for place, part in enumerate(value))
    elif keyword in _OF_ONE:
        yield "", value


_OF_NAMES = frozenset({"properties", "patternProperties", *DEFINITIONS})
_OF_PARTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_OF_ONE = frozenset({"additionalProperties", "items", "not"})


def _anything(_: Any) -> bool:
    return True


def _is_pattern(value: Any) -> bool:
    try:
        re.compile(value)
    except (re.error, TypeError, OverflowError, RecursionError):
        return False
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBER) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_type(value: Any) -> bool:
    return bool(value) and set(types_of({"type": value})) <= _TYPES if _is_list_of_names(value) else value in _TYPES


_RIGHT: dict[str, Callable[[Any], bool]] = {
    "type": _is_type,
    "enum": lambda value: isinstance(value, list) and bool(value),
    "required": _is_list_of_names,
    "pattern": _is_pattern,
    "patternProperties": lambda value: isinstance(value, dict) and all(map(_is_pattern, value)),
    "$ref": lambda value: isinstance(value, str),
    "multipleOf": lambda value: _is_number(value) and value > 0,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _is_count),
    **dict.fromkeys(("properties", *DEFINITIONS), lambda value: isinstance(value, dict)),
    **dict.fromkeys(_OF_PARTS, lambda value: isinstance(value, list) and bool(value)),
}
