"""Copies share one client; each event loop has its own; nothing is left open; no secret shows."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import os
import pickle
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest
from langchain_core.load import dumpd, dumps, loads
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import ConfigurableField
from langchain_core.tracers import BaseTracer, Run

from penstock.integrations.langchain import ChatPenstock
from penstock.options import Limits
from penstock.simulator.behaviour import Settings, expected_text
from penstock.simulator.server import serve
from tests.integrations.conftest import KEY, NewModel
from tests.kit.simulated import Simulated

LIMITS = {"requests_per_minute": 6_000}


# -- who shares


def copies(model: ChatPenstock) -> dict[str, ChatPenstock]:
    """The model, and whatever LangChain makes of it."""
    field = ConfigurableField(id="temperature")
    return {
        "itself": model,
        "bind": model.bind(stop=["a"]).bound,
        "bind_tools": model.bind_tools([]).bound,
        "with_config": model.with_config(tags=["a"]).bound,
        "with_retry": model.with_retry().bound,
        "model_copy": model.model_copy(),
        "another temperature": model.model_copy(update={"temperature": 1.0}),
        "deep copy": copy.deepcopy(model),
        "pickle": pickle.loads(pickle.dumps(model)),
        "configurable": model.configurable_fields(temperature=field)._prepare({"configurable": {"temperature": 1}})[0],
    }


async def test_copies_share_one_client_and_its_limits(new_model: NewModel) -> None:
    """What all of them send is charged to one account."""
    model = new_model(limits=LIMITS)
    made = copies(model)
    for name, one in made.items():
        assert isinstance(one, ChatPenstock), name
        assert one.clients.here() is model.clients.here(), name
        await one.ainvoke("Row 1 asks")
    assert model.clients.here().statistics()["requests_per_minute.used"] == len(made)


async def test_equal_settings_share_too(new_model: NewModel) -> None:
    """Whoever asks the same account for the same model has the same limits, however often it is written down."""
    assert new_model(limits=LIMITS).clients is new_model(limits=Limits(**LIMITS), temperature=1).clients


@pytest.mark.parametrize(
    "other",
    [
        {"base_url": "http://127.0.0.1:9/v1"},
        {"api_key": "sk-another"},
        {"model": "custom/another"},
        {"limits": {"requests_per_minute": 5}},
        {"max_concurrency": 3},
        {"timeout": 3.0},
        {"max_retries": 3},
    ],
)
def test_other_settings_have_a_client_of_their_own(new_model: NewModel, other: dict[str, Any]) -> None:
    """Also where a copy was given them: its requests must not go to the old address."""
    model = new_model()
    assert new_model(**other).clients is not model.clients
    changed = ChatPenstock(**{"model": model.model, "base_url": model.base_url, "api_key": KEY, **other})
    update = {name: getattr(changed, name) for name in other}
    assert model.model_copy(update=update).clients is changed.clients
    assert new_model().clients is model.clients


async def test_as_many_at_once_as_was_said_over_all_copies() -> None:
    """LangChain's own bound counts for each call apart; this one for all that share it."""
    async with serve(Settings(latency=0.001)) as server:
        model = ChatPenstock(model="custom/m", base_url=server.base_url, max_concurrency=3)
        chains = [model | StrOutputParser(), model.bind(temperature=1) | StrOutputParser()]
        await asyncio.gather(*(chain.abatch([f"Row {index}" for index in range(30)]) for chain in chains))
        assert server.stats().answered == 60
        assert server.stats().peak == 3
        await model.aclose()


# -- loops


def test_one_loop_after_another_and_none(new_model: NewModel) -> None:
    """A chain that is kept works in each `asyncio.run`, in a thread with a loop, and without a loop."""
    chain = PromptTemplate.from_template("Row {index} asks") | new_model() | StrOutputParser()
    texts = [asyncio.run(chain.ainvoke({"index": 1})), chain.invoke({"index": 1})]
    thread = threading.Thread(target=lambda: texts.append(asyncio.run(chain.ainvoke({"index": 1}))))
    thread.start()
    thread.join(timeout=60)
    texts.append(asyncio.run(chain.ainvoke({"index": 1})))
    assert texts == [expected_text("Row 1 asks")] * 4


def test_clients_of_closed_loops_are_forgotten(new_model: NewModel) -> None:
    """However many loops there were, those that are over hold nothing."""
    model = new_model()
    for _ in range(5):
        asyncio.run(model.ainvoke("Row 1 asks"))
    assert len(model.clients._by_loop) == 1


async def test_without_a_loop_inside_of_one(new_model: NewModel) -> None:
    """A chain that somebody calls without await, as in notebooks, answers; the loop only stands still meanwhile."""
    assert new_model().invoke("Row 1 asks").text == expected_text("Row 1 asks")


async def test_closing_and_going_on(new_model: NewModel) -> None:
    """Closing twice does no harm, and the next call opens again."""
    model = new_model()
    for _ in range(2):
        await model.ainvoke("Row 1 asks")
        await asyncio.to_thread(model.invoke, "Row 1 asks")
        before = model.clients.here()
        await model.aclose()
        await model.aclose()
        assert model.clients.here() is not before
    model.close()
    model.close()


async def test_what_nobody_holds_is_closed() -> None:
    """A model that was made for one call leaves no connection behind."""
    async with serve(Settings()) as server:
        model = ChatPenstock(model="custom/m", base_url=server.base_url)
        await model.ainvoke("Row 1 asks")
        clients = weakref.ref(model.clients)
        assert len(server.connections) == 1
        del model
        gc.collect()
        assert clients() is None
        for _ in range(1_000):
            await asyncio.sleep(0)
            if not server.connections:
                return
        raise AssertionError("the connection is still open")


def test_garbage_that_the_own_loop_collects(new_model: NewModel) -> None:
    """A model in a circle is freed by whichever thread comes to it, the client's too: nobody waits for itself there."""
    model = new_model(timeout=31.0)
    model.invoke("Row 1 asks")
    loop = model.clients.blocking()._loop
    clients = weakref.ref(model.clients)
    model.metadata = {"itself": model}
    del model

    async def collect() -> None:
        gc.collect()

    asyncio.run_coroutine_threadsafe(collect(), loop._loop).result(timeout=60)
    assert clients() is None
    loop._thread.join(timeout=60)
    assert not loop._thread.is_alive()


PROGRAM = """
import asyncio, os
from penstock.integrations.langchain import ChatPenstock

def new(): return ChatPenstock(model="custom/m", base_url=os.environ["BASE_URL"], api_key=os.environ["KEY"])

async def main():
    print((await new().ainvoke("Hello")).text)
    async for chunk in new().astream("Hello"):
        break  # an answer that is left half-way

kept = new()
print(kept.invoke("Hello").text)
asyncio.run(main())
print(new().invoke("Hello").text)
for chunk in kept.stream("Hello"):
    break
print(asyncio.run(kept.ainvoke("Hello")).text)
"""


def test_a_program_that_closes_nothing_ends_quietly(provider: Simulated) -> None:
    """No hang at the exit, no warning of anything left open, with every warning an error."""
    environ = {**os.environ, "BASE_URL": provider.base_url, "KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        env=environ,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [expected_text("Hello")] * 4


# -- secrets


class Traced(BaseTracer):
    """All that a tracer is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def _persist_run(self, run: Run) -> None:
        self.seen.append(run.model_dump_json(exclude={"child_runs"}, fallback=repr))


def test_the_key_shows_nowhere(new_model: NewModel) -> None:
    """Not in a repr, a dump, a trace, or what LangChain writes down of a chain."""
    model, traced = new_model(limits=LIMITS), Traced()
    chain = PromptTemplate.from_template("Row {index} asks") | model | StrOutputParser()
    chain.invoke({"index": 1}, config={"callbacks": [traced]})
    list(chain.stream({"index": 1}, config={"callbacks": [traced]}))
    told = {
        "repr": repr(model),
        "chain": repr(chain),
        "dump": model.model_dump_json(),
        "dict": json.dumps(model.asdict()),
        "written": dumps(chain),
        "clients": repr(model.clients.settings),
        "cache": model._get_llm_string(),
        "traced": "".join(traced.seen),
    }
    assert len(traced.seen) > 1
    assert {name for name, text in told.items() if KEY in text} == set()


def test_a_key_of_the_environment_shows_nowhere_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written down as the name of its variable."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    model = ChatPenstock(model="openai/gpt-5-mini")
    assert model.api_key is not None
    assert model.api_key.get_secret_value() == KEY
    assert KEY not in repr(model) + dumps(model)
    assert dumpd(model)["kwargs"]["api_key"]["id"] == ["OPENAI_API_KEY"]


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_what_is_written_down_can_be_read_by_who_names_the_class(new_model: NewModel) -> None:
    """The key comes from the environment of the reader."""
    model = new_model(limits=LIMITS, stop=["a"], model_kwargs={"seed": 1})
    known = {"allowed_objects": [ChatPenstock], "valid_namespaces": ["penstock"]}
    read = loads(dumps(model), secrets_map={"PENSTOCK_API_KEY": KEY}, **known)
    assert read.asdict() == model.asdict()
    assert read.clients is model.clients


def test_nothing_is_opened_by_the_constructor() -> None:
    """A model that is never asked costs no thread and no connection."""
    threads = threading.active_count()
    ChatPenstock(model="custom/m", base_url="http://127.0.0.1:9/v1")
    assert threading.active_count() == threads


WITHOUT_LANGCHAIN = """
import sys

class Absent:
    def find_spec(self, name, *_):
        if name == "langchain_core":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import penstock.integrations.langchain
"""


def test_without_langchain_the_message_says_what_to_install() -> None:
    """The extra is named."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LANGCHAIN], capture_output=True, text=True, timeout=60, check=False
    )
    assert "pip install 'penstock[langchain]'" in done.stderr.splitlines()[-1]
