"""POST /api/v1/auth/…: everything that signs people in or out."""

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from protocol.types import Bin16
from server.accounts import DEFAULT_SLUG
from server.http.bodies import json_response, read_json
from server.http.context import address_of, bearer_of, parts_of, require_user

Text = Annotated[str, Meta(max_length=1024)]


class RegisterBody(Struct):
    """`device`: 16 bytes in base64 that name the device; tokens are then good for it only."""

    name: Text
    password: Text
    nick: Text = ""
    device: Bin16 | None = None


class LoginBody(Struct):
    name: Text
    password: Text
    tenant: Annotated[str, Meta(max_length=64)] = DEFAULT_SLUG
    device: Bin16 | None = None


class GuestBody(Struct):
    nick: Text = ""
    device: Bin16 | None = None


class RefreshBody(Struct):
    """`attempt`: 16 random bytes, kept until there is an answer (see `Accounts.refresh`)."""

    refresh_token: Text
    attempt: Bin16 | None = None


class LogoutBody(Struct):
    refresh_token: Text


class ExchangeBody(Struct):
    user: Text
    nick: Text = ""
    device: Bin16 | None = None


class PasswordBody(Struct):
    old: Text
    new: Text
    device: Bin16 | None = None


async def _register(request: web.Request) -> web.Response:
    body = await read_json(request, RegisterBody)
    accounts = parts_of(request).accounts
    done = await accounts.register(
        body.name, body.password, body.nick, body.device, address_of(request)
    )
    return json_response(done, status=201)


async def _login(request: web.Request) -> web.Response:
    body = await read_json(request, LoginBody)
    accounts = parts_of(request).accounts
    return json_response(
        await accounts.login(
            body.tenant, body.name, body.password, body.device, address_of(request)
        )
    )


async def _guest(request: web.Request) -> web.Response:
    body = await read_json(request, GuestBody)
    accounts = parts_of(request).accounts
    done = await accounts.guest(body.nick, body.device, address_of(request))
    return json_response(done, status=201)


async def _refresh(request: web.Request) -> web.Response:
    body = await read_json(request, RefreshBody)
    accounts = parts_of(request).accounts
    return json_response(await accounts.refresh(body.refresh_token, body.attempt))


async def _logout(request: web.Request) -> web.Response:
    body = await read_json(request, LogoutBody)
    await parts_of(request).accounts.logout(body.refresh_token)
    return web.Response(status=204)


async def _exchange(request: web.Request) -> web.Response:
    body = await read_json(request, ExchangeBody)
    accounts = parts_of(request).accounts
    return json_response(
        await accounts.exchange(bearer_of(request), body.user, body.nick, body.device)
    )


async def _password(request: web.Request) -> web.Response:
    claims = await require_user(request)
    body = await read_json(request, PasswordBody)
    accounts = parts_of(request).accounts
    return json_response(
        await accounts.change_password(claims, body.old, body.new, body.device, address_of(request))
    )


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    handlers = {
        "register": _register,
        "login": _login,
        "guest": _guest,
        "refresh": _refresh,
        "logout": _logout,
        "exchange": _exchange,
        "password": _password,
    }
    return [web.post(f"/api/v1/auth/{name}", handler) for name, handler in handlers.items()]
