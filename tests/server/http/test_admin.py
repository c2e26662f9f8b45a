"""/api/v1/admin: a company's backend handles its tenant, an operator the whole server."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bench.provider.server import ScriptedProvider
from protocol.codes import Code
from server.api_keys import SCOPES
from storage.people import create_tenant
from storage.usage import UsageRow, add_usage
from tests.server.http.conftest import Answer, Site
from tests.server.http.openai_site import bearer, complete, new_key, talk
from tests.support.eventually import eventually

ADMIN = "/api/v1/admin"
GOOD = "a right long password"
SECRET = "sk-geheim-0123456789"


class Desk:
    """An administrator of the tenant acme, and an operator."""

    def __init__(self, site: Site, tenant: int, key: str, operator: str) -> None:
        self.site = site
        self.tenant = tenant
        self.key = key
        self.operator = operator

    async def ask(self, method: str, path: str, body: Any = None, key: str = "") -> Answer:
        """Send a request of the administrator's, or of who has the key."""
        headers = bearer(key or self.key)
        return await self.site.ask(method, ADMIN + path, json=body, headers=headers)

    async def get(self, path: str, key: str = "") -> Any:
        """Return what a GET answers, which must succeed."""
        answer = await self.ask("GET", path, None, key)
        assert answer.status == 200, answer
        return answer.json

    async def user(self, name: str = "小明", tenant: str = "") -> int:
        """Make an account; return its id."""
        body = {"name": name, "password": GOOD}
        query, key = (f"?tenant={tenant}", self.operator) if tenant else ("", "")
        made = await self.ask("POST", f"/users{query}", body, key)
        assert made.status == 201, made
        return int(made.json["id"])

    async def login(self, name: str, password: str = GOOD, tenant: str = "acme") -> Answer:
        return await self.site.auth("login", name=name, password=password, tenant=tenant)


@pytest.fixture
async def desk(site: Site) -> Desk:
    tenant = await site.core.store.change([], lambda tx: create_tenant(tx, "acme", "Acme"))
    key = await new_key(site, "admin", "exchange", "chat", tenant=tenant.id)
    return Desk(site, tenant.id, key, await new_key(site, *SCOPES))


def routes_of(document: Any) -> list[tuple[str, str, Any]]:
    """Return method, an address and the description of every route for administrators."""
    found = []
    for path, methods in document["paths"].items():
        if path.startswith(ADMIN):
            filled = re.sub(r"\{\w+\}", "1", path.removeprefix(ADMIN))
            found += [(method.upper(), filled, one) for method, one in methods.items()]
    return found


BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/tenants"): {"slug": "new", "name": "New"},
    ("PUT", "/tenants/1"): {"name": "New"},
    ("POST", "/keys"): {"name": "k", "scopes": ["chat"]},
    ("POST", "/users"): {"name": "Bert"},
    ("PUT", "/users/1"): {"disabled": True},
    ("PUT", "/users/1/password"): {"password": GOOD},
    ("PUT", "/budgets"): {"day": 1},
    ("PUT", "/prices"): {"version": "1", "models": {}},
    ("PUT", "/prices/1"): {"input": 1, "output": 1},
    ("PUT", "/providers/1"): {"kind": "demo"},
}


# who may


async def test_every_route_needs_the_scope_and_those_of_all_tenants_an_operator(
    desk: Desk,
) -> None:
    document = (await desk.site.ask("GET", "/api/openapi.json")).json
    routes = routes_of(document)
    assert len(routes) >= 25
    other = await new_key(desk.site, *(scope for scope in SCOPES if scope != "admin"))
    person = (await desk.site.register())["token"]
    operators = 0
    for method, path, described in routes:
        body = BODIES.get((method, path))
        refused = await desk.ask(method, path, body, other)
        assert (refused.status, refused.error["code"]) == (403, Code.NOT_PERMITTED), path
        assert (await desk.ask(method, path, body, person)).status == 401, path
        if "Needs the scope `operator`" in described["description"]:
            operators += 1
            refused = await desk.ask(method, path, body)
            assert refused.status == 403, path
            assert "operator" in refused.error["message"]
    assert operators >= 10


async def test_nothing_of_another_tenant_is_seen_or_changed(desk: Desk) -> None:
    """Everything is tried with the ids and the slug of a tenant that is there."""
    user = await desk.user("Victim", "default")
    keys = (await desk.get("/keys", desk.operator))["keys"]
    tries = [
        ("GET", "/tenants/default", None),
        ("GET", "/users?tenant=default", None),
        ("POST", "/users?tenant=default", {"name": "Mallory"}),
        ("GET", f"/users/{user}", None),
        ("PUT", f"/users/{user}", {"disabled": True}),
        ("PUT", f"/users/{user}/password", {"password": GOOD}),
        ("DELETE", f"/users/{user}", None),
        ("DELETE", f"/users/{user}?tenant=default", None),
        ("GET", "/keys?tenant=default", None),
        ("POST", "/keys?tenant=default", {"name": "k", "scopes": ["chat"]}),
        ("DELETE", f"/keys/{keys[0]['id']}", None),
        ("DELETE", f"/keys/{keys[0]['id']}?tenant=default", None),
        ("GET", "/budgets?tenant=default", None),
        ("PUT", "/budgets?tenant=default", {"day": 1}),
        ("PUT", "/budgets", {"day": 1, "user": user}),
        ("GET", "/usage?since=2026-01-01&tenant=default", None),
        ("GET", "/users?tenant=nowhere", None),
    ]
    for method, path, body in tries:
        answer = await desk.ask(method, path, body)
        assert (answer.status, answer.error["code"]) == (404, Code.NOT_FOUND), (path, answer)
    assert (await desk.get("/users"))["users"] == []
    assert (await desk.get(f"/users/{user}", desk.operator))["disabled"] is False
    assert (await desk.login("Victim", tenant="default")).status == 200
    after = (await desk.get("/keys", desk.operator))["keys"]
    assert [one["revoked"] for one in after] == [0] * len(keys)


# tenants


async def test_an_operator_makes_renames_and_lists_tenants(desk: Desk) -> None:
    made = await desk.ask("POST", "/tenants", {"slug": "umbrella"}, desk.operator)
    assert (made.status, made.json["name"]) == (201, "umbrella")
    again = await desk.ask("POST", "/tenants", {"slug": "umbrella"}, desk.operator)
    assert again.status == 409
    bad = await desk.ask("POST", "/tenants", {"slug": "Not OK"}, desk.operator)
    assert (bad.status, "slug" in bad.error["message"]) == (400, True)
    renamed = await desk.ask("PUT", "/tenants/umbrella", {"name": "雨伞"}, desk.operator)
    assert renamed.json == await desk.get("/tenants/umbrella", desk.operator)
    assert renamed.json["name"] == "雨伞"
    found, cursor = [], ""
    while True:
        page = await desk.get(f"/tenants?limit=2&cursor={cursor}", desk.operator)
        assert len(page["tenants"]) <= 2
        found += page["tenants"]
        cursor = page["cursor"]
        if not cursor:
            break
    assert [one["slug"] for one in found] == ["default", "acme", "umbrella"]
    assert (await desk.get("/tenants/acme"))["id"] == desk.tenant


# keys


async def test_a_keys_text_is_shown_once_and_revoking_works_at_once(desk: Desk) -> None:
    made = await desk.ask("POST", "/keys", {"name": "网站", "scopes": ["chat"]})
    assert made.status == 201, made
    text = made.json["key"]
    assert (await complete(desk.site, text, talk())).status == 200  # remembered from now on
    listed = await desk.ask("GET", "/keys")
    assert text.encode() not in listed.body
    assert [one["name"] for one in listed.json["keys"]] == ["test", "网站"]
    revoked = await desk.ask("DELETE", f"/keys/{made.json['id']}")
    assert (revoked.status, revoked.json["revoked"] > 0) == (200, True)
    assert (await complete(desk.site, text, talk())).status == 401
    again = await desk.ask("DELETE", f"/keys/{made.json['id']}")
    assert again.json["revoked"] == revoked.json["revoked"]


async def test_a_key_gives_no_scope_that_it_has_not_and_takes_no_operators(desk: Desk) -> None:
    for scope in ("operator", "metrics", "models"):
        refused = await desk.ask("POST", "/keys", {"name": "k", "scopes": ["chat", scope]})
        assert (refused.status, scope in refused.error["message"]) == (403, True)
    unknown = await desk.ask("POST", "/keys", {"name": "k", "scopes": ["all"]})
    assert (unknown.status, "Scopes are" in unknown.error["message"]) == (400, True)
    everyday = await new_key(desk.site, "admin")
    ours = (await desk.get("/keys", everyday))["keys"]
    operator = next(one["id"] for one in ours if "operator" in one["scopes"])
    assert (await desk.ask("DELETE", f"/keys/{operator}", None, everyday)).status == 403
    assert (await desk.ask("DELETE", f"/keys/{operator}", None, desk.operator)).status == 200
    assert (await desk.ask("GET", "/keys", None, desk.operator)).status == 401


# users


async def test_users_are_made_found_locked_out_and_let_in(desk: Desk) -> None:
    user = await desk.user("小明")
    await desk.user("小红")
    await desk.user("Anna")
    taken = await desk.ask("POST", "/users", {"name": "ANNA"})
    assert (taken.status, taken.error["reason"]) == (409, "name taken")
    found = (await desk.get("/users?q=小"))["users"]
    assert {one["name"] for one in found} == {"小明", "小红"}
    first = await desk.get("/users?limit=2")
    rest = await desk.get(f"/users?limit=2&cursor={first['cursor']}")
    names = [one["name"] for one in first["users"] + rest["users"]]
    assert (sorted(names), rest["cursor"]) == (sorted(["Anna", "小明", "小红"]), "")
    signed = (await desk.login("小明")).json
    me = bearer(signed["token"])
    assert (await desk.site.ask("GET", "/api/v1/users?q=a", headers=me)).status == 200
    locked = await desk.ask("PUT", f"/users/{user}", {"disabled": True})
    assert locked.json == await desk.get(f"/users/{user}")
    assert locked.json["disabled"] is True
    assert (await desk.site.ask("GET", "/api/v1/users?q=a", headers=me)).status == 401
    assert (await desk.login("小明")).status == 401
    assert (await desk.ask("PUT", f"/users/{user}", {"disabled": False})).status == 200
    assert (await desk.login("小明")).status == 200


async def test_a_new_password_ends_every_sign_in(desk: Desk) -> None:
    user = await desk.user()
    old = (await desk.login("小明")).json
    changed = await desk.ask("PUT", f"/users/{user}/password", {"password": "another long one"})
    assert (changed.status, changed.body) == (204, b"")
    assert (await desk.login("小明")).status == 401
    assert (await desk.login("小明", "another long one")).status == 200
    refresh = await desk.site.auth("refresh", refresh_token=old["refresh_token"])
    assert refresh.status == 401
    short = await desk.ask("PUT", f"/users/{user}/password", {"password": "short"})
    assert (short.status, short.error["reason"]) == (400, "bad password")


async def test_without_a_password_only_a_key_signs_the_user_in(desk: Desk) -> None:
    made = await desk.ask("POST", "/users", {"name": "Bot", "nick": "机器人"})
    assert (made.status, made.json["nick"]) == (201, "机器人")
    assert (await desk.login("Bot", "")).status == 401
    signed = await desk.site.auth("exchange", desk.key, user="Bot")
    assert signed.json["user"]["id"] == made.json["id"]


async def test_an_erased_user_is_gone_for_good(desk: Desk) -> None:
    user = await desk.user()
    erased = await desk.ask("DELETE", f"/users/{user}")
    assert (erased.status, erased.json) == (202, {"erasing": user})
    assert (await desk.login("小明")).status == 401
    for path, body in ((f"/users/{user}", {"disabled": False}),
                       (f"/users/{user}/password", {"password": GOOD})):  # fmt: skip
        back = await desk.ask("PUT", path, body)
        assert (back.status, "erased" in back.error["message"]) == (409, True)


# budgets, usage and prices


async def test_a_budget_holds_at_once(desk: Desk) -> None:
    user = await desk.user()
    me = bearer((await desk.login("小明")).json["token"])
    put = await desk.ask("PUT", "/budgets", {"user": user, "day": 0.5})
    assert put.json == {"user": user, "day": 0.5, "month": 0.0}
    usage = await desk.site.ask("GET", "/api/v1/usage", headers=me)
    assert usage.json["today"]["limit_micro"] == 500_000
    await desk.ask("PUT", "/budgets", {"month": 100})
    listed = await desk.get("/budgets?limit=1")
    rest = await desk.get(f"/budgets?limit=1&cursor={listed['cursor']}")
    assert listed["budgets"] == [{"user": 0, "day": 0.0, "month": 100.0}]
    assert rest["budgets"] == [put.json]
    await desk.ask("PUT", "/budgets?tenant=default", {"day": 1}, desk.operator)
    assert len((await desk.get("/budgets"))["budgets"]) == 2


async def test_what_a_tenant_used_comes_in_pages(desk: Desk) -> None:
    day = 20_400
    rows = [
        UsageRow(tenant, day + at, 7, 9, f"a.b/{at}", 1, 10, 20, 30)
        for tenant in (desk.tenant, 1)
        for at in range(3)
    ]
    await desk.site.core.store.change((), lambda tx: add_usage(tx, rows))
    asked = "/usage?since=2025-11-08&until=2025-11-10&limit=2"
    first = await desk.get(asked)
    rest = await desk.get(f"{asked}&cursor={first['cursor']}")
    assert [one["model"] for one in first["usage"] + rest["usage"]] == ["a.b/0", "a.b/1", "a.b/2"]
    assert first["usage"][0] == {
        "day": "2025-11-08", "user": 7, "persona": 9, "model": "a.b/0",
        "answers": 1, "tokens_in": 10, "tokens_out": 20, "spent_micro": 30,
    }  # fmt: skip
    assert rest["cursor"] == ""
    for query in ("since=yesterday", "since=2026-01-31&until=2026-01-01",
                  "since=2026-01-01&cursor=x", "since=2026-01-01&cursor=a.b.c.d"):  # fmt: skip
        assert (await desk.ask("GET", f"/usage?{query}")).status == 400, query


async def test_prices_are_set_listed_imported_and_removed(desk: Desk) -> None:
    operator = desk.operator
    body = {"input": 1.5, "output": 6}
    made = await desk.ask("PUT", "/prices/Own/Model-1", body, operator)
    assert made.status == 200, made
    assert made.json["model"] == "own/model-1"
    assert (made.json["cached"], made.json["origin"]) == (1.5, "command")
    found: list[Any] = []
    cursor = ""
    while True:
        page = await desk.get(f"/prices?limit=100&cursor={cursor}", operator)
        found += page["prices"]
        cursor = page["cursor"]
        if not cursor:
            break
    names = [one["model"] for one in found]
    assert names == sorted(set(names))
    assert made.json in found
    file = {"version": "2026-12-01", "models": {"other-1": {"in": 1, "out": 2}}}
    taken = await desk.ask("PUT", "/prices", file, operator)
    assert taken.json == {"imported": 1, "version": "2026-12-01"}
    one = (await desk.get("/prices?model=other-1", operator))["prices"]
    assert (one[0]["output"], one[0]["origin"]) == (2.0, "imported file 2026-12-01")
    gone = await desk.ask("DELETE", "/prices/own/model-1", None, operator)
    assert gone.json == {"price": None}
    assert (await desk.ask("DELETE", "/prices/own/model-1", None, operator)).status == 404
    bad = await desk.ask("PUT", "/prices/x", {"input": -1}, operator)
    assert bad.status == 400


# AI services


@pytest.fixture
async def service() -> AsyncIterator[ScriptedProvider]:
    service = ScriptedProvider()
    service.models = ["tokens=3", "tokens=4"]
    await service.start()
    yield service
    await service.aclose()


async def test_a_service_is_there_at_once_and_its_key_is_never_told(
    desk: Desk, service: ScriptedProvider
) -> None:
    operator, path = desk.operator, "/providers/scripted"
    body = {"base_url": service.base_url, "key": SECRET, "models": ["tokens=3"]}
    saved = await desk.ask("PUT", path, body, operator)
    assert saved.status == 200, saved
    assert (saved.json["has_key"], saved.json["kept"]) == (True, "database")
    asked = {**talk(), "model": "scripted/tokens=3"}
    assert (await complete(desk.site, operator, asked)).status == 200
    assert service.requests[-1].headers["authorization"] == f"Bearer {SECRET}"
    listed = await desk.ask("GET", "/providers", None, operator)
    assert listed.json == {"providers": [saved.json]}
    one = await desk.ask("GET", path, None, operator)
    assert SECRET.encode() not in saved.body + listed.body + one.body
    tested = await desk.ask("POST", f"{path}/test", None, operator)
    assert (tested.json["ok"], tested.json["models"]) == (True, ["tokens=3", "tokens=4"])
    assert (await desk.ask("DELETE", path, None, operator)).status == 204
    assert (await complete(desk.site, operator, asked)).status == 404
    assert (await desk.ask("DELETE", path, None, operator)).status == 404


async def test_a_stored_key_is_never_sent_to_another_address(
    desk: Desk, service: ScriptedProvider
) -> None:
    operator, path = desk.operator, "/providers/scripted"
    body = {"base_url": service.base_url, "key": SECRET, "models": ["tokens=3"]}
    await desk.ask("PUT", path, body, operator)
    del body["key"]
    more = await desk.ask("PUT", path, {**body, "max_streams": 7}, operator)
    assert (more.json["has_key"], more.json["max_streams"]) == (True, 7)
    elsewhere = {**body, "base_url": "http://127.0.0.1:1/v1"}
    moved = await desk.ask("PUT", path, elsewhere, operator)
    assert (moved.status, "key once more" in moved.error["message"]) == (400, True)
    assert (await desk.ask("PUT", path, {**elsewhere, "key": ""}, operator)).status == 200
    test = await desk.ask("POST", f"{path}/test", None, operator)
    assert (test.json["ok"], "address" in test.json["complaint"]) == (False, True)


async def test_a_service_that_the_server_cannot_take_over_is_complained_of(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(config: object) -> None:
        raise ValueError("not usable")

    monkeypatch.setattr(desk.site.core.bridge, "reload", fail)
    saved = await desk.ask("PUT", "/providers/x", {"kind": "demo"}, desk.operator)
    assert (saved.status, "cannot be used" in saved.json["complaint"]) == (200, True)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"base_url": "ftp://x"},
        {"base_url": "http://"},
        {"base_url": "http://x:99999/v1"},
        {"base_url": "http://x y/"},
        {"kind": "demo", "key": "a\nb"},
        {"kind": "demo", "models": [""]},
        {"kind": "magic"},
    ],
)
async def test_a_service_that_cannot_work_is_refused(desk: Desk, body: Any) -> None:
    refused = await desk.ask("PUT", "/providers/x", body, desk.operator)
    assert refused.status == 400, refused
    assert (await desk.get("/providers", desk.operator)) == {"providers": []}


# repeats


async def test_a_repeated_request_makes_one_key_and_tells_it_again(desk: Desk) -> None:
    body = {"name": "website", "scopes": ["chat"]}

    async def make(repeat: str, key: str = "", **more: Any) -> Answer:
        headers = bearer(key or desk.key) | {"Idempotency-Key": repeat}
        return await desk.site.ask("POST", f"{ADMIN}/keys", json=body | more, headers=headers)

    first, again, late = *await asyncio.gather(make("a"), make("a")), await make("a")
    assert first.status == 201
    assert first.json == again.json == late.json
    assert first.headers["X-Request-ID"] != late.headers["X-Request-ID"]
    assert (await make("b")).json["id"] != first.json["id"]
    assert (await make("a", desk.operator)).json["id"] != first.json["id"]
    other = await make("a", name="another")
    assert (other.status, other.error["reason"]) == (409, "name used twice")
    assert (await make("x" * 257)).status == 400
    assert len((await desk.get("/keys"))["keys"]) == 3


async def test_what_failed_is_tried_again(desk: Desk) -> None:
    headers = bearer(desk.key) | {"Idempotency-Key": "a"}

    async def make() -> Answer:
        return await desk.site.ask("POST", f"{ADMIN}/users", json={"name": "Anna"}, headers=headers)

    user = await desk.user("Anna")
    assert (await make()).status == 409
    await desk.ask("DELETE", f"/users/{user}")
    await eventually(lambda: desk.site.core.erasures.done)
    assert (await make()).status == 201
