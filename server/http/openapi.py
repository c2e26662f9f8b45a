"""GET /api/openapi.json: the document of the HTTP API, made from the declarations of its routes."""

import asyncio
import re
import types
from collections.abc import Iterator
from typing import Any, Final, Union, get_args, get_origin

import msgspec
from aiohttp import web

from server.auth import Claims
from server.http.callers import HttpCaller
from server.http.schemas import plain_schema
from server.http.tags import HEADER as TAG_HEADER
from server.http.tags import has_already, tag_of
from server.http.typed import Api, Call, Declaration, Media, Person, declaration_of, phrase
from server.version import VERSION
from storage.rows import ApiKey

PATH: Final = "/api/openapi.json"
OpenApi = dict[str, Any]

_REFS: Final = "#/components/schemas/{name}"
_SECURITY: Final[dict[Any, list[dict[str, Any]]]] = {
    Claims: [{"token": []}],
    Person: [{"token": []}],
    HttpCaller: [{"token": []}, {"key": []}],
    ApiKey: [{"key": []}],
}
_SCHEMES: Final = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A person's token, from one of the routes /api/v1/auth/.",
    },
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "An API key; `Authorization: Bearer` does as well.",
    },
}
_find_parameters: Final = re.compile(r"\{(\w+)(?::((?:[^{}]|\{[^{}]*\})+))?\}").finditer
_ABOUT: Final = (
    "Everything a backend needs without a socket. Failures have one shape, `Body`; its "
    "`request_id` is also in the header X-Request-ID. Paths made for programs of others (/v1, "
    "/api/v1/chat) have the shape that those programs expect."
)
_HEADERS: Final[OpenApi] = {
    "X-Request-ID": {
        "description": "The number under which the log knows this request.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{8,64}$"},
    },
    "Retry-After": {
        "description": "Seconds to wait before asking again.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "ETag": {"description": "Names this very content.", "schema": {"type": "string"}},
}
# Of OpenAPI 3.0, and what generators know bytes by.
_BYTES: Final[OpenApi] = {"type": "string", "format": "binary"}
_EVENT: Final[OpenApi] = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
_KINDS: Final[dict[str, OpenApi]] = {
    "application/json": {},
    "text/plain": {"type": "string"},
    "text/event-stream": _EVENT,  # until OpenAPI 3.2 has `itemSchema`, the schema of one event
}


def declared_routes(app: web.Application) -> list[Declaration]:
    """Return the declarations of all routes that have one, in the order of their paths."""
    found = (declaration_of(route.handler) for route in app.router.routes())
    declared = {(one.path, one.method): one for one in found if one is not None}
    return [declared[key] for key in sorted(declared)]


def build_document(app: web.Application) -> OpenApi:
    """Return the OpenAPI 3.1 document of an application."""
    routes = declared_routes(app)
    schemas = _Schemas(routes)
    refusals: OpenApi = {}
    paths: dict[str, dict[str, Any]] = {}
    for declared in routes:
        path = plain_path(declared.path)
        paths.setdefault(path, {})[declared.method.lower()] = _operation(
            declared, schemas, refusals
        )
    tags = sorted({declared.tag for declared in routes})
    return {
        "openapi": "3.1.0",
        "info": {"title": "Parlance", "version": VERSION, "description": _ABOUT},
        # Where this document was found: a server does not know its name to the outside.
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": refusals,
            "headers": _HEADERS,
            "securitySchemes": _SCHEMES,
        },
    }


def plain_path(pattern: str) -> str:
    """Return a path as OpenAPI writes it: parameters without their patterns."""
    out, last = "", 0
    for found in _find_parameters(pattern):
        out += pattern[last : found.start()] + "{" + found[1] + "}"
        last = found.end()
    return out + pattern[last:]


class _Schemas:
    """The schemas of all types that the routes speak of."""

    def __init__(self, routes: list[Declaration]) -> None:
        wanted: dict[Any, None] = {}
        for declared in routes:
            for content in (declared.body, declared.refusal, *declared.answers.values()):
                wanted.update(dict.fromkeys(_types(content)))
            if declared.query is not None:
                for field in msgspec.structs.fields(declared.query):
                    wanted.update(dict.fromkeys(_types(field.type)))
        found, named = msgspec.json.schema_components(list(wanted), ref_template=_REFS)
        self.components = {name: plain_schema(schema) for name, schema in named.items()}
        self._of: dict[Any, OpenApi] = dict(zip(wanted, map(plain_schema, found), strict=True))

    def of(self, kind: Any) -> dict[str, Any]:
        """Return the schema of a type, or of one of several; None is what is left out."""
        several = _types(kind)
        if len(several) == 1:
            return self._of[several[0]]
        return {"oneOf": [self._of[one] for one in several]}


def _types(content: Any) -> list[Any]:
    if isinstance(content, tuple):
        return [kind for one in content for kind in _types(one)]
    if isinstance(content, Media):
        content = content.fields
    if content is None:
        return []
    if get_origin(content) in (Union, types.UnionType):
        return [one for one in get_args(content) if one is not types.NoneType]
    return [content]


def _operation(declared: Declaration, schemas: _Schemas, refusals: OpenApi) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "tags": [declared.tag],
        "summary": declared.summary,
        "operationId": _operation_id(declared),
        "responses": _answers(declared, schemas) | _refusals(declared, schemas, refusals),
    }
    about = " ".join(declared.about.split())
    if declared.scope:
        about = f"{about} Needs a key with the scope `{declared.scope}`.".strip()
    if about:
        operation["description"] = about
    parameters = [*_in_path(declared.path), *_in_query(declared, schemas), *_in_headers(declared)]
    if parameters:
        operation["parameters"] = parameters
    if declared.body is not None:
        content = _contents(declared.body, schemas)
        if declared.example is not None:
            for media in content.values():
                media["example"] = declared.example
        operation["requestBody"] = {"required": True, "content": content}
    # An empty list says that nothing is asked for.
    operation["security"] = _SECURITY.get(declared.who, [{"key": []}] if declared.scope else [])
    return operation


def _operation_id(declared: Declaration) -> str:
    words = re.findall(r"\w+", plain_path(declared.path))
    return "_".join(
        [declared.method.lower(), *(word for word in words if word not in ("api", "v1"))]
    )


def _in_path(pattern: str) -> Iterator[dict[str, Any]]:
    for found in _find_parameters(pattern):
        rule = found[2] or "[^/]+"
        schema: dict[str, Any] = {"type": "string", "pattern": f"^{rule}$"}
        if rule.startswith(r"\d") and "-" not in rule:
            schema = {"type": "integer", "minimum": 1, "maximum": 2**53 - 1}
        yield {"name": found[1], "in": "path", "required": True, "schema": schema}


def _in_query(declared: Declaration, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    if declared.query is None:
        return
    for field in msgspec.structs.fields(declared.query):
        schema = dict(schemas.of(field.type))
        if field.default not in (msgspec.NODEFAULT, None):
            schema["default"] = field.default
        yield {
            "name": field.encode_name,
            "in": "query",
            "required": field.required,
            "schema": schema,
        }


def _in_headers(declared: Declaration) -> Iterator[dict[str, Any]]:
    for name, about in declared.headers.items():
        yield {
            "name": name,
            "in": "header",
            "required": False,
            "description": about,
            "schema": {"type": "string"},
        }


def _contents(content: Any, schemas: _Schemas) -> dict[str, Any]:
    """Return the media types of a body; several are a tuple, None is no body."""
    several = content if isinstance(content, tuple) else (content,)
    media: dict[str, Any] = {}
    for one in several:
        if one is not None:
            media |= _media(one, schemas)
    return media


def _media(content: Any, schemas: _Schemas) -> dict[str, Any]:
    if not isinstance(content, Media):
        return {"application/json": {"schema": schemas.of(content)}}
    if content.fields is not None:
        return {content.kind: {"schema": schemas.of(content.fields)}}
    schema = dict(_KINDS.get(content.kind, _BYTES))
    if content.about:
        schema["description"] = content.about
    return {content.kind: {"schema": schema}}


def _answers(declared: Declaration, schemas: _Schemas) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, content in declared.answers.items():
        answers[str(status)] = {
            "description": phrase(status),
            "headers": _named("X-Request-ID", *(("ETag",) if 304 in declared.answers else ())),
        }
        media = _contents(content, schemas)
        if media:
            answers[str(status)]["content"] = media
    return answers


def _refusals(declared: Declaration, schemas: _Schemas, refusals: OpenApi) -> dict[str, Any]:
    """Return references to the refusals of a route; what they refer to is added to `refusals`."""
    found: dict[str, Any] = {}
    for status in sorted(_refusing(declared) - set(declared.answers)):
        name = f"{declared.refusal.__name__}{status}"
        if name not in refusals:
            refusals[name] = {
                "description": phrase(status),
                "headers": _named("X-Request-ID", *(("Retry-After",) if status in _WAITS else ())),
                "content": {"application/json": {"schema": schemas.of(declared.refusal)}},
            }
        found[str(status)] = {"$ref": f"#/components/responses/{name}"}
    return found


_WAITS: Final = (429, 503)


def _refusing(declared: Declaration) -> set[int]:
    """Return the statuses with which a route may refuse."""
    # 403: pages of other origins. 500, 503, 504: what may befall any request.
    wanted = set(declared.errors) | {403, 429, 500, 503, 504}
    if declared.query is not None or declared.headers:
        wanted.add(400)
    if declared.body is not None:
        wanted |= {400, 408, 413, 415}
    if declared.who in _SECURITY or declared.scope:
        wanted.add(401)
    if "{" in declared.path:
        wanted.add(404)
    return wanted


def _named(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


class Document:
    """The document of one application as bytes; made when it is first asked for."""

    def __init__(self) -> None:
        self._made: tuple[bytes, str] | None = None

    async def of(self, app: web.Application) -> tuple[bytes, str]:
        """Return the bytes and their entity tag."""
        if self._made is None:
            # Some 40 ms; routes do not change any more.
            self._made = await asyncio.to_thread(_encoded, app)
        return self._made


def _encoded(app: web.Application) -> tuple[bytes, str]:
    data = msgspec.json.encode(build_document(app))
    return data, tag_of(data)


DOCUMENT: Final = web.AppKey("document", Document)
api = Api("document")


@api.route(
    "GET",
    PATH,
    "Get this document",
    answers={200: Media("application/json", "OpenAPI 3.1"), 304: None},
    headers=TAG_HEADER,
)
async def _document(call: Call[None, None, None]) -> web.Response:
    body, tag = await call.request.app[DOCUMENT].of(call.request.app)
    headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache"}
    if has_already(call.request, tag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type="application/json", headers=headers)


def routes() -> list[web.RouteDef]:
    """Return the route of this file; the application needs `DOCUMENT`."""
    return api.routes()
