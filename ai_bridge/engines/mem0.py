"""A client of a mem0 server: searches, lets it learn, and erases what it has learnt.

The server is a help, not a need: searching and learning never raise. Erasing is owed to people, so
it tells whether it was done. Paths and bodies: docs.mem0.ai, "REST API Server" for the open source
server and "API Reference" for the platform; what the server's versions differ in was read in
server/main.py of github.com/mem0ai/mem0.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import Struct

from ai_bridge.secrets import Secret

log = logging.getLogger("parlance.ai")

CONNECT_S = 2.0
HEALTH_S = 3.0
MAX_ANSWER_BYTES = 1024 * 1024
MAX_LIST_BYTES = 8 * 1024 * 1024
THREAD_BYTES = 256 * 1024
"""Answers from this size on are decoded beside the loop."""
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
MAX_ERASED = 10_000
"""Erasures that are kept in mind, so that turns under way do not learn it again."""
FOR_EVER = 2**63 - 1
"""No turn has a higher id."""
MAX_ROUNDS = 20
"""How often one erasure lists what is left; servers delete or list only a part at a time."""
PLATFORM_ROUNDS = 2
"""The platform deletes behind its answer: asking again at once is of no use."""
LIST_SIZE = 1_000
"""What the open source server lists at most; it knows no pages, and older ones list 100."""
LIST_DEFAULT = 20
"""A list of this length may be all that such a server wants to show."""
PAGE_SIZE = 100
MAX_PAGES = 100

_Query: TypeAlias = tuple[str, int]
"""What was looked for, and the conversation it had to be from."""

_ADDED: Final = (200, 201, 202)
_DELETED: Final = (200, 202, 204, 404)
_FORBIDDEN: Final = (403, 405)


class Mem0Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One mem0 server.

    `api`: "oss" is the REST server of mem0's repository (no /v1 in its paths), "v1" and "v2" the
    platform at https://api.mem0.ai, which differ in how they search. `base_url` ends before the
    paths. `search_s` is what a turn waits at most before it begins; `erase_s` is for one call, of
    which an erasure makes several.
    """

    base_url: str
    api: Literal["oss", "v1", "v2"] = "oss"
    api_key: Secret = msgspec.field(default_factory=Secret)
    search_s: float = 1.0
    add_s: float = 30.0
    erase_s: float = 30.0
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
    withheld: int = 0
    """Not learnt from: it was erased before its turn ended."""
    erased: int = 0
    """Erasures that were done, of people and of parts."""


class Mem0Failure(Exception):
    """The server could not be used; the text is a constant word."""


class Origin(NamedTuple):
    """Where something was learnt: by which turn, from which message; 0: no conversation keeps it.

    Turn ids rise with time.
    """

    conv: int = 0
    seq: int = 0
    turn: int = 0


class Part(NamedTuple):
    """What is erased of a person: all from one conversation, or from one message of it (`seq`).

    `conv` 0: wherever it was learnt. `upto`: what turns with higher ids learnt stays, since it
    came later.
    """

    conv: int
    seq: int
    upto: int


class Mem0Client:
    """Speaks to one server. Owns its connections, a small cache and the pause after failures.

    Entities are told by `user_id` alone: the platform keeps what was added with a user and an
    agent under each of them, so that a search for both finds nothing.
    """

    def __init__(self, config: Mem0Config, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.stats = Mem0Stats()
        self._config = config
        self._clock = clock
        self._http: aiohttp.ClientSession | None = None
        self._failures = 0
        self._paused_until = 0.0
        self._cache: OrderedDict[str, dict[_Query, tuple[float, tuple[str, ...]]]] = OrderedDict()
        self._adding: dict[asyncio.Task[bool], str] = {}
        self._erased: OrderedDict[tuple[str, int, int], int] = OrderedDict()
        self._erasures = 0

    @property
    def paused(self) -> bool:
        """Tell whether the server is left alone for a while, as it failed several times."""
        return self._clock() < self._paused_until

    async def search(self, user_id: str, query: str, only_conv: int = 0) -> tuple[str, ...]:
        """Return what is known that fits the query, the best first; nothing if that fails.

        Args:
            only_conv: only what was learnt in this conversation.
        """
        query = query.strip()[:MAX_QUERY_CHARS]
        if not query:
            return ()
        cached = self._cached(user_id, (query, only_conv))
        if cached is not None:
            self.stats.cached += 1
            return cached
        erasures = self._erasures
        path, body = self._search_call(user_id, query, only_conv)
        value = await self._ask(path, body, self._config.search_s)
        if value is None:
            return ()
        self.stats.searched += 1
        found = _memories(value, only_conv)[: self._config.top_k]
        if erasures == self._erasures:  # else it may hold what is erased by now
            self._remember(user_id, (query, only_conv), found)
        return found

    def learn(self, user_id: str, text: str, origin: Origin) -> None:
        """Let the server learn beside the turns, at most MAX_ADDING at a time."""
        if self._is_erased(user_id, origin):
            self.stats.withheld += 1
            return
        if len(self._adding) >= MAX_ADDING:
            self.stats.dropped += 1
            return
        metadata = {"conversation": origin.conv, "seq": origin.seq, "turn": origin.turn}
        work = self.add(user_id, text, metadata)
        task = asyncio.get_running_loop().create_task(work)
        self._adding[task] = user_id
        task.add_done_callback(lambda ended: self._adding.pop(ended, None))

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

    async def erase(self, user_id: str, part: Part | None = None) -> None:
        """Erase all that is known under a user_id, or a part; on return the server lists none.

        What is on its way to the server for this user is waited for, and turns that are still
        running learn none of it. Done twice it changes nothing more; cut off, a part may be gone.

        Raises:
            Mem0Failure: not all is gone; try again later.
        """
        self._note_erased(user_id, part)
        self._forget_cached(user_id)
        adding = [task for task, whose in self._adding.items() if whose == user_id]
        if adding:
            await asyncio.wait(adding)
        try:
            await self._erase(user_id, part)
        finally:
            self._forget_cached(user_id)
        self.stats.erased += 1

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
        """Give what is on its way to the server a moment, then close the connections."""
        if self._adding:
            await asyncio.wait(self._adding, timeout=CLOSE_S)
        adding = list(self._adding)
        for task in adding:
            task.cancel()
        await asyncio.gather(*adding, return_exceptions=True)
        if self._http is not None:
            await self._http.close()
            self._http = None

    # --- calls -------------------------------------------------------------------------------

    def _search_call(self, user_id: str, query: str, only_conv: int) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"query": query, "top_k": self._config.top_k}
        here = {"conversation": only_conv} if only_conv else {}
        if self._config.api == "v2":
            known: list[dict[str, Any]] = [{"user_id": user_id}]
            known += [{"metadata": here}] if here else []
            return "/v2/memories/search/", body | {"filters": {"AND": known}}
        if self._config.api == "v1":
            body |= {"metadata": here} if here else {}
            return "/v1/memories/search/", body | {"user_id": user_id}
        # Older servers want the field, newer ones the filter; each ignores the other.
        return "/search", body | {"user_id": user_id, "filters": {"user_id": user_id, **here}}

    async def _ask(self, path: str, body: dict[str, Any], deadline_s: float) -> Any:
        """Return what the server answers, None if it cannot be used now."""
        try:
            _, value = await self._call("POST", path, body, deadline_s=deadline_s)
        except Mem0Failure:
            return None
        return value

    async def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        accept: tuple[int, ...] = _ADDED,
        deadline_s: float,
        limit: int = MAX_ANSWER_BYTES,
    ) -> tuple[int, Any]:
        """Return the status and the decoded answer; None as the answer to a DELETE.

        Raises:
            Mem0Failure: any other status, no answer in time, or a pause after failures.
        """
        if self.paused:
            self.stats.skipped += 1
            raise Mem0Failure("paused")
        try:
            async with asyncio.timeout(deadline_s):
                found = await self._send(method, path, body, accept, limit)
        except (Mem0Failure, TimeoutError, aiohttp.ClientError, OSError) as failure:
            word = str(failure) if isinstance(failure, Mem0Failure) else type(failure).__name__
            self._note_failure(word)
            raise Mem0Failure(word) from None
        self._failures = 0
        return found

    async def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        accept: tuple[int, ...],
        limit: int,
    ) -> tuple[int, Any]:
        # Python's encoder writes lone surrogates as escapes, which people's texts may hold.
        data = None if body is None else json.dumps(body).encode()
        async with self._session().request(
            method, self._url(path), data=data, allow_redirects=False
        ) as response:
            if response.status not in accept:
                raise Mem0Failure(f"http_{response.status}")
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > limit:
                    raise Mem0Failure("too_large")
        if method == "DELETE":
            return response.status, None
        try:
            if len(answer) >= THREAD_BYTES:
                return response.status, await asyncio.to_thread(json.loads, answer)
            return response.status, json.loads(answer)
        except (ValueError, RecursionError):
            raise Mem0Failure("not_json") from None

    # --- erasing -----------------------------------------------------------------------------

    async def _erase(self, user_id: str, part: Part | None) -> None:
        at_once = False
        for _ in range(MAX_ROUNDS if self._config.api == "oss" else PLATFORM_ROUNDS):
            if part is None:
                at_once = await self._delete_all(user_id)
            found = await self._left(user_id, part)
            if not found:
                return
            for id in found if not at_once else ():
                await self._delete(f"{self._memories_path()}{quote(id, safe='')}")
        raise Mem0Failure("unfinished")

    def _memories_path(self) -> str:
        return "/memories/" if self._config.api == "oss" else "/v1/memories/"

    async def _delete_all(self, user_id: str) -> bool:
        """Delete all of a user at once; False where the server wants an administrator for that."""
        path = "/memories" if self._config.api == "oss" else "/v1/memories/"
        status = await self._delete(f"{path}?user_id={quote(user_id)}", _DELETED + _FORBIDDEN)
        return status not in _FORBIDDEN

    async def _delete(self, path: str, accept: tuple[int, ...] = _DELETED) -> int:
        if self._config.api != "oss" and "?" not in path:
            path += "/"
        status, _ = await self._call("DELETE", path, accept=accept, deadline_s=self._config.erase_s)
        return status

    async def _left(self, user_id: str, part: Part | None) -> list[str]:
        """Return ids of memories that are to go, as far as the server shows them."""
        known = await self._listed(user_id)
        if part is None:
            return list(known)
        found = [id for id, metadata in known.items() if _is_of(metadata, part)]
        if not found and self._config.api == "oss" and len(known) >= LIST_DEFAULT:
            others = await self._searched(user_id, part)
            found = [id for id, metadata in others.items() if _is_of(metadata, part)]
        return found

    async def _listed(self, user_id: str) -> dict[str, Mapping[str, Any]]:
        """Return the metadata of a user's memories by their ids.

        Raises:
            Mem0Failure: also when there are more than MAX_PAGES pages.
        """
        if self._config.api == "oss":
            path = f"/memories?user_id={quote(user_id)}&top_k={LIST_SIZE}&show_expired=true"
            return _own(user_id, await self._fetch("GET", path))
        found: dict[str, Mapping[str, Any]] = {}
        for page in range(1, MAX_PAGES + 1):
            shown = _own(user_id, await self._page(user_id, page))
            fresh = shown.keys() - found.keys()
            found |= shown
            if len(shown) < PAGE_SIZE or not fresh:
                return found
        raise Mem0Failure("too_many")

    async def _page(self, user_id: str, page: int) -> Any:
        where = f"page={page}&page_size={PAGE_SIZE}"
        if self._config.api == "v1":
            return await self._fetch("GET", f"/v1/memories/?user_id={quote(user_id)}&{where}")
        body = {"filters": {"AND": [{"user_id": user_id}]}}
        return await self._fetch("POST", f"/v2/memories/?{where}", body)

    async def _searched(self, user_id: str, part: Part) -> dict[str, Mapping[str, Any]]:
        """Ask the server to pick them out: what a full list does not show."""
        filters: dict[str, Any] = {"user_id": user_id}
        if part.conv:
            filters["conversation"] = part.conv
        if part.seq:
            filters["seq"] = part.seq
        body: dict[str, Any] = {"query": "memory", "user_id": user_id, "filters": filters}
        body |= {"top_k": LIST_SIZE, "threshold": 0.0, "show_expired": True}
        return _own(user_id, await self._fetch("POST", "/search", body))

    async def _fetch(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        _, value = await self._call(
            method, path, body, deadline_s=self._config.erase_s, limit=MAX_LIST_BYTES
        )
        return value

    def _note_erased(self, user_id: str, part: Part | None) -> None:
        part = part or Part(0, 0, FOR_EVER)
        key = (user_id, part.conv, part.seq)
        self._erased[key] = max(part.upto, self._erased.get(key, 0))
        self._erased.move_to_end(key)
        if len(self._erased) > MAX_ERASED:
            self._erased.popitem(last=False)

    def _is_erased(self, user_id: str, origin: Origin) -> bool:
        parts = {(0, 0), (origin.conv, 0), (origin.conv, origin.seq)}
        uptos = (self._erased.get((user_id, *part)) for part in parts)
        return any(upto is not None and origin.turn <= upto for upto in uptos)

    def _note_failure(self, word: str) -> None:
        self.stats.failed += 1
        self._failures += 1
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

    def _cached(self, user_id: str, query: _Query) -> tuple[str, ...] | None:
        known = self._cache.get(user_id, {}).get(query)
        return known[1] if known is not None and self._clock() - known[0] < CACHE_S else None

    def _forget_cached(self, user_id: str) -> None:
        self._erasures += 1
        self._cache.pop(user_id, None)

    def _remember(self, user_id: str, query: _Query, found: tuple[str, ...]) -> None:
        known = self._cache.setdefault(user_id, {})
        self._cache.move_to_end(user_id)
        known.pop(query, None)
        known[query] = (self._clock(), found)
        if len(known) > MAX_CACHED_QUERIES:
            del known[next(iter(known))]
        if len(self._cache) > MAX_CACHED_PEOPLE:
            self._cache.popitem(last=False)


def _memories(value: Any, only_conv: int = 0) -> tuple[str, ...]:
    """Return the texts of a search's answer, whatever of the filter the server has understood."""
    items = _items(value)
    if only_conv:
        items = [
            item for item in items if _number(_metadata(item).get("conversation")) == only_conv
        ]
    texts = [item.get("memory") for item in items]
    kept = (text.strip()[:MAX_MEMORY_CHARS] for text in texts if isinstance(text, str))
    return tuple(text for text in kept if text)


def _metadata(item: dict[str, Any]) -> Mapping[str, Any]:
    found = item.get("metadata")
    return found if isinstance(found, dict) else {}


def _items(value: Any) -> list[dict[str, Any]]:
    """Return the memories of an answer: a list, or an object with it in `results`."""
    found = value.get("results") if isinstance(value, dict) else value
    items = found if isinstance(found, list) else []
    return [item for item in items if isinstance(item, dict)]


def _own(user_id: str, value: Any) -> dict[str, Mapping[str, Any]]:
    """Return the metadata of an answer's memories by id, without those that are somebody else's."""
    found: dict[str, Mapping[str, Any]] = {}
    for item in _items(value):
        id = item.get("id")
        if isinstance(id, str | int) and item.get("user_id") in (None, user_id):
            found[str(id)] = _metadata(item)
    return found


def _is_of(metadata: Mapping[str, Any], part: Part) -> bool:
    if part.conv and _number(metadata.get("conversation")) != part.conv:
        return False
    if part.seq and _number(metadata.get("seq")) != part.seq:
        return False
    return _number(metadata.get("turn")) <= part.upto


def _number(value: Any) -> int:
    """Return a number as vector stores give it back: some as a float or a text; -1 for none."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return -1
