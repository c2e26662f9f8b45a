"""parlance user …, parlance tenant …"""

import re
import sys
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
    from storage.store import Store

Name = Annotated[str, typer.Argument(help="Name of the user.")]
TenantSlug = Annotated[str, typer.Option("--tenant", help="Slug of the tenant.")]
FromStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input.")
]

_PAGE = 500

user_app = typer.Typer(no_args_is_help=True, help="Accounts: add, list, disable, erase, passwords.")
tenant_app = typer.Typer(no_args_is_help=True, help="Tenants: separate worlds on one server.")


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
    from protocol.codes import UserKind
    from server.passwords import Passwords, clean_password, clean_user_name

    clean = clean_user_name(name)
    password = clean_password(_ask_password(password_stdin))

    async def work(store: "Store", config: "Config") -> None:
        from storage.accounts import create_user
        from storage.ids import new_id

        tenant_id = await find_tenant(store, tenant)
        passwords = Passwords(1)
        hashed = await passwords.hash(password)
        passwords.close()
        user = new_id()
        kind = int(UserKind.PERSON)
        await store.change(
            [], lambda tx: create_user(tx, tenant_id, clean, nick, kind, hashed, user)
        )
        typer.echo(f"Added {clean} ({user}).")
        say_when(config, "the account can sign in now.")

    run_with_store(context, work)


@user_app.command("list")
def list_users(context: typer.Context, tenant: TenantSlug = "default") -> None:
    """List the accounts of a tenant."""

    async def work(store: "Store", config: "Config") -> None:
        from protocol.codes import UserKind
        from storage.accounts import list_accounts

        tenant_id = await find_tenant(store, tenant)
        made = table("id", "name", "nick", "kind", "created", "")
        after = 0
        while page := await store.read(list_accounts(tenant_id, after, _PAGE)):
            after = page[-1].id
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
        from storage.accounts import set_disabled
        from storage.erasure import Kind, get_erasure

        user = await find_user(store, tenant, name)
        if undo and await store.read(get_erasure(Kind.USER, user)) is not None:
            fail(f"{name} is being erased and cannot come back")
        await store.change([], lambda tx: set_disabled(tx, user, not undo))
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
    from server.passwords import Passwords, clean_password

    password = clean_password(_ask_password(password_stdin))

    async def work(store: "Store", config: "Config") -> None:
        from storage.accounts import set_password

        user = await find_user(store, tenant, name)
        passwords = Passwords(1)
        hashed = await passwords.hash(password)
        passwords.close()
        await store.change([], lambda tx: set_password(tx, user, hashed))
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
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", slug):
        fail("a slug has 1 to 64 characters out of a-z, 0-9 and '-'")

    async def work(store: "Store", config: "Config") -> None:
        from storage.people import create_tenant

        made = await store.change([], lambda tx: create_tenant(tx, slug, name or slug))
        typer.echo(f"Added the tenant {slug} ({made.id}).")

    run_with_store(context, work)


@tenant_app.command("list")
def list_all_tenants(context: typer.Context) -> None:
    """List the tenants."""

    async def work(store: "Store", config: "Config") -> None:
        from storage.people import list_tenants

        made = table("id", "slug", "name", "created")
        for one in await store.read(list_tenants()):
            made.add_row(str(one.id), one.slug, one.name, day(one.created))
        show(made)

    run_with_store(context, work)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(user_app, name="user")
    app.add_typer(tenant_app, name="tenant")
