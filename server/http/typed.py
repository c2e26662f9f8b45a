"""How a route is declared: once, for aiohttp and for the document that describes it.

A handler takes a `Call[who, query, body]` and returns a Struct, `Reply`, None or a response of
aiohttp. What stands in its annotations is what is checked before it runs:

    @api.route("GET", "/api/v1/memories", "List what personas remember of you")
    async def _list(call: Call[Claims, PageQuery, None]) -> MemoryPage: ...

Who may: `Claims` a person's token, asked of the store each time; `Person` the same, remembered
for three seconds; `HttpCaller` a person's token or an API key with the scope `chat`; `ApiKey` a
key with the scope that the route names; None anybody.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from aiohttp import web
from msgspec import Struct

from protocol.codes import Code
from protocol.types import MAX_INT
from server.auth import Claims
from server.errors import ServiceError, invalid, not_found
from server.http.bodies import json_response, read_json
from server.http.callers import CALLERS, HttpCaller
from server.http.context import HttpParts, bearer_of, parts_of, require_user
from server.http.errors import Body
from server.http.repeats import REPEAT_HEADER, REPEATS, name_of, repeat_key
from server.http.tags import HEADER as TAG_HEADER
from server.http.tags import tagged
from storage.rows import ApiKey

if TYPE_CHECKING:
    from server.core import Core

W = TypeVar("W")
Q = TypeVar("Q")
B = TypeVar("B")
T = TypeVar("T")

MAX_BODY: Final = 64 * 1024
_MARK: Final = "declaration"


class Person(HttpCaller, frozen=True):
    """A person who came with a token; never a key."""


class Media(Struct, frozen=True):
    """Bytes of a kind; `about` says what they are, `fields` is the Struct of a form's fields."""

    kind: str
    about: str = ""
    fields: Any = None


class Reply(Struct, Generic[T], frozen=True):
    """An answer with a status or headers of its own."""

    value: T
    status: int = 200
    headers: Mapping[str, str] = {}


class Call(Generic[W, Q, B]):
    """One request, its parts checked."""

    __slots__ = ("body", "query", "request", "who")

    def __init__(self, request: web.Request, who: W, query: Q, body: B) -> None:
        self.request = request
        self.who = who
        self.query = query
        self.body = body

    @property
    def parts(self) -> HttpParts:
        """The parts of the server."""
        return parts_of(self.request)

    @property
    def core(self) -> "Core":
        """The core of the server."""
        return parts_of(self.request).core

    def number(self, what: str, name: str = "id") -> int:
        """Return a number of the path.

        Raises:
            ServiceError: NOT_FOUND, it cannot be the id of `what`.
        """
        given = int(self.request.match_info[name])
        if not 0 < given <= MAX_INT:
            raise not_found(what)
        return given


class Declaration(Struct, frozen=True):
    """What the document says of a route.

    Attributes:
        scope: of the API key, where a key is wanted.
        who: one of the types that `Call` may have first.
        body: a Struct, `Media` or None.
        answers: status to a Struct, a union of them, `Media` or None.
        errors: statuses beside those that follow from the rest.
        refusal: the shape of its failures.
        any_kind: a body is read whatever its content calls itself.
        example: of the body.
    """

    method: str
    path: str
    tag: str
    summary: str
    about: str
    who: Any
    scope: str
    query: Any
    body: Any
    answers: Mapping[int, Any]
    errors: tuple[int, ...]
    headers: Mapping[str, str]
    refusal: Any
    any_kind: bool
    example: Any


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Typed = Callable[[Call[Any, Any, Any]], Awaitable[Any]]


class Api:
    """The routes of one subject, in the order of their declaration."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._routes: list[web.RouteDef] = []

    def routes(self) -> list[web.RouteDef]:
        """Return them for an application."""
        return list(self._routes)

    def route(
        self,
        method: str,
        path: str,
        summary: str,
        *,
        status: int = 0,
        scope: str = "",
        body: Any = None,
        answers: Mapping[int, Any] | None = None,
        errors: tuple[int, ...] = (),
        headers: Mapping[str, str] | None = None,
        max_body: int = MAX_BODY,
        example: Any = None,
        repeatable: bool = False,
        polled: bool = False,
    ) -> Callable[[Typed], Typed]:
        """Declare a route and what handles it.

        Args:
            status: of a success; 200, or 204 where the handler returns nothing.
            scope: that a key needs; where `Call` wants nobody, only for the document.
            body: where the handler reads the body itself, what it is.
            answers: where the handler's annotation does not say it.
            headers: of the request, by name, each with what it is for.
            repeatable: a repeat under the same Idempotency-Key is answered as the first one.
            polled: who asks again and has the answer already, by its entity tag, is told 304.
        """

        def declare(handle: Typed) -> Typed:
            hints = get_type_hints(handle)
            returned = hints.pop("return")
            who, query, body_type = get_args(next(iter(hints.values())))
            good = status or (204 if returned is NoneType else 200)
            run = _runner(handle, who, query, body_type, scope, good, max_body, repeatable, polled)
            named = dict(REPEAT_HEADER) if repeatable else dict(TAG_HEADER) if polled else {}
            refused = (*errors, 409) if repeatable else errors
            told = {**(answers or {good: _content(returned)}), **({304: None} if polled else {})}
            declared = Declaration(
                method, path, self._tag, summary, (handle.__doc__ or "").strip(), who, scope,
                None if query is NoneType else query,
                body if body_type is NoneType else body_type,
                told, refused, {**(headers or {}), **named}, Body, any_kind=False, example=example,
            )  # fmt: skip
            self._add(declared, run)
            return handle

        return declare

    def raw(
        self,
        method: str,
        path: str,
        summary: str,
        handle: Handler,
        *,
        who: Any,
        body: Any,
        answers: Mapping[int, Any],
        refusal: Any,
        scope: str = "",
        errors: tuple[int, ...] = (),
        headers: Mapping[str, str] | None = None,
        example: Any = None,
    ) -> None:
        """Declare a route whose handler does everything itself, also its own error shape."""

        async def run(request: web.Request) -> web.StreamResponse:
            return await handle(request)

        declared = Declaration(
            method, path, self._tag, summary, (handle.__doc__ or "").strip(), who, scope,
            None, body, answers, errors, headers or {}, refusal, any_kind=True, example=example,
        )  # fmt: skip
        self._add(declared, run)

    def _add(self, declared: Declaration, run: Handler) -> None:
        setattr(run, _MARK, declared)
        method, path = declared.method, declared.path
        # What is got by GET may be asked for by HEAD (RFC 9110 §9.1).
        made = web.get(path, run) if method == "GET" else web.route(method, path, run)
        self._routes.append(made)


def declaration_of(handler: object) -> Declaration | None:
    """Return what was declared of a handler of aiohttp; None when it was not declared here."""
    found = getattr(handler, _MARK, None)
    return found if isinstance(found, Declaration) else None


def _content(returned: Any) -> Any:
    if get_origin(returned) is Reply:
        returned = get_args(returned)[0]
    return None if returned is NoneType else returned


def _runner(
    handle: Typed,
    who: Any,
    query: Any,
    body: Any,
    scope: str,
    good: int,
    max_body: int,
    repeatable: bool,
    polled: bool,
) -> Handler:
    identify = _identify(who, scope)

    async def run(request: web.Request) -> web.StreamResponse:
        caller = await identify(request)
        asked = None if query is NoneType else read_query(request, query)
        content = None if body is NoneType else await read_json(request, body, max_body)
        key = repeat_key(request) if repeatable else ""
        call = Call(request, caller, asked, content)
        if key:
            return await _once(call, key, handle, good)
        response = _response(await handle(call), good)
        return tagged(request, response) if polled else response

    return run


async def _once(
    call: Call[Any, Any, Any], key: str, handle: Typed, good: int
) -> web.StreamResponse:
    async def work() -> web.StreamResponse:
        return _response(await handle(call), good)

    name = name_of(call.request, bearer_of(call.request), key)
    asked = hashlib.blake2b(msgspec.json.encode(call.body), digest_size=16).digest()
    return await call.request.app[REPEATS].once(name, asked, work)


def _response(value: Any, good: int) -> web.StreamResponse:
    if isinstance(value, web.StreamResponse):
        return value
    if value is None:
        return web.Response(status=good)
    if isinstance(value, Reply):
        response = json_response(value.value, value.status)
        response.headers.update(value.headers)
        return response
    return json_response(value, good)


def read_query(request: web.Request, kind: type[T]) -> T:
    """Return the query of a request; unknown names are ignored, of repeated ones the first holds.

    Raises:
        ServiceError: INVALID, a value is of the wrong kind.
    """
    given: dict[str, str] = {}
    for name, value in request.query.items():
        given.setdefault(name, value)
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid("invalid query", f"{error}.".replace("`$.", "`")) from None


# who


def _identify(who: Any, scope: str) -> Callable[[web.Request], Awaitable[Any]]:
    if who is NoneType:
        return _nobody
    if who is Claims:
        return require_user
    if who is Person:
        return require_person
    if who is HttpCaller:
        return _caller

    async def key(request: web.Request) -> ApiKey:
        return await parts_of(request).accounts.api_keys.require(bearer_of(request), scope)

    return key


async def _nobody(request: web.Request) -> None:
    return None


async def _caller(request: web.Request) -> HttpCaller:
    return await request.app[CALLERS].of(request)


async def require_person(request: web.Request) -> Person:
    """Return the person who sent a request.

    Raises:
        ServiceError: no token, one that is not accepted (any more), or a key.
    """
    caller = await request.app[CALLERS].of(request)
    if caller.key:
        raise ServiceError(
            Code.NOT_PERMITTED,
            "a key is nobody",
            "A key owns nothing. Sign the person in with a key of the scope 'exchange'"
            " (POST /api/v1/auth/exchange) and use that token.",
        )
    return Person(caller.user, caller.tenant, caller.device, raw=caller.raw)


def phrase(status: int) -> str:
    """Return the standard words for a status."""
    return "Client closed request" if status == 499 else HTTPStatus(status).phrase
