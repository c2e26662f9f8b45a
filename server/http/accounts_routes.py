"""POST /api/v1/auth/…: everything that signs people in or out."""

from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from protocol.types import Bin16
from server.accounts import DEFAULT_SLUG, SignIn
from server.auth import Claims
from server.http.context import address_of, bearer_of
from server.http.typed import Api, Call
from server.passwords import MAX_PASSWORD, MIN_PASSWORD

Text = Annotated[str, Meta(max_length=1024)]
Bytes16 = Annotated[Bin16, Meta(extra_json_schema={"pattern": "^[A-Za-z0-9+/]{21}[AQgw]==$"})]
NewPassword = Annotated[
    str, Meta(max_length=MAX_PASSWORD, extra_json_schema={"minLength": MIN_PASSWORD})
]


class RegisterBody(Struct):
    """`device`: 16 bytes in base64 that name the device; tokens are then good for it only."""

    name: Text
    password: NewPassword
    nick: Text = ""
    device: Bytes16 | None = None


class LoginBody(Struct):
    name: Text
    password: Text
    tenant: Annotated[str, Meta(max_length=64)] = DEFAULT_SLUG
    device: Bytes16 | None = None


class GuestBody(Struct):
    nick: Text = ""
    device: Bytes16 | None = None


class RefreshBody(Struct):
    """`attempt`: 16 random bytes, kept until there is an answer (see `Accounts.refresh`)."""

    refresh_token: Text
    attempt: Bytes16 | None = None


class LogoutBody(Struct):
    refresh_token: Text


class ExchangeBody(Struct):
    user: Text
    nick: Text = ""
    device: Bytes16 | None = None


class PasswordBody(Struct):
    old: Text
    new: NewPassword
    device: Bytes16 | None = None


api = Api("auth")
_PATH: Final = "/api/v1/auth/"


@api.route(
    "POST",
    _PATH + "register",
    "Make an account",
    status=201,
    errors=(409,),
    example={"name": "小明", "password": "a right long password"},
)
async def _register(call: Call[None, None, RegisterBody]) -> SignIn:
    body = call.body
    return await call.parts.accounts.register(
        body.name, body.password, body.nick, body.device, address_of(call.request)
    )


@api.route(
    "POST",
    _PATH + "login",
    "Sign in with name and password",
    errors=(401,),
    example={"name": "小明", "password": "a right long password"},
)
async def _login(call: Call[None, None, LoginBody]) -> SignIn:
    body = call.body
    return await call.parts.accounts.login(
        body.tenant, body.name, body.password, body.device, address_of(call.request)
    )


@api.route("POST", _PATH + "guest", "Come in as a guest", status=201, example={"nick": "小明"})
async def _guest(call: Call[None, None, GuestBody]) -> SignIn:
    body = call.body
    return await call.parts.accounts.guest(body.nick, body.device, address_of(call.request))


@api.route(
    "POST",
    _PATH + "refresh",
    "Get a new token before the old one ends",
    errors=(401,),
    example={"refresh_token": "the one of the last sign-in"},
)
async def _refresh(call: Call[None, None, RefreshBody]) -> SignIn:
    return await call.parts.accounts.refresh(call.body.refresh_token, call.body.attempt)


@api.route(
    "POST",
    _PATH + "logout",
    "Sign out",
    errors=(401,),
    example={"refresh_token": "the one of the last sign-in"},
)
async def _logout(call: Call[None, None, LogoutBody]) -> None:
    await call.parts.accounts.logout(call.body.refresh_token)


@api.route(
    "POST",
    _PATH + "exchange",
    "Sign a person of one's own system in",
    scope="exchange",
    example={"user": "customer-4711", "nick": "小明"},
)
async def _exchange(call: Call[None, None, ExchangeBody]) -> SignIn:
    body = call.body
    return await call.parts.accounts.exchange(
        bearer_of(call.request), body.user, body.nick, body.device
    )


@api.route(
    "POST",
    _PATH + "password",
    "Change the password",
    example={"old": "the old password", "new": "a right long password"},
)
async def _password(call: Call[Claims, None, PasswordBody]) -> SignIn:
    body = call.body
    return await call.parts.accounts.change_password(
        call.who, body.old, body.new, body.device, address_of(call.request)
    )


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return api.routes()
