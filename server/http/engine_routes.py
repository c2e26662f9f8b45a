"""/api/v1/engines: which engine answers in a tenant. For API keys with the scope `engines`.

GET lists the engines and what was chosen in the tenant of the key; `/{name}` tells of one,
`/{name}/health` asks it. POST `/{name}/switch` lets it answer in the tenant, or where the body
names a persona, that persona's questions there; `/reset` takes such a choice back. A key never
reaches beyond its tenant: who answers where nothing was chosen is set by command.
"""

from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from protocol.codes import Code
from protocol.types import MAX_INT
from server.errors import ServiceError, not_found
from server.http.bodies import json_response, read_json
from server.http.callers import HttpCaller
from server.http.context import bearer_of, parts_of
from storage.engines import ChoiceState, EngineChoice, tenant_choices
from storage.people import tenant_by_slug
from storage.rows import ApiKey

_PATH: Final = "/api/v1/engines"
_ONE: Final = _PATH + r"/{name:[a-z0-9_]{1,64}}"


class ScopeBody(Struct):
    """Where; without a persona the tenant as a whole. `tenant` is the slug of the key's tenant."""

    tenant: Annotated[str, Meta(max_length=64)] = ""
    persona: Annotated[int, Meta(ge=0, le=MAX_INT)] = 0


class EngineView(Struct):
    """`default`: it answers where nothing was chosen."""

    name: str
    features: tuple[str, ...]
    default: bool


class ChoiceView(Struct):
    """What was chosen in a tenant; persona 0 is the tenant as a whole.

    `engine` answers, "" is whoever answers in the tenant, or where nothing was chosen. `asked` was
    asked for last; `state` says what came of it, `reason` why.
    """

    persona: int
    engine: str
    asked: str
    state: str
    reason: str
    updated: int


class EngineList(Struct):
    engines: list[EngineView]
    choices: list[ChoiceView]


class EngineInfo(Struct):
    """An engine, and where in the tenant it was chosen."""

    name: str
    features: tuple[str, ...]
    default: bool
    choices: list[ChoiceView]


class EngineHealth(Struct):
    """`complaint` says what is wrong and what to do, "" if it is healthy."""

    name: str
    healthy: bool
    complaint: str


async def _list(request: web.Request) -> web.Response:
    key = await _require_key(request)
    return json_response(EngineList(_views(request), await _choices(request, key)))


async def _info(request: web.Request) -> web.Response:
    key = await _require_key(request)
    name = request.match_info["name"]
    for view in _views(request):
        if view.name == name:
            chosen = [one for one in await _choices(request, key) if one.engine == name]
            return json_response(EngineInfo(view.name, view.features, view.default, chosen))
    raise not_found("engine")


async def _health(request: web.Request) -> web.Response:
    await _require_key(request)
    name = request.match_info["name"]
    complaint = await parts_of(request).core.engines.complaint(name)
    return json_response(EngineHealth(name, not complaint, complaint))


async def _switch(request: web.Request) -> web.Response:
    return await _choose(request, request.match_info["name"])


async def _reset(request: web.Request) -> web.Response:
    return await _choose(request, "")


async def _choose(request: web.Request, engine: str) -> web.Response:
    key = await _require_key(request)
    body = await read_json(request, ScopeBody)
    await _require_own(request, key, body)
    core = parts_of(request).core
    choice = await core.engines.switch(key.tenant, body.persona, engine)
    if choice.state is ChoiceState.REFUSED:
        raise ServiceError(Code.MODEL_UNAVAILABLE, "engine refused", choice.reason)
    return json_response(_view(choice))


async def _require_key(request: web.Request) -> ApiKey:
    return await parts_of(request).accounts.api_keys.require(bearer_of(request), "engines")


async def _require_own(request: web.Request, key: ApiKey, body: ScopeBody) -> None:
    """Refuse what is not of the key's tenant; others' and unknown ones look the same."""
    core = parts_of(request).core
    if body.tenant:
        tenant = await core.store.read(tenant_by_slug(body.tenant))
        if tenant is None or tenant.id != key.tenant:
            raise not_found("tenant")
    if body.persona:
        persona = core.personas.get(body.persona)
        owner = persona.owner if persona is not None else None
        # Also a persona that only its owner sees answers in the tenant of the key.
        core.personas.require(HttpCaller(owner or key.id, key.tenant), body.persona)


def _views(request: web.Request) -> list[EngineView]:
    registry = parts_of(request).core.bridge.engines
    default = registry.info().name
    return [
        EngineView(one.name, one.features, one.name == default) for one in registry.list_engines()
    ]


async def _choices(request: web.Request, key: ApiKey) -> list[ChoiceView]:
    found = await parts_of(request).core.store.read(tenant_choices(key.tenant))
    return [_view(one) for one in found if one.engine or one.state is not ChoiceState.TAKEN]


def _view(choice: EngineChoice) -> ChoiceView:
    return ChoiceView(
        choice.persona,
        choice.engine,
        choice.asked,
        choice.state.name.lower(),
        choice.reason,
        choice.updated,
    )


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return [
        web.get(_PATH, _list),
        web.post(_PATH + "/reset", _reset),
        web.get(_ONE, _info),
        web.get(_ONE + "/health", _health),
        web.post(_ONE + "/switch", _switch),
    ]
