"""The operations page: a real server's figures in a real browser."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from bench.provider.server import ScriptedProvider
from clients.client import Client
from protocol.codes import ConvKind, EndReason
from protocol.rows import Persona
from tests.browser.conftest import Ground
from tests.browser.harness import DESKTOP, PHONE, Window, overflows, shot, until_true, window
from tests.e2e.harness import Process, ask, command, ended, free_port, talk
from tests.e2e.serving import answering, serving

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, WebSocketRoute

pytestmark = pytest.mark.asyncio(loop_scope="session")

RULES = """
[[metrics.alerts]]
name = "crowd"
figure = "sessions"
above = 0
seconds = 0

[[metrics.alerts]]
name = "slow"
figure = "p95_ms"
above = 60000
seconds = 60
webhook = "http://127.0.0.1:9/"
allow_private = true
"""
LONG = "tokens=2000,rate=40"
MARKUP = "<img src=x onerror=alert(1)>"
NEVER_MARKUP = "img, main script, a[href^=javascript]"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server with rules, of which the first fires while anybody is signed in."""
    with serving(Process(tmp_path_factory.mktemp("dashboard"), free_port(), RULES)) as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def models(watched: Process) -> AsyncIterator[ScriptedProvider]:
    """Its AI service."""
    async with answering(watched.provider_port) as provider:
        yield provider


def new_key(process: Process, *scopes: str) -> str:
    words = [word for scope in scopes for word in ("--scope", scope)]
    done = command("token", "key", "add", "page", *words, config=process.config)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def key(watched: Process) -> str:
    return new_key(watched, "dashboard", "operator")


@pytest_asyncio.fixture(loop_scope="session")
async def viewer(
    browser: Browser, watched: Process, models: ScriptedProvider
) -> AsyncIterator[Window]:
    """A fresh browser; trouble in it fails the test."""
    async with window(browser, watched) as found:
        yield found


async def give(viewer: Window, key: str) -> Page:
    """Open the page and give it a key."""
    page = viewer.page
    await page.goto(f"{viewer.url}/dashboard")
    await page.get_by_label("API key").fill(key)
    await page.get_by_label("API key").press("Enter")
    return page


async def look(viewer: Window, key: str) -> Page:
    """Open the page; on return it shows figures."""
    page = await give(viewer, key)
    await page.locator("#board").wait_for()
    return page


async def figure(page: Page, name: str) -> float:
    found = await page.locator(f"[data-figure='{name}']").get_attribute("value")
    return float(found or "nan")


async def becomes(page: Page, name: str, wanted: float) -> None:
    """Wait until a figure of the page has a value."""
    await page.locator(f"[data-figure='{name}'][value='{wanted:g}']").wait_for()


async def metrics(page: Page, url: str) -> dict[str, float]:
    text = await (await page.request.get(f"{url}/metrics")).text()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


async def persona_named(client: Client, name: str) -> int:
    """Make a persona, and a conversation with it; return the conversation."""
    saved = await client.save_persona(Persona(name=name, prompt="You answer briefly."))
    info = await client.create_conversation(ConvKind.AI, persona=saved.p.id)
    conv = info.row.id or 0
    await client.watch([conv])
    return conv


# the key


async def test_a_key_is_wanted_and_a_wrong_one_is_told_apart_from_a_weak_one(
    viewer: Window, watched: Process, key: str
) -> None:
    page = await give(viewer, "pk_wrong")
    error = page.locator("#sign-in-error")
    await error.get_by_text("does not know this key").wait_for()
    await page.get_by_label("API key").fill(new_key(watched, "metrics"))
    await page.get_by_role("button", name="Show the figures").click()
    await error.get_by_text("lacks the scope dashboard").wait_for()
    assert await page.locator("#board").is_hidden()
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Show the figures").click()
    await page.locator("#board").wait_for()
    assert await page.locator("#sign-in").is_hidden()


async def test_the_key_stays_in_its_tab_and_out_of_addresses(viewer: Window, key: str) -> None:
    asked: list[str] = []
    viewer.page.on("request", lambda request: asked.append(request.url))
    viewer.page.on("websocket", lambda socket: asked.append(socket.url))
    page = await look(viewer, key)
    await page.reload()
    await page.locator("#board").wait_for()
    assert any(url.endswith("/ws/dashboard") for url in asked)
    assert [url for url in (*asked, page.url) if key in url] == []
    assert key not in await page.evaluate("JSON.stringify({...localStorage}) + document.cookie")
    await page.get_by_role("button", name="Forget the key").click()
    assert await page.locator("#board").is_hidden()
    assert await page.locator("#board tbody tr").count() == 0  # the next key may see less
    assert await page.evaluate("sessionStorage.length") == 0
    await page.reload()
    await page.get_by_label("API key").wait_for()


# the figures


async def test_figures_move_and_are_those_of_the_metrics_page(
    viewer: Window, watched: Process, key: str
) -> None:
    page = await look(viewer, key)
    before = await figure(page, "messages.total")
    async with watched.online() as client:
        conv = await talk(client)
        for _ in range(3):
            with client.events() as events:
                sent = await ask(client, conv, "tokens=5")
                assert (await ended(events, sent.sid)).reason is EndReason.STOP
        await becomes(page, "connections.signed_in", 1)
        await becomes(
            page, "running.ended", (await metrics(page, viewer.url))["parlance_ai_ended_total"]
        )
    shown = await metrics(page, viewer.url)
    requests = shown["parlance_http_seconds_count"] + shown["parlance_request_seconds_count"]
    # The page of figures itself is one request more by the time of the next look.
    await becomes(page, "requests.total", requests + 1)
    assert await figure(page, "messages.total") == shown["parlance_messages_total"] >= before + 6
    assert await figure(page, "tokens.total") == shown["parlance_ai_completion_tokens_total"]
    assert await figure(page, "running.ended") == shown["parlance_ai_ended_total"]
    assert await figure(page, "errors.total") == (
        shown.get("parlance_errors_total", 0) + shown["parlance_http_failed_total"]
    )
    assert await figure(page, "cpu.viewers") == shown["parlance_dashboard_viewers"] == 1
    assert await figure(page, "connections") == shown["parlance_connections"]
    assert await figure(page, "memory") > 1e6
    assert await figure(page, "p99") >= await figure(page, "p50") > 0


async def test_charts_are_drawn_of_the_range_that_is_chosen(viewer: Window, key: str) -> None:
    page = await look(viewer, key)
    await page.locator("#charts canvas").nth(8).wait_for()
    assert await page.locator("#charts figure").count() == 9
    async with page.expect_response("**/history?bucket=1s") as asking:
        await page.get_by_role("radio", name="30 seconds").press("ArrowRight")
    assert await page.get_by_role("radio", name="10 minutes").is_checked()
    history = await (await asking.value).json()
    newest = dict(zip(history["fields"], history["points"][-1], strict=True))
    shown = "document.querySelector('[data-chart=memory] data').getAttribute('value')"
    await until_true(page, f"(least) => Number({shown}) >= least", newest["rss_bytes"] * 0.5)
    await page.get_by_role("radio", name="30 days").click()
    assert await page.get_by_text("There are no points of this time yet.").count() == 9
    await page.get_by_role("radio", name="30 seconds").click()
    await page.locator("#charts canvas").nth(8).wait_for()


async def test_a_chart_is_read_by_keyboard_and_tells_what_it_shows(
    viewer: Window, key: str
) -> None:
    page = await look(viewer, key)
    chart = page.get_by_role("img", name="Times of requests")
    await chart.wait_for()
    name = await chart.get_attribute("aria-label") or ""
    assert all(f"{line}: " in name for line in ("p50", "mean", "p95", "p99"))
    await chart.focus()
    await page.keyboard.press("Home")
    told = page.locator("[data-chart=times] [role=status]")
    first = await told.inner_text()
    assert "p99" in first
    await page.keyboard.press("ArrowRight")
    assert await told.inner_text() != first


async def test_everything_one_can_use_has_a_name(viewer: Window, key: str) -> None:
    page = await look(viewer, key)
    await page.locator("#charts canvas").nth(8).wait_for()
    nameless = await page.locator("button, input, select, table, [role=img]").evaluate_all(
        """all => all.filter((each) => each.checkVisibility()).filter((each) =>
          !each.ariaLabel && !each.textContent.trim() && !each.labels?.[0]?.textContent.trim())
          .map((each) => each.outerHTML)"""
    )
    assert nameless == []


# the answers


async def test_a_running_answer_is_listed_and_stopped(
    viewer: Window, watched: Process, key: str
) -> None:
    page = await look(viewer, key)
    await page.get_by_text("Answers of all tenants.", exact=True).wait_for()
    async with watched.online() as client:
        conv = await persona_named(client, "阿锐 the long-winded")
        with client.events() as events:
            sent = await ask(client, conv, LONG)
            row = page.locator("#running tr", has_text="阿锐 the long-winded")
            await row.get_by_text("Running").wait_for()
            assert f"scripted / {LONG}" in await row.inner_text()
            await page.get_by_role("button", name="Stop the answer of 阿锐").press("Enter")
            assert (await ended(events, sent.sid)).reason is EndReason.CANCELLED
    await page.get_by_text("The answer was stopped.").wait_for()
    await row.wait_for(state="detached")
    assert await page.evaluate("document.activeElement.id") == "running"
    last = page.locator("#recent tbody tr").first
    await last.get_by_text("Stopped").wait_for()
    assert "阿锐 the long-winded" in await last.inner_text()


async def test_a_key_of_one_tenant_is_told_what_it_does_not_see(
    viewer: Window, watched: Process
) -> None:
    page = await look(viewer, new_key(watched, "dashboard"))
    await page.get_by_text("use a key with the scope operator").wait_for()


async def test_names_that_people_chose_are_text(viewer: Window, watched: Process, key: str) -> None:
    page = await look(viewer, key)
    async with watched.online() as client:
        conv = await persona_named(client, MARKUP)
        await ask(client, conv, LONG)
        await page.get_by_role("button", name=f"Stop the answer of {MARKUP}").click()
    ended_row = page.locator("#recent tr", has_text=MARKUP)
    await ended_row.wait_for()
    assert await page.locator(NEVER_MARKUP).count() == 0


# the alerts


async def test_an_alert_shows_when_it_fires_and_when_it_is_over(
    viewer: Window, watched: Process, key: str
) -> None:
    page = await look(viewer, key)
    rule = page.get_by_role("table", name="Alerts").locator("tr", has_text="crowd")
    await rule.get_by_text("All right").wait_for()
    assert "sessions above 0" in await rule.inner_text()
    hooks = page.locator("#alerts td.webhook")
    assert await hooks.all_inner_texts() == ["–", "Set"]
    async with watched.online():
        await rule.get_by_text("Firing").wait_for()
        await page.locator("#alerts-told", has_text="The alert crowd is firing.").wait_for(
            state="attached"
        )
        assert await page.title() == "(1) Operations · Parlance"
    await rule.get_by_text("All right").wait_for()
    assert "is over" in (await page.locator("#alerts-told").text_content() or "")
    assert await page.title() == "Operations · Parlance"


# the connection


async def test_it_says_when_the_server_is_gone_and_comes_back_with_it(
    viewer: Window, watched: Process, key: str
) -> None:
    page = await look(viewer, key)
    port = watched.port
    watched.kill()
    notice = page.locator("#connection")
    await notice.get_by_text("The server cannot be reached.").wait_for()
    await notice.get_by_text("Next try in").wait_for()
    assert await page.locator("#state").inner_text() != "Live"
    assert await page.locator("#figures").is_visible()
    watched.start()
    assert watched.port == port
    await notice.wait_for(state="hidden")
    await page.locator("#state", has_text="Live").wait_for()
    await becomes(page, "messages.total", 0)


class Feed:
    """A server's side of the live figures, as a test wants it."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.opened: list[WebSocketRoute] = []
        self.first: list[str] = []

    async def begin(self, answer: Callable[[WebSocketRoute], Awaitable[None]] | None) -> None:
        def connected(socket: WebSocketRoute) -> None:
            self.opened.append(socket)

            async def take(message: str | bytes) -> None:
                self.first.append(str(message))
                if answer is not None:
                    await answer(socket)

            socket.on_message(take)

        await self._page.route_web_socket("**/ws/dashboard", connected)


async def frames_of(page: Page, url: str, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the server would send first, and then."""
    asked = page.request
    headers = {"X-API-Key": key}
    history = await asked.get(f"{url}/api/v1/dashboard/history?bucket=1s", headers=headers)
    realtime = await asked.get(f"{url}/v1/dashboard/realtime", headers=headers)
    return await history.json(), {"type": "realtime", **await realtime.json()}


async def test_a_connection_that_says_nothing_is_given_up(viewer: Window, key: str) -> None:
    feed = Feed(viewer.page)
    await feed.begin(None)
    await viewer.page.clock.install()
    page = await give(viewer, key)
    await page.locator("#state", has_text="Connecting").wait_for()
    await page.clock.fast_forward(9_000)
    assert await page.locator("#connection").is_hidden()
    await page.clock.fast_forward(1_500)
    await page.locator("#connection").get_by_text("The server cannot be reached.").wait_for()
    await page.clock.fast_forward(1_000)
    await page.locator("#state", has_text="Connecting").wait_for()
    assert len(feed.opened) == 2
    assert feed.first == [json.dumps({"key": key}, separators=(",", ":"))] * 2


async def test_a_viewer_too_many_is_told_so_and_tries_again(viewer: Window, key: str) -> None:
    feed = Feed(viewer.page)

    async def crowded(socket: WebSocketRoute) -> None:
        await socket.close(code=4502, reason="too many viewers")

    await feed.begin(crowded)
    page = await give(viewer, key)
    await page.locator("#connection").get_by_text("Too many people").wait_for()
    await page.get_by_role("button", name="Try again").click()
    await page.locator("#connection").get_by_text("Too many people").wait_for()
    assert len(feed.opened) >= 2


async def test_whatever_a_frame_says_is_text(viewer: Window, key: str) -> None:
    page = viewer.page
    history, realtime = await frames_of(page, viewer.url, key)
    answer = dict.fromkeys(("status", "persona", "provider", "model"), MARKUP)
    numbers = ("sid", "tenant", "at", "code", "duration_ms", "ttft_ms", "tokens_in", "tokens_out")
    realtime["recent_requests"] = [answer | dict.fromkeys(numbers, 7)]
    realtime["alerts"][0] |= {"name": MARKUP, "figure": MARKUP, "webhook": True, "untold": 3}
    feed = Feed(page)

    async def tell(socket: WebSocketRoute) -> None:
        socket.send(json.dumps(history))
        socket.send(json.dumps(realtime))

    await feed.begin(tell)
    await look(viewer, key)
    assert (await page.locator("#alerts").inner_text()).count(MARKUP) == 2
    assert await page.get_by_text("3 notices not taken").is_visible()
    assert (await page.locator("#recent").inner_text()).count(MARKUP) == 4
    assert await page.locator(NEVER_MARKUP).count() == 0


async def test_waits_between_tries_grow_to_a_bound_and_are_random(ground: Ground) -> None:
    seen = await ground.page.evaluate("""async () => {
      const { waitMs } = await import("/app/dashboard/feed.js");
      const tries = [0, 1, 2, 3, 4, 5, 20, 2000];
      return [tries.map((n) => waitMs(n, () => 0)), tries.map((n) => waitMs(n, () => 1)),
        new Set(Array.from({ length: 20 }, () => waitMs(3))).size];
    }""")
    assert seen[0] == [500, 1000, 2000, 4000, 8000, 15000, 15000, 15000]
    assert seen[1] == [1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]
    assert seen[2] > 10


# the looks


async def test_it_speaks_both_languages_and_says_the_same_in_them(
    viewer: Window, key: str, ground: Ground
) -> None:
    page = await look(viewer, key)
    await page.get_by_role("button", name="中文").click()
    await page.get_by_role("heading", name="运行状况").wait_for()
    await page.get_by_text("正常").first.wait_for()
    assert await page.evaluate("document.documentElement.lang") == "zh-CN"
    await page.locator("#charts canvas").nth(8).wait_for()
    await page.get_by_role("button", name="English").click()
    await page.get_by_role("heading", name="Operations").wait_for()
    tables = await ground.page.evaluate("""async () => {
      const [{ en }, { zh }] = await Promise.all(
        ["en", "zh"].map((name) => import(`/app/dashboard/words_${name}.js`)));
      const values = (entry) => [...JSON.stringify(entry).matchAll(/\\{(\\w+)\\}/g)]
        .map((found) => found[1]).sort();
      const told = (table) => Object.entries(table).map(([key, entry]) =>
        [key, [...new Set(values(entry))]]);
      return [told(en), told(zh)];
    }""")
    assert tables[0] == tables[1]
    keys = [row[0] for row in tables[0]]
    assert keys == sorted(keys)


async def test_charts_take_the_colours_of_the_theme_that_is_chosen(
    viewer: Window, key: str
) -> None:
    page = await look(viewer, key)
    in_colour = """() => {
      const chart = document.querySelector("[data-chart=memory]");
      const wanted = getComputedStyle(chart.querySelector(".swatch")).color.match(/\\d+/g);
      const canvas = chart.querySelector("canvas");
      if (canvas === null) return null;
      const drawn = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      for (let at = 0; at < drawn.length; at += 4) {
        if (wanted.every((value, part) => drawn[at + part] === Number(value))) return `${wanted}`;
      }
      return null;
    }"""
    light = await until_true(page, in_colour)
    await page.get_by_label("Appearance").select_option("dark")
    dark = await until_true(page, in_colour)
    assert dark != light


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("name", "size", "language"), [("desktop", DESKTOP, "en-US"), ("phone", PHONE, "zh-CN")]
)
async def test_it_fits_its_window_in_light_and_dark(
    browser: Browser,
    watched: Process,
    models: ScriptedProvider,
    key: str,
    name: str,
    size: tuple[int, int],
    language: str,
    scheme: str,
) -> None:
    async with window(browser, watched, size, language=language, color_scheme=scheme) as viewer:
        page = viewer.page
        await page.goto(f"{viewer.url}/dashboard")
        await page.locator("#sign-in").wait_for()
        assert not await overflows(page)
        await shot(page, f"dashboard-key-{name}-{scheme}")
        await page.locator("#key").fill(key)
        await page.locator("#key").press("Enter")
        async with watched.online() as client:
            conv = await persona_named(
                client, "A" * 60 if language == "en-US" else "很长的名字" * 12
            )
            await ask(client, conv, LONG)
            stop = page.locator("#running button")
            await stop.first.wait_for()
            await page.locator("#charts canvas").nth(8).wait_for()
            assert not await overflows(page)
            await page.evaluate("scrollTo(0, 0)")
            await shot(page, f"dashboard-{name}-{scheme}")
            await page.locator("#charts-title").scroll_into_view_if_needed()
            await page.locator("#charts-title").evaluate("(each) => each.scrollIntoView()")
            await shot(page, f"dashboard-charts-{name}-{scheme}")
            await page.locator("#turns-title").evaluate("(each) => each.scrollIntoView()")
            await shot(page, f"dashboard-answers-{name}-{scheme}")
            await stop.first.click()
            await stop.first.wait_for(state="detached")
