"""Rules about figures: each breach is told once, and its end once, to a webhook of the operator.

A rule is breached when its figure was beyond the bound in every second of `seconds`, and over when
it was within for as long. What is told is tried again while the receiver is away; a receiver that
never comes back costs a few notices of memory.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from ai_bridge.tools.addresses import PublicResolver, is_numeric, is_public
from server.config_sections import AlertConfig
from server.metrics import Figure
from server.sampler import FIGURES

log = logging.getLogger("parlance.alerts")

WAITING: Final = 4
"""Notices of one rule that wait; the oldest goes first: the newest says how it is."""
PAUSES_S: Final = (1.0, 5.0, 30.0, 120.0)
"""Before the second and each further try."""
TRY_S: Final = 10.0
CONNECTIONS: Final = 8
OK, PENDING, FIRING = "ok", "pending", "firing"


def check_rule(rule: AlertConfig) -> str:
    """Return what is wrong with a rule, "" if nothing is; never says the address."""
    if rule.figure not in FIGURES:
        return f"there is no figure {rule.figure!r}; there are {', '.join(FIGURES)}"
    if (rule.above is None) == (rule.below is None):
        return "set one of above and below"
    return _check_url(rule) if rule.webhook else ""


def _check_url(rule: AlertConfig) -> str:
    try:
        url = URL(rule.webhook.reveal())
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        return "webhook is not an address; it begins with https://"
    if rule.allow_private:
        return ""
    if url.scheme != "https":
        return "webhook needs https, unless allow_private is set"
    if url.host == "localhost" or (is_numeric(url.host) and not is_public(url.host)):
        return "webhook is in a private network: set allow_private to use it"
    return ""


class AlertView(Struct, frozen=True):
    """A rule as it is now. `since`: Unix milliseconds of its last change of state.

    `webhook`: whether one is told; `untold`: notices that it never took.
    """

    name: str
    figure: str
    above: float | None
    below: float | None
    seconds: int
    state: str
    value: float
    since: int
    webhook: bool
    untold: int


class Notice(Struct, frozen=True):
    """What a webhook is told. `id` is the same in every try; `state` is "firing" or "ok"."""

    id: str
    server: str
    alert: str
    state: str
    figure: str
    value: float
    above: float | None
    below: float | None
    seconds: int
    at: int


class Alert:
    """One rule and how it stands. Changes only in `look`."""

    def __init__(self, rule: AlertConfig, now_ms: int) -> None:
        self.rule = rule
        self.firing = False
        self.value = 0.0
        self.since_ms = now_ms
        self._turned_at: float | None = None

    @property
    def state(self) -> str:
        """Pending: beyond the bound, and not for long enough."""
        if self.firing:
            return FIRING
        return OK if self._turned_at is None else PENDING

    def look(self, value: float, at: float, now_ms: int) -> bool:
        """Take the figure of a second; True when the alert has begun or ended.

        Args:
            at: monotonic seconds.
        """
        self.value = value
        before = self.state
        turned = self._step(value, at)
        if self.state != before:
            self.since_ms = now_ms
        return turned

    def _step(self, value: float, at: float) -> bool:
        if self._is_beyond(value) == self.firing:
            self._turned_at = None
            return False
        if self._turned_at is None:
            self._turned_at = at
        if at - self._turned_at < self.rule.seconds:
            return False
        self.firing = not self.firing
        self._turned_at = None
        return True

    def _is_beyond(self, value: float) -> bool:
        rule = self.rule
        if rule.above is not None:
            return value > rule.above
        return rule.below is not None and value < rule.below


class Webhook:
    """Tells one receiver, notice by notice in their order. Owns its task.

    Attributes:
        sent, failed, dropped: notices taken, given up, and never tried for want of room.
    """

    def __init__(
        self,
        rule: AlertConfig,
        session: Callable[[bool], aiohttp.ClientSession],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._rule = rule
        self._session = session
        self._sleep = sleep
        self._waiting: deque[Notice] = deque()
        self._task: asyncio.Task[None] | None = None
        self.sent = 0
        self.failed = 0
        self.dropped = 0

    def tell(self, notice: Notice) -> None:
        """Have it told; never waits."""
        if len(self._waiting) >= WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(notice)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def aclose(self) -> None:
        """End it; what was not told by now is not told."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        try:
            while self._waiting:
                notice = self._waiting.popleft()
                if await self._deliver(notice):
                    self.sent += 1
                else:
                    self.failed += 1
                    log.warning("alert.not_told", extra={"alert": notice.alert})
        finally:
            self._task = None

    async def _deliver(self, notice: Notice) -> bool:
        body = msgspec.json.encode(notice)
        for pause_s in (*PAUSES_S, None):
            done = await self._try(body)
            if done is not None:
                return done
            if pause_s is not None:
                # Rules that broke together shall not come again together.
                await self._sleep(pause_s * random.uniform(0.8, 1.2))
        return False

    async def _try(self, body: bytes) -> bool | None:
        """Return whether it was taken; None: worth another try."""
        rule = self._rule
        try:
            async with self._session(rule.allow_private).post(
                rule.webhook.reveal(), data=body, allow_redirects=False
            ) as response:
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            log.info("alert.try_failed", extra={"alert": rule.name, "kind": type(error).__name__})
            return None
        if 200 <= status < 300:
            return True
        log.info("alert.try_refused", extra={"alert": rule.name, "status": status})
        return None if status >= 500 or status in (408, 425, 429) else False


class Alerts:
    """All rules of this process; `look` once a second.

    Args:
        node: name of this process, told with every notice.
        sleep: pauses before tries.
    """

    def __init__(
        self,
        rules: Sequence[AlertConfig],
        node: str,
        now_ms: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._node = node
        self._now_ms = now_ms
        self._alerts = [Alert(rule, now_ms()) for rule in rules]
        self._hooks = {
            rule.name: Webhook(rule, self._session, sleep) for rule in rules if rule.webhook
        }
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self.fired = 0

    def look(self, point: Mapping[str, float], at: float) -> None:
        """Judge the figures of a second.

        Args:
            at: monotonic seconds.
        """
        for alert in self._alerts:
            if alert.look(point[alert.rule.figure], at, self._now_ms()):
                self._changed(alert)

    def views(self) -> list[AlertView]:
        """Return all rules and how they stand, in the order of the settings."""
        return [self._view(alert) for alert in self._alerts]

    def figures(self) -> Iterator[Figure]:
        """Yield what the metrics page shows of this."""
        firing = {alert.rule.name: int(alert.firing) for alert in self._alerts}
        yield Figure("gauge", "alerts_firing", "1 while it fires.", firing, "alert")
        yield Figure("counter", "alerts_fired", "Alerts that began.", self.fired)
        hooks = self._hooks.values()
        told = {
            "sent": sum(hook.sent for hook in hooks),
            "failed": sum(hook.failed for hook in hooks),
            "dropped": sum(hook.dropped for hook in hooks),
        }
        yield Figure("counter", "alert_notices", "Notices to webhooks, by end.", told, "end")

    async def aclose(self) -> None:
        """End all that is under way, and the connections."""
        for hook in self._hooks.values():
            await hook.aclose()
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _view(self, alert: Alert) -> AlertView:
        hook = self._hooks.get(alert.rule.name)
        return AlertView(
            name=alert.rule.name,
            figure=alert.rule.figure,
            above=alert.rule.above,
            below=alert.rule.below,
            seconds=alert.rule.seconds,
            state=alert.state,
            value=round(alert.value, 3),
            since=alert.since_ms,
            webhook=hook is not None,
            untold=hook.failed + hook.dropped if hook is not None else 0,
        )

    def _changed(self, alert: Alert) -> None:
        rule, now_ms = alert.rule, self._now_ms()
        self.fired += alert.firing
        log.log(
            logging.WARNING if alert.firing else logging.INFO,
            "alert.firing" if alert.firing else "alert.over",
            extra={"alert": rule.name, "figure": rule.figure, "value": round(alert.value, 3)},
        )
        hook = self._hooks.get(rule.name)
        if hook is not None:
            state = FIRING if alert.firing else OK
            notice = Notice(
                id=f"{rule.name}-{state}-{now_ms}",
                server=self._node,
                alert=rule.name,
                state=state,
                figure=rule.figure,
                value=round(alert.value, 3),
                above=rule.above,
                below=rule.below,
                seconds=rule.seconds,
                at=now_ms,
            )
            hook.tell(notice)

    def _session(self, allow_private: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(allow_private)
        if session is None:
            resolver = None if allow_private else PublicResolver()
            session = self._sessions[allow_private] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, resolver=resolver),
                timeout=aiohttp.ClientTimeout(total=TRY_S),
                headers={"Content-Type": "application/json", "User-Agent": "parlance"},
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return session
