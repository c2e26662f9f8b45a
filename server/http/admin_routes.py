"""/api/v1/admin: tenants, keys, users, budgets, prices and AI services, for a company's backend.

For API keys with the scope `admin`, which handle the tenant they belong to. With `operator` as
well a key names any tenant by its slug, and handles what all tenants share. What is of another
tenant is not found. The commands do the same by the same services.
"""

import logging
from typing import Annotated, Any, Final

from aiohttp import web
from msgspec import Meta, Struct

from protocol.codes import Code
from protocol.types import S64, S128, Limit
from server.api_keys import SCOPES
from server.errors import ServiceError, not_found
from server.http.accounts_routes import NewPassword
from server.http.me_routes import Erasing
from server.http.typed import Api, Call
from server.tenant_admin import TenantAdmin
from server.user_admin import UserAdmin
from storage.rows import Account, ApiKey, Tenant

log = logging.getLogger("parlance.admin")

PATH: Final = "/api/v1/admin"
Slug = Annotated[str, Meta(max_length=64)]
Number = Annotated[str, Meta(max_length=16, pattern="^[0-9]*$")]
ScopeName = Annotated[S64, Meta(extra_json_schema={"enum": list(SCOPES)})]
_SLUG: Final = "{slug:[a-z0-9][a-z0-9-]{0,63}}"


class TenantQuery(Struct):
    """`tenant`: the slug of another tenant than the key's own; for operators."""

    tenant: Slug = ""


class PageQuery(Struct):
    """`cursor` is that of the page before, "" for the first one."""

    tenant: Slug = ""
    cursor: Number = ""
    limit: Limit = 50


api = Api("admin")


async def tenant_of(call: Call[ApiKey, Any, Any]) -> int:
    """Return the tenant that a request is about.

    Raises:
        ServiceError: NOT_FOUND, for unknown tenants and those that the key may not handle alike.
    """
    slug, key = call.query.tenant, call.who
    if not slug:
        return key.tenant
    found = await TenantAdmin(call.core.store).get(slug)
    if found.id != key.tenant and "operator" not in key.scopes:
        raise not_found("tenant")
    return found.id


def require_operator(key: ApiKey) -> None:
    """Refuse keys that handle one tenant only.

    Raises:
        ServiceError: NOT_PERMITTED.
    """
    if "operator" not in key.scopes:
        raise ServiceError(
            Code.NOT_PERMITTED, "scope missing", "The API key lacks the scope 'operator'."
        )


def note(call: Call[ApiKey, Any, Any], what: str, target: object) -> None:
    """Leave a line in the log: who changed what."""
    log.info("admin.changed", extra={"key": call.who.id, "what": what, "target": str(target)})


def cursor_of(page: list[Any], limit: int) -> str:
    """Return where the next page begins: a full page may have one behind it."""
    return str(page[-1].id) if len(page) == limit else ""


# tenants


class TenantPage(Struct):
    """`cursor` asks for the next page, "" at the end."""

    tenants: list[Tenant]
    cursor: str


class NewTenant(Struct):
    """`slug`: 1 to 64 characters out of a-z, 0-9 and '-'; it stays for good."""

    slug: Slug
    name: S128 = ""


class TenantBody(Struct):
    name: S128


class ListQuery(Struct):
    cursor: Number = ""
    limit: Limit = 50


@api.route("GET", PATH + "/tenants", "List the tenants", scope="admin")
async def _tenants(call: Call[ApiKey, ListQuery, None]) -> TenantPage:
    """Needs the scope `operator` as well."""
    require_operator(call.who)
    asked = call.query
    page = await TenantAdmin(call.core.store).page(int(asked.cursor or 0), asked.limit)
    return TenantPage(page, cursor_of(page, asked.limit))


@api.route(
    "POST", PATH + "/tenants", "Make a tenant", scope="admin", status=201, repeatable=True,
    example={"slug": "acme", "name": "Acme Inc."},
)  # fmt: skip
async def _add_tenant(call: Call[ApiKey, None, NewTenant]) -> Tenant:
    """Needs the scope `operator` as well."""
    require_operator(call.who)
    made = await TenantAdmin(call.core.store).create(call.body.slug, call.body.name)
    note(call, "tenant.add", made.id)
    return made


@api.route("GET", PATH + "/tenants/" + _SLUG, "Tell of a tenant", scope="admin")
async def _tenant(call: Call[ApiKey, None, None]) -> Tenant:
    """One's own, with the scope `operator` any."""
    found = await TenantAdmin(call.core.store).get(call.request.match_info["slug"])
    if found.id != call.who.tenant and "operator" not in call.who.scopes:
        raise not_found("tenant")
    return found


@api.route(
    "PUT",
    PATH + "/tenants/" + _SLUG,
    "Change a tenant's full name",
    scope="admin",
    example={"name": "Acme Inc."},
)
async def _rename_tenant(call: Call[ApiKey, None, TenantBody]) -> Tenant:
    """Needs the scope `operator` as well."""
    require_operator(call.who)
    renamed = await TenantAdmin(call.core.store).rename(
        call.request.match_info["slug"], call.body.name
    )
    note(call, "tenant.rename", renamed.id)
    return renamed


# keys


class KeyView(Struct):
    """An API key without its text. Times are Unix milliseconds, 0 for never."""

    id: int
    name: str
    scopes: list[str]
    created: int
    last_used: int
    revoked: int


class MadeKey(Struct):
    """`key` is its text, which nobody can show again."""

    id: int
    name: str
    scopes: list[str]
    key: str


class KeyPage(Struct):
    """`cursor` asks for the next page, "" at the end."""

    keys: list[KeyView]
    cursor: str


class NewKey(Struct):
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    scopes: Annotated[list[ScopeName], Meta(min_length=1, max_length=16)]


@api.route("GET", PATH + "/keys", "List API keys, also revoked ones", scope="admin", errors=(404,))
async def _keys(call: Call[ApiKey, PageQuery, None]) -> KeyPage:
    asked, keys = call.query, call.parts.accounts.api_keys
    page = await keys.page(await tenant_of(call), int(asked.cursor or 0), asked.limit)
    return KeyPage([_key_view(one) for one in page], cursor_of(page, asked.limit))


@api.route(
    "POST", PATH + "/keys", "Make an API key", scope="admin", status=201, errors=(404,),
    repeatable=True, example={"name": "website", "scopes": ["chat"]},
)  # fmt: skip
async def _add_key(call: Call[ApiKey, TenantQuery, NewKey]) -> MadeKey:
    """A key gives no scope that it has not itself. The text is shown this once."""
    body, keys = call.body, call.parts.accounts.api_keys
    made, text = await keys.grant(call.who, await tenant_of(call), body.name, body.scopes)
    note(call, "key.add", made.id)
    return MadeKey(made.id, made.name, made.scopes, text)


@api.route("DELETE", PATH + r"/keys/{id:\d{1,16}}", "Revoke an API key", scope="admin")
async def _revoke(call: Call[ApiKey, TenantQuery, None]) -> KeyView:
    """Worthless at once; other processes notice within three seconds."""
    number, keys = call.number("key"), call.parts.accounts.api_keys
    revoked = await keys.withdraw(call.who, await tenant_of(call), number)
    note(call, "key.revoke", number)
    return _key_view(revoked)


def _key_view(key: ApiKey) -> KeyView:
    return KeyView(key.id, key.name, key.scopes, key.created, key.last_used, key.revoked)


# users


class UserQuery(Struct):
    """`q`: how the name begins, in any case."""

    q: S64 = ""
    tenant: Slug = ""
    cursor: S128 = ""
    limit: Limit = 50


class UserPage(Struct):
    """By name; `cursor` asks for the next page, "" at the end."""

    users: list[Account]
    cursor: str


class NewUser(Struct):
    """Without a password only a key of the scope `exchange` signs the person in."""

    name: S128
    nick: S128 = ""
    password: NewPassword | None = None


class UserBody(Struct):
    """`disabled`: locked out; every sign-in so far ends, messages stay."""

    disabled: bool


class NewPasswordBody(Struct):
    password: NewPassword


_USER: Final = PATH + r"/users/{id:\d{1,16}}"


@api.route("GET", PATH + "/users", "Find users, also disabled ones", scope="admin", errors=(404,))
async def _users(call: Call[ApiKey, UserQuery, None]) -> UserPage:
    asked = call.query
    page = await (await _admin(call)).page(asked.q, asked.cursor, asked.limit)
    return UserPage(page, page[-1].name if len(page) == asked.limit else "")


@api.route(
    "POST", PATH + "/users", "Make an account", scope="admin", status=201, errors=(404,),
    repeatable=True, example={"name": "小明", "password": "a right long password"},
)  # fmt: skip
async def _add_user(call: Call[ApiKey, TenantQuery, NewUser]) -> Account:
    body = call.body
    made = await (await _admin(call)).create(body.name, body.nick, body.password)
    note(call, "user.add", made.id)
    return made


@api.route("GET", _USER, "Tell of a user", scope="admin")
async def _user(call: Call[ApiKey, TenantQuery, None]) -> Account:
    return await (await _admin(call)).get(call.number("user"))


@api.route(
    "PUT",
    _USER,
    "Lock a user out, or let one in again",
    scope="admin",
    errors=(409,),
    example={"disabled": True},
)
async def _change_user(call: Call[ApiKey, TenantQuery, UserBody]) -> Account:
    user, disabled = call.number("user"), call.body.disabled
    changed = await (await _admin(call)).set_disabled(user, disabled)
    note(call, "user.disable" if disabled else "user.enable", user)
    return changed


@api.route(
    "PUT",
    _USER + "/password",
    "Set a user's password",
    scope="admin",
    errors=(409,),
    example={"password": "a right long password"},
)
async def _set_password(call: Call[ApiKey, TenantQuery, NewPasswordBody]) -> None:
    """Everything that was signed in must sign in again."""
    user = call.number("user")
    await (await _admin(call)).set_password(user, call.body.password)
    note(call, "user.passwd", user)


@api.route("DELETE", _USER, "Erase a user for good", scope="admin", status=202)
async def _erase_user(call: Call[ApiKey, TenantQuery, None]) -> Erasing:
    """It is decided, and what is left to do goes on by itself."""
    user = (await (await _admin(call)).get(call.number("user"))).id
    await call.core.erasures.erase_user(user)
    note(call, "user.erase", user)
    return Erasing(user)


async def _admin(call: Call[ApiKey, Any, Any]) -> UserAdmin:
    accounts = call.parts.accounts
    return UserAdmin(call.core.store, await tenant_of(call), accounts.passwords, accounts.revoked)


def routes() -> list[web.RouteDef]:
    """Return the routes of this file; the application needs `REPEATS`."""
    return api.routes()
