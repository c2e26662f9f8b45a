"""A hand-written HTTP server whose answers are whatever a test wants, byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from tests.support.eventually import WAIT_S

Headers = dict[str, str]
Writer = asyncio.StreamWriter


class Asked:
    """One request."""

    def __init__(self, method: str, path: str, headers: Headers, body: bytes) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body

    @property
    def message(self) -> dict[str, Any]:
        value = json.loads(self.body) if self.body else {}
        return value if isinstance(value, dict) else {}


Answer = Callable[[Asked, Writer], Awaitable[None]]


class OddHttpServer:
    """Serves every request with `answer`, one after another on each connection."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self.asked: list[Asked] = []
        self.came = asyncio.Event()
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until the requests so far are as wanted."""
        async with asyncio.timeout(WAIT_S):
            while not is_so():
                self.came.clear()
                await self.came.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                asked = await _read(reader)
                self.asked.append(asked)
                self.came.set()
                await self.answer(asked, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, body)


def reply(
    writer: Writer,
    value: Any = b"",
    status: int = 200,
    kind: str = "application/json",
    **extra: str,
) -> None:
    """Write one whole answer; a value that is no bytes goes out as JSON."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status} Odd", f"content-type: {kind}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {text}" for name, text in extra.items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
