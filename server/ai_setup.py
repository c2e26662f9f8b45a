"""From the configuration and the store to what the AI bridge needs."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from ai_bridge.account import Ledger, Limits
from ai_bridge.billing import Billing
from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, Quirks, Route, Target, TenantShare
from ai_bridge.config import ProviderConfig as BridgeProvider
from ai_bridge.engines.mem0 import Mem0Client, Mem0Config
from ai_bridge.engines.mem0_proxy import MEM0_PROXY, Mem0Proxy
from ai_bridge.moderation import Action, Checker, Moderation, Stage
from ai_bridge.moderators import ServiceCheck, WordCheck
from ai_bridge.prices import Price, PriceTable
from ai_bridge.tools.builtin import builtin_tools
from ai_bridge.tools.loop import Confirm, LoopLimits, ToolLoop, deny
from ai_bridge.tools.registry import ToolRegistry
from ai_bridge.tools.servers import source_of
from server.config_sections import AiConfig, ModerationConfig, ProviderConfig
from server.confirmations import CONFIRM_S
from storage.people import list_tenants
from storage.prices import PriceRow, list_prices
from storage.usage import DAY_MS, BudgetRow, budgets, spent_by_users

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ai_bridge.engines.base import Engine, EngineInfo
    from ai_bridge.engines.chat_engine import ChatEngine
    from storage.store import Store

log = logging.getLogger("parlance.ai")

MICRO: Final = 1_000_000
_ACTIONS: Final = {"flag": Action.FLAG, "replace": Action.REPLACE, "block": Action.BLOCK}


def bridge_config(ai: AiConfig, added: tuple[BridgeProvider, ...] = ()) -> BridgeConfig:
    """Return the bridge's settings for those of the configuration file.

    Args:
        added: services that were added while the server runs; one of the same name wins.
    """
    names = {provider.name for provider in added}
    configured = [provider for provider in ai.providers if provider.name not in names]
    return BridgeConfig(
        providers=(*map(to_provider, configured), *added),
        detect=ai.detect and not added,
        default_model=ai.default_model,
        rules=ai.rules,
        routes=tuple(
            Route(name=name, targets=tuple(map(_target, places)))
            for name, places in ai.routes.items()
        ),
        tenants=tuple(
            TenantShare(tenant=share.tenant, weight=share.weight, max_streams=share.max_streams)
            for share in ai.tenants
        ),
        max_streams=ai.max_streams,
        user_running=ai.user_running,
        user_queued=ai.user_queued,
        facade_running=ai.program_running,
        facade_queued=ai.program_queued,
        queue=ai.queue,
        ttft_s=ai.ttft_s,
        gap_s=ai.gap_s,
        total_s=ai.total_s,
        reasoning_tokens=ai.reasoning_tokens,
        window_tokens=ai.window_tokens,
        answer_tokens=ai.answer_tokens,
        history_messages=ai.history,
        demo_words_per_s=ai.demo_words_per_s,
    )


def to_provider(given: ProviderConfig) -> BridgeProvider:
    """Return a service as the bridge knows it."""
    return BridgeProvider(
        name=given.name,
        kind=given.kind,
        base_url=given.base_url,
        api_key=given.api_key,
        api_keys=tuple(given.api_keys),
        models=tuple(given.models),
        headers={name: value.reveal() for name, value in given.headers.items()},
        tier=given.tier,
        max_streams=given.max_streams,
        limit=given.limit,
        ttft_s=given.ttft_s,
        window_tokens=given.window_tokens,
        transport=given.transport,
        quirks=Quirks(**given.quirks),  # type: ignore[arg-type]  # checked by check-config
    )


def _target(place: str) -> Target:
    provider, _, model = place.partition("/")
    return Target(provider=provider, model=model)


def make_bridge(
    ai: AiConfig,
    billing: Billing | None,
    added: tuple[BridgeProvider, ...] = (),
    lag_ms: "Callable[[], float]" = lambda: 0.0,
    confirm: Confirm = deny,
) -> Bridge:
    """Return the bridge of this server, not started yet; `confirm` asks people about tools."""
    mem0 = make_mem0(ai)
    bridge = Bridge(
        bridge_config(ai, added),
        lag_ms=lag_ms,
        tools=_tool_loop(tool_registry(ai), confirm),
        engines=make_engines(mem0),
        default_engine=ai.engine,
        billing=billing,
        mem0=mem0,
    )
    bridge.moderation = make_moderation(ai.moderation, bridge)
    return bridge


def make_moderation(given: ModerationConfig, bridge: Bridge) -> Moderation | None:
    """Return what looks at questions and answers, None if nothing does."""
    checkers: list[Checker] = []
    if given.words:
        checkers.append(WordCheck(given.words, _ACTIONS[given.word_action]))
    if given.provider:
        checkers.append(
            ServiceCheck(
                lambda: bridge.provider(given.provider),
                given.model,
                thresholds=given.thresholds,
                action=_ACTIONS[given.service_action],
            )
        )
    if not checkers or not given.stages:
        return None
    return Moderation(
        checkers,
        stages=map(Stage, given.stages),
        fail_open=given.fail_open,
        timeout_s=given.timeout_s,
        at_once=given.at_once,
    )


def make_mem0(ai: AiConfig) -> Mem0Client | None:
    """Return the client of the mem0 server, None if there is none."""
    if not ai.mem0_url:
        return None
    return Mem0Client(Mem0Config(base_url=ai.mem0_url, api=ai.mem0_api, api_key=ai.mem0_key))


def make_engines(mem0: Mem0Client | None) -> "dict[EngineInfo, Callable[[ChatEngine], Engine]]":
    """Return how the engines besides the chat engine are made."""
    return {MEM0_PROXY: lambda chat: Mem0Proxy(chat, mem0)} if mem0 is not None else {}


def tool_registry(ai: AiConfig) -> ToolRegistry:
    """Return the built-in tools, and who may use which; those of MCP servers come by themselves."""
    servers = {server.name for server in ai.mcp}

    def named(tools: list[str]) -> list[str]:
        return [source_of(tool) if tool in servers else tool for tool in tools]

    registry = ToolRegistry(named(ai.tools))
    for spec in builtin_tools():
        registry.add(spec)
    for one in ai.tool_lists:
        registry.allow(one.tenant, named(one.tools), one.persona)
    return registry


def _tool_loop(registry: ToolRegistry, confirm: Confirm) -> ToolLoop:
    # Questions end by themselves, and say so, before the loop gives up on them.
    return ToolLoop(registry, limits=LoopLimits(confirm_s=CONFIRM_S + 5), confirm=confirm)


def make_prices(ai: AiConfig, rows: "Iterable[PriceRow]" = ()) -> PriceTable:
    """Return the prices: those of commands before the settings, these before files.

    A row that cannot be read is left out and logged.
    """
    own = {
        model: Price(given.input, given.output, given.cached) for model, given in ai.prices.items()
    }
    commanded: dict[str, Price] = {}
    imported: dict[str, tuple[Price, str]] = {}
    for row in rows:
        try:
            price = msgspec.json.decode(row.price, type=Price)
        except msgspec.MsgspecError:
            log.error("price.unusable", extra={"model": row.model})
            continue
        if row.version:
            imported[row.model] = price, row.version
        else:
            commanded[row.model] = price
    return PriceTable(own, commanded, imported)


async def reload_prices(ai: AiConfig, store: "Store", billing: Billing) -> None:
    """Take the prices of the settings and the store, for turns that come."""
    rows = await store.read(list_prices())
    # Thousands of them take some ten milliseconds.
    billing.prices = await asyncio.to_thread(make_prices, ai, rows)


async def make_billing(
    ai: AiConfig, store: "Store", now_ms: "Callable[[], int]", clock: "Callable[[], float]"
) -> Billing:
    """Return the accounts of this server, with what was spent in this month so far."""
    everybody = Limits(
        day_micro=round(ai.user_day_usd * MICRO), month_micro=round(ai.user_month_usd * MICRO)
    )
    ledger = Ledger(now_ms=now_ms, clock=clock, user_limits=everybody)
    today = now_ms() // DAY_MS
    first = today - datetime.fromtimestamp(now_ms() / 1000, UTC).day + 1
    for tenant in await store.read(list_tenants()):
        ledger.load(await store.read(spent_by_users(tenant.id, first, today)))
    await load_budgets(ledger, store)
    return Billing(ledger, make_prices(ai, await store.read(list_prices())))


async def load_budgets(ledger: Ledger, store: "Store") -> None:
    """Take the budgets that the store knows; removed ones have limits of 0 and are lifted."""
    after = (0, -1)
    while page := await store.read(budgets(after)):
        for row in page:
            ledger.set_limits(row.tenant, row.user, _limits(row))
        after = (page[-1].tenant, page[-1].user)


def _limits(row: BudgetRow) -> Limits:
    return Limits(day_micro=row.day_micro, month_micro=row.month_micro)
