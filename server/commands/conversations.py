"""parlance conversation …"""

from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.context import fail, run_with_store
from server.commands.erasing import carry_out

if TYPE_CHECKING:
    from server.config import Config
    from storage.store import Store

conversation_app = typer.Typer(no_args_is_help=True, help="Conversations, as the operator sees.")


@conversation_app.callback()
def _group() -> None:
    """Keep the subcommand's name although there is only one."""


@conversation_app.command("erase")
def erase(
    context: typer.Context,
    conv: Annotated[int, typer.Argument(help="Id of the conversation.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase a conversation for good: messages, answers, summaries, what was learnt in it.

    Its members lose it from their lists. Members who only want it gone from sight delete it in
    their program; that can be undone, this cannot. Cut off, run it again: it goes on.

    Example: parlance conversation erase 1234567890
    """
    if not yes:
        typer.confirm(f"Erase the conversation {conv} with all its messages for good?", abort=True)

    async def work(store: "Store", config: "Config") -> None:
        from storage.erasure import begin_conversation
        from storage.errors import NotFound

        try:
            job = await store.change((conv,), lambda tx: begin_conversation(tx, conv))
        except NotFound:
            fail(f"there is no conversation {conv}")
        if not job.finished:
            await carry_out(store, config, job)
        typer.echo(f"Erased the conversation {conv}.")

    run_with_store(context, work)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(conversation_app, name="conversation")
