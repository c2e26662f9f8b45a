"""Nothing crosses from one tenant to another over HTTP: every route tried with another's ids."""

import re
from collections.abc import Iterator
from typing import Any, Final

from server.api_keys import SCOPES
from storage.people import tenant_by_slug
from tests.server.http.api_desk import CONVERSATIONS, Guest, guest, stranger
from tests.server.http.conftest import Site
from tests.server.http.openai_site import bearer, new_key

MARK: Final = "a mark of Anna's that nobody else may see"
NO_ID: Final = "1" * 15
SEEN_BY_ALL: Final = ("/api/v1/avatars/",)
"""Pictures: whoever knows the number may see one, as in the app."""
EXAMPLES: Final[dict[str, Any]] = {
    "integer": 1, "number": 1, "boolean": True, "array": [], "object": {}, "string": "x",
}  # fmt: skip


class Anna:
    """Somebody of the default tenant, and the numbers of everything that is hers."""

    def __init__(self, who: Guest, ids: dict[str, str]) -> None:
        self.who = who
        self.ids = ids


async def settle(site: Site) -> Anna:
    anna, bert = await guest(site, MARK[:60]), await guest(site, "Bert")
    room = await anna.group(bert, title=MARK)
    sent = await anna.post(f"{room}/messages", {"text": MARK})
    persona = await anna.post("/api/v1/personas", {"name": MARK, "prompt": MARK, "scope": 1})
    talk = await anna.post(CONVERSATIONS, {"persona": persona["id"]})
    answered = await anna.post(
        f"{CONVERSATIONS}/{talk['conversation']['id']}/messages?wait=answer", {"text": MARK}
    )
    memory = await anna.post("/api/v1/memories", {"persona": persona["id"], "text": MARK})
    conv = room.rpartition("/")[2]
    return Anna(
        anna,
        {
            "/api/v1/conversations/": conv,
            "/api/message/": sent["message"]["id"],
            "/api/v1/personas/": str(persona["id"]),
            "/api/v1/users/": str(anna.id),
            "/api/v1/turns/": str(answered["turn"]),
            "/api/v1/memories/": str(memory["id"]),
            "/api/v1/admin/users/": str(anna.id),
            "{user}": str(bert.id),
            "{seq}": "1",
            "{sid}": str(answered["turn"]),
            "{slug}": "default",
            "conversation": conv,
            "conversation_id": conv,
            "persona": str(persona["id"]),
            "persona_id": str(persona["id"]),
            "user": str(bert.id),
            "users": str(bert.id),
            "members": str(bert.id),
        },
    )


def body_for(anna: Anna, document: Any, operation: Any) -> Any:
    """Return a body that names what is Anna's wherever it can name something."""
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" not in content:
        return None
    schema = resolve(document, content["application/json"]["schema"])
    made: dict[str, Any] = {}
    for name, field in schema.get("properties", {}).items():
        if name == "model":
            made[name] = f"persona:{anna.ids['persona']}"
        elif name in anna.ids:
            number = int(anna.ids[name])
            made[name] = [number] if field.get("type") == "array" else number
        elif name in schema.get("required", ()):
            made[name] = value_for(document, field)
    return made


def resolve(document: Any, schema: Any) -> Any:
    if "$ref" in schema:
        return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def value_for(document: Any, field: Any) -> Any:
    field = resolve(document, field)
    if "enum" in field:
        return field["enum"][0]
    if "anyOf" in field:
        return value_for(document, field["anyOf"][0])
    if field.get("type") == "array" and field.get("minItems"):
        return [value_for(document, field["items"])]
    if field.get("type") == "object" and field.get("required"):
        return {name: value_for(document, field["properties"][name]) for name in field["required"]}
    return EXAMPLES[field.get("type", "string")]


def attempts(anna: Anna, document: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield method, address and body of a request to every route, naming what is Anna's."""
    for path, methods in sorted(document["paths"].items()):
        for method, operation in sorted(methods.items()):
            number = next((one for at, one in anna.ids.items() if path.startswith(at)), NO_ID)
            filled = path
            for name in ("{user}", "{seq}", "{sid}", "{slug}"):
                filled = filled.replace(name, anna.ids[name])
            filled = re.sub(r"\{\w+\}", number, filled)
            asked = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
            query = [f"{name}={anna.ids[name]}" for name in asked if name in anna.ids]
            query += ["scope=1"] if "scope" in asked else []
            query += ["q=a"] if "q" in asked else []
            body = body_for(anna, document, operation)
            yield method.upper(), f"{filled}?{'&'.join(query)}", body
            if "tenant" in asked:
                yield method.upper(), f"{filled}?{'&'.join([*query, 'tenant=default'])}", body


async def hers(site: Site, anna: Anna) -> list[bytes]:
    """Return what Anna sees, which attempts must not change."""
    conv = anna.ids["conversation"]
    paths = (
        "/api/v1/me",
        "/api/v1/personas",
        f"{CONVERSATIONS}?limit=100",
        f"{CONVERSATIONS}/{conv}",
        f"{CONVERSATIONS}/{conv}/messages",
        "/api/v1/memories",
        "/api/v1/turns",
    )
    headers = bearer(anna.who.token)
    return [(await site.ask("GET", path, headers=headers)).body for path in paths]


async def test_no_route_shows_or_changes_what_is_of_another_tenant(site: Site) -> None:
    anna = await settle(site)
    mallory = await stranger(site)
    document = (await site.ask("GET", "/api/openapi.json")).json
    acme = await site.core.store.read(tenant_by_slug("acme"))
    assert acme is not None
    scopes = [scope for scope in SCOPES if scope not in ("operator", "metrics")]
    key = await new_key(site, *scopes, tenant=acme.id)
    before = await hers(site, anna)
    numbers = {one for one in anna.ids.values() if len(one) > 8}
    tried = good = 0
    for method, address, body in attempts(anna, document):
        if address.startswith(("/api/v1/auth/", "/metrics", *SEEN_BY_ALL)):
            continue
        if (method, address.rstrip("?")) == ("DELETE", "/api/v1/me"):
            continue  # erases Mallory, who has more to try
        for secret in (mallory.token, key):
            answer = await site.ask(method, address, json=body, headers=bearer(secret))
            assert answer.status < 500, (method, address, answer)
            said = answer.body.decode(errors="replace")
            assert MARK not in said, (method, address)
            if answer.status < 300:
                assert not any(one in said for one in numbers), (method, address, said)
            tried += 1
            good += answer.status < 300
    assert tried > 150
    assert good > 20
    assert await hers(site, anna) == before
