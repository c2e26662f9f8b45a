"""The web app in a real browser: what its first load costs, and a conversation of 10,000 messages.

    python -m bench.web [--messages 10000] [--loads 7]

Bytes are counted as they crossed the wire, headers included, with an empty cache. "Ready" is when
what a person wants is there and takes keys: the form when nobody is signed in, the messages when a
conversation is opened. Needs Chromium and the package playwright (see bench.chromium).
"""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import uvloop

from bench.chromium import BrowserMissing, chromium
from bench.fixture import ServerUnderTest
from bench.report import Bar
from bench.scenario import Scenario, main, parser
from bench.seed import Group, Seeded
from clients.client import Client
from protocol.codes import ConvKind

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, CDPSession, Page

KIB: Final = 1024
IN_FLIGHT: Final = 200
TEXTS: Final = (
    "Short one.",
    "今天的风很轻，云也很淡，我们慢慢地走在河边，说着小时候的事。",
    "A longer message that says something about **the weather**, a list:\n\n- one\n- two\n- three",
    "```python\ndef greet(name: str) -> str:\n    return f'hello {name}'\n```",
)

# Notes when an element came into view, and how long the longest piece of work was.
WATCH: Final = """
(wanted) => {
  window.bench = { ready: 0, longest: 0 };
  new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) {
      window.bench.longest = Math.max(window.bench.longest, duration);
    }
  }).observe({ type: "longtask", buffered: true });
  const look = () => {
    if (document.querySelector(wanted)) window.bench.ready = performance.now();
    else requestAnimationFrame(look);
  };
  look();
}
"""
# Scrolls up by so many pixels each frame until the beginning stands there, and times the frames.
SCROLL: Final = """
async ({ step, first }) => {
  const list = document.querySelector('[role="log"]');
  const frames = [];
  let before = performance.now();
  let most = 0;
  while (!list.querySelector(first) || list.scrollTop > 0) {
    list.scrollTop -= step;
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - before);
    before = now;
    if (frames.length % 20 === 0) most = Math.max(most, document.querySelectorAll("*").length);
    if (frames.length > 60000) throw new Error("the beginning was not reached");
  }
  return { frames, most };
}
"""


class Visits:
    """A browser that visits one server, each time as if it never had been there."""

    def __init__(self, browser: "Browser", server: ServerUnderTest, kept: str) -> None:
        self._browser = browser
        self._url = f"http://127.0.0.1:{server.port}"
        self._kept = kept

    async def open(
        self, path: str, wanted: str, *, signed_in: bool
    ) -> "tuple[BrowserContext, Page, Loaded]":
        """Load the app at a path until what is wanted is there."""
        context = await self._browser.new_context(viewport={"width": 1280, "height": 800})
        if signed_in:
            script = f"localStorage.setItem('parlance.tokens', {json.dumps(self._kept)})"
            await context.add_init_script(script)
        page = await context.new_page()
        await page.add_init_script(f"({WATCH})({json.dumps(wanted)})")
        loaded = Loaded(await context.new_cdp_session(page))
        await loaded.count()
        await page.goto(f"{self._url}/{path}")
        await page.locator(wanted).first.wait_for()
        await page.wait_for_load_state("networkidle")
        noted = await page.evaluate("window.bench")
        loaded.ready_ms, loaded.longest_ms = noted["ready"], noted["longest"]
        return context, page, loaded


class Loaded:
    """What one load cost."""

    def __init__(self, network: "CDPSession") -> None:
        self._network = network
        self.bytes = 0
        self.requests = 0
        self.ready_ms = 0.0
        self.longest_ms = 0.0

    async def count(self) -> None:
        self._network.on("Network.loadingFinished", self._finished)
        await self._network.send("Network.enable")
        await self._network.send("Network.setCacheDisabled", {"cacheDisabled": True})

    def _finished(self, event: dict[str, Any]) -> None:
        self.bytes += int(event["encodedDataLength"])
        self.requests += 1


async def heap_bytes(page: "Page") -> int:
    """Return what scripts hold after a collection."""
    session = await page.context.new_cdp_session(page)
    await session.send("HeapProfiler.collectGarbage")
    await session.send("Performance.enable")
    found = await session.send("Performance.getMetrics")
    return int(next(m["value"] for m in found["metrics"] if m["name"] == "JSHeapUsedSize"))


async def fill(server: ServerUnderTest, token: str, conv: int, count: int) -> None:
    """Send so many messages to a conversation."""

    async def source(renew: bool) -> str:
        return token

    async with Client(f"parlance://127.0.0.1:{server.port}", source) as client:
        await client.wait_online(20)
        for begin in range(0, count, IN_FLIGHT):
            numbers = range(begin, min(count, begin + IN_FLIGHT))
            sent = [client.post(conv, f"{n}. {TEXTS[n % len(TEXTS)]}") for n in numbers]
            await asyncio.gather(*(one.acknowledged for one in sent))


def kept_tokens(token: str, user: int) -> str:
    """Return what the app finds in its storage when somebody is signed in."""
    day_ms = 86_400_000
    return json.dumps(
        {
            "user": {"id": user, "name": "bench", "nick": "Bench"},
            "tenant": 1,
            "access_token": token,
            "expires_ms": int(time.time() * 1000) + day_ms,
            "refresh_token": "",
            "attempt": "",
        }
    )


async def loads(
    scenario: Scenario, visits: Visits, name: str, path: str, wanted: str, *, signed_in: bool
) -> None:
    """Load a view several times with an empty cache; report the median."""
    found: list[Loaded] = []
    for _ in range(scenario.args.loads):
        context, _page, loaded = await visits.open(path, wanted, signed_in=signed_in)
        await context.close()
        found.append(loaded)
    report = scenario.report
    report.add(f"{name}: over the wire", found[0].bytes / KIB, "KiB", 300, "less")
    report.add(f"{name}: requests", found[0].requests, "")
    ready = [loaded.ready_ms for loaded in found]
    report.add(f"{name}: ready, median", statistics.median(ready), "ms", 1000, "less")
    report.add(f"{name}: ready, slowest", max(ready), "ms")
    longest = [loaded.longest_ms for loaded in found]
    report.add(f"{name}: longest piece of work", statistics.median(longest), "ms")


async def scroll(scenario: Scenario, visits: Visits, conv: int) -> None:
    """Read a conversation from its end to its beginning."""
    path = f"#/c/{conv}"
    context, page, _ = await visits.open(path, "article.message[data-seq]", signed_in=True)
    before = await heap_bytes(page)
    first = 'article.message[data-seq="1"]'
    found = await page.evaluate(SCROLL, {"step": 300, "first": first})
    after = await heap_bytes(page)
    await context.close()
    frames: Sequence[float] = sorted(found["frames"])
    report = scenario.report
    report.add("scrolling: frames", len(frames), "")
    report.add("scrolling: frame, median", statistics.median(frames), "ms", 20, "less")
    report.add("scrolling: frame, 95 %", frames[int(len(frames) * 0.95)], "ms", 34, "less")
    report.add("scrolling: frame, longest", frames[-1], "ms")
    report.add("scrolling: most elements in the document", found["most"], "", 3000, "less")
    report.add("scrolling: heap at the end of the conversation", before / KIB / KIB, "MiB")
    report.add("scrolling: heap at its beginning", after / KIB / KIB, "MiB", 40, "less")


async def visit(scenario: Scenario, server: ServerUnderTest, seeded: Seeded, bar: Bar) -> None:
    user, conv = seeded.users[0], seeded.convs[0]
    (token,) = server.place.tokens([user])
    async with chromium() as browser:
        bar.step(f"{scenario.args.messages:,} messages")
        await fill(server, token, conv, scenario.args.messages)
        visits = Visits(browser, server, kept_tokens(token, user))
        bar.step("first loads")
        await loads(scenario, visits, "sign-in page", "", "form input", signed_in=False)
        bar.step("loads of a conversation")
        shown = "article.message[data-seq]"
        await loads(scenario, visits, "conversation", f"#/c/{conv}", shown, signed_in=True)
        bar.step("scrolling to the beginning")
        await scroll(scenario, visits, conv)


def measure(scenario: Scenario) -> None:
    groups = [Group((0, 1), ConvKind.DIRECT)]
    with Bar(4) as bar, scenario.server(2, groups) as (server, seeded):
        try:
            uvloop.run(visit(scenario, server, seeded, bar))
        except BrowserMissing as error:
            scenario.report.faults.append(f"no browser: {error}")


if __name__ == "__main__":
    words = parser(__doc__)
    words.add_argument("--messages", type=int, default=10_000, help="default 10,000")
    words.add_argument("--loads", type=int, default=7, help="of each view (default 7)")
    raise SystemExit(main("web", words.parse_args(), measure))
