"""parlance engine …"""

from asyncio import sleep
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.context import (
    day,
    fail,
    find_tenant,
    is_serving,
    run_with_store,
    show,
    table,
)

if TYPE_CHECKING:
    from rich.table import Table

    from ai_bridge.engines.base import EngineInfo
    from ai_bridge.engines.registry import EngineRegistry
    from server.config import Config
    from storage.engines import EngineChoice
    from storage.store import Store

Name = Annotated[str, typer.Argument(help="Name of the engine; see: parlance engine list")]
Tenant = Annotated[str, typer.Option("--tenant", help="Slug of the tenant; else all tenants.")]
Persona = Annotated[
    str, typer.Option("--persona", help="Id or name of the persona; else all personas.")
]

_WAIT_S = 12.0
"""Servers look every 5 s, and an engine has 5 s to say how it is."""
_POLL_S = 0.2
_PAGE = 500

engine_app = typer.Typer(
    no_args_is_help=True,
    help=(
        "What makes the answers: list engines, ask for their health, switch while running. "
        "The choice for a persona in a tenant goes before the one for a persona, that before the "
        "one for a tenant, and that before the one for everybody."
    ),
)


@engine_app.command("list")
def list_engines(context: typer.Context) -> None:
    """List the engines, where each answers, and what became of the last switches."""

    async def work(store: "Store", config: "Config") -> None:
        from rich.markup import escape

        from server.engine_check import known_engines

        choices = await _choices(store)
        names = await _Names.of(store, choices)
        made = table("engine", "features", "answers")
        for info in known_engines(config.ai):
            places = escape(names.places(config, info.name, choices))
            made.add_row(info.name, ", ".join(info.features), places)
        show(made)
        if choices:
            show(_history(names, choices))

    run_with_store(context, work)


@engine_app.command("info")
def tell_engine(context: typer.Context, name: Name) -> None:
    """Tell what an engine can do and where it answers."""

    async def work(store: "Store", config: "Config") -> None:
        info = _known(config, name)
        choices = await _choices(store)
        places = (await _Names.of(store, choices)).places(config, name, choices)
        typer.echo(f"  engine      {info.name}")
        typer.echo(f"  features    {', '.join(info.features)}")
        typer.echo(f"  answers     {places or 'nobody at present'}")
        if config.ai.engine == name:
            typer.echo("  settings    ai.engine: it answers everybody where nothing else is chosen")

    run_with_store(context, work)


@engine_app.command("health")
def ask_health(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="One engine; else all.")] = "",
) -> None:
    """Ask engines whether they would answer, and say what to do where one would not.

    Asked from here, with the present settings. What a running server learnt of its AI services
    is told by its address /health. Exit code 1 if one is not healthy.
    """
    ill = False

    async def work(store: "Store", config: "Config") -> None:
        nonlocal ill
        from server.engine_check import known_engines

        names = [_known(config, name).name] if name else [e.name for e in known_engines(config.ai)]
        made = table("engine", "health")
        async with _engines(store, config) as engines:
            for one in names:
                complaint = await engines.complaint_of(one)
                ill = ill or bool(complaint)
                made.add_row(one, complaint or "ok")
        show(made)

    run_with_store(context, work)
    raise typer.Exit(1 if ill else 0)


@engine_app.command("switch")
def switch_engine(
    context: typer.Context, name: Name, tenant: Tenant = "", persona: Persona = ""
) -> None:
    """Let an engine answer from now on: everybody, a tenant, a persona, or a persona in a tenant.

    The engine must be healthy: it is asked here, and again by the running server, which takes
    the switch within 5 seconds. Answers under way end where they began. The choice holds over
    restarts. If most answers fail soon after, the server goes back by itself.

    Examples:

    parlance engine switch mem0_proxy --tenant acme

    parlance engine switch chat_engine --tenant acme --persona Ada
    """

    async def work(store: "Store", config: "Config") -> None:
        _known(config, name)
        scope = await _scope(store, tenant, persona)
        await _require_healthy(store, config, name)
        await _ask(store, config, scope, name)

    run_with_store(context, work)


@engine_app.command("reset")
def reset_engine(context: typer.Context, tenant: Tenant = "", persona: Persona = "") -> None:
    """Take a choice back: the next wider one holds again; for everybody, `ai.engine`.

    Example: parlance engine reset --tenant acme
    """

    async def work(store: "Store", config: "Config") -> None:
        scope = await _scope(store, tenant, persona)
        if scope == (0, 0):
            await _require_healthy(store, config, config.ai.engine)
        await _ask(store, config, scope, "")

    run_with_store(context, work)


def _known(config: "Config", name: str) -> "EngineInfo":
    from ai_bridge.engines.mem0_proxy import MEM0_PROXY
    from server.engine_check import known_engines

    for info in known_engines(config.ai):
        if info.name == name:
            return info
    if name == MEM0_PROXY.name:
        fail(f"{name} needs the address of a mem0 server: set ai.mem0_url")
    fail(f"there is no engine {name!r}; see `parlance engine list`")


@asynccontextmanager
async def _engines(store: "Store", config: "Config") -> AsyncIterator["EngineRegistry"]:
    import logging

    from server.engine_check import open_engines
    from server.vault import VaultError

    # The bridge logs what it meets; here its words are said by the command.
    logging.getLogger("parlance").addHandler(logging.NullHandler())
    try:
        async with open_engines(store, config) as engines:
            yield engines
    except (VaultError, ValueError) as error:
        fail(str(error))


async def _require_healthy(store: "Store", config: "Config", name: str) -> None:
    async with _engines(store, config) as engines:
        complaint = await engines.complaint_of(name)
    if complaint:
        fail(f"{name} was not chosen. {complaint}")


async def _scope(store: "Store", tenant: str, persona: str) -> tuple[int, int]:
    from server.persona_admin import PersonaAdmin

    tenant_id = await find_tenant(store, tenant) if tenant else 0
    if not persona:
        return tenant_id, 0
    found = await PersonaAdmin(store).find(persona)
    # A persona without an owner is everybody's; another belongs to one tenant.
    strange = found is not None and found.row.owner and tenant_id not in (0, found.tenant)
    if found is None or strange:
        where = f" in the tenant {tenant!r}" if tenant else ""
        fail(f"there is no persona {persona!r}{where}; see `parlance persona list`")
    return tenant_id, found.row.id or 0


async def _ask(store: "Store", config: "Config", scope: tuple[int, int], engine: str) -> None:
    """Write down what is asked for; where a server runs, say what came of it."""
    from storage.engines import ChoiceState, ask_engine

    asked = await store.change((), lambda tx: ask_engine(tx, *scope, engine))
    whom = (await _Names.of(store, [asked])).whom(asked)
    if not is_serving(config):
        typer.echo("Written down. A server takes it when it starts, or within 5 seconds if it "
                   "runs elsewhere; see: parlance engine list")  # fmt: skip
        return
    settled = await _outcome(store, asked)
    if settled.state is ChoiceState.REFUSED:
        fail(f"the running server refused. {settled.reason}")
    if settled.state is not ChoiceState.TAKEN:
        typer.echo("Written down; the server has not taken it yet. See: parlance engine list")
    elif engine:
        typer.echo(f"{engine} answers {whom} from now on; answers under way end where they began.")
    else:
        typer.echo(f"Nothing is chosen for {whom} any more.")


async def _outcome(store: "Store", asked: "EngineChoice") -> "EngineChoice":
    """Wait until a server has taken or refused it, or somebody has asked again."""
    from storage.engines import ChoiceState, engine_choice

    for _ in range(round(_WAIT_S / _POLL_S)):
        found = await store.read(engine_choice(asked.tenant, asked.persona))
        if found is None or found.updated != asked.updated:
            fail("somebody else has changed this at the same time; see `parlance engine list`")
        if found.state is not ChoiceState.ASKED:
            return found
        await sleep(_POLL_S)
    return asked


async def _choices(store: "Store") -> "list[EngineChoice]":
    from storage.engines import engine_choices

    found: list[EngineChoice] = []
    after = (-1, -1)
    while page := await store.read(engine_choices(after)):
        found += page
        after = (page[-1].tenant, page[-1].persona)
    return found


class _Names:
    """What the ids of choices are called."""

    def __init__(self, tenants: dict[int, str], personas: dict[int, str]) -> None:
        self._tenants = tenants
        self._personas = personas

    @classmethod
    async def of(cls, store: "Store", choices: "list[EngineChoice]") -> "_Names":
        from storage.people import list_tenants
        from storage.personas import get_personas

        ids = sorted({one.persona for one in choices if one.persona})
        names: dict[int, str] = {}
        for start in range(0, len(ids), _PAGE):
            for found in await store.read(get_personas(ids[start : start + _PAGE])):
                names[found.row.id or 0] = found.row.name or ""
        return cls({one.id: one.slug for one in await store.read(list_tenants())}, names)

    def whom(self, choice: "EngineChoice") -> str:
        """Say whom a choice is for."""
        words = []
        if choice.persona:
            words.append(f"the persona {self._personas.get(choice.persona, '')} ({choice.persona})")
        if choice.tenant:
            words.append(f"the tenant {self._tenants.get(choice.tenant, choice.tenant)}")
        return " in ".join(words) or "everybody"

    def places(self, config: "Config", engine: str, choices: "list[EngineChoice]") -> str:
        """Say whom an engine answers."""
        chosen = {(one.tenant, one.persona): one for one in choices if one.engine}
        default = chosen.pop((0, 0), None)
        everybody = default.engine if default is not None else config.ai.engine
        rest = "everybody else" if chosen else "everybody"
        places = [rest] if everybody == engine else []
        places += [self.whom(one) for one in chosen.values() if one.engine == engine]
        return "; ".join(places)


def _history(names: _Names, choices: "list[EngineChoice]") -> "Table":
    from rich.markup import escape

    from storage.engines import ChoiceState

    said = {
        ChoiceState.ASKED: "waits for a server",
        ChoiceState.TAKEN: "taken",
        ChoiceState.REFUSED: "refused",
        ChoiceState.UNDONE: "undone",
    }
    made = table("for", "asked for", "when", "outcome")
    for one in choices:
        outcome = f"{said[one.state]}. {one.reason}" if one.reason else said[one.state]
        asked = one.asked or "(reset)"
        made.add_row(escape(names.whom(one)), asked, day(one.updated), escape(outcome))
    return made


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(engine_app, name="engine")
