"""The engine whose memory is a mem0 server: answers as its inner engine does.

Before a turn it searches what is known of the person, after it the server learns from what the
person wrote; never from the answer, which would teach it its own inventions. The server is a
help, not a need: whatever it does, the turn goes on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import aiohttp
import msgspec
from msgspec import Struct, structs

from ai_bridge.engines.base import Engine, EngineInfo, Job
from ai_bridge.run import TurnRun
from ai_bridge.secrets import Secret
from ai_bridge.stats import SlotGauge
from ai_bridge.types import ModelInfo, Outcome, Priority, Role, TurnRequest
from protocol.codes import EndReason

log = logging.getLogger("parlance.ai")

MEM0_PROXY = EngineInfo("mem0_proxy", ("mem0", "tools", "personality"))

CONNECT_S = 2.0
HEALTH_S = 3.0
MAX_ANSWER_BYTES = 1024 * 1024
MAX_QUERY_CHARS = 2_000
MAX_MESSAGE_CHARS = 20_000
MAX_MEMORY_CHARS = 1_000
MAX_ADDING = 64
"""Messages on their way to the server; further ones are not learnt from."""
CLOSE_S = 5.0
PAUSE_AFTER_FAILURES = 3
PAUSE_S = 30.0
CACHE_S = 60.0
MAX_CACHED_PEOPLE = 500
MAX_CACHED_QUERIES = 8


class Mem0Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One mem0 server.

    `api`: "oss" is the REST server of mem0's repository (no /v1 in its paths), "v1" and "v2" the
    platform at https://api.mem0.ai, which differ in how they search. `base_url` ends before the
    paths. `search_s` is what a turn waits at most before it begins.
    """

    base_url: str
    api: Literal["oss", "v1", "v2"] = "oss"
    api_key: Secret = msgspec.field(default_factory=Secret)
    search_s: float = 1.0
    add_s: float = 30.0
    top_k: int = 8


class Mem0Stats(Struct):
    """Counters since the start."""

    searched: int = 0
    cached: int = 0
    added: int = 0
    failed: int = 0
    skipped: int = 0
    """Not asked: the server had failed several times just before."""
    dropped: int = 0
    """Not learnt from: too much was on its way."""


class Mem0Failure(Exception):
    """The server could not be used; the text is a constant word."""


class Mem0Client:
    """Speaks to one server. Owns its connections, a small cache and the pause after failures.

    Paths and bodies: docs.mem0.ai, "REST API Server" for the open source server and "API
    Reference" for the platform. Entities are told by `user_id` alone: the platform keeps what was
    added with a user and an agent under each of them, so that a search for both finds nothing.
    """

    def __init__(self, config: Mem0Config, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.stats = Mem0Stats()
        self._config = config
        self._clock = clock
        self._http: aiohttp.ClientSession | None = None
        self._failures = 0
        self._paused_until = 0.0
        self._cache: OrderedDict[str, dict[str, tuple[float, tuple[str, ...]]]] = OrderedDict()

    async def search(self, user_id: str, query: str) -> tuple[str, ...]:
        """Return what is known that fits the query, the best first; nothing if that fails."""
        query = query.strip()[:MAX_QUERY_CHARS]
        if not query:
            return ()
        cached = self._cached(user_id, query)
        if cached is not None:
            self.stats.cached += 1
            return cached
        path, body = self._search_call(user_id, query)
        value = await self._ask(path, body, self._config.search_s)
        if value is None:
            return ()
        self.stats.searched += 1
        found = _memories(value)[: self._config.top_k]
        self._remember(user_id, query, found)
        return found

    async def add(self, user_id: str, text: str, metadata: dict[str, Any]) -> bool:
        """Let the server learn from what a person wrote; False if that fails."""
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": text[:MAX_MESSAGE_CHARS]}],
            "user_id": user_id,
            "metadata": metadata,
        }
        if self._config.api == "oss":
            path = "/memories"
        else:
            path = "/v1/memories/"
            body |= {"version": "v2", "output_format": "v1.1"}
        done = await self._ask(path, body, self._config.add_s) is not None
        self._cache.pop(user_id, None)  # also if it failed: it may have arrived
        self.stats.added += done
        return done

    async def complaint(self) -> str:
        """Ask the server whether it is there; return what is wrong, "" for nothing."""
        path = "/" if self._config.api == "oss" else "/v1/ping/"
        try:
            async with (
                asyncio.timeout(HEALTH_S),
                self._session().get(self._url(path), allow_redirects=False) as response,
            ):
                status = response.status
        except (TimeoutError, aiohttp.ClientError, OSError):
            return "The mem0 server does not answer. See that it runs at ai.mem0_url."
        if status in (401, 403):
            return "The mem0 server does not accept the key. Correct ai.mem0_key."
        if status >= 400:
            return f"The mem0 server answers with HTTP {status}. Check ai.mem0_url and ai.mem0_api."
        return ""

    async def aclose(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    # --- calls -------------------------------------------------------------------------------

    def _search_call(self, user_id: str, query: str) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"query": query, "top_k": self._config.top_k}
        if self._config.api == "v2":
            return "/v2/memories/search/", body | {"filters": {"AND": [{"user_id": user_id}]}}
        if self._config.api == "v1":
            return "/v1/memories/search/", body | {"user_id": user_id}
        # Older servers want the field, newer ones the filter; each ignores the other.
        return "/search", body | {"user_id": user_id, "filters": {"user_id": user_id}}

    async def _ask(self, path: str, body: dict[str, Any], deadline_s: float) -> Any:
        """Return what the server answers, None if it cannot be used now."""
        if self._clock() < self._paused_until:
            self.stats.skipped += 1
            return None
        try:
            async with asyncio.timeout(deadline_s):
                value = await self._post(path, body)
        except (Mem0Failure, TimeoutError, aiohttp.ClientError, OSError) as failure:
            self._note_failure(failure)
            return None
        self._failures = 0
        return value

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        # Python's encoder writes lone surrogates as escapes, which people's texts may hold.
        data = json.dumps(body).encode()
        async with self._session().post(
            self._url(path), data=data, allow_redirects=False
        ) as response:
            if response.status not in (200, 201, 202):
                raise Mem0Failure(f"http_{response.status}")
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > MAX_ANSWER_BYTES:
                    raise Mem0Failure("too_large")
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            raise Mem0Failure("not_json") from None

    def _note_failure(self, failure: Exception) -> None:
        self.stats.failed += 1
        self._failures += 1
        word = str(failure) if isinstance(failure, Mem0Failure) else type(failure).__name__
        log.info("mem0.failed", extra={"kind": word, "in_row": self._failures})
        if self._failures >= PAUSE_AFTER_FAILURES:
            self._failures = 0
            self._paused_until = self._clock() + PAUSE_S

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            headers = {"content-type": "application/json"}
            if key := self._config.api_key.reveal():
                if self._config.api == "oss":
                    headers["x-api-key"] = key
                else:
                    headers["authorization"] = f"Token {key}"
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_ADDING * 2, ttl_dns_cache=300),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._http

    def _url(self, path: str) -> str:
        return self._config.base_url.rstrip("/") + path

    # --- cache -------------------------------------------------------------------------------

    def _cached(self, user_id: str, query: str) -> tuple[str, ...] | None:
        known = self._cache.get(user_id, {}).get(query)
        return known[1] if known is not None and self._clock() - known[0] < CACHE_S else None

    def _remember(self, user_id: str, query: str, found: tuple[str, ...]) -> None:
        known = self._cache.setdefault(user_id, {})
        self._cache.move_to_end(user_id)
        known.pop(query, None)
        known[query] = (self._clock(), found)
        if len(known) > MAX_CACHED_QUERIES:
            del known[next(iter(known))]
        if len(self._cache) > MAX_CACHED_PEOPLE:
            self._cache.popitem(last=False)


class Mem0Proxy:
    """An engine around another one, which it neither starts nor closes."""

    def __init__(
        self, inner: Engine, config: Mem0Config, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.inner = inner
        self.memory = Mem0Client(config, clock=clock)
        self._adding: set[asyncio.Task[Any]] = set()

    def check(self, request: TurnRequest) -> None:
        self.inner.check(request)

    def has_room(self, request: TurnRequest) -> bool:
        return self.inner.has_room(request)

    def is_closed(self, request: TurnRequest) -> bool:
        return self.inner.is_closed(request)

    def reserve(self, request: TurnRequest) -> Job:
        return _Mem0Job(self, self.inner.reserve(request))

    def recheck(self) -> None:
        self.inner.recheck()

    def slots(self) -> list[SlotGauge]:
        return self.inner.slots()

    def models(self) -> list[ModelInfo]:
        return self.inner.models()

    def health(self) -> dict[str, dict[str, Any]]:
        return self.inner.health()

    def info(self) -> EngineInfo:
        return MEM0_PROXY

    async def complaint(self) -> str:
        return await self.inner.complaint() or await self.memory.complaint()

    async def start(self) -> None:
        """Nothing to open: connections are made when a turn needs one."""

    async def aclose(self) -> None:
        """Give what is on its way to the server a moment, then close the connections."""
        if self._adding:
            await asyncio.wait(self._adding, timeout=CLOSE_S)
        for task in list(self._adding):
            task.cancel()
        await asyncio.gather(*self._adding, return_exceptions=True)
        await self.memory.aclose()

    def learn(self, work: Coroutine[Any, Any, bool]) -> None:
        """Do it beside the turns, at most MAX_ADDING at a time."""
        if len(self._adding) >= MAX_ADDING:
            self.memory.stats.dropped += 1
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._adding.add(task)
        task.add_done_callback(self._adding.discard)


class _Mem0Job:
    """One turn: what is known goes into its request, what was said to the server."""

    def __init__(self, engine: Mem0Proxy, job: Job) -> None:
        self._engine = engine
        self._job = job

    def release(self) -> None:
        self._job.release()

    async def run(self, run: TurnRun) -> Outcome:
        request = run.turn.request
        question = _question(request)
        if not question:
            return await self._job.run(run)
        memory = self._engine.memory
        user_id = mem0_user(request)
        found = await memory.search(user_id, question)
        if found:
            known = (*request.memories, *found)
            run.turn.request = structs.replace(request, memories=known)
        outcome = await self._job.run(run)
        if outcome.reason in (EndReason.STOP, EndReason.LENGTH):
            metadata = {"conversation": request.conv}
            self._engine.learn(memory.add(user_id, question, metadata))
        return outcome


def mem0_user(request: TurnRequest) -> str:
    """Return the name of a person and a persona at the server."""
    return f"t{request.tenant}-u{request.user}-p{request.persona.id}"


def _question(request: TurnRequest) -> str:
    """Return what the person just wrote; nothing for work that no person asked for."""
    if request.priority is Priority.BACKGROUND or not request.history:
        return ""
    last = request.history[-1]
    return last.text if last.role is Role.USER else ""


def _memories(value: Any) -> tuple[str, ...]:
    """Return the texts of a search's answer: a list, or an object with it in `results`."""
    found = value.get("results") if isinstance(value, dict) else value
    items = found if isinstance(found, list) else []
    texts = [item.get("memory") for item in items if isinstance(item, dict)]
    kept = (text.strip()[:MAX_MEMORY_CHARS] for text in texts if isinstance(text, str))
    return tuple(text for text in kept if text)
