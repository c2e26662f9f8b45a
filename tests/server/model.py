"""An AI service of the OpenAI dialect that says what a test tells it, when the test says so."""

import asyncio
import contextlib
import json
from types import TracebackType
from typing import Any, Self

from server.config_sections import AiConfig, ProviderConfig
from tests.support.eventually import eventually


class Call:
    """One request to the service, open until `finish` or until the caller hangs up.

    Attributes:
        body: what was asked.
        closed: the caller has hung up.
    """

    def __init__(self, body: Any) -> None:
        self.body = body
        self.closed = asyncio.Event()
        self._words: asyncio.Queue[str | None] = asyncio.Queue()

    @property
    def texts(self) -> list[str]:
        """The messages that were shown to the model."""
        return [message["content"] for message in self.body["messages"]]

    def say(self, text: str) -> None:
        """Stream some text."""
        self._words.put_nowait(text)

    def finish(self, text: str = "") -> None:
        """Stream the last of it and end."""
        if text:
            self.say(text)
        self._words.put_nowait(None)

    async def stream(self, writer: asyncio.StreamWriter) -> None:
        """Write what is said as server-sent events."""
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        )
        while (text := await self._words.get()) is not None:
            chunk = {"choices": [{"delta": {"content": text}}]}
            writer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
        writer.write(b"data: " + json.dumps(end).encode() + b"\n\ndata: [DONE]\n\n")


class Model:
    """The service. Attribute `calls`: all requests so far, oldest first."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def config(self, **options: Any) -> AiConfig:
        """Return the settings of a server that asks this service."""
        assert self._listener is not None
        port = self._listener.sockets[0].getsockname()[1]
        provider = ProviderConfig(name="test", base_url=f"http://127.0.0.1:{port}/v1", models=["m"])
        # What happens behind the talk would ask as well; tests of that switch it on.
        behind = {"memory": False, "summaries": False}
        return AiConfig(detect=False, providers=[provider], **behind | options)

    async def call(self, number: int = 0) -> Call:
        """Return a request once it has come."""
        await eventually(lambda: len(self.calls) > number)
        return self.calls[number]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._answer(reader, writer)
        writer.close()
        self._tasks.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        call = Call(json.loads(await reader.readexactly(length)))
        self.calls.append(call)
        loop = asyncio.get_running_loop()
        speaking = loop.create_task(call.stream(writer))
        hearing = loop.create_task(reader.read())
        try:
            await asyncio.wait([speaking, hearing], return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                call.closed.set()
            else:
                await writer.drain()
        finally:
            for task in (speaking, hearing):
                task.cancel()
            await asyncio.gather(speaking, hearing, return_exceptions=True)
