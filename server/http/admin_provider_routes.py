"""/api/v1/admin/providers: the services that make AI answers.

Who may: see `server.http.admin_routes`. A change holds in this process when it is answered; other
processes take it within five seconds.
"""

from typing import Annotated, Any, Final, Literal

from aiohttp import web
from msgspec import Meta, Struct, structs

from ai_bridge.secrets import Secret
from protocol.types import S256, S2000
from server.config_sections import ProviderConfig
from server.http.admin_routes import PATH, note, require_operator
from server.http.context import note_wait
from server.http.typed import Api, Call
from server.provider_admin import MAX_MODELS, ProviderAdmin, ProviderTest, ProviderView
from storage.rows import ApiKey

api = Api("admin")


class ProviderBody(Struct):
    """A missing `key` keeps the one that is stored; "" is for none.

    `models`: those to offer; none, what the service lists. `max_streams`: answers at the same
    time. Services of a lower `tier` are asked first. `ttft_s`, `window_tokens`: 0 for the default.
    """

    kind: Literal["openai_chat", "openai_responses", "anthropic", "gemini", "demo"] = "openai_chat"
    base_url: S2000 = ""
    key: Annotated[str, Meta(max_length=4_000)] | None = None
    models: Annotated[list[S256], Meta(max_length=MAX_MODELS)] = []
    max_streams: Annotated[int, Meta(ge=1, le=10_000)] = 100
    tier: Annotated[int, Meta(ge=0, le=100)] = 0
    ttft_s: Annotated[float, Meta(ge=0, le=3_600)] = 0.0
    window_tokens: Annotated[int, Meta(ge=0, le=100_000_000)] = 0


class ProviderList(Struct):
    """All of them: those of the settings, then those of the database."""

    providers: list[ProviderView]


_PROVIDER: Final = PATH + "/providers/{name:[A-Za-z0-9_.-]{1,64}}"


@api.route("GET", PATH + "/providers", "List the AI services, never their keys", scope="admin")
async def _providers(call: Call[ApiKey, None, None]) -> ProviderList:
    """Needs the scope `operator` as well."""
    require_operator(call.who)
    return ProviderList(await _provider_admin(call).all())


@api.route("GET", _PROVIDER, "Tell of an AI service", scope="admin")
async def _provider(call: Call[ApiKey, None, None]) -> ProviderView:
    """Needs the scope `operator` as well."""
    require_operator(call.who)
    return await _provider_admin(call).get(call.request.match_info["name"])


@api.route(
    "PUT", _PROVIDER, "Add an AI service, or change it", scope="admin", errors=(409,),
    example={"base_url": "http://127.0.0.1:11434/v1", "models": ["qwen3:8b"]},
)  # fmt: skip
async def _save_provider(call: Call[ApiKey, None, ProviderBody]) -> ProviderView:
    """Answers that have begun end where they began. Needs the scope `operator` as well."""
    require_operator(call.who)
    body, name = call.body, call.request.match_info["name"]
    wanted = ProviderConfig(
        name=name,
        kind=body.kind,
        base_url=body.base_url,
        models=body.models,
        max_streams=body.max_streams,
        tier=body.tier,
        ttft_s=body.ttft_s,
        window_tokens=body.window_tokens,
    )
    key = None if body.key is None else Secret(body.key)
    saved = await _provider_admin(call).save(wanted, key)
    await call.parts.refresh()
    note(call, "provider.save", name)
    if call.core.bridge.provider(name) is None:
        text = "It is stored, but cannot be used: see provider.unusable in the server's log."
        return structs.replace(saved, complaint=text)
    return saved


@api.route("DELETE", _PROVIDER, "Remove an AI service; its key is wiped", scope="admin")
async def _remove_provider(call: Call[ApiKey, None, None]) -> None:
    """One of the settings file stays. Needs the scope `operator` as well."""
    require_operator(call.who)
    name = call.request.match_info["name"]
    await _provider_admin(call).remove(name)
    await call.parts.refresh()
    note(call, "provider.remove", name)


@api.route("POST", _PROVIDER + "/test", "Ask an AI service for its models", scope="admin")
async def _test_provider(call: Call[ApiKey, None, None]) -> ProviderTest:
    """Costs nothing there; ends within five seconds. Needs the scope `operator` as well."""
    require_operator(call.who)
    note_wait()
    return await _provider_admin(call).test(call.request.match_info["name"])


def _provider_admin(call: Call[ApiKey, Any, Any]) -> ProviderAdmin:
    parts = call.parts
    return ProviderAdmin(call.core.store, parts.vault, parts.config.ai)


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return api.routes()
