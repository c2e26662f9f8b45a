"""/api/v1/engines: which engine answers in a tenant. For API keys with the scope `engines`.

GET lists the engines and what was chosen in the tenant of the key; `/{name}` tells of one,
`/{name}/health` asks it. POST `/{name}/switch` lets it answer in the tenant, or where the body
names a persona, that persona's questions there; `/reset` takes such a choice back. A key never
reaches beyond its tenant: who answers where nothing was chosen is set by command.
"""

from typing import TYPE_CHECKING, Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from protocol.codes import Code
from protocol.types import MAX_INT
from server.errors import ServiceError, not_found
from server.http.callers import HttpCaller
from server.http.typed import Api, Call
from storage.engines import ChoiceState, EngineChoice, tenant_choices
from storage.people import tenant_by_slug
from storage.rows import ApiKey

if TYPE_CHECKING:
    from server.core import Core

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


api = Api("engines")


@api.route("GET", _PATH, "List the engines and what was chosen", scope="engines")
async def _list(call: Call[ApiKey, None, None]) -> EngineList:
    return EngineList(_views(call.core), await _choices(call.core, call.who))


@api.route(
    "POST",
    _PATH + "/reset",
    "Take a choice back",
    scope="engines",
    errors=(404, 502),
    example={"tenant": "default"},
)
async def _reset(call: Call[ApiKey, None, ScopeBody]) -> ChoiceView:
    return await _choose(call, "")


@api.route("GET", _ONE, "Tell of one engine", scope="engines")
async def _info(call: Call[ApiKey, None, None]) -> EngineInfo:
    name = call.request.match_info["name"]
    for view in _views(call.core):
        if view.name == name:
            chosen = [one for one in await _choices(call.core, call.who) if one.engine == name]
            return EngineInfo(view.name, view.features, view.default, chosen)
    raise not_found("engine")


@api.route("GET", _ONE + "/health", "Ask an engine how it is", scope="engines")
async def _health(call: Call[ApiKey, None, None]) -> EngineHealth:
    name = call.request.match_info["name"]
    complaint = await call.core.engines.complaint(name)
    return EngineHealth(name, not complaint, complaint)


@api.route(
    "POST",
    _ONE + "/switch",
    "Let an engine answer in the tenant",
    scope="engines",
    errors=(502,),
    example={"tenant": "default"},
)
async def _switch(call: Call[ApiKey, None, ScopeBody]) -> ChoiceView:
    return await _choose(call, call.request.match_info["name"])


async def _choose(call: Call[ApiKey, None, ScopeBody], engine: str) -> ChoiceView:
    core, key, body = call.core, call.who, call.body
    await _require_own(core, key, body)
    choice = await core.engines.switch(key.tenant, body.persona, engine)
    if choice.state is ChoiceState.REFUSED:
        raise ServiceError(Code.MODEL_UNAVAILABLE, "engine refused", choice.reason)
    return _view(choice)


async def _require_own(core: "Core", key: ApiKey, body: ScopeBody) -> None:
    """Refuse what is not of the key's tenant; others' and unknown ones look the same."""
    if body.tenant:
        tenant = await core.store.read(tenant_by_slug(body.tenant))
        if tenant is None or tenant.id != key.tenant:
            raise not_found("tenant")
    if body.persona:
        persona = core.personas.get(body.persona)
        owner = persona.owner if persona is not None else None
        # Also a persona that only its owner sees answers in the tenant of the key.
        core.personas.require(HttpCaller(owner or key.id, key.tenant), body.persona)


def _views(core: "Core") -> list[EngineView]:
    registry = core.bridge.engines
    default = registry.info().name
    return [
        EngineView(one.name, one.features, one.name == default) for one in registry.list_engines()
    ]


async def _choices(core: "Core", key: ApiKey) -> list[ChoiceView]:
    found = await core.store.read(tenant_choices(key.tenant))
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
    return api.routes()
