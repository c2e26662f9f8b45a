"""The HTTP application, joined; and the protocol factory that the one port hands connections to."""

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from protocol.codes import Code
from server.http import (
    accounts_routes,
    admin_budget_routes,
    admin_price_routes,
    admin_provider_routes,
    admin_routes,
    avatars,
    chat_routes,
    conversation_routes,
    dashboard,
    dashboard_routes,
    engine_routes,
    health,
    me_routes,
    memory_routes,
    message_routes,
    openai_routes,
    openapi,
    page,
    persona_routes,
    search_routes,
    speech_routes,
    static,
    test_page,
    tool_pages,
    turn_routes,
    usage_routes,
)
from server.http.callers import CALLERS
from server.http.context import PARTS, HttpParts
from server.http.guard import Crowd, ServerHandler
from server.http.middleware import cors, set_hsts, trace
from server.http.repeats import REPEATS, Repeats
from server.metrics import (
    CoreFigures,
    Metrics,
    Source,
    bridge_figures,
    core_figures,
    store_figures,
)
from server.talk_figures import talk_figures
from server.tool_figures import tool_figures
from server.version import VERSION

if TYPE_CHECKING:
    from server.core import Core

__all__ = ["HttpParts", "HttpServer"]

_SUBJECTS: Final = (
    page,
    health,
    accounts_routes,
    avatars,
    persona_routes,
    engine_routes,
    memory_routes,
    me_routes,
    conversation_routes,
    message_routes,
    search_routes,
    turn_routes,
    chat_routes,
    openai_routes,
    usage_routes,
    speech_routes,
    test_page,
    dashboard_routes,
    tool_pages,
    admin_routes,
    admin_budget_routes,
    admin_price_routes,
    admin_provider_routes,
    openapi,
)


class HttpServer:
    """Serves connections whose first byte says HTTP; owns no listener.

    Use `factory` from `start` to `stop`: hand the protocol its transport by `set_protocol`, then
    call its `connection_made` and `data_received` with what was read already.
    """

    def __init__(self, parts: HttpParts) -> None:
        self._parts = parts
        app = build_application(parts)
        self._callers = app[CALLERS]
        self._crowd = Crowd()
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=2.0
        )

    async def start(self) -> None:
        """Make the application ready."""
        await self._runner.setup()
        self._parts.accounts.revoked = self._end_sessions
        self._parts.core.erasures.revoked = self._end_sessions
        self._parts.accounts.signed_out = self._callers.forget_user
        self._parts.core.devices.signed_out = self._callers.forget_user

    async def stop(self) -> None:
        """Finish the requests in progress, for two seconds at most, and close connections."""
        await self._runner.cleanup()

    def factory(self) -> asyncio.Protocol:
        """Return the protocol for one more connection."""
        server = self._runner.server
        assert server is not None, "start comes first"
        limits = self._parts.config.limits
        return ServerHandler(
            server,
            loop=asyncio.get_running_loop(),
            header_s=limits.http_header_s,
            stats=self._parts.core.stats,
            others=self._crowd,
            keepalive_timeout=limits.http_keepalive_s,
        )

    def make_room(self) -> bool:
        """Close an idle connection for a new one; False when there is none."""
        made = self._crowd.make_room()
        self._parts.core.stats.idle_closed_http += made
        return made

    def _end_sessions(self, user: int) -> None:
        self._callers.forget_user(user)
        for session in self._parts.core.hub.sessions_of(user):
            session.bye(Code.REVOKED, "signed out everywhere", -1)


def build_application(parts: HttpParts) -> web.Application:
    """Return the application with all routes of the server."""
    app = web.Application(
        middlewares=[trace, cors], client_max_size=parts.config.limits.http_body_bytes
    )
    app[PARTS] = parts
    app[openapi.DOCUMENT] = openapi.Document()
    app[REPEATS] = Repeats(parts.clock)
    app[persona_routes.GATE] = persona_routes.CardGate(parts.clock)
    app[search_routes.GATE] = search_routes.SearchGate()
    app[health.CHECK] = health.HealthCheck(parts, parts.clock)
    openai_routes.install(app, parts)
    static.install(app)
    dashboard.install(app, parts)
    app[health.METRICS] = build_metrics(
        parts,
        app[openai_routes.ASKING].figures,
        app[dashboard.DASHBOARD].figures,
        app[REPEATS].figures,
        app[search_routes.GATE].figures,
    )
    set_hsts(app, bool(parts.config.server.tls_cert))
    for subject in _SUBJECTS:
        app.router.add_routes(subject.routes())
    return app


def build_metrics(parts: HttpParts, *more: Source) -> Metrics:
    """Return the page of figures of one server."""
    core = parts.core
    sources = [
        core_figures(lambda: _read_core(core)),
        store_figures(core.store.stats),
        bridge_figures(core.bridge.stats),
        lambda: talk_figures(core),
        lambda: tool_figures(core),
        core.memories.figures,
        core.erasures.figures,
        core.speech.figures,
        core.usage.figures,
        *((core.embedder.figures,) if core.embedder is not None else ()),
        core.engines.figures,
        parts.lag.figures,
        *more,
    ]
    return Metrics(sources, VERSION)


def _read_core(core: "Core") -> CoreFigures:
    stats, flusher = core.stats, core.flusher
    return CoreFigures(
        connections=stats.connections,
        sessions=core.hub.size,
        strangers=core.strangers.open,
        strangers_refused=core.strangers.refused,
        frames_in={kind.__name__: row.count for kind, row in core.router.handlers.items()},
        frames_out=flusher.frames_out,
        pushes=core.hub.pushes,
        bytes_out=flusher.bytes_out,
        writes=flusher.writes,
        outbox_bytes=flusher.backlog_bytes,
        outbox_dropped=flusher.dropped_frames,
        outbox_resyncs=flusher.resyncs,
        slow_closed=flusher.slow_closed,
        errors=stats.errors,
        closes=stats.closes,
        turns_running=core.bridge.running,
        turns_queued=core.bridge.queued,
        streams=len(core.streams),
        stream_deltas=core.streams.deltas,
        messages=stats.messages,
        sign_ins=stats.sign_ins,
        refused_rate=stats.refused_rate,
        refused_http=stats.refused_http,
        idle_closed_http=stats.idle_closed_http,
        marks_dropped=core.marks.dropped,
    )
