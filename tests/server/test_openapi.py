"""The OpenAPI document tells of every route. That it tells of every answer, each `ask` of `tests.kit.serving` checks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.server.app import Server
from tests.kit.serving import CHAT, HI, Answer, echoes, gateway, settings_for
from tests.server.test_door import routes_of

UNTOLD = {"/openapi.json"}


def document(tmp_path: Path) -> dict[str, Any]:
    return Server(settings_for("http://127.0.0.1:9/v1", tmp_path), {}).app.openapi()


def test_every_route_of_the_router_is_in_the_document(tmp_path: Path) -> None:
    """Each with each of its methods, and nothing that there is not."""
    server = Server(settings_for("http://127.0.0.1:9/v1", tmp_path), {})
    routes = {
        (re.sub(r":\w+\}", "}", path), method.lower())
        for path, methods in routes_of(server)
        for method in methods - {"HEAD"}
        if path not in UNTOLD
    }
    told = {(path, method) for path, operations in server.app.openapi()["paths"].items() for method in operations}
    assert told == routes


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_the_document_hangs_together(tmp_path: Path) -> None:
    """Every reference leads somewhere, every operation has a name of its own, every error is the one form."""
    told = document(tmp_path)
    for reference in references(told):
        place: Any = told
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    operations = [each for path in told["paths"].values() for each in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for operation in operations:
        for status, response in operation["responses"].items():
            if status in ("default", "400", "401", "404", "429", "500"):
                assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}
    assert told["security"] == [{"key": []}, {}]


async def test_the_document_is_served_and_needs_no_other_host(tmp_path: Path) -> None:
    """And the pages of the framework, which load scripts from elsewhere, are not there."""
    async with gateway(echoes, tmp_path) as (server, _):
        served = (await server.ask("/openapi.json")).json
        assert served == json.loads(json.dumps(server.server.app.openapi()))
        assert [(await server.ask(page)).status for page in ("/docs", "/redoc", "/docs/oauth2-redirect")] == [404] * 3


async def test_the_check_of_the_kit_sees_an_answer_that_is_not_told(tmp_path: Path) -> None:
    """An unknown status, a known one of another type; or the check that every test makes would prove nothing."""
    async with gateway(echoes, tmp_path) as (server, _):
        assert (await server.ask(body=HI)).status == 200
        for status, kind in ((299, "application/json"), (200, "text/plain"), (400, "text/html")):
            with pytest.raises(AssertionError, match="is not documented"):
                server._check_documented("POST", CHAT, Answer(status, [("content-type", kind)], b""))
