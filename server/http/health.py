"""Is it alive, is it ready, how is it: three questions with three answers; and the figures."""

from collections.abc import Callable
from typing import Any, Final

from aiohttp import web
from msgspec import Struct

from server.http.bodies import json_response
from server.http.context import HttpParts, bearer_of, is_local, parts_of
from server.http.errors import HttpRefusal
from server.metrics import Metrics
from server.version import VERSION
from storage.rows import StoreHealth

METRICS: Final = web.AppKey("metrics", Metrics)

_REMEMBER_S: Final = 1.0


class Health(Struct, omit_defaults=True):
    """The answer of /health. `status` is ok, degraded (no AI engine works) or down."""

    status: str
    database: str
    engines: dict[str, str]
    version: str
    uptime: int
    store: dict[str, Any] = {}
    draining: bool = False


class HealthCheck:
    """Asks the database at most once a second, however often it is asked itself.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, parts: HttpParts, clock: Callable[[], float]) -> None:
        self._parts = parts
        self._clock = clock
        self._started = clock()
        self._asked_at = 0.0
        self._answer: StoreHealth | None = None

    async def store(self) -> StoreHealth:
        """Return how the database is, at most a second old."""
        now = self._clock()
        if self._answer is None or now - self._asked_at >= _REMEMBER_S:
            self._answer = await self._parts.core.store.health()
            self._asked_at = self._clock()
        return self._answer

    async def full(self, detailed: bool) -> Health:
        """Return everything; details of the store only for the machine itself."""
        store = await self.store()
        core = self._parts.core
        engines = {
            name: "ok" if state.get("ok") else "failing"
            for name, state in core.bridge.health().items()
        }
        lame = engines and "ok" not in engines.values()
        return Health(
            status="down" if not store.ok else "degraded" if lame else "ok",
            database="connected" if store.ok else "disconnected",
            engines=engines,
            version=VERSION,
            uptime=int(self._clock() - self._started),
            store=_details(store) if detailed else {},
            draining=core.draining,
        )


def _details(store: StoreHealth) -> dict[str, Any]:
    return {
        "engine": store.engine,
        "version": store.version,
        "durable": store.durable,
        "queue_rows": store.queue_rows,
        "queue_bytes": store.queue_bytes,
        "oldest_ms": store.oldest_ms,
        "detail": store.detail,
    }


CHECK: Final = web.AppKey("check", HealthCheck)


async def _health(request: web.Request) -> web.Response:
    health = await request.app[CHECK].full(is_local(request))
    return json_response(health, status=503 if health.status == "down" else 200)


async def _live(request: web.Request) -> web.Response:
    """The loop runs, that is all: a restart would help if it did not."""
    return json_response({"status": "live"})


async def _ready(request: web.Request) -> web.Response:
    """Whether a load balancer should send people here."""
    if parts_of(request).core.draining:
        raise HttpRefusal(503, "draining", "The server is about to stop; use another.")
    if not (await request.app[CHECK].store()).ok:
        raise HttpRefusal(503, "database unavailable", "The database does not answer; try later.")
    return json_response({"status": "ready"})


async def _metrics(request: web.Request) -> web.Response:
    parts = parts_of(request)
    if not parts.config.metrics.public and not is_local(request):
        await parts.accounts.api_keys.require(bearer_of(request), "metrics")
    metrics = request.app[METRICS]
    return web.Response(
        body=metrics.render(),
        headers={"Content-Type": metrics.content_type, "Cache-Control": "no-store"},
    )


def routes() -> list[web.RouteDef]:
    """Return the routes of this file; the application needs `CHECK` and `METRICS`."""
    return [
        web.get("/health", _health),
        web.get("/health/live", _live),
        web.get("/health/ready", _ready),
        web.get("/metrics", _metrics),
    ]
