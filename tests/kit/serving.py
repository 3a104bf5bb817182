"""A server of ours on an ephemeral port, a provider behind it that does what it is told, and a client that sees every byte.

In this process the server is what `penstock serve` runs, without its signals; `serving_process` is the command itself.
Every answer that comes through `Served.ask` must be one that the OpenAPI document tells of.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec
from uvicorn.server import ServerState

from penstock.server.app import Server
from penstock.server.exchange import Exchange
from penstock.server.protocol import CappedProtocol
from penstock.server.running import config_of
from penstock.server.settings import Endpoint, Key, Listening, Settings
from penstock.server.settings import Served as ServedModel
from tests.kit.command import read_until, started
from tests.kit.hostile import Peer, answer, hostile

T = TypeVar("T")
CHAT = "/v1/chat/completions"
PATIENCE_SECONDS = 30.0
"""Bounds a wait for what must come; nothing is measured by it."""

MODEL = "openai/gpt-5-mini"
HI = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}
STREAMED = {**HI, "stream": True}
Pair: TypeAlias = tuple[str, str]


class Heard(Generic[T]):
    """What came, in order; `at_least` waits until there is so much of it."""

    def __init__(self) -> None:
        self.all: list[T] = []
        self._news = asyncio.Event()

    def add(self, what: T) -> None:
        self.all.append(what)
        self._news.set()

    async def at_least(self, count: int) -> list[T]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.all) < count:
                self._news.clear()
                await self._news.wait()
        return self.all


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        for _ in iter(condition, True):
            await asyncio.sleep(0)


# -- the provider


class Asked(NamedTuple):
    """A request as the provider got it."""

    head: bytes
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def prompt(self) -> Any:
        return self.fields["messages"][-1]["content"]


Respond: TypeAlias = Callable[[Asked, Peer], Awaitable[None]]


class Provider:
    """`asked` is what came, `left` grows by one whenever a client goes before its answer is whole."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self.asked: Heard[Asked] = Heard()
        self.left: Heard[Asked] = Heard()
        self.base_url = ""

    async def script(self, peer: Peer) -> None:
        while True:
            head, _, body = (await peer.request()).partition(b"\r\n\r\n")
            asked = Asked(head, body)
            self.asked.add(asked)
            try:
                await self._respond(asked, peer)
            except ConnectionError:
                self.left.add(asked)
                raise


@asynccontextmanager
async def provider(respond: Respond) -> AsyncIterator[Provider]:
    """A provider on loopback."""
    told = Provider(respond)
    async with hostile(told.script) as server:
        told.base_url = f"http://127.0.0.1:{server.port}/v1"
        yield told


def gives(*answers: bytes) -> Respond:
    """Each answer once, in order; the last one from then on."""
    left = list(answers)

    async def respond(_: Asked, peer: Peer) -> None:
        await peer.send(left.pop(0) if len(left) > 1 else left[0])

    return respond


def holds(*pieces: bytes) -> Respond:
    """These bytes, and then nothing more until the client has gone."""

    async def respond(_: Asked, peer: Peer) -> None:
        await peer.send(*pieces)
        await peer.gone()
        raise ConnectionResetError("the client is gone")

    return respond


def echoes(asked: Asked, peer: Peer) -> Awaitable[None]:
    """`answer to PROMPT`, whole or as a stream, as it was asked for."""
    text = f"answer to {asked.prompt}"
    return peer.send(stream_of(*text.split(" ")) if asked.fields.get("stream") else whole(text))


def completion(text: str = "fine", **further: Any) -> dict[str, Any]:
    """A chat completion."""
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    known = {"id": "chatcmpl-up", "object": "chat.completion", "created": 1, "model": "gpt-5-mini-1"}
    return {**known, "choices": [choice], "usage": usage, **further}


def whole(text: str = "fine", *headers: str, **further: Any) -> bytes:
    """A chat completion over HTTP."""
    return json_answer(completion(text, **further), *headers)


def json_answer(body: Any, *headers: str, status: str = "200 OK") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return answer(data, status=status, headers=("content-type: application/json", *headers))


def error_answer(status: str, message: str = "no", *headers: str, **fields: Any) -> bytes:
    """An error as a provider tells it."""
    error = {"message": message, "type": "their_type", "param": "their_param", "code": "their_code", **fields}
    return json_answer({"error": error}, *headers, status=status)


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: req-upstream\r\n"
    b"x-ratelimit-remaining-requests: 59\r\nopenai-processing-ms: 12\r\ntransfer-encoding: chunked\r\n\r\n"
)
LAST = b"0\r\n\r\n"
_CHUNK = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-mini-1"}


def chunk(delta: dict[str, Any], reason: str | None = None, **further: Any) -> dict[str, Any]:
    """The data of one event of a stream."""
    return {**_CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "usage": None, **further}


def event(data: Any) -> bytes:
    """A server-sent event as a piece of a chunked body."""
    text = data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode()
    return raw_piece(b"data: %b\n\n" % text)


def raw_piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


ROLE = event(chunk({"role": "assistant", "content": ""}))
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
END = event(chunk({}, "stop")) + event({**_CHUNK, "choices": [], "usage": USAGE}) + event(b"[DONE]") + LAST


def stream_of(*texts: str) -> bytes:
    """A whole stream, as a provider sends it that was asked for usage."""
    return STREAM_HEAD + ROLE + b"".join(event(chunk({"content": text})) for text in texts) + END


# -- the client


class Answer(NamedTuple):
    """One answer; names of headers in lower case."""

    status: int
    headers: list[Pair]
    body: bytes

    def header(self, name: str) -> str | None:
        """The only header of that name; None where there is none."""
        found = [value for known, value in self.headers if known == name]
        assert len(found) <= 1, f"{name} stands {len(found)} times"
        return found[0] if found else None

    @property
    def kind(self) -> str:
        """Its content type, without parameters."""
        return (self.header("content-type") or "").partition(";")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error; it must have all four keys, and nothing stands beside it."""
        told = self.json
        assert list(told) == ["error"], told
        assert set(told["error"]) == {"message", "type", "param", "code"}, told
        assert isinstance(told["error"]["message"], str)
        assert isinstance(told["error"]["type"], str)
        return dict(told["error"])

    @property
    def events(self) -> list[str]:
        """The data of a stream's events. A chat stream has `data:` lines and comments only, and no other field at all."""
        text = self.body.decode()
        assert text.endswith("\n\n"), text[-80:]
        blocks = text.removesuffix("\n\n").split("\n\n")
        lines = [line for block in blocks for line in block.split("\n") if not line.startswith(":")]
        assert all(line.startswith("data: ") for line in lines), lines
        return [line.removeprefix("data: ") for line in lines]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The events of a stream that ended well, without its `[DONE]`."""
        *data, last = self.events
        assert last == "[DONE]", last
        return [json.loads(each) for each in data]


class Wire:
    """A connection to a server, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._left: int | None = 0

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def head(self) -> Answer:
        """Status and headers of the next answer."""
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        told = Answer(int(status.split(" ")[1]), headers, b"")
        length = told.header("content-length")
        self._left = int(length) if length is not None else None
        return told

    async def piece(self) -> bytes:
        """The next chunk of a chunked body; empty at its end."""
        size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def body(self) -> bytes:
        """The rest of the body."""
        if self._left is not None:
            return await self.reader.readexactly(self._left)
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer, whole."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            told = await self.head()
            return told._replace(body=b"" if method == "HEAD" else await self.body())

    async def ended(self) -> bytes:
        """What still comes until the server closes the connection."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def leave(self) -> None:
        """Go, as a client does that is killed."""
        self.writer.transport.abort()


@asynccontextmanager
async def wire(port: int) -> AsyncIterator[Wire]:
    """A connection; it is broken at the end of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    line = Wire(reader, writer)
    try:
        yield line
    finally:
        line.leave()


def request(method: str, target: str, headers: list[Pair], body: bytes | None = None) -> bytes:
    """A request as it goes over the wire, its length added where it has a body."""
    length = [] if body is None else [("content-length", str(len(body)))]
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in [*headers, *length])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


# -- the server


_DOCUMENTS: dict[int, dict[str, Any]] = {}
"""The document is the same for every server that has the same routes, and takes longer to make than the server."""


class Served:
    """A running server; `over` are the accounts of its requests, in the order of their ends."""

    def __init__(self, server: Server, port: int) -> None:
        self.server, self.port = server, port
        self.over: Heard[Exchange] = Heard()
        self._document = _DOCUMENTS.get(len(server.app.routes)) or _DOCUMENTS.setdefault(
            len(server.app.routes), server.app.openapi()
        )

    async def ask(
        self,
        target: str = CHAT,
        body: Any = None,
        *,
        method: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own; a body that is no bytes is sent as JSON."""
        method = method or ("GET" if body is None else "POST")
        async with wire(self.port) as line:
            await line.send(self.request(method, target, body, key=key, headers=headers))
            told = await line.answer(method)
        self._check_documented(method, target.partition("?")[0], told)
        assert told.header("x-request-id"), told
        return told

    def request(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The bytes of a request as a usual client sends it."""
        usual = {"host": f"127.0.0.1:{self.port}"}
        if body is not None:
            usual["content-type"] = "application/json"
        if key is not None:
            usual["authorization"] = f"Bearer {key}"
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return request(method, target, list((usual | dict(headers or {})).items()), data)

    def _check_documented(self, method: str, path: str, told: Answer) -> None:
        """Where the document knows the route, it knows the answer."""
        for template, operations in sorted(self._document["paths"].items(), key=lambda item: -len(item[0])):
            pattern = re.sub(r"\{[^}]*\}", ".+", template)
            if re.fullmatch(pattern, path) and method.lower() in operations:
                responses = operations[method.lower()]["responses"]
                known = responses.get(str(told.status)) or (responses.get("default") if told.status >= 400 else None)
                assert known is not None, f"{method} {template}: {told.status} is not documented"
                kinds = known.get("content", {})
                assert told.kind in kinds, f"{method} {template}: {told.status} as {told.kind} is not documented"
                return

    @property
    def in_flight(self) -> int:
        """Slots that are taken, of all models."""
        return round(sum(numbers["in_flight"] for numbers in self.server.serving.models.statistics().values()))


def settings_for(
    base_url: str,
    data: Path,
    *,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    keys: Mapping[str, str] | None = None,
    **listening: Any,
) -> Settings:
    """Settings for models at one address; `keys` are the lanes of clients' keys, which stand in `PENSTOCK_KEY_NAME`."""
    fields = models or {MODEL: {}}
    return Settings(
        server=Listening(data=str(data), **listening),
        models={name: ServedModel(**{"endpoint": "there", "max_retries": 0, **own}) for name, own in fields.items()},
        endpoints={"there": Endpoint(base_url=base_url)},
        keys={name: Key(variable=f"PENSTOCK_KEY_{name.upper()}", lane=lane) for name, lane in (keys or {}).items()},
    )


KEY_LENGTH = 24


def key_of(name: str) -> str:
    """The key that the environment of the tests holds for that name."""
    return f"sk-{name}-".ljust(KEY_LENGTH, "x")


def environ_for(settings: Settings) -> dict[str, str]:
    return {key.variable: key_of(name) for name, key in settings.keys.items()}


@asynccontextmanager
async def served(settings: Settings, environ: Mapping[str, str] | None = None) -> AsyncIterator[Served]:
    """A server in this process, on the running loop; at the end nothing of it is left."""
    server = Server(settings, environ_for(settings) if environ is None else environ)
    state, config = ServerState(), config_of(server)
    async with server.open():
        make = partial(CappedProtocol, config=config, server_state=state, app_state={})
        listener = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        running = Served(server, listener.sockets[0].getsockname()[1])
        server.serving._listeners += (running.over.add,)
        try:
            yield running
        finally:
            listener.close()
            for connection in list(state.connections):
                connection.transport.abort()
            await until(lambda: not state.tasks and not state.connections)


@asynccontextmanager
async def gateway(respond: Respond, data: Path, **options: Any) -> AsyncIterator[tuple[Served, Provider]]:
    """A server and the provider behind it."""
    async with provider(respond) as upstream, served(settings_for(upstream.base_url, data, **options)) as running:
        yield running, upstream


class Process(NamedTuple):
    """`penstock serve` in a process of its own."""

    process: subprocess.Popen[str]
    port: int


@contextmanager
def serving_process(*arguments: str) -> Iterator[Process]:
    """Start it and wait until it listens; it is killed at the end of the block."""
    with started("serve", "--port", "0", *arguments) as process:
        said = read_until(process, "listening on http://")
        yield Process(process, int(re.findall(r"listening on http://[^\s]*:(\d+)", said)[-1]))


def log_lines(data: Path) -> list[dict[str, Any]]:
    """What the request log of a server says."""
    return [msgspec.json.decode(line) for line in (data / "requests.jsonl").read_bytes().splitlines()]
