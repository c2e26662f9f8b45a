"""parlance dead-letters …"""

from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.context import day, fail, run_with_store, show, table

if TYPE_CHECKING:
    from server.config import Config
    from storage.store import Store

_SHOWN_CHARS = 60

dead_app = typer.Typer(
    no_args_is_help=True,
    help="Messages that could not be stored: list, look, try again, throw away.",
)

LetterId = Annotated[int, typer.Argument(help="Id of the letter.")]


@dead_app.command("list")
def list_letters(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 50,
    before: Annotated[int, typer.Option(help="Go on before this id.")] = 0,
) -> None:
    """List dead letters, newest first; texts of messages are not shown."""

    async def work(store: "Store", config: "Config") -> None:
        from storage.dead_letters import list_dead

        made = table("id", "created", "kind", "reason", "replayed")
        for one in await store.read(list_dead(limit, before)):
            reason = one.reason[:_SHOWN_CHARS]
            made.add_row(str(one.id), day(one.created), one.kind, reason, day(one.replayed_at))
        show(made)

    run_with_store(context, work)


@dead_app.command("show")
def show_letter(context: typer.Context, letter: LetterId) -> None:
    """Show one dead letter whole, with the text of its message."""

    async def work(store: "Store", config: "Config") -> None:
        from storage.dead_letters import show_dead

        found = await store.read(show_dead(letter))
        if found is None:
            fail(f"there is no dead letter {letter}")
        typer.echo(f"id        {found.id}\ncreated   {day(found.created)}\nkind      {found.kind}")
        typer.echo(f"reason    {found.reason}\nreplayed  {day(found.replayed_at) or 'no'}")
        typer.echo(f"payload   {found.payload}")

    run_with_store(context, work)


@dead_app.command("replay")
def replay(
    context: typer.Context,
    letter: Annotated[int | None, typer.Argument(help="Id; without it all of them.")] = None,
) -> None:
    """Try to store dead messages again, in their order; none is ever stored twice."""

    async def work(store: "Store", config: "Config") -> None:
        from storage.dead_letters import show_dead

        if letter is None:
            gone, failed = await store.replay_all()
        else:
            found = await store.read(show_dead(letter))
            if found is None or found.kind != "append":
                fail(f"there is no dead message {letter}")
            failed = len(await store.replay([found]))
            gone = 1 - failed
        typer.echo(f"{gone} stored, {failed} failed again.")
        if failed:
            raise typer.Exit(1)

    run_with_store(context, work)


@dead_app.command("drop")
def drop(
    context: typer.Context,
    letters: Annotated[list[int], typer.Argument(help="Ids of letters.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Throw dead letters away for good."""
    if not yes:
        typer.confirm(f"Throw away {len(letters)} letters for good?", abort=True)

    async def work(store: "Store", config: "Config") -> None:
        from storage.dead_letters import drop_dead

        dropped = await store.change([], lambda tx: drop_dead(tx, letters))
        typer.echo(f"Dropped {dropped}.")

    run_with_store(context, work)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(dead_app, name="dead-letters")
