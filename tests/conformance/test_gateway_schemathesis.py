"""schemathesis makes requests, good and bad, out of the OpenAPI document: no 5xx, and no answer that the document does not know.

Not asked for are three of its checks, which our rules at the door contradict. A method that a route does not have is refused
for its body's type first (415). What a document calls good may still be refused, by the provider or for want of a header. And
`Allow` names the methods of one route where a path has several.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.gateway import KEY, LIMITS, serving
from tests.kit.environment import OFFLINE, PATIENCE_SECONDS, environment
from tests.kit.simulated import simulated

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "ignored_auth",
    "use_after_free",
    "ensure_resource_availability",
)
EXAMPLES = 20
"""Made up for each operation by chance, beside those that cover every edge of its schema."""

NAMES = ["m", "custom/m"]
SEED = 20260904
HEADERS = {None: "X-Penstock-Upload: 1", KEY: f"Authorization: Bearer {KEY}"}
"""Without a key, uploads need a header that no web page can send."""


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with names of models that are served, so that requests come as far as the provider."""
    schemas = document["components"]["schemas"]
    for name, others in (("ChatCompletionRequest", ()), ("Ask", (None,)), ("AskMany", (None,))):
        schemas[name]["properties"]["model"] = {"enum": [*NAMES, *others]}
    [name] = document["paths"]["/v1/models/{name}"]["get"]["parameters"]
    name["schema"] = {"enum": NAMES}
    return document


@pytest.mark.parametrize("key", HEADERS, ids=["without a key", "with a key"])
def test_no_request_breaks_it(key: str | None, tmp_path: Path) -> None:
    """Every operation is tried; every answer is one that the document knows; nothing of it is a fault in the log."""
    with simulated(*LIMITS) as provider:
        options = ["-m", "custom/m", "--base-url", provider.base_url, "--data", tmp_path / "data"]
        with serving(*options, key=key) as gateway:
            document = json.loads(gateway.fetch("/openapi.json"))
            operations = sum(len(path) for path in document["paths"].values())
            where = tmp_path / "openapi.json"
            where.write_text(json.dumps(narrowed(document)))
            done = tried(where, gateway.url, HEADERS[key], tmp_path)
            asked = provider.stats()["answered"]
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    assert re.search(rf"Selected: {operations}/{operations}\s+Tested: {operations}\n", done.stdout), done.stdout
    assert asked > EXAMPLES
    assert gateway.failures == []


def tried(document: Path, url: str, header: str, folder: Path) -> subprocess.CompletedProcess[str]:
    options = [
        *("--url", url, "-H", header, "--checks", ",".join(CHECKS), "--seed", str(SEED), "--no-color"),
        *(
            "--max-examples",
            str(EXAMPLES),
            "--generation-database",
            "none",
            "--warnings",
            "off",
            "--continue-on-failure",
        ),
    ]
    command = [environment("schemathesis").with_name("schemathesis"), "run", document, *options]
    env = OFFLINE | {"HOME": str(folder), "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
