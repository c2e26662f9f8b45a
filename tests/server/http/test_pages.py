"""The page, pictures, health and figures."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from protocol.codes import Code
from server.http.avatars import image_type
from storage.people import MAX_AVATAR_BYTES
from storage.rows import StoreHealth
from tests.server.http.conftest import Site

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 100
LAN = {"X-Forwarded-For": "203.0.113.9"}


async def test_the_page_is_the_web_app_and_loads_nothing_from_outside(site: Site) -> None:
    answer = await site.ask("GET", "/")
    assert answer.status == 200
    assert 'src="/app/main.js"' in answer.body.decode()
    assert "//" not in answer.body.decode().replace("<!doctype", "")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy


async def test_the_page_trusts_no_host(site: Site) -> None:
    answer = await site.ask("GET", "/", headers={"Host": "a<b>.example"})
    assert "a<b>" not in answer.headers["Content-Security-Policy"]
    assert b"<b>" not in answer.body


async def test_health_has_its_shape(site: Site) -> None:
    answer = await site.ask("GET", "/health")
    assert answer.status == 200
    health = answer.json
    assert (health["status"], health["database"]) == ("ok", "connected")
    assert health["engines"] == {"demo": "ok"}
    assert health["version"]
    assert health["uptime"] >= 0
    assert health["store"]["durable"] is True
    public = (await site.ask("GET", "/health", headers=LAN)).json
    assert "store" not in public


async def test_a_gone_database_is_told_and_the_process_lives(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone() -> StoreHealth:
        return StoreHealth(False, "sqlite", "3", True, 5, 6, 7, "no answer")

    monkeypatch.setattr(site.core.store, "health", gone)
    answer = await site.ask("GET", "/health")
    assert (answer.status, answer.json["status"]) == (503, "down")
    assert answer.json["database"] == "disconnected"
    ready = await site.ask("GET", "/health/ready")
    assert (ready.status, ready.error["reason"]) == (503, "database unavailable")
    assert (await site.ask("GET", "/health/live")).status == 200


async def test_the_database_is_asked_once_a_second_at_most(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = site.core.store.health

    async def count() -> StoreHealth:
        asked.append(1)
        return await real()

    monkeypatch.setattr(site.core.store, "health", count)
    for _ in range(10):
        assert (await site.ask("GET", "/health/ready")).status == 200
    assert len(asked) == 1


async def test_a_draining_server_is_not_ready(site: Site) -> None:
    site.core.draining = True
    # The connection is there already: new ones are not taken.
    site.core.draining = False
    assert (await site.ask("GET", "/health/ready")).status == 200
    site.core.draining = True
    answer = await site.ask("GET", "/health/ready")
    assert (answer.status, answer.error["reason"]) == (503, "draining")


async def test_figures_need_a_key_unless_asked_from_the_machine(site: Site) -> None:
    answer = await site.ask("GET", "/metrics")
    assert answer.status == 200
    names = {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert {"parlance_connections", "parlance_store_commit_seconds"} <= names
    assert (await site.ask("GET", "/metrics", headers=LAN)).status == 401
    _, wrong = await site.accounts.api_keys.create(1, "site", ["exchange"])
    answer = await site.ask("GET", "/metrics", headers=LAN | {"X-API-Key": wrong})
    assert answer.status == 403
    _, text = await site.accounts.api_keys.create(1, "figures", ["metrics"])
    answer = await site.ask("GET", "/metrics", headers=LAN | {"Authorization": f"Bearer {text}"})
    assert answer.status == 200


@pytest.mark.parametrize("settings", [{"metrics.public": True}])
async def test_figures_can_be_made_public(site: Site) -> None:
    assert (await site.ask("GET", "/metrics", headers=LAN)).status == 200


async def test_a_picture_comes_back_as_it_was(site: Site) -> None:
    made = await site.register()
    headers = {"Authorization": f"Bearer {made['token']}", "Content-Type": "text/html"}
    stored = await site.ask("PUT", "/api/v1/avatars", data=PNG, headers=headers)
    assert stored.status == 201
    path = f"/api/v1/avatars/{stored.json['id']}"
    answer = await site.ask("GET", path)
    assert (answer.body, answer.headers["Content-Type"]) == (PNG, "image/png")
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["Content-Disposition"] == 'inline; filename="avatar.png"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    again = await site.ask("GET", path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


async def test_what_is_no_small_picture_is_refused(site: Site) -> None:
    made = await site.register()
    headers = {"Authorization": f"Bearer {made['token']}"}
    answer = await site.ask("PUT", "/api/v1/avatars", data=b"<svg>", headers=headers)
    assert answer.status == 415
    large = PNG + b"x" * MAX_AVATAR_BYTES
    answer = await site.ask("PUT", "/api/v1/avatars", data=large, headers=headers)
    assert (answer.status, answer.error["code"]) == (413, Code.TOO_LARGE)


async def test_uploads_of_one_user_are_bounded(site: Site) -> None:
    made = await site.register()
    headers = {"Authorization": f"Bearer {made['token']}"}
    for _ in range(10):
        answer = await site.ask("PUT", "/api/v1/avatars", data=PNG, headers=headers)
        assert answer.status == 201
    answer = await site.ask("PUT", "/api/v1/avatars", data=PNG, headers=headers)
    assert (answer.status, answer.error["code"]) == (429, Code.RATE)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"", None),
        (b"<svg xmlns=", None),
    ],
)
def test_pictures_are_known_by_their_first_bytes(data: bytes, kind: str | None) -> None:
    assert image_type(data) == kind
