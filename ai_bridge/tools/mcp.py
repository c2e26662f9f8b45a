"""A client of the Model Context Protocol over streamable HTTP, for tools only.

Follows revision 2025-06-18 (modelcontextprotocol.io, "Basic / Transports" and "Server / Tools"):
each message is a POST of its own, answered by one JSON object or by an event stream of its own.
The server is a stranger: sizes, counts and times are bounded, nothing it says reaches a log or a
person, redirects are not followed and private addresses are refused unless the operator allows
them. Of what servers may ask of a client only `ping` is answered; of what they tell only the change
of their list is heard.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from ai_bridge.secrets import Secret
from ai_bridge.tools.addresses import PrivateAddress, PublicResolver, is_numeric, is_public
from ai_bridge.tools.registry import TIMEOUT_S, ToolError
from ai_bridge.transport.sse import EventTooLarge, SseParser

VERSION = "2025-06-18"
VERSIONS = ("2025-03-26", "2025-06-18", "2025-11-25")
"""Revisions whose tools and HTTP are the same for what is used here."""
CLIENT_INFO = {"name": "parlance", "version": "0.1.0"}

MAX_ANSWER_BYTES = 2 * 1024 * 1024
MAX_MESSAGES = 1_000
"""Messages of one event stream, the answer among them."""
MAX_PAGES = 20
MAX_TOOLS = 200
MAX_TOOL_BYTES = 64 * 1024
MAX_NAME_CHARS = 128
MAX_ERROR_CHARS = 500
MAX_NOTICES = 16
"""Messages under way that nobody waits for; further ones are not sent."""
CONNECT_S = 5.0
NOTICE_S = 2.0
LIST_S = 15.0

METHOD_NOT_FOUND = -32601

_SESSION_ID = re.compile(r"[\x21-\x7e]{1,512}\Z")

Message = dict[str, Any]


class McpServer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One server as the operator set it up.

    `allow_private` lets it be in our own network, and without TLS. `read_tools` names those that
    change nothing; all others count as writing, unless `believe_hints` takes the server's own
    word for it (`readOnlyHint`).
    """

    name: str
    url: str
    headers: dict[str, Secret] = {}
    allow_private: bool = False
    read_tools: tuple[str, ...] = ()
    believe_hints: bool = False
    timeout_s: float = TIMEOUT_S


class McpTool(Struct, frozen=True):
    """A tool as the server describes it."""

    name: str
    description: str
    schema: dict[str, Any]
    digest: str
    """SHA-256 of all that the server says of it, for its pin."""
    read_only: bool = False
    """The server says that it changes nothing."""


class McpFailure(ToolError):
    """The server could not be used. `reason` says how: connect, timed_out, unauthorized, ..."""


class _SessionLost(Exception):
    """The server forgot the session (404); it did nothing with the request."""


class McpClient:
    """One server. Connects and introduces itself at the first request; owns its connections.

    Attributes:
        sessions: how often it had to introduce itself.
        tells_changes: the server said that it tells when its list changes.
        list_changed: called when it does so, in any of its streams.
    """

    def __init__(self, server: McpServer, list_changed: Callable[[], None] | None = None) -> None:
        """Raises: ValueError: the URL is not usable; the text says why."""
        self.server = server
        self.list_changed = list_changed or (lambda: None)
        self.sessions = 0
        self.tells_changes = False
        self._url = check_url(server)
        self._http: aiohttp.ClientSession | None = None
        self._session_id = ""
        self._version = ""
        self._next_id = 0
        self._ready = asyncio.Lock()
        self._notices: set[asyncio.Task[None]] = set()

    async def tools(self) -> list[McpTool]:
        """Return the server's tools, one of each name; too large or odd ones are left out.

        Raises:
            McpFailure: also for more than MAX_TOOLS tools or MAX_PAGES pages.
        """
        found: dict[str, McpTool] = {}
        cursor: str | None = None
        seen: set[str] = set()
        async with _Deadline(LIST_S):
            for _ in range(MAX_PAGES):
                params = {"cursor": cursor} if cursor is not None else {}
                page = await self._request("tools/list", params)
                listed = page.get("tools")
                listed = listed if isinstance(listed, list) else []
                for tool in await asyncio.to_thread(_tools_of, listed):  # hashing takes its time
                    found.setdefault(tool.name, tool)
                if len(found) > MAX_TOOLS:
                    raise _failure("too_many_tools")
                cursor = page.get("nextCursor")
                if not isinstance(cursor, str):
                    return list(found.values())
                if cursor in seen:
                    raise _failure("paging")
                seen.add(cursor)
        raise _failure("paging")

    async def call(self, name: str, args: dict[str, Any], timeout_s: float | None = None) -> str:
        """Run a tool and return what it says, as text.

        When the time is over, or the caller is cancelled, the server is told so.

        Raises:
            ToolError: the tool itself reports a failure (reason "tool").
            McpFailure: the server could not be used.
        """
        params = {"name": name, "arguments": args}
        async with _Deadline(timeout_s or self.server.timeout_s):
            result = await self._request("tools/call", params)
        text = _text_of(result)
        if result.get("isError") is True:
            raise ToolError(text[:MAX_ERROR_CHARS], "tool")
        return text

    async def listen(self) -> None:
        """Hear what the server tells unasked, until it ends the stream or is cancelled.

        Raises:
            McpFailure: also http_405: it has no such stream; too_many_messages: call it again.
        """
        async with _Deadline(LIST_S):
            session_id = await self._introduced()
        try:
            with _typed():
                async with self._get() as response:
                    await self._hear(response)
        except _SessionLost:
            self._forget(session_id)

    async def _hear(self, response: aiohttp.ClientResponse) -> None:
        _check_status(response, begins=False)
        if response.content_type != "text/event-stream":
            raise _failure("content_type")
        async for message in _from_events(response):
            self._heard(message)

    async def aclose(self) -> None:
        """End the session, if the server is quick, and close all connections."""
        if self._session_id:
            self._notice(self._end_session(self._session_id))
            self._session_id = ""
        if self._notices:
            await asyncio.wait(self._notices, timeout=NOTICE_S)
        for task in list(self._notices):
            task.cancel()
        await asyncio.gather(*self._notices, return_exceptions=True)
        if self._http is not None:
            await self._http.close()
            self._http = None

    # --- requests ----------------------------------------------------------------------------

    async def _request(self, method: str, params: Message) -> Message:
        for _ in range(2):
            session_id = await self._introduced()
            try:
                return await self._exchange(method, params)
            except _SessionLost:
                self._forget(session_id)
        raise _failure("session")

    def _forget(self, session_id: str) -> None:
        if self._session_id == session_id:  # nobody else began a new one meanwhile
            self._version = self._session_id = ""

    async def _introduced(self) -> str:
        """Make sure there is a session; return its id (empty: the server keeps none)."""
        async with self._ready:
            if not self._version:
                await self._introduce()
            return self._session_id

    async def _introduce(self) -> None:
        params = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": CLIENT_INFO}
        try:
            result = await self._exchange("initialize", params)
        except _SessionLost:
            raise _failure("http_404") from None
        version = result.get("protocolVersion")
        if version not in VERSIONS:
            self._session_id = ""
            raise _failure("version")
        self._version = version
        self.tells_changes = _tells_changes(result)
        self.sessions += 1
        try:
            with _typed():
                async with self._post({"method": "notifications/initialized"}) as response:
                    if response.status not in (200, 202, 204):
                        raise _failure(f"http_{response.status}")
        except BaseException:
            self._version = ""
            raise

    async def _exchange(self, method: str, params: Message) -> Message:
        """Send one request and return its result."""
        self._next_id += 1
        number = self._next_id
        message = {"id": number, "method": method, "params": params}
        try:
            with _typed():
                async with self._post(message) as response:
                    return await self._answer(response, number, begins=method == "initialize")
        except asyncio.CancelledError:
            if method != "initialize":  # which must not be cancelled
                what = {"requestId": number, "reason": "no longer wanted"}
                self._tell("notifications/cancelled", what)
            raise

    async def _answer(
        self, response: aiohttp.ClientResponse, number: int, *, begins: bool
    ) -> Message:
        _check_status(response, begins=begins)
        if begins:
            self._session_id = _session_id(response.headers.get("mcp-session-id", ""))
        if response.content_type == "text/event-stream":
            return await self._from_stream(response, number)
        if response.content_type != "application/json":
            raise _failure("content_type")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise EventTooLarge
        for message in _messages(bytes(body)):
            if _answers(message, number):
                return _result(message)
        raise _failure("no_answer")

    async def _from_stream(self, response: aiohttp.ClientResponse, number: int) -> Message:
        """Read an event stream until it brings the answer; leaving it closes the connection."""
        async with aclosing(_from_events(response, MAX_ANSWER_BYTES)) as messages:
            async for message in messages:
                if _answers(message, number):
                    return _result(message)
                self._heard(message)
        raise _failure("cut_off")

    def _post(self, message: Message) -> aiohttp.client._RequestContextManager:
        headers = self._headers("application/json, text/event-stream")
        headers["content-type"] = "application/json"
        # Python's encoder writes lone surrogates as escapes, which arguments may hold.
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        return self._open().post(self._url, data=body, headers=headers, allow_redirects=False)

    def _get(self) -> aiohttp.client._RequestContextManager:
        headers = self._headers("text/event-stream")
        return self._open().get(self._url, headers=headers, allow_redirects=False)

    def _headers(self, accept: str) -> dict[str, str]:
        headers = {name: value.reveal() for name, value in self.server.headers.items()}
        headers["accept"] = accept
        if self._version:
            headers["mcp-protocol-version"] = self._version
        if self._session_id:
            headers["mcp-session-id"] = self._session_id
        return headers

    def _open(self) -> aiohttp.ClientSession:
        if self._http is None:
            resolver = None if self.server.allow_private else PublicResolver()
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=16, resolver=resolver),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                headers={"accept-encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._http

    # --- what the server asks, and what nobody waits for ---------------------------------------

    def _heard(self, message: Message) -> None:
        """Answer a request of the server, note that its list changed, ignore all else."""
        if message.get("method") == "notifications/tools/list_changed":
            self.list_changed()
        if "method" not in message or not isinstance(message.get("id"), (str, int)):
            return
        reply: Message = {"id": message["id"], "result": {}}
        if message["method"] != "ping":
            error = {"code": METHOD_NOT_FOUND, "message": "Not supported"}
            reply = {"id": message["id"], "error": error}
        self._notice(self._send(reply))

    def _tell(self, method: str, params: Message) -> None:
        self._notice(self._send({"method": method, "params": params}))

    def _notice(self, work: Any) -> None:
        """Do it beside, at most MAX_NOTICES at a time; `aclose` waits for it."""
        if len(self._notices) >= MAX_NOTICES:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)

    async def _send(self, message: Message) -> None:
        await _quietly(lambda: self._post(message))

    async def _end_session(self, session_id: str) -> None:
        headers = self._headers("*/*") | {"mcp-session-id": session_id}
        await _quietly(
            lambda: self._open().delete(self._url, headers=headers, allow_redirects=False)
        )


async def _quietly(send: Callable[[], aiohttp.client._RequestContextManager]) -> None:
    try:
        async with asyncio.timeout(NOTICE_S), send():
            pass
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass  # nobody waits for it, and nothing depends on it


@contextmanager
def _typed() -> Iterator[None]:
    """Turn what the HTTP client raises into a McpFailure."""
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        private = isinstance(error.os_error, PrivateAddress)
        raise _failure("private_address" if private else "connect") from None
    except (aiohttp.ClientError, OSError):
        raise _failure("disconnected") from None
    except EventTooLarge:
        raise _failure("too_large") from None


class _Deadline:
    """`asyncio.timeout` that ends with a McpFailure."""

    def __init__(self, span_s: float) -> None:
        self._timeout = asyncio.timeout(span_s)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise _failure("timed_out") from None


def check_url(server: McpServer) -> URL:
    """Return a server's address.

    Raises:
        ValueError: it is not usable; the text says why, without the address.
    """
    url = URL(server.url)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("the address of a tool server begins with https://")
    if url.user or url.password:
        raise ValueError("put the key of a tool server into its headers, not into its address")
    if server.allow_private:
        return url
    if url.scheme != "https":
        raise ValueError("a tool server needs https, unless allow_private is set")
    if is_numeric(url.host) and not is_public(url.host):
        raise ValueError("this tool server is in a private network: set allow_private to use it")
    return url


def _check_status(response: aiohttp.ClientResponse, *, begins: bool) -> None:
    if response.status == 404 and not begins:
        raise _SessionLost
    if response.status in (401, 403):
        raise _failure("unauthorized")
    if response.status != 200:
        raise _failure(f"http_{response.status}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _failure("encoding")


def _tells_changes(introduced: Message) -> bool:
    capabilities = introduced.get("capabilities")
    tools = capabilities.get("tools") if isinstance(capabilities, dict) else None
    return isinstance(tools, dict) and tools.get("listChanged") is True


def _session_id(value: str) -> str:
    if value and not _SESSION_ID.match(value):
        raise _failure("session")
    return value


def _messages(data: bytes) -> list[Message]:
    """Return the messages of a body or an event (revision 2025-03-26 knows arrays of them)."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        try:
            value = json.loads(data)  # takes lone surrogates
        except (ValueError, RecursionError):
            raise _failure("not_json") from None
    messages = value if isinstance(value, list) else [value]
    return [message for message in messages if isinstance(message, dict)]


async def _from_events(
    response: aiohttp.ClientResponse, most_bytes: int | None = None
) -> AsyncGenerator[Message, None]:
    """Yield the messages of an event stream, MAX_MESSAGES at most."""
    events: list[bytes] = []
    parser = SseParser(max_event_bytes=MAX_ANSWER_BYTES)
    size = count = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if most_bytes is not None and size > most_bytes:
            raise EventTooLarge
        parser.feed(chunk, events.append)
        for event in events:
            for message in _messages(event) if event else []:
                count += 1
                if count > MAX_MESSAGES:
                    raise _failure("too_many_messages")
                yield message
        events.clear()


def _answers(message: Message, number: int) -> bool:
    return "method" not in message and message.get("id") == number


def _result(message: Message) -> Message:
    error = message.get("error")
    if error is not None:
        told = error.get("message") if isinstance(error, dict) else ""
        text = told[:MAX_ERROR_CHARS] if isinstance(told, str) and told else "It gave no reason."
        raise McpFailure(text, "refused")
    result = message.get("result")
    if not isinstance(result, dict):
        raise _failure("no_result")
    return result


def _tools_of(listed: list[Any]) -> list[McpTool]:
    found = []
    for one in listed:
        if not isinstance(one, dict) or not _is_name(one.get("name")):
            continue
        try:
            # Raises for lone surrogates and huge numbers, too: no service could be told of them.
            raw = msgspec.json.encode(one, order="deterministic")
        except (ValueError, OverflowError, RecursionError):
            continue
        if len(raw) > MAX_TOOL_BYTES:
            continue
        description = one.get("description")
        schema = one.get("inputSchema")
        hints = one.get("annotations")
        found.append(
            McpTool(
                one["name"],
                description if isinstance(description, str) else "",
                schema if isinstance(schema, dict) else {},
                hashlib.sha256(raw).hexdigest(),
                isinstance(hints, dict) and hints.get("readOnlyHint") is True,
            )
        )
    return found


def _is_name(value: object) -> bool:
    """Whether a tool can be called that where people and databases meet it, too."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_NAME_CHARS
        and value.isprintable()
        and value == value.strip()
    )


def _text_of(result: Message) -> str:
    """Return what a result says; what is no text is named."""
    content = result.get("content")
    parts = content if isinstance(content, list) else []
    texts = [_part(one) for one in parts if isinstance(one, dict)]
    text = "\n".join(filter(None, texts))
    if not text and isinstance(result.get("structuredContent"), dict):
        return json.dumps(result["structuredContent"], ensure_ascii=False)
    return text or "(nothing)"


def _part(part: Message) -> str:
    kind = part.get("type")
    if kind == "text":
        return part["text"] if isinstance(part.get("text"), str) else ""
    if kind == "resource" and isinstance(part.get("resource"), dict):
        text = part["resource"].get("text")
        return text if isinstance(text, str) else "[a file that is no text]"
    if kind == "resource_link":
        return f"[link to {part.get('uri')}]"
    return f"[{kind if kind in ('image', 'audio') else 'something'} that cannot be shown]"


_TEXTS = {
    "connect": "The tool's server cannot be reached.",
    "timed_out": "The tool's server did not answer in time.",
    "unauthorized": "The tool's server does not accept our key.",
    "private_address": "The tool's server is in a private network, which is not allowed.",
    "too_large": "The tool's server sent more than can be read.",
}


def _failure(reason: str) -> McpFailure:
    return McpFailure(_TEXTS.get(reason, "The tool's server does not work as it should."), reason)
