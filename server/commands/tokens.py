"""parlance token …"""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.context import (
    day,
    fail,
    find_tenant,
    find_user,
    run_with_store,
    show,
    table,
)
from server.commands.users import Name, TenantSlug

if TYPE_CHECKING:
    from server.config import Config
    from storage.store import Store

_PAGE = 500

token_app = typer.Typer(no_args_is_help=True, help="Sign-in tokens and API keys.")
key_app = typer.Typer(no_args_is_help=True, help="API keys for programs.")
token_app.add_typer(key_app, name="key")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@token_app.command("user")
def token_for_user(context: typer.Context, name: Name, tenant: TenantSlug = "default") -> None:
    """Print a sign-in token of a user, for scripts and tests.

    Example: curl -H "Authorization: Bearer $(parlance token user anna)" …
    """

    async def work(store: "Store", config: "Config") -> None:
        from server.accounts import NO_DEVICE
        from server.auth import make_tokens
        from server.config import data_dir
        from storage.accounts import login_state

        user = await find_user(store, tenant, name)
        state = await store.read(login_state(user, NO_DEVICE))
        if state is None or state.disabled:
            fail(f"{name} may not sign in: the account is disabled")
        tokens = make_tokens(config.auth, data_dir(config))
        token, expires = tokens.issue(
            user, state.tenant, state.user.kind or 0, None, _now_ms(), epoch=state.token_epoch
        )
        typer.echo(token)
        typer.echo(f"good until {day(expires)}", err=True)

    run_with_store(context, work)


@key_app.command("add")
def add_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What it may do: exchange, metrics, chat, models, engines, dashboard, admin, "
            "operator. Repeat it."
        ),
    ] = None,
    tenant: TenantSlug = "default",
) -> None:
    """Make an API key and show it, this once.

    Example: parlance token key add website --scope exchange
    """
    if not scope:
        fail(
            "say what the key may do, with one or more --scope; see: parlance token key add --help"
        )

    async def work(store: "Store", config: "Config") -> None:
        from server.api_keys import ApiKeys

        tenant_id = await find_tenant(store, tenant)
        key, text = await ApiKeys(store, _now_ms).create(tenant_id, name, scope)
        typer.echo(text)
        typer.echo(f"Key {key.id}; it is not shown again. A running server knows it.", err=True)

    run_with_store(context, work)


@key_app.command("list")
def list_keys(context: typer.Context, tenant: TenantSlug = "default") -> None:
    """List API keys, also revoked ones; never their text."""

    async def work(store: "Store", config: "Config") -> None:
        from server.api_keys import ApiKeys

        tenant_id = await find_tenant(store, tenant)
        made = table("id", "name", "scopes", "created", "last used", "revoked")
        keys, after = ApiKeys(store, _now_ms), 0
        while page := await keys.page(tenant_id, after, _PAGE):
            after = page[-1].id
            for key in page:
                scopes = ", ".join(key.scopes)
                times = map(day, (key.created, key.last_used, key.revoked))
                made.add_row(str(key.id), key.name, scopes, *times)
        show(made)

    run_with_store(context, work)


@key_app.command("revoke")
def revoke_key(
    context: typer.Context,
    key: Annotated[int, typer.Argument(help="Id of the key.")],
    tenant: TenantSlug = "default",
) -> None:
    """Make an API key worthless at once, also for a running server."""

    async def work(store: "Store", config: "Config") -> None:
        from server.api_keys import ApiKeys

        await ApiKeys(store, _now_ms).revoke(await find_tenant(store, tenant), key)
        typer.echo(f"Revoked {key}.")

    run_with_store(context, work)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(token_app, name="token")
