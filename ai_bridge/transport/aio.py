"""Requests to providers over pooled aiohttp connections."""

from __future__ import annotations

import asyncio
import io
from types import SimpleNamespace

import aiohttp

from ai_bridge.providers.base import CallEnd, Classify, Decoder, HttpRequest, OnHead
from ai_bridge.transport.failures import broken, too_large, unreachable
from ai_bridge.transport.sse import EventTooLarge

CONNECT_S = 5.0
READ_S = 90.0
"""Only catches dead connections; the watchdog judges silence (watchdog.py)."""
REST_S = 0.2
"""Reading on after the answer's end, so that the connection can serve the next call."""
ERROR_BODY_BYTES = 64 * 1024
ERROR_BODY_S = 5.0
WHOLE_BYTES = 256 * 1024
"""Above it a body is sent in pieces: at once it would hold the event loop."""


class AioTransport:
    """One provider's connections. Owns an aiohttp session, made at the first call.

    Args:
        read_s: silence after which a connection counts as dead.
    """

    def __init__(self, read_s: float = READ_S) -> None:
        self._read_s = read_s
        self._session: aiohttp.ClientSession | None = None

    async def stream(
        self,
        request: HttpRequest,
        decoder: Decoder,
        classify: Classify,
        on_head: OnHead | None = None,
    ) -> CallEnd:
        """See `providers.base.Transport`."""
        try:
            return await self._send(request, decoder, classify, on_head)
        except _StaleConnection:
            # The provider closed an idle connection while we took it from the pool. Nothing was
            # answered, so repeating is safe; aiohttp itself repeats only GET and the like.
            try:
                return await self._send(request, decoder, classify, on_head)
            except _StaleConnection:
                raise broken() from None

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _send(
        self, request: HttpRequest, decoder: Decoder, classify: Classify, on_head: OnHead | None
    ) -> CallEnd:
        session = self._open_session()
        trace = SimpleNamespace(reused=False, answered=False)
        body = request.body
        try:
            async with session.post(
                request.url,
                data=io.BytesIO(body) if len(body) > WHOLE_BYTES else body,
                headers=request.headers,
                allow_redirects=False,
                trace_request_ctx=trace,
            ) as response:
                trace.answered = True
                if on_head is not None:
                    on_head({name.lower(): value for name, value in response.headers.items()})
                if response.status != 200:
                    body = await _read_error(response)
                    raise classify(response.status, response.headers, body)
                return await _read(response, decoder)
        except aiohttp.ClientConnectorError:
            raise unreachable() from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if trace.reused and not trace.answered:
                raise _StaleConnection from None
            raise broken() from None
        except TimeoutError:
            raise (broken() if trace.answered else unreachable()) from None
        except aiohttp.ClientError:
            raise broken() from None
        except EventTooLarge:
            raise too_large() from None

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_note_reuse)
            self._session = aiohttp.ClientSession(
                # The default limit of 100 would hold stream 101 silently: admission decides.
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=30),
                # `total` would kill healthy long answers.
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=None, sock_connect=CONNECT_S, sock_read=self._read_s
                ),
                headers={"accept-encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                trace_configs=[trace],
            )
        return self._session


class _StaleConnection(Exception):
    """A pooled connection died before a byte of the answer came."""


async def _note_reuse(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    trace = context.trace_request_ctx
    if trace is not None:
        trace.reused = True


async def _read(response: aiohttp.ClientResponse, decoder: Decoder) -> CallEnd:
    async for chunk in response.content.iter_any():
        if decoder.feed(chunk):
            await _read_rest(response)
            break
    return decoder.eof()


async def _read_rest(response: aiohttp.ClientResponse) -> None:
    try:
        async with asyncio.timeout(REST_S):
            async for _ in response.content.iter_any():
                pass
    except (TimeoutError, aiohttp.ClientError):
        response.close()  # the answer is complete; only the connection is lost


async def _read_error(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(ERROR_BODY_S):
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > ERROR_BODY_BYTES:
                    break
    except (TimeoutError, aiohttp.ClientError):
        pass  # the status alone has to do
    return bytes(body)
