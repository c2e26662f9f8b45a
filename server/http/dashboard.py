"""What a dashboard shows, made once a second for all who watch it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import WSCloseCode, web
from msgspec import Struct

from protocol.codes import Code
from protocol.websocket import TEXT, encode_frame
from server.alerts import Alerts, AlertView
from server.errors import ServiceError, invalid
from server.http.context import HttpParts
from server.metrics import Figure, Spread
from server.sampler import EndedTurn, Point, Sampler, read_process, request_figures

if TYPE_CHECKING:
    from server.core import Core

MAX_VIEWERS: Final = 100
"""Open /ws/dashboard; each costs one write a second."""
FIRST_POINTS: Final = 30
RECENT: Final = 10
STALLED: Final = 30
"""A viewer that could take nothing for so many seconds is closed."""
EVERYBODY: Final = 0
"""In place of a tenant: the answers of all."""


class Statistics(Struct):
    """Totals since the start, and times and hit rates of the last ten seconds."""

    total_requests: int
    total_messages: int
    total_errors: int
    total_answers: int
    total_answers_failed: int
    total_tokens: int
    average_response_time_ms: float
    p50_response_time_ms: float
    p95_response_time_ms: float
    p99_response_time_ms: float
    cache_hit_rate: float
    viewers: int


class MemoryUsage(Struct):
    rss_bytes: int
    history_bytes: int


class Realtime(Struct, tag="realtime"):
    """What is told once a second. `cpu_usage` is in percent of one core."""

    timestamp: str
    recent_requests: list[EndedTurn]
    statistics: Statistics
    memory_usage: MemoryUsage
    cpu_usage: float
    point: dict[str, float]
    alerts: list[AlertView]


class Points(Struct, tag="history"):
    """Points of a ring, oldest first; `fields` names their numbers."""

    bucket: str
    fields: tuple[str, ...]
    points: list[list[float]]


class Viewer:
    """One open /ws/dashboard.

    Writes go to the transport as they are, so that all viewers share the bytes of a frame.
    """

    __slots__ = ("_behind", "_transport", "tenant", "ws")

    def __init__(
        self, ws: web.WebSocketResponse, transport: asyncio.Transport, tenant: int
    ) -> None:
        self.ws = ws
        self.tenant = tenant
        self._transport = transport
        self._behind = 0

    def show(self, frame: bytes) -> bool:
        """Write a frame; False when an earlier one is still on its way: this one is left out."""
        transport = self._transport
        if self.ws.closed or transport.is_closing():
            return True
        if transport.get_write_buffer_size():
            self._behind += 1
            if self._behind >= STALLED:
                transport.abort()
            return False
        self._behind = 0
        transport.write(frame)
        return True


class Dashboard:
    """The sampler of the process, its alerts, and who watches.

    Attributes:
        encoded: frames that were made; one a second for all who see the same.
        skipped: frames that a slow viewer was not sent; refused: viewers one too many.
    """

    def __init__(self, parts: HttpParts) -> None:
        self._core: Core = parts.core
        self.sampler = Sampler(read_process(parts.core, parts.lag), parts.core.now_ms)
        node = parts.config.server.node or socket.gethostname()
        self.alerts = Alerts(parts.config.metrics.alerts, node, parts.core.now_ms)
        self.sampler.told += [self._judge, self._show]
        self.viewers: set[Viewer] = set()
        self.encoded = 0
        self.skipped = 0
        self.refused = 0
        self._bodies: dict[int, bytes] = {}
        self._histories: dict[str, tuple[int, bytes]] = {}

    async def running(self, app: web.Application) -> AsyncIterator[None]:
        """Look once a second while the application runs."""
        self._core.bridge.on_end = self.sampler.note_turn
        self.sampler.start(asyncio.get_running_loop())
        yield
        self.sampler.close()
        await self.alerts.aclose()

    async def close_viewers(self, app: web.Application) -> None:
        """Send everybody away: the server stops."""
        closing = (viewer.ws.close(code=WSCloseCode.GOING_AWAY) for viewer in self.viewers)
        await asyncio.gather(*closing, return_exceptions=True)

    def body(self, tenant: int) -> bytes:
        """Return what a tenant (0: everybody) is told this second; made once."""
        body = self._bodies.get(tenant)
        if body is None:
            self.encoded += 1
            body = self._bodies[tenant] = msgspec.json.encode(self._realtime(tenant))
        return body

    def history(self, bucket: str) -> bytes:
        """Return a whole ring; made once for each new point.

        Raises:
            ServiceError: INVALID, there is no such ring.
        """
        ring = self.sampler.rings.get(bucket)
        if ring is None:
            names = ", ".join(self.sampler.rings)
            raise invalid("bucket", f"`bucket` is one of {names}.")
        made = self._histories.get(bucket)
        if made is None or made[0] != ring.added:
            made = ring.added, self.points(bucket, ring.capacity)
            self._histories[bucket] = made
        return made[1]

    def points(self, bucket: str, count: int) -> bytes:
        """Return the newest points of a ring."""
        rows = self.sampler.rings[bucket].last(count)
        return msgspec.json.encode(Points(bucket, Point._fields, rows))

    def recent(self, tenant: int) -> list[EndedTurn]:
        """Return the AI answers that ended last, newest first, of a tenant (0: of all)."""
        ended = reversed(self.sampler.recent)
        return [one for one in ended if tenant in (EVERYBODY, one.tenant)]

    @contextlib.contextmanager
    def watched_by(self, viewer: Viewer) -> Iterator[None]:
        """Show a viewer every second what there is, beginning with the last half minute.

        Raises:
            ServiceError: OVERLOADED, there are too many.
        """
        if len(self.viewers) >= MAX_VIEWERS:
            self.refused += 1
            raise ServiceError(Code.OVERLOADED, "too many viewers", "Close another dashboard.")
        viewer.show(encode_frame(TEXT, self.points("1s", FIRST_POINTS)))
        self.viewers.add(viewer)
        try:
            yield
        finally:
            self.viewers.discard(viewer)

    def figures(self) -> Iterator[Figure | Spread]:
        """Yield what the metrics page shows of all this."""
        yield from request_figures(self._core)
        yield from self.sampler.figures()
        yield from self.alerts.figures()
        yield Figure("gauge", "dashboard_viewers", "Open dashboards.", len(self.viewers))
        yield Figure("counter", "dashboard_refused", "Dashboards one too many.", self.refused)
        yield Figure("counter", "dashboard_frames", "Frames made for dashboards.", self.encoded)
        yield Figure("counter", "dashboard_skipped", "Frames slow viewers missed.", self.skipped)

    def _judge(self) -> None:
        self.alerts.look(self.sampler.point._asdict(), self.sampler.last.at)

    def _show(self) -> None:
        self._bodies.clear()
        frames: dict[int, bytes] = {}
        for viewer in self.viewers:
            frame = frames.get(viewer.tenant)
            if frame is None:
                frame = frames[viewer.tenant] = encode_frame(TEXT, self.body(viewer.tenant))
            self.skipped += not viewer.show(frame)

    def _realtime(self, tenant: int) -> Realtime:
        sampler = self.sampler
        last, point = sampler.last, sampler.point
        return Realtime(
            timestamp=datetime.fromtimestamp(last.time_ms / 1000, UTC).isoformat(),
            recent_requests=self.recent(tenant)[:RECENT],
            statistics=self._statistics(),
            memory_usage=MemoryUsage(int(last.levels.rss_bytes), sampler.size_bytes),
            cpu_usage=round(point.cpu_percent, 1),
            point={name: round(value, 3) for name, value in point._asdict().items()},
            alerts=self.alerts.views(),
        )

    def _statistics(self) -> Statistics:
        totals, point = self.sampler.last.totals, self.sampler.point
        return Statistics(
            total_requests=int(totals.requests),
            total_messages=int(totals.messages),
            total_errors=int(totals.errors),
            total_answers=int(totals.answers),
            total_answers_failed=int(totals.answers_failed),
            total_tokens=int(totals.tokens),
            average_response_time_ms=round(point.mean_ms, 3),
            p50_response_time_ms=round(point.p50_ms, 3),
            p95_response_time_ms=round(point.p95_ms, 3),
            p99_response_time_ms=round(point.p99_ms, 3),
            cache_hit_rate=round(point.conversation_hit_rate, 3),
            viewers=len(self.viewers),
        )


DASHBOARD: Final = web.AppKey("dashboard", Dashboard)


def install(app: web.Application, parts: HttpParts) -> None:
    """Make the dashboard of the process; it runs while the application does."""
    dashboard = app[DASHBOARD] = Dashboard(parts)
    app.cleanup_ctx.append(dashboard.running)
    app.on_shutdown.append(dashboard.close_viewers)
