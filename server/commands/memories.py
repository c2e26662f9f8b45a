"""parlance memory …"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.context import day, fail, find_user, run_with_store, say_when, show, table
from server.commands.users import Name, TenantSlug

if TYPE_CHECKING:
    from server.config import Config
    from storage.store import Store

memory_app = typer.Typer(no_args_is_help=True, help="What personas remember of a user.")

PersonaId = Annotated[int, typer.Option("--persona", help="Id of a persona; 0 for all of them.")]


@memory_app.command("list")
def list_all(
    context: typer.Context, name: Name, tenant: TenantSlug = "default", persona: PersonaId = 0
) -> None:
    """List what is remembered of a user."""

    async def work(store: "Store", config: "Config") -> None:
        from server.memory_book import MAX_PAGE, MemoryBook

        user = await find_user(store, tenant, name)
        book = MemoryBook(store)
        made = table("id", "persona", "kind", "text", "created", "uses", "")
        cursor = "0"
        while cursor:
            page = await book.page(user, persona, cursor, MAX_PAGE)
            cursor = page.cursor
            for one in page.memories:
                pinned = "pinned" if one.pinned else ""
                made.add_row(
                    *(str(one.id), str(one.persona), one.kind, one.text),
                    *(day(one.created), str(one.uses), pinned),
                )
        show(made)
        if await book.is_off(user):
            typer.echo(f"{name} wants nothing to be remembered: nothing is learnt or recalled.")

    run_with_store(context, work)


@memory_app.command("export")
def export(
    context: typer.Context,
    name: Name,
    tenant: TenantSlug = "default",
    persona: PersonaId = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; else standard output.")
    ] = None,
) -> None:
    """Write everything that is remembered of a user as JSON.

    Example: parlance memory export anna --out anna.json
    """

    async def work(store: "Store", config: "Config") -> None:
        import msgspec

        from server.memory_book import MemoryBook

        user = await find_user(store, tenant, name)
        found = [one async for page in MemoryBook(store).export(user, persona) for one in page]
        text = msgspec.json.format(msgspec.json.encode({"memories": found}), indent=2)
        if out is None:
            sys.stdout.write(text.decode() + "\n")
            return
        try:
            out.write_bytes(text + b"\n")
        except OSError as error:
            fail(f"cannot write {out}: {error.strerror}")
        typer.echo(f"Wrote {len(found)} memories to {out}.")

    run_with_store(context, work)


@memory_app.command("erase")
def erase(
    context: typer.Context,
    name: Name,
    tenant: TenantSlug = "default",
    persona: PersonaId = 0,
    memory: Annotated[int, typer.Option("--memory", help="Id of one memory.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase one memory, what one persona remembers, or everything, for good."""
    what = f"memory {memory}" if memory else f"what persona {persona} remembers"
    if not memory and not persona:
        what = "everything that is remembered"
    if not yes:
        typer.confirm(f"Erase {what} of {name} for good?", abort=True)

    async def work(store: "Store", config: "Config") -> None:
        from server.memory_book import MemoryBook
        from storage.errors import NotFound

        user = await find_user(store, tenant, name)
        book = MemoryBook(store)
        count = 1
        try:
            if memory:
                await book.erase(user, memory)
            else:
                count = await book.erase_all(user, persona)
        except NotFound:
            fail(f"{name} has no memory {memory}; see `parlance memory list {name}`")
        typer.echo(f"Erased {count}.")
        say_when(config, "the next answer no longer knows of it.")

    run_with_store(context, work)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(memory_app, name="memory")
