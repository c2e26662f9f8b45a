"""A lean fake of mem0's REST servers: keeps each message as one memory, finds by common letters.

Speaks the open source server (`POST /memories`, `POST /search`, `X-API-Key`) and the platform
(`POST /v1/memories/`, `/v1/memories/search/`, `/v2/memories/search/`, `Authorization: Token`),
as documented at docs.mem0.ai in 2026.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

MAX_MEMORIES = 10_000
KEPT_REQUESTS = 200


class FakeMem0:
    """Serves on a real socket.

    Attributes:
        memories: texts by user.
        requests: (path, body) of the last ones.
        changed: set whenever a request was answered or given up.
        fault: "" or what goes wrong: "error" (500), "silent" (no answer), "garbage" (no JSON),
            "huge" (an answer without end).
    """

    def __init__(self, *, key: str = "") -> None:
        self.memories: dict[str, list[str]] = {}
        self.requests: deque[tuple[str, dict[str, Any]]] = deque(maxlen=KEPT_REQUESTS)
        self.changed = asyncio.Event()
        self.fault = ""
        self._key = key
        self._runner: web.AppRunner | None = None
        self.base_url = ""

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> None:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", _welcome)
        app.router.add_get("/v1/ping/", _ping)
        app.router.add_post("/memories", self._add)
        app.router.add_post("/search", self._search)
        app.router.add_post("/v1/memories/", self._add)
        app.router.add_post("/v1/memories/search/", self._search)
        app.router.add_post("/v2/memories/search/", self._search)
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

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        platform = request.path.startswith("/v")
        shown = request.headers.get("authorization" if platform else "x-api-key", "")
        if self._key and shown != (f"Token {self._key}" if platform else self._key):
            return web.json_response({"detail": "Invalid API key."}, status=401)
        try:
            if request.method == "POST":
                body = msgspec.json.decode(await request.read())
                self.requests.append((request.path, body))
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
        _, body = self.requests[-1]
        user = body.get("user_id")
        if not user:
            return web.json_response({"detail": "At least one identifier"}, status=400)
        texts = self.memories.setdefault(str(user), [])
        texts += [message["content"] for message in body["messages"]]
        del texts[:-MAX_MEMORIES]
        results = [{"id": str(len(texts)), "memory": texts[-1], "event": "ADD"}]
        return web.json_response({"results": results})

    async def _search(self, request: web.Request) -> web.Response:
        path, body = self.requests[-1]
        filters = body.get("filters") or {}
        told = filters["AND"][0] if "AND" in filters else filters
        user = told.get("user_id") if path.startswith("/v2") else body.get("user_id")
        if not user:
            return web.json_response({"detail": "At least one identifier"}, status=400)
        texts = self.memories.get(str(user), [])
        ranked = sorted(texts, key=lambda text: -len(set(text) & set(body["query"])))
        results = [
            {"id": str(number), "memory": text, "score": 0.9}
            for number, text in enumerate(ranked[: body.get("top_k", 10)])
        ]
        plain = path.startswith("/v1")
        return web.json_response(results if plain else {"results": results})


async def _welcome(_request: web.Request) -> web.Response:
    raise web.HTTPTemporaryRedirect("/docs")


async def _ping(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})
