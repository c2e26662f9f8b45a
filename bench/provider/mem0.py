"""A lean fake of mem0's REST servers: keeps each message as one memory, finds by common letters.

Speaks the open source server (`/memories`, `/search`, `X-API-Key`) and the platform
(`/v1/memories/`, `/v2/memories/`, their searches, `Authorization: Token`), as documented at
docs.mem0.ai in 2026; `server/main.py` of github.com/mem0ai/mem0 where that says nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

MAX_MEMORIES = 10_000
KEPT_REQUESTS = 1_000
OLD_LIMIT = 100
"""What servers list and delete at once that do not know `top_k`."""


class KeptMemory(NamedTuple):
    id: str
    text: str
    metadata: Mapping[str, Any]


class FakeMem0:
    """Serves on a real socket.

    Attributes:
        kept: memories by user.
        requests: (path, body) of the last POSTs.
        calls: ("METHOD /path?query") of all requests but questions for health.
        changed: set whenever a request was answered or given up.
        fault: "" or what goes wrong: "error" (500), "silent" (no answer), "garbage" (no JSON),
            "huge" (an answer without end). Questions for health are answered all the same.
        hold: where set, adding waits for it.
        is_admin: whether the key may delete all of a user's memories at once.
        is_old: `top_k` of a list is not known.
    """

    def __init__(self, *, key: str = "") -> None:
        self.kept: dict[str, list[KeptMemory]] = {}
        self.requests: deque[tuple[str, dict[str, Any]]] = deque(maxlen=KEPT_REQUESTS)
        self.calls: deque[str] = deque(maxlen=KEPT_REQUESTS)
        self.changed = asyncio.Event()
        self.fault = ""
        self.hold: asyncio.Event | None = None
        self.is_admin = True
        self.is_old = False
        self._ids = itertools.count(1)
        self._key = key
        self._runner: web.AppRunner | None = None
        self.base_url = ""

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> None:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", _welcome)
        app.router.add_get("/v1/ping/", _ping)
        app.router.add_post("/search", self._search)
        app.router.add_post("/v1/memories/search/", self._search)
        app.router.add_post("/v2/memories/search/", self._search)
        for path in ("/memories", "/v1/memories/"):
            app.router.add_post(path, self._add)
            app.router.add_get(path, self._list)
            app.router.add_delete(path, self._delete_all)
        app.router.add_post("/v2/memories/", self._list)
        app.router.add_delete("/memories/{id}", self._delete)
        app.router.add_delete("/v1/memories/{id}/", self._delete)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self.base_url = f"http://{host}:{self._runner.addresses[0][1]}"

    async def aclose(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until what was asked of it is as wanted."""
        async with asyncio.timeout(5):
            while not is_so():
                self.changed.clear()
                await self.changed.wait()

    def asked(self, path: str) -> list[dict[str, Any]]:
        return [body for asked, body in self.requests if asked == path]

    @property
    def memories(self) -> dict[str, list[str]]:
        """Return the texts of those who have any, by user."""
        return {user: [one.text for one in kept] for user, kept in self.kept.items() if kept}

    def put(self, user: str, text: str, metadata: Mapping[str, Any] | None = None) -> KeptMemory:
        """Keep one memory."""
        made = KeptMemory(f"mem-{next(self._ids)}", text, dict(metadata or {}))
        kept = self.kept.setdefault(user, [])
        kept.append(made)
        del kept[:-MAX_MEMORIES]
        return made

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        platform = request.path.startswith("/v")
        shown = request.headers.get("authorization" if platform else "x-api-key", "")
        if self._key and shown != (f"Token {self._key}" if platform else self._key):
            return web.json_response({"detail": "Invalid API key."}, status=401)
        try:
            if request.path not in ("/", "/v1/ping/"):
                self.calls.append(f"{request.method} {request.path_qs}")
                if request.method == "POST":
                    self.requests.append((request.path, await _body(request)))
                if self.fault:
                    return await self._fail(request)
            response: web.StreamResponse = await handler(request)
            return response
        finally:
            self.changed.set()

    async def _fail(self, request: web.Request) -> web.StreamResponse:
        self.changed.set()
        if self.fault == "silent":
            await asyncio.Event().wait()
        if self.fault == "garbage":
            return web.Response(text="<html>")
        if self.fault == "huge":
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b" " * 65_536)
        return web.json_response({"detail": "secret-text"}, status=500)

    async def _add(self, request: web.Request) -> web.Response:
        body = await _body(request)
        user = body.get("user_id")
        if not user:
            return _no_user()
        self.changed.set()
        if self.hold is not None:
            await self.hold.wait()
        made = [self.put(user, one["content"], body.get("metadata")) for one in body["messages"]]
        results = [{"id": one.id, "memory": one.text, "event": "ADD"} for one in made]
        return web.json_response({"results": results})

    async def _search(self, request: web.Request) -> web.Response:
        path, body = request.path, await _body(request)
        told = _told(body)
        user = told.get("user_id") if path.startswith("/v2") else body.get("user_id")
        if not user:
            return _no_user()
        wanted = {name: value for name, value in told.items() if name != "user_id"}
        fitting = [
            one
            for one in self.kept.get(user, [])
            if all(one.metadata.get(name) == value for name, value in wanted.items())
        ]
        fitting.sort(key=lambda one: -len(set(one.text) & set(body["query"])))
        results = [_shown(user, one) for one in fitting[: body.get("top_k", 10)]]
        return web.json_response(results if path.startswith("/v1") else {"results": results})

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        posted = request.method == "POST"
        user = _told(await _body(request)).get("user_id") if posted else query.get("user_id")
        if not user:
            return _no_user()
        shown = [_shown(user, one) for one in self.kept.get(user, [])]
        if not request.path.startswith("/v"):
            top_k = OLD_LIMIT if self.is_old else int(query.get("top_k", 20))
            return web.json_response({"results": shown[:top_k]})
        size, page = int(query.get("page_size", 100)), int(query.get("page", 1))
        part = shown[(page - 1) * size : page * size]
        answer = {"count": len(shown), "next": None, "previous": None, "results": part}
        return web.json_response(answer if posted else part)

    async def _delete_all(self, request: web.Request) -> web.Response:
        user = request.query.get("user_id")
        if not user:
            return _no_user()
        if not self.is_admin:
            return web.json_response({"detail": "Admin role required."}, status=403)
        del self.kept.get(user, [])[: OLD_LIMIT if self.is_old else MAX_MEMORIES]
        return web.json_response({"message": "All relevant memories deleted"})

    async def _delete(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        for kept in self.kept.values():
            for one in kept:
                if one.id == id:
                    kept.remove(one)
                    platform = request.path.startswith("/v")
                    return web.Response(status=204) if platform else _deleted()
        return web.json_response({"detail": "Memory not found"}, status=404)


async def _body(request: web.Request) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(await request.read())
    return body


def _told(body: dict[str, Any]) -> dict[str, Any]:
    """Return the filters of a request, flat: what AND joins, and what stands in metadata."""
    filters = body.get("filters") or {}
    told: dict[str, Any] = {}
    for one in (*filters.get("AND", [filters]), {"metadata": body.get("metadata") or {}}):
        told |= {name: value for name, value in one.items() if name != "metadata"}
        told |= one.get("metadata", {})
    return told


def _shown(user: str, one: KeptMemory) -> dict[str, Any]:
    shown = {"id": one.id, "memory": one.text, "user_id": user, "metadata": dict(one.metadata)}
    return shown | {"score": 0.9}


def _no_user() -> web.Response:
    return web.json_response({"detail": "At least one identifier is required."}, status=400)


def _deleted() -> web.Response:
    return web.json_response({"message": "Memory deleted successfully"})


async def _welcome(_request: web.Request) -> web.Response:
    raise web.HTTPTemporaryRedirect("/docs")


async def _ping(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})
