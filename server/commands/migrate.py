"""parlance migrate"""

from typing import TYPE_CHECKING

import typer

from server.commands.context import load_config, run_async

if TYPE_CHECKING:
    from storage.rows import StoreOptions

migrate_app = typer.Typer(
    invoke_without_command=True,
    help="Bring the database tables up to date (the server does it too, unless told not to).",
)


@migrate_app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        apply(context)


def _options(context: typer.Context, migrate: bool) -> "StoreOptions":
    import msgspec

    from server.app import store_options
    from server.config import data_dir

    config = load_config(context)
    data_dir(config)
    return msgspec.structs.replace(store_options(config), migrate=migrate)


@migrate_app.command("status")
def status(context: typer.Context) -> None:
    """Say whether the tables fit this program; changes nothing. Exit code 1 if they do not."""
    options = _options(context, migrate=False)

    async def work() -> None:
        from storage.errors import OpenFailed
        from storage.store import Store

        try:
            store = await Store.open(options)
        except OpenFailed as error:
            typer.echo(str(error))
            raise typer.Exit(1) from None
        typer.echo(f"The tables are up to date ({store.engine_name}).")
        await store.close()

    run_async(work())


@migrate_app.command("apply")
def apply(context: typer.Context) -> None:
    """Apply what is missing; safe to repeat, and safe when several processes do it."""
    options = _options(context, migrate=True)

    async def work() -> None:
        from storage.store import Store

        store = await Store.open(options)
        typer.echo(f"The tables are up to date ({store.engine_name}).")
        await store.close()

    from rich.console import Console

    with Console(stderr=True).status("Looking at the tables…"):
        run_async(work())


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(migrate_app, name="migrate")
