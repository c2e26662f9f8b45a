"""A server that answers every request with the bytes that a test gives it, right or wrong."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.support.eventually import eventually

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
TEXT = b'data: {"choices":[{"delta":{"content":"\xe4\xbd\xa0\xe5\xa5\xbd"}}]}\n\n'
END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
SAID = "你好"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def sized(body: bytes, head: bytes = HEAD) -> bytes:
    """Return a whole response with a content-length."""
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


class RawServer:
    """Attributes count what happened so far.

    Args:
        answers: what each request gets, the last one again and again. A None in it hangs up.
    """

    def __init__(self, answers: Sequence[bytes | None]) -> None:
        self._answers = answers
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.requests: list[bytes] = []
        self.accepted = 0
        self.closed = asyncio.Event()
        self.arrived = asyncio.Event()
        self.port = 0
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/v1/chat/completions"

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self.scheme = "https" if tls else "http"
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await eventually(lambda: not self._writers)
        await self._server.wait_closed()

    def hang_up(self) -> None:
        """Close every connection, as a service does that is tired of idle ones."""
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = head.lower().split(b"content-length: ")
                body = await reader.readexactly(int(fields[1].split(b"\r\n")[0]))
                self.requests.append(head + body)
                self.arrived.set()
                if not self._answer(writer):
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._writers.discard(writer)
            self.closed.set()

    def _answer(self, writer: asyncio.StreamWriter) -> bool:
        """Write what is due; False to hang up."""
        at = min(len(self.requests), len(self._answers)) - 1
        answer = self._answers[at]
        if answer is None:
            return False
        data, hang_up, _ = answer.partition(b"<hang up>")
        writer.write(data)
        return not hang_up


@asynccontextmanager
async def answering(
    *answers: bytes | None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Run a server; `<hang up>` within an answer closes the connection there."""
    server = RawServer(answers)
    await server.start(tls)
    try:
        yield server
    finally:
        await server.stop()
