"""parlance provider …, parlance budget …, parlance usage …"""

import csv
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.context import (
    fail,
    find_tenant,
    find_user,
    run_with_store,
    show,
    table,
)
from server.commands.users import TenantSlug

if TYPE_CHECKING:
    from server.config import Config
    from server.provider_admin import ProviderAdmin
    from server.vault import Vault
    from storage.store import Store

Name = Annotated[str, typer.Argument(help="Name of the service, as in `name/model`.")]

_PAGE = 2_000
_MICRO = 1_000_000
_SOON = "A running server takes it within 5 seconds."

provider_app = typer.Typer(
    no_args_is_help=True, help="AI services: add and remove them while the server runs."
)
budget_app = typer.Typer(no_args_is_help=True, help="What answers may cost, in US dollars.")
usage_app = typer.Typer(no_args_is_help=True, help="What answers used and what they cost.")


def _vault(config: "Config") -> "Vault":
    from server.config import data_dir
    from server.vault import VaultError, make_vault

    auth = config.auth
    try:
        return make_vault(auth.master_key, auth.old_master_keys, data_dir(config))
    except VaultError as error:
        fail(str(error))


def _providers(store: "Store", config: "Config") -> "ProviderAdmin":
    from server.provider_admin import ProviderAdmin

    return ProviderAdmin(store, _vault(config), config.ai)


@provider_app.command("add")
def add_provider(
    context: typer.Context,
    name: Name,
    base_url: Annotated[str, typer.Option(help="Address up to and including /v1.")] = "",
    kind: Annotated[
        str, typer.Option(help="openai_chat, openai_responses, anthropic, gemini or demo.")
    ] = "openai_chat",
    model: Annotated[
        list[str] | None, typer.Option(help="Model to offer; repeat. None: what it lists.")
    ] = None,
    max_streams: Annotated[int, typer.Option(help="Answers at the same time.")] = 100,
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="Read the key from standard input.")
    ] = False,
) -> None:
    """Add an AI service, or replace the one of this name. Its key is asked for, and kept sealed.

    Example:

    parlance provider add deepseek --base-url https://api.deepseek.com/v1 --model deepseek-chat
    """
    import msgspec

    from ai_bridge.secrets import Secret
    from server.config_sections import ProviderConfig

    given = {
        "name": name,
        "kind": kind,
        "base_url": base_url,
        "models": model or [],
        "max_streams": max_streams,
    }
    try:
        wanted = msgspec.convert(given, ProviderConfig)
    except msgspec.ValidationError as error:
        fail(str(error))
    if kind == "openai_chat" and not base_url:
        fail("--base-url is missing, such as http://127.0.0.1:11434/v1")
    key = Secret(_ask_key(key_stdin, kind))

    async def work(store: "Store", config: "Config") -> None:
        await _providers(store, config).save(wanted, key)
        typer.echo(f"Added {name}. {_SOON}")

    run_with_store(context, work)


def _ask_key(from_stdin: bool, kind: str) -> str:
    """Never an argument: those stand in the list of processes."""
    if from_stdin:
        return sys.stdin.readline().strip()
    if kind == "demo" or not sys.stdin.isatty():
        return ""
    answer: str = typer.prompt("Key (empty for none)", hide_input=True, default="")
    return answer.strip()


@provider_app.command("list")
def list_providers(context: typer.Context) -> None:
    """List the AI services; keys are not shown."""

    async def work(store: "Store", config: "Config") -> None:
        made = table("name", "kind", "address", "models", "key", "kept in")
        for one in await _providers(store, config).all():
            key = one.complaint or ("set" if one.has_key else "")
            made.add_row(one.name, one.kind, one.base_url, ", ".join(one.models), key, one.kept)
        show(made)

    run_with_store(context, work)


@provider_app.command("test")
def test_provider(context: typer.Context, name: Name) -> None:
    """Ask an AI service for its models; that costs nothing."""

    async def work(store: "Store", config: "Config") -> None:
        found = await _providers(store, config).test(name)
        if not found.ok:
            fail(found.complaint)
        typer.echo(f"{name} answers. {', '.join(found.models)}".strip())

    run_with_store(context, work)


@provider_app.command("remove")
def remove_provider(context: typer.Context, name: Name) -> None:
    """Remove an AI service that was added by command; its key is wiped."""

    async def work(store: "Store", config: "Config") -> None:
        from storage.errors import NotFound

        try:
            await _providers(store, config).remove(name)
        except NotFound:
            fail(f"there is no service {name} in the database; see: parlance provider list")
        typer.echo(f"Removed {name}. {_SOON}")

    run_with_store(context, work)


@provider_app.command("rekey")
def rekey(context: typer.Context) -> None:
    """Seal all keys with the present master key; then the old one can be forgotten."""

    async def work(store: "Store", config: "Config") -> None:
        from server.ai_providers import reseal
        from server.vault import VaultError

        try:
            count = await reseal(store, _vault(config))
        except VaultError as error:
            fail(str(error))
        typer.echo(f"Sealed {count} keys anew.")

    run_with_store(context, work)


@budget_app.command("set")
def set_budget(
    context: typer.Context,
    day: Annotated[float, typer.Option(min=0, help="Dollars a day; 0: any.")] = 0.0,
    month: Annotated[float, typer.Option(min=0, help="Dollars a month; 0: any.")] = 0.0,
    user: Annotated[str, typer.Option(help="One user; else the tenant as a whole.")] = "",
    tenant: TenantSlug = "default",
) -> None:
    """Set what answers may cost a tenant, or one of its users. Without options: no limit.

    Example: parlance budget set --tenant acme --day 5 --month 100
    """

    async def work(store: "Store", config: "Config") -> None:
        from server.money_admin import BudgetAdmin

        tenant_id = await find_tenant(store, tenant)
        user_id = await find_user(store, tenant, user) if user else 0
        row = await BudgetAdmin(store, tenant_id).set(user_id, day, month)
        typer.echo(f"{user or tenant}: {_dollars(row.day_micro)} a day, "
                   f"{_dollars(row.month_micro)} a month. {_SOON}")  # fmt: skip

    run_with_store(context, work)


@budget_app.command("list")
def list_budgets(context: typer.Context) -> None:
    """List the budgets that were set."""

    async def work(store: "Store", config: "Config") -> None:
        from storage.people import get_users, list_tenants
        from storage.usage import budgets

        slugs = {one.id: one.slug for one in await store.read(list_tenants())}
        made = table("tenant", "user", "day", "month")
        after = (0, -1)
        while page := await store.read(budgets(after, _PAGE)):
            after = (page[-1].tenant, page[-1].user)
            known = await store.read(get_users([row.user for row in page if row.user]))
            names = {one.id: one.name for one in known}
            for row in page:
                if row.day_micro or row.month_micro:
                    name = names.get(row.user) or ("(all)" if not row.user else str(row.user))
                    day, month = _dollars(row.day_micro), _dollars(row.month_micro)
                    made.add_row(slugs.get(row.tenant, str(row.tenant)), name, day, month)
        show(made)

    run_with_store(context, work)


def _dollars(micro: int) -> str:
    return f"${micro / _MICRO:,.2f}" if micro else "any"


@usage_app.command("export")
def export_usage(
    context: typer.Context,
    since: Annotated[str, typer.Option(help="First day (UTC), as 2026-01-31; else 30 days.")] = "",
    until: Annotated[str, typer.Option(help="Last day (UTC); else today.")] = "",
    tenant: TenantSlug = "default",
) -> None:
    """Write what answers used as CSV: one line per day, user, persona and model.

    Example: parlance usage export --since 2026-01-01 > january.csv
    """
    today = datetime.now(UTC).date()
    last = _day(until) if until else today.toordinal()
    first = _day(since) if since else (today - timedelta(days=30)).toordinal()

    async def work(store: "Store", config: "Config") -> None:
        from server.money_admin import BudgetAdmin
        from storage.usage import UsageRow

        tenant_id = await find_tenant(store, tenant)
        out = csv.writer(sys.stdout, lineterminator="\n")
        out.writerow(
            ("day", "user", "persona", "model", "answers", "tokens_in", "tokens_out", "usd")
        )
        after: UsageRow | None = None
        admin, bounds = BudgetAdmin(store, tenant_id), (first - _EPOCH, last - _EPOCH)
        while page := await admin.used(*bounds, after, _PAGE):
            after = page[-1]
            for row in page:
                date = datetime.fromtimestamp(row.day * 86_400, UTC).date()
                cost = f"{row.cost_micro / _MICRO:.6f}"
                out.writerow((date, row.user, row.persona, row.model, row.turns,
                              row.tokens_in, row.tokens_out, cost))  # fmt: skip

    run_with_store(context, work)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).toordinal()


def _day(text: str) -> int:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).toordinal()
    except ValueError:
        fail(f"{text!r} is not a day such as 2026-01-31")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(provider_app, name="provider")
    app.add_typer(budget_app, name="budget")
    app.add_typer(usage_app, name="usage")
