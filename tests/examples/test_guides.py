"""The guides show what is so: each block of code is a program that runs here, what it prints, or commands that succeed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.examples.pages import GUIDES, Block, blocks, is_plain, printed, ran_in_a_shell, without_figures
from tests.examples.plain_side import service
from tests.kit.environment import ROOT

GUIDE, KOREAN = GUIDES
BLOCKS = blocks(GUIDE)
PAGES = [*GUIDES, ROOT / "README.ko.md", ROOT / "docs" / "report.md"]
NO_PROGRAMS = {"offline.py"}

_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(#[^)\s]+)?\)")


def shown(block: Block) -> str:
    return block.names or block.body.splitlines()[0]


def test_every_block_is_one_that_is_run() -> None:
    """Nothing stands in the guide that no test holds against the programs."""
    for block in BLOCKS:
        assert (block.what, block.kind) in {("embeds", "python"), ("prints", "text"), (None, "sh")}, block


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.what == "embeds"], ids=shown)
def test_a_program_in_the_guide_is_the_file(block: Block) -> None:
    assert block.body == (ROOT / block.names).read_text()


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.what == "prints" and not is_plain(each)], ids=shown)
def test_a_program_prints_what_the_guide_says(block: Block) -> None:
    """To the letter, but for decimals: those were measured."""
    assert without_figures(printed(block.names)) == without_figures(block.body)


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.kind == "sh"], ids=shown)
def test_the_commands_succeed(block: Block, tmp_path: Path) -> None:
    done = ran_in_a_shell(block.body, tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_example_is_in_the_guide() -> None:
    """Penstock's programs are embedded, the plain ones linked."""
    embedded = {block.names for block in BLOCKS if block.what == "embeds"}
    text = GUIDE.read_text()
    for path in (ROOT / "examples").glob("*.py"):
        name = f"examples/{path.name}"
        if path.stem.endswith("_plain"):
            assert f"](../{name})" in text, name
        elif path.name not in NO_PROGRAMS:
            assert name in embedded, name


def test_the_korean_guide_shows_the_same_code() -> None:
    """Block for block."""
    assert blocks(KOREAN) == BLOCKS


def test_the_korean_readme_shows_code_of_the_readme() -> None:
    """Each block stands in README.md too, where its own tests hold it."""
    there = {block.body for block in blocks(ROOT / "README.md")}
    ours = blocks(ROOT / "README.ko.md")
    assert len(ours) > 5
    for block in ours:
        assert block.body in there, block.body


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To files that are there, and to headings."""
    links = _LINK.findall(re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))
    assert links
    for path, heading in links:
        if path.startswith("http"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if heading:
            assert heading[1:] in slugs(target), f"{path}{heading}"


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_service_of_ones_own_answers_and_streams() -> None:
    """`08_own_service.py` as uvicorn runs it: a text, and the same text as a stream."""
    with service(sys.executable, "08_own_service.py", {}) as base_url:
        text = "Tea came from China. It came to Japan with monks. In England it became a habit."
        whole = json.loads(asked(f"{base_url}/generate", text))["generated_text"]
        assert whole == "Tea came from China. In England it became a habit."
        assert asked(f"{base_url}/stream", text).decode() == whole


def asked(url: str, prompt: str) -> bytes:
    body = json.dumps({"prompt": prompt}).encode()
    with urlopen(Request(url, body, {"content-type": "application/json"})) as answer:
        return bytes(answer.read())
