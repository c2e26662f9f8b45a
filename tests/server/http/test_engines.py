"""Engines over HTTP: listed, asked for their health and switched by a key, within its tenant."""

from __future__ import annotations

from functools import partial
from typing import Any

import aiohttp
import pytest

from bench.provider.mem0 import FakeMem0
from protocol.codes import Code, Scope
from protocol.rows import Persona
from server.app import App
from server.config import load
from storage.accounts import create_user
from storage.engines import engine_choice
from storage.people import create_tenant
from storage.personas import save_persona
from tests.server.http.conftest import Answer, Site
from tests.server.http.openai_site import bearer, new_key

PATH = "/api/v1/engines"
CHAT, MEM0 = "chat_engine", "mem0_proxy"


class Desk:
    """Two tenants, each with a key and a persona that only its owner sees."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.tenants: dict[str, int] = {}
        self.keys: dict[str, str] = {}
        self.personas: dict[str, int] = {}

    async def fill(self) -> None:
        store = self.site.core.store
        other = await store.change([], lambda tx: create_tenant(tx, "acme", "Acme"))
        for slug, tenant in (("default", 1), ("acme", other.id)):
            self.tenants[slug] = tenant
            self.keys[slug] = await new_key(self.site, "engines", tenant=tenant)
            user = await store.change((), partial(create_user, tenant=tenant, name="ann"))
            owner = user.id or 0
            row = Persona(name="Ada", prompt="Be kind.", scope=int(Scope.PRIVATE))
            save = partial(
                save_persona, tenant=tenant, owner=owner, id=None, cid=b"c" * 16, given=row
            )
            saved, _ = await store.change((owner,), save)
            self.site.core.personas.put(tenant, saved)
            self.personas[slug] = saved.id or 0
        self.builtin = next(
            number for number, row in self.site.core.personas._rows.items() if not row.owner
        )

    async def get(self, path: str = "", tenant: str = "default") -> Any:
        answer = await self.site.ask("GET", PATH + path, headers=bearer(self.keys[tenant]))
        assert answer.status == 200, answer
        return answer.json

    async def post(self, path: str, by: str = "default", **body: Any) -> Answer:
        return await self.site.ask("POST", PATH + path, json=body, headers=bearer(self.keys[by]))

    def at(self, tenant: str, persona: int = 0) -> str:
        registry = self.site.core.bridge.engines
        return registry.resolve(self.tenants[tenant], persona, 1).info().name


@pytest.fixture
def settings(mem0: FakeMem0) -> dict[str, object]:
    return {"ai.mem0_url": mem0.base_url}


@pytest.fixture
async def desk(site: Site) -> Desk:
    made = Desk(site)
    await made.fill()
    return made


async def test_engines_are_listed_told_of_and_asked(desk: Desk, mem0: FakeMem0) -> None:
    listed = await desk.get()
    assert listed["choices"] == []
    assert listed["engines"] == [
        {"name": CHAT, "features": ["memory", "tools", "personality"], "default": True},
        {"name": MEM0, "features": ["mem0", "tools", "personality"], "default": False},
    ]
    assert await desk.get(f"/{MEM0}") == listed["engines"][1] | {"choices": []}
    for name in (CHAT, MEM0):
        found = await desk.get(f"/{name}/health")
        assert found == {"name": name, "healthy": True, "complaint": ""}


async def test_a_switch_holds_for_the_tenant_of_the_key_until_it_is_reset(desk: Desk) -> None:
    answer = await desk.post(f"/{MEM0}/switch", by="acme")
    assert answer.status == 200
    assert (desk.at("acme"), desk.at("default")) == (MEM0, CHAT)
    shown = {key: answer.json[key] for key in ("persona", "engine", "asked", "state", "reason")}
    assert shown == {"persona": 0, "engine": MEM0, "asked": MEM0, "state": "taken", "reason": ""}
    assert (await desk.get(tenant="acme"))["choices"] == [answer.json]
    assert (await desk.get(f"/{MEM0}", tenant="acme"))["choices"] == [answer.json]
    assert (await desk.get())["choices"] == []
    assert (await desk.post("/reset", by="acme")).json["engine"] == ""
    assert desk.at("acme") == CHAT
    assert (await desk.get(tenant="acme"))["choices"] == []


async def test_a_switch_for_a_persona_holds_within_the_tenant_only(desk: Desk) -> None:
    for persona in (desk.personas["acme"], desk.builtin):
        answer = await desk.post(f"/{MEM0}/switch", by="acme", persona=persona)
        assert answer.status == 200, answer
        assert desk.at("acme", persona) == MEM0
        assert (desk.at("acme"), desk.at("default", persona)) == (CHAT, CHAT)


async def test_what_belongs_to_another_tenant_is_not_found(desk: Desk) -> None:
    strange = desk.personas["default"]
    for body in (
        {"tenant": "default"},
        {"tenant": "nobody"},
        {"persona": strange},
        {"persona": 12345},
        {"tenant": "acme", "persona": strange},
    ):
        for path in (f"/{MEM0}/switch", "/reset"):
            answer = await desk.post(path, by="acme", **body)
            assert (answer.status, answer.error["code"]) == (404, Code.NOT_FOUND), body
    assert (await desk.post(f"/{MEM0}/switch", by="acme", tenant="acme")).status == 200
    assert (await desk.get())["choices"] == []
    assert desk.at("default", strange) == CHAT
    assert await desk.site.core.store.read(engine_choice(0, 0)) is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", f"/{CHAT}"),
        ("GET", f"/{CHAT}/health"),
        ("POST", f"/{CHAT}/switch"),
        ("POST", "/reset"),
    ],
)
async def test_every_route_needs_a_key_with_the_scope(desk: Desk, method: str, path: str) -> None:
    person = (await desk.site.register())["token"]
    weak = await new_key(desk.site, "chat", "models", "metrics", "exchange")
    for headers, status in (
        ({}, 401),
        (bearer("pk_nonsense"), 401),
        (bearer(person), 401),
        (bearer(weak), 403),
    ):
        answer = await desk.site.ask(method, PATH + path, headers=headers, json={})
        assert answer.status == status
        assert set(answer.error) == {"code", "reason", "message", "request_id"}


async def test_names_and_bodies_that_make_no_sense_are_refused(desk: Desk) -> None:
    for path in ("/nobody", "/nobody/health"):
        answer = await desk.site.ask("GET", PATH + path, headers=bearer(desk.keys["acme"]))
        assert answer.status == 404
    assert (await desk.post("/nobody/switch")).status == 404
    for body in ({"persona": -1}, {"persona": "x"}, {"tenant": "x" * 65}, {"persona": 2**60}):
        answer = await desk.post(f"/{MEM0}/switch", **body)
        assert (answer.status, answer.error["code"]) == (400, Code.INVALID)


async def test_an_engine_that_is_ill_is_refused_with_the_reason(desk: Desk, mem0: FakeMem0) -> None:
    await mem0.aclose()
    answer = await desk.post(f"/{MEM0}/switch")
    assert (answer.status, answer.error["code"]) == (502, Code.MODEL_UNAVAILABLE)
    assert "mem0 server does not answer" in answer.error["message"]
    assert mem0.base_url not in answer.error["message"]
    assert desk.at("default") == CHAT
    (choice,) = (await desk.get())["choices"]
    assert (choice["state"], choice["engine"], choice["asked"]) == ("refused", "", MEM0)
    assert not (await desk.get(f"/{MEM0}/health"))["healthy"]


async def test_the_page_of_figures_counts_changes(desk: Desk) -> None:
    await desk.post(f"/{MEM0}/switch")
    page = (await desk.site.ask("GET", "/metrics")).body.decode().splitlines()
    assert 'parlance_ai_engine_changes_total{outcome="switches"} 1.0' in page
    assert 'parlance_ai_engine_running{engine="mem0_proxy"} 0.0' in page


async def test_a_switch_over_http_holds_after_a_restart(
    desk: Desk, settings: dict[str, object]
) -> None:
    assert (await desk.post(f"/{MEM0}/switch", by="acme")).status == 200
    folder = desk.site.app._config.server.data_dir
    await desk.site.app.stop()
    base: dict[str, object] = {
        "server.port": 0,
        "server.data_dir": folder,
        "server.gc_freeze": False,
        "server.drain_s": 0,
        "ai.detect": False,
    }
    again = App(load(None, {}, base | settings))
    await again.start()
    async with aiohttp.ClientSession() as session:
        desk.site = Site(again, session)
        (choice,) = (await desk.get(tenant="acme"))["choices"]
        assert (choice["engine"], desk.at("acme"), desk.at("default")) == (MEM0, MEM0, CHAT)
    await again.stop()
