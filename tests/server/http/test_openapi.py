"""The document of the HTTP API: whole, true to the routes, and kept by clients."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
from msgspec.structs import fields

from ai_bridge.http.openai_shapes import ChatBody
from server.http.app import build_application
from server.http.openai_views import CompletionBody
from server.http.openapi import declared_routes, plain_path
from server.http.schemas import plain_schema
from server.http.typed import Media
from tests.server.http.conftest import Site

PATH = "/api/openapi.json"


async def document(site: Site) -> Any:
    answer = await site.ask("GET", PATH)
    assert answer.status == 200
    return answer.json


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from references(one)


NOT_DESCRIBED: Mapping[str, str] = {
    "/": "a page for people",
    "/dashboard": "a page for people",
    "/docs": "a page for people",
    "/test": "a page for people",
    "/{path}": "files of the web app",
    "/ws": "becomes a WebSocket: docs/protocol.md",
    "/ws/echo": "becomes a WebSocket: docs/protocol.md",
    "/ws/dashboard": "becomes a WebSocket: docs/operations.md",
}
"""Answered on the HTTP port, and not in the document; each with the reason."""


def answered(site: Site) -> set[tuple[str, str]]:
    """Return method and path of every route that the HTTP port answers."""
    assert site.app._http is not None
    app = build_application(site.app._http._parts)
    return {
        (route.method.lower(), plain_path(route.resource.canonical))
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }


async def test_the_document_has_every_route_but_pages_files_and_sockets(site: Site) -> None:
    described = {(method, path) for method, path, _ in operations(await document(site))}
    routes = answered(site)
    assert len(routes) > 60
    assert {row for row in routes if row[1] not in NOT_DESCRIBED} == described
    assert set(NOT_DESCRIBED) <= {path for _, path in routes}


async def test_the_document_has_no_answer_for_everything_else(site: Site) -> None:
    """With a `default`, a check of answers against the document would pass whatever came."""
    for _, path, operation in operations(await document(site)):
        assert all(status.isdecimal() for status in operation["responses"]), path


NOT_PAGED: Mapping[str, str] = {
    "/api/v1/engines": "as many as there are programs of engines",
    "/api/v1/engines/{name}": "choices of one engine in one tenant, bounded by the store",
    "/api/v1/users": "a search: a longer beginning of the name narrows it",
    "/api/v1/conversations/{id}": "200 members at most; all of them are at /members",
    "/api/v1/conversations/{id}/turns": "as many as may run in one conversation",
    "/api/v1/admin/providers": "200 at most",
    "/v1/dashboard/realtime": "the last ten",
    "/v1/models": "OpenAI's clients know no pages; 1,000 personas of each kind at most",
}
NOT_REPEATED: Mapping[str, str] = {
    "/api/v1/auth/register": "the name is taken by the first one, and a token is kept for nobody",
    "/api/v1/auth/guest": "a token is kept for nobody; a guest that nobody uses costs nothing",
    "/api/v1/personas/import": "the same file makes the same persona",
}


async def test_every_list_comes_in_pages(site: Site) -> None:
    found = await document(site)
    lists = set()
    for method, path, operation in operations(found):
        content = operation["responses"].get("200", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        for name in references(schema):
            kind = found["components"]["schemas"][name.rpartition("/")[2]]
            arrays = [one for one in kind.get("properties", {}).values() if is_list(one)]
            if method == "get" and arrays:
                lists.add(path)
                asked = {one["name"] for one in operation.get("parameters", ())}
                assert bool(asked & {"cursor", "after", "before"}) is (path not in NOT_PAGED), path
    assert set(NOT_PAGED) <= lists
    assert len(lists) > 15


def is_list(schema: Any) -> bool:
    return schema.get("type") == "array" and "$ref" in schema.get("items", {})


async def test_every_route_that_makes_something_can_be_repeated(site: Site) -> None:
    made = set()
    for method, path, operation in operations(await document(site)):
        if "201" in operation["responses"]:
            made.add(path)
            asked = {one["name"] for one in operation.get("parameters", ())}
            assert ("Idempotency-Key" in asked) is (path not in NOT_REPEATED), (method, path)
    assert set(NOT_REPEATED) <= made
    assert len(made) > 10


async def test_fields_described_for_openais_clients_are_those_that_are_read() -> None:
    read = {field.name for field in fields(ChatBody)}
    assert {field.name for field in fields(CompletionBody)} <= read


async def test_the_document_holds_together(site: Site) -> None:
    found = await document(site)
    assert found["openapi"] == "3.1.0"
    for reference in references(found):
        _, _, kind, name = reference.split("/")
        assert name in found["components"][kind]
    ids = [operation["operationId"] for _, _, operation in operations(found)]
    assert len(ids) == len(set(ids))
    for _, path, operation in operations(found):
        assert operation["summary"]
        in_path = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path))
        for status, answer in operation["responses"].items():
            if "$ref" in answer:
                answer = found["components"]["responses"][answer["$ref"].rpartition("/")[2]]
            assert answer["description"]
            assert "X-Request-ID" in answer["headers"]
            if int(status) >= 400:
                assert "content" in answer


def schemas_in(node: Any) -> Iterator[Any]:
    """Return every schema of a document, also those in others; a field's name is no keyword."""
    if isinstance(node, list):
        for one in node:
            yield from schemas_in(one)
    if isinstance(node, dict):
        yield node
        for name, one in node.items():
            if name in ("properties", "schemas", "paths", "responses", "content"):
                one = list(one.values())
            if name not in ("example", "default", "parameters", "required"):
                yield from schemas_in(one)


async def test_generators_of_clients_can_read_every_schema(site: Site) -> None:
    """What stood in the way of openapi-python-client, openapi-typescript and Redocly's linter."""
    found = await document(site)
    assert found["servers"] == [{"url": "/"}]
    # Of two types of one name, msgspec names the modules, and generators drop those again.
    assert all(re.fullmatch(r"[A-Z]\w+", name) for name in found["components"]["schemas"])
    read = 0
    for schema in schemas_in({"schemas": found["components"]["schemas"], "paths": found["paths"]}):
        # Types of openapi-typescript demand a field that has a default, of requests too.
        assert "default" not in schema, schema
        assert "type" in schema or "enum" not in schema, schema
        assert False not in schema.get("enum", ()), schema
        read += 1
    assert read > 1_000
    for method, path, operation in operations(found):
        assert "security" in operation, (method, path)
        for one in operation.get("parameters", ()):
            assert "enum" not in one["schema"] or "type" in one["schema"], (path, one)
        kinds = operation.get("requestBody", {}).get("content", {})
        # openapi-python-client leaves an operation out of whose bodies it knows none.
        known = {"application/json", "application/octet-stream", "multipart/form-data"}
        assert not kinds or known & set(kinds), (method, path)


async def test_every_json_body_has_an_example_that_is_read(site: Site) -> None:
    assert site.app._http is not None
    shown = 0
    for declared in declared_routes(build_application(site.app._http._parts)):
        if declared.body is None or isinstance(declared.body, Media | tuple):
            continue
        msgspec.convert(declared.example, declared.body)
        shown += 1
    assert shown > 30


def test_a_default_is_told_in_words_and_an_empty_one_goes_without_saying() -> None:
    found = plain_schema(
        {
            "description": "One.\n\n    Two.",
            "title": "Thing",
            "properties": {
                "default": {"title": "S64", "type": "string", "default": "大"},
                "enum": {"enum": [True]},
                "size": {"anyOf": [{"enum": [1, 2]}, {"type": "null"}], "default": None},
            },
        }
    )
    assert found == {
        "title": "Thing",
        "description": "One. Two.",
        "properties": {
            "default": {"type": "string", "description": '"大" unless given.'},
            "enum": {"type": "boolean", "const": True},
            "size": {"anyOf": [{"type": "integer", "enum": [1, 2]}, {"type": "null"}]},
        },
    }


async def test_what_needs_a_token_says_so_and_refuses_without_one(site: Site) -> None:
    found = await document(site)
    asked = 0
    for method, path, operation in operations(found):
        if not operation["security"]:
            continue
        content = operation.get("requestBody", {}).get("content", {})
        options: dict[str, Any] = {"json": {"user": "u"}} if "application/json" in content else {}
        address = re.sub(r"\{\w+\}", "1", path.replace("message/{id}", "message/1-1"))
        answer = await site.ask(method.upper(), address, **options)
        assert answer.status == 401, (method, path)
        asked += 1
    assert asked > 20


async def test_the_document_is_sent_once_to_who_keeps_it(site: Site) -> None:
    first = await site.ask("GET", PATH)
    again = await site.ask("GET", PATH, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    other = await site.ask("GET", PATH, headers={"If-None-Match": '"other"'})
    assert (other.status, other.body) == (200, first.body)


@pytest.mark.parametrize("query", ["limit=many", "limit=-1", "persona=" + "9" * 40])
async def test_a_query_of_the_wrong_kind_is_told_in_the_one_shape(site: Site, query: str) -> None:
    token = (await site.register())["token"]
    headers = {"Authorization": f"Bearer {token}"}
    answer = await site.ask("GET", f"/api/v1/memories?{query}", headers=headers)
    assert answer.status == 400
    assert set(answer.error) == {"code", "reason", "message", "request_id"}
    assert query.split("=")[0] in answer.error["message"]
    assert query.split("=")[1] not in answer.error["message"]


async def test_the_document_knows_the_fields_of_bodies_queries_and_answers(site: Site) -> None:
    found = await document(site)
    schemas = found["components"]["schemas"]
    login = found["paths"]["/api/v1/auth/login"]["post"]
    body = login["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert set(schemas[body.rpartition("/")[2]]["required"]) == {"name", "password"}
    listed = found["paths"]["/api/v1/memories"]["get"]
    assert [one["name"] for one in listed["parameters"]] == ["persona", "cursor", "limit"]
    content = listed["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert "memories" in schemas[content.rpartition("/")[2]]["properties"]
    assert listed["responses"]["401"] == {"$ref": "#/components/responses/Body401"}
    refusal = found["components"]["responses"]["Body401"]
    assert refusal["content"]["application/json"]["schema"]["$ref"].endswith("/Body")
    asked = found["paths"]["/v1/models"]["get"]["responses"]["401"]
    assert asked == {"$ref": "#/components/responses/OpenAiRefusal401"}
