"""The models that are served: their public names, and for each the client through which all its requests go.

It decides which model a name means. It opens and closes the clients; it sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec

from penstock.client import Client
from penstock.engine.call import Caller
from penstock.errors import RequestError, UsageError, request_error
from penstock.options import BATCH, INTERACTIVE, Lane, Patience
from penstock.ports import Observer, Prices
from penstock.server.settings import Served, Settings, variable_words


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One served model. `name` is what clients call it; `callers` carry single requests, one for each lane."""

    name: str
    aliases: tuple[str, ...]
    client: Client
    callers: dict[str, Caller]

    @property
    def prices(self) -> Prices:
        """What its answers cost."""
        return self.client.prices


class Models:
    """All of them, by name. Use as an async context: it opens the clients and closes them."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._patience = Patience(longest_wait=settings.server.max_wait, longest_line=settings.server.max_waiting)
        self.lanes = lanes_of(settings)
        self._clients = {name: _client(name, served, settings, environ) for name, served in settings.models.items()}
        self._names = {name: _names(name, served, self._clients) for name, served in settings.models.items()}
        self._by_name: dict[str, Model] = {}
        self._all: list[Model] = []

    @property
    def names(self) -> list[str]:
        """The public name of each."""
        return [names[0] for names in self._names.values()]

    def statistics(self) -> dict[str, dict[str, float]]:
        """What each client tells of itself, by the public name of its model."""
        return {model.name: model.client.statistics() for model in self._all}

    async def open(self, observer_of: Callable[[str], Observer]) -> None:
        """Put the callers together on the running loop; `observer_of(name)` observes the sends of a model."""
        for name, client in self._clients.items():
            public, *aliases = self._names[name]
            await client.load_prices()
            observer = observer_of(public)
            callers = {
                lane.name: await client.caller(lane, observer=observer, patience=self._patience)
                for lane in self.lanes.values()
            }
            model = Model(name=public, aliases=tuple(aliases), client=client, callers=callers)
            self._all.append(model)
            for known in (public, *aliases):
                self._by_name.setdefault(known, model)

    async def aclose(self) -> None:
        """Close every client, also if one of them fails."""
        for client in self._clients.values():
            await client.aclose()

    def __iter__(self) -> Iterator[Model]:
        return iter(self._all)

    def find(self, name: object) -> Model:
        """The model that a request names; raises the error that its caller gets."""
        if isinstance(name, str) and (model := self._by_name.get(name)) is not None:
            return model
        if name is None:
            raise request_error("input", "you must provide a model parameter", param="model")
        known = ", ".join(model.name for model in self._all)
        shown = str(name)[:80]
        raise unknown_model(f"the model {shown!r} does not exist here; known are {known}")

    @property
    def only(self) -> Model | None:
        """The model of a request that names none, where there is but one."""
        return self._all[0] if len(self._all) == 1 else None


def unknown_model(message: str) -> RequestError:
    """The error of a request for a model that is not served."""
    return request_error("not_found", message, status=404, code="model_not_found", param="model")


def lanes_of(settings: Settings) -> dict[str, Lane]:
    """The two lanes that are always there, under the weights that the settings give them, and further ones."""
    own = {name: Lane(name=name, weight=lane.weight) for name, lane in settings.lanes.items()}
    return {lane.name: lane for lane in (INTERACTIVE, BATCH)} | own


def _client(name: str, served: Served, settings: Settings, environ: Mapping[str, str]) -> Client:
    endpoint = settings.endpoints[served.endpoint] if served.endpoint is not None else None
    variable = served.key or (endpoint.key if endpoint is not None else None)
    try:
        return Client(
            served.model or name,
            api_key=_key_in(variable, environ),
            base_url=endpoint.base_url if endpoint is not None else None,
            limits=served.limits,
            max_concurrency=served.max_concurrency,
            max_retries=served.max_retries,
            timeout=served.timeout,
            deadline=served.deadline,
            hedge=served.hedge,
        )
    except UsageError as error:
        raise UsageError(f"models.{name}: {error}") from error


def _key_in(variable: str | None, environ: Mapping[str, str]) -> str | None:
    if variable is None:
        return None
    if not (key := environ.get(variable, "").strip()):
        raise UsageError(f"key: {variable_words(variable)} is not set, and it is to hold a key")
    return key


def _names(name: str, served: Served, clients: Mapping[str, Client]) -> list[str]:
    """What a model is called: by a name of the user's own, just that; else its bare name, if no other has it, and the whole."""
    if served.model is not None:
        return [name]
    client = clients[name]
    bare = client.model
    shared = [other for other in clients.values() if other.model == bare]
    return list(dict.fromkeys([*([bare] if len(shared) == 1 else []), name, f"{client.provider.name}/{bare}"]))
