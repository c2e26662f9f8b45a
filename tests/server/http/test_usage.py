"""What answers used, over HTTP and on the socket: everybody's own, and nobody else's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ai_bridge.account import Limits
from protocol.envelopes import Usage, UsageInfo
from protocol.rows import Use
from storage.usage import DAY_MS, UsageRow, add_usage
from tests.server.harness import Server, serving
from tests.server.http.conftest import Answer, Site

PATH = "/api/v1/usage"
NOW = datetime(2026, 11, 21, 15, 30, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)
TODAY = NOW_MS // DAY_MS
TOMORROW_MS = round(datetime(2026, 11, 22, tzinfo=UTC).timestamp() * 1000)
DECEMBER_MS = round(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
def clocked(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The server in whose core it is that afternoon."""
    monkeypatch.setattr(site.core, "now_ms", lambda: NOW_MS)
    return site


def used(user: int, day: int, tenant: int = 1, model: str = "m") -> UsageRow:
    return UsageRow(tenant, day, user, 7, model, 1, 100, 20, 3_000)


async def put(site: Site | Server, *rows: UsageRow) -> None:
    await site.core.store.change((), lambda tx: add_usage(tx, rows))


async def get(site: Site, token: str, query: str = "") -> Answer:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return await site.ask("GET", PATH + query, headers=headers)


async def pages(site: Site, token: str, query: str) -> list[Any]:
    """Return the answers of a range, one page after the other."""
    found: list[Any] = []
    cursor = ""
    while True:
        answer = await get(site, token, f"?{query}&cursor={cursor}")
        assert answer.status == 200, answer
        found.append(answer.json)
        cursor = answer.json["cursor"]
        if not cursor:
            return found


async def test_people_see_today_and_this_month_of_their_own(clocked: Site) -> None:
    ann, bob = await clocked.register("Anna"), await clocked.register("Bert")
    me, other = ann["user"]["id"], bob["user"]["id"]
    first = TODAY - 20  # the first of November
    await put(
        clocked,
        *(used(me, day) for day in (TODAY, first, first - 1, TODAY + 1)),
        used(me, TODAY, model="another"),
        used(other, TODAY),
        used(me, TODAY, tenant=2),
    )
    billing = clocked.core.bridge.billing
    assert billing is not None
    billing.ledger.set_limits(1, me, Limits(day_micro=500_000, month_micro=0))
    answer = await get(clocked, ann["token"])
    assert answer.status == 200, answer
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json == {
        "today": {
            "tokens_in": 200,
            "tokens_out": 40,
            "spent_micro": 6_000,
            "limit_micro": 500_000,
            "resets": TOMORROW_MS,
        },
        "month": {
            "tokens_in": 300,
            "tokens_out": 60,
            "spent_micro": 9_000,
            "limit_micro": 0,
            "resets": DECEMBER_MS,
        },
    }


async def test_what_is_booked_but_not_stored_yet_counts_as_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        monkeypatch.setattr(server.core, "now_ms", lambda: NOW_MS)
        ledger = server.billing.ledger
        ledger.settle(ledger.reserve(1, ann.id, 10_000, 60), 7_000)
        await put(server, used(ann.id, TODAY))
        reply = await peer.ask(Usage)
        assert isinstance(reply, UsageInfo)
        assert reply.today == Use(100, 20, 7_000, 0, TOMORROW_MS)
        assert reply.month == Use(100, 20, 7_000, 0, DECEMBER_MS)


async def test_a_key_is_told_its_own(clocked: Site) -> None:
    key, text = await clocked.accounts.api_keys.create(1, "test", ("chat",))
    other, _ = await clocked.accounts.api_keys.create(1, "other", ("chat",))
    await put(clocked, used(key.id, TODAY), used(other.id, TODAY), used(other.id, TODAY - 1))
    answer = await get(clocked, text)
    assert answer.status == 200, answer
    assert (answer.json["today"]["tokens_in"], answer.json["month"]["tokens_in"]) == (100, 100)


async def test_days_come_in_pages_that_go_on_where_they_ended(clocked: Site) -> None:
    ann = await clocked.register("Anna")
    me = ann["user"]["id"]
    days = [TODAY - back for back in (90, 60, 59, 30, 29, 1, 0)]
    await put(clocked, *(used(me, day) for day in days), used(me + 1, TODAY))
    since = (NOW - timedelta(days=90)).date().isoformat()
    got = await pages(clocked, ann["token"], f"since={since}")
    dates = [day["day"] for page in got for day in page["days"]]
    assert dates == [(NOW - timedelta(days=TODAY - day)).date().isoformat() for day in days]
    assert len(got) == 3, "31 days at most in one answer"
    assert got[0]["days"][0] == {
        "day": since,
        "answers": 1,
        "tokens_in": 100,
        "tokens_out": 20,
        "spent_micro": 3_000,
    }
    (only,) = await pages(clocked, ann["token"], "since=2026-11-20&until=2026-11-20")
    assert [day["day"] for day in only["days"]] == ["2026-11-20"]


@pytest.mark.parametrize(
    "query",
    [
        "?since=yesterday",
        "?since=2026-13-01",
        "?since=2026-11-02&until=2026-11-01",
        "?since=2025-01-01&until=2026-11-01",
        "?since=0001-01-01&until=0001-01-02",
        "?since=9999-12-31&until=9999-12-31",
        "?since=2026-11-01&cursor=next",
        "?since=2026-11-01&until=soon",
    ],
)
async def test_ranges_that_cannot_be_are_refused(clocked: Site, query: str) -> None:
    ann = await clocked.register("Anna")
    answer = await get(clocked, ann["token"], query)
    assert (answer.status, answer.error["code"]) == (400, 310)
    assert answer.error["message"]


async def test_a_cursor_from_nowhere_gives_an_empty_page(clocked: Site) -> None:
    ann = await clocked.register("Anna")
    answer = await get(clocked, ann["token"], "?since=2026-11-01&cursor=2027-01-01")
    assert (answer.status, answer.json) == (200, {"days": [], "cursor": ""})


async def test_without_a_token_nothing_is_told(clocked: Site) -> None:
    assert (await get(clocked, "")).status == 401
    assert (await get(clocked, "wrong")).status == 401
