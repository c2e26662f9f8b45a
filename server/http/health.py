"""Is it alive, is it ready, how is it: three questions with three answers; and the figures."""

from collections.abc import Callable
from typing import Any, Final

from aiohttp import web
from msgspec import Struct

from server.http.bodies import json_response
from server.http.context import HttpParts, bearer_of, is_local
from server.http.errors import HttpRefusal
from server.http.typed import Api, Call, Media
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


class State(Struct):
    status: str


api = Api("health")


@api.route("GET", "/health", "Tell how the server is", answers={200: Health, 503: Health})
async def _health(call: Call[None, None, None]) -> web.Response:
    """503 when the database is gone. Details of the store only for the machine itself."""
    health = await call.request.app[CHECK].full(is_local(call.request))
    return json_response(health, status=503 if health.status == "down" else 200)


@api.route("GET", "/health/live", "Tell whether a restart would help")
async def _live(call: Call[None, None, None]) -> State:
    """The loop runs, that is all: a restart would help if it did not."""
    return State("live")


@api.route("GET", "/health/ready", "Tell whether people should be sent here")
async def _ready(call: Call[None, None, None]) -> State:
    """For a load balancer: 503 says to use another server."""
    if call.core.draining:
        raise HttpRefusal(503, "draining", "The server is about to stop; use another.")
    if not (await call.request.app[CHECK].store()).ok:
        raise HttpRefusal(503, "database unavailable", "The database does not answer; try later.")
    return State("ready")


@api.route(
    "GET",
    "/metrics",
    "Get the figures in the format of Prometheus",
    answers={200: Media("text/plain")},
    errors=(401,),
)
async def _metrics(call: Call[None, None, None]) -> web.Response:
    """From other machines with a key of the scope `metrics`, unless `metrics.public` is set."""
    parts, request = call.parts, call.request
    if not parts.config.metrics.public and not is_local(request):
        await parts.accounts.api_keys.require(bearer_of(request), "metrics")
    metrics = request.app[METRICS]
    return web.Response(
        body=metrics.render(),
        headers={"Content-Type": metrics.content_type, "Cache-Control": "no-store"},
    )


def routes() -> list[web.RouteDef]:
    """Return the routes of this file; the application needs `CHECK` and `METRICS`."""
    return api.routes()
