"""parlance user …, parlance tenant …"""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.context import (
    day,
    fail,
    find_tenant,
    find_user,
    run_with_store,
    say_when,
    show,
    table,
)
from server.commands.erasing import carry_out

if TYPE_CHECKING:
    from server.config import Config
    from server.user_admin import UserAdmin
    from storage.store import Store

Name = Annotated[str, typer.Argument(help="Name of the user.")]
TenantSlug = Annotated[str, typer.Option("--tenant", help="Slug of the tenant.")]
FromStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input.")
]

_PAGE = 500

user_app = typer.Typer(no_args_is_help=True, help="Accounts: add, list, disable, erase, passwords.")
tenant_app = typer.Typer(no_args_is_help=True, help="Tenants: separate worlds on one server.")


@contextlib.contextmanager
def _users(store: "Store", tenant: int) -> "Iterator[UserAdmin]":
    from server.passwords import Passwords
    from server.user_admin import UserAdmin

    passwords = Passwords(1)
    try:
        yield UserAdmin(store, tenant, passwords)
    finally:
        passwords.close()


def _ask_password(from_stdin: bool) -> str:
    """Never an argument: those stand in the list of processes."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        fail("there is no terminal to ask for the password; use --password-stdin")
    answer: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return answer


@user_app.command("add")
def add(
    context: typer.Context,
    name: Name,
    nick: Annotated[str, typer.Option(help="Name that others see.")] = "",
    tenant: TenantSlug = "default",
    password_stdin: FromStdin = False,
) -> None:
    """Make an account; asks for its password.

    Examples:

    parlance user add anna

    echo "a long password" | parlance user add bot --password-stdin
    """
    from server.passwords import clean_password, clean_user_name

    clean = clean_user_name(name)
    password = clean_password(_ask_password(password_stdin))

    async def work(store: "Store", config: "Config") -> None:
        with _users(store, await find_tenant(store, tenant)) as users:
            made = await users.create(clean, nick, password)
        typer.echo(f"Added {made.name} ({made.id}).")
        say_when(config, "the account can sign in now.")

    run_with_store(context, work)


@user_app.command("list")
def list_users(context: typer.Context, tenant: TenantSlug = "default") -> None:
    """List the accounts of a tenant."""

    async def work(store: "Store", config: "Config") -> None:
        from protocol.codes import UserKind

        made = table("id", "name", "nick", "kind", "created", "")
        after = ""
        with _users(store, await find_tenant(store, tenant)) as users:
            while page := await users.page("", after, _PAGE):
                after = page[-1].name
                for one in page:
                    state = "disabled" if one.disabled else ""
                    kind = UserKind(one.kind).name.lower()
                    made.add_row(str(one.id), one.name, one.nick, kind, day(one.created), state)
        show(made)

    run_with_store(context, work)


@user_app.command("disable")
def disable(
    context: typer.Context,
    name: Name,
    tenant: TenantSlug = "default",
    undo: Annotated[bool, typer.Option(help="Let the user in again.")] = False,
) -> None:
    """Lock a user out; messages stay."""

    async def work(store: "Store", config: "Config") -> None:
        user = await find_user(store, tenant, name)
        with _users(store, await find_tenant(store, tenant)) as users:
            await users.set_disabled(user, not undo)
        typer.echo(f"{name} may sign in again." if undo else f"{name} can no longer sign in.")
        if not undo:
            say_when(
                config, "connections that are open now last until their token ends or it restarts."
            )

    run_with_store(context, work)


@user_app.command("passwd")
def passwd(
    context: typer.Context,
    name: Name,
    tenant: TenantSlug = "default",
    password_stdin: FromStdin = False,
) -> None:
    """Set a new password; everything that was signed in must sign in again."""
    from server.passwords import clean_password

    password = clean_password(_ask_password(password_stdin))

    async def work(store: "Store", config: "Config") -> None:
        user = await find_user(store, tenant, name)
        with _users(store, await find_tenant(store, tenant)) as users:
            await users.set_password(user, password)
        typer.echo(f"{name} has a new password.")
        say_when(
            config, "connections that are open now last until their token ends or it restarts."
        )

    run_with_store(context, work)


@user_app.command("erase")
def erase(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name or id of the user.")],
    tenant: TenantSlug = "default",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase a user for good, with what was learnt from them.

    Messages in rooms are taken back, conversations that nobody else is in go whole. What remains
    is an account without a name, so that others see that somebody wrote; the name is free again.
    docs/behavior.md lists what happens to each table. Cut off, run it again: it goes on.

    Examples:

    parlance user erase anna

    parlance user erase 1234567890 --yes
    """

    async def work(store: "Store", config: "Config") -> None:
        from storage.erasure import begin_user

        user = await _named(store, tenant, name)
        if not yes:
            typer.confirm(f"Erase {name} ({user}) and everything of theirs for good?", abort=True)
        job = await store.change([user], lambda tx: begin_user(tx, user))
        if not job.finished:
            await carry_out(store, config, job)
        typer.echo(f"Erased {name} ({user}).")

    run_with_store(context, work)


async def _named(store: "Store", tenant: str, name: str) -> int:
    """Return the user of this name, or of this id."""
    from storage.people import user_by_name, users_of_tenant

    tenant_id = await find_tenant(store, tenant)
    found = await store.read(user_by_name(tenant_id, name))
    if found is None and name.isascii() and name.isdecimal() and len(name) <= 16:
        found = next(iter(await store.read(users_of_tenant(tenant_id, [int(name)]))), None)
    if found is None or not found.id:
        fail(f"there is no user {name!r} in the tenant {tenant!r}; see `parlance user list`")
    return found.id


@tenant_app.command("add")
def add_tenant(
    context: typer.Context,
    slug: Annotated[str, typer.Argument(help="Short name: a-z, 0-9 and '-'.")],
    name: Annotated[str, typer.Option(help="Full name.")] = "",
) -> None:
    """Make a tenant: nobody in it sees anybody outside.

    Example: parlance tenant add acme --name "Acme Inc."
    """

    async def work(store: "Store", config: "Config") -> None:
        from server.tenant_admin import TenantAdmin

        made = await TenantAdmin(store).create(slug, name)
        typer.echo(f"Added the tenant {slug} ({made.id}).")

    run_with_store(context, work)


@tenant_app.command("rename")
def rename_tenant(
    context: typer.Context,
    slug: Annotated[str, typer.Argument(help="Its short name, which stays.")],
    name: Annotated[str, typer.Argument(help="Full name.")],
) -> None:
    """Change a tenant's full name."""

    async def work(store: "Store", config: "Config") -> None:
        from server.tenant_admin import TenantAdmin

        await find_tenant(store, slug)
        made = await TenantAdmin(store).rename(slug, name)
        typer.echo(f"{slug} is called {made.name}.")

    run_with_store(context, work)


@tenant_app.command("list")
def list_all_tenants(context: typer.Context) -> None:
    """List the tenants."""

    async def work(store: "Store", config: "Config") -> None:
        from server.tenant_admin import TenantAdmin

        made = table("id", "slug", "name", "created")
        after = 0
        while page := await TenantAdmin(store).page(after, _PAGE):
            after = page[-1].id
            for one in page:
                made.add_row(str(one.id), one.slug, one.name, day(one.created))
        show(made)

    run_with_store(context, work)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(user_app, name="user")
    app.add_typer(tenant_app, name="tenant")
