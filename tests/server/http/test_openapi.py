"""The document of the HTTP API: whole, true to the routes, and kept by clients."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from server.http.app import build_application
from server.http.openapi import plain_path
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


async def test_every_route_below_api_is_in_the_document(site: Site) -> None:
    paths = (await document(site))["paths"]
    assert site.app._http is not None
    app = build_application(site.app._http._parts)
    routes = [
        (route.method.lower(), plain_path(route.resource.canonical))
        for route in app.router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/api/")
    ]
    assert len(routes) > 25
    missing = [row for row in routes if row[0] != "head" and row[0] not in paths.get(row[1], {})]
    assert missing == []


async def test_the_document_holds_together(site: Site) -> None:
    found = await document(site)
    assert found["openapi"] == "3.1.0"
    schemas = found["components"]["schemas"]
    for reference in references(found):
        assert reference.removeprefix("#/components/schemas/") in schemas
    ids = [operation["operationId"] for _, _, operation in operations(found)]
    assert len(ids) == len(set(ids))
    for _, path, operation in operations(found):
        assert operation["summary"]
        in_path = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path))
        for status, answer in operation["responses"].items():
            assert answer["description"]
            if int(status) >= 400 if status.isdecimal() else True:
                assert "content" in answer


async def test_what_needs_a_token_says_so_and_refuses_without_one(site: Site) -> None:
    found = await document(site)
    asked = 0
    for method, path, operation in operations(found):
        if "security" not in operation:
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
    assert listed["responses"]["401"]["content"]["application/json"]
