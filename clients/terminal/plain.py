"""The plain mode: a line in, a streamed answer out. For scripts, pipes and simple terminals.

Answers go to standard output and nothing else does; remarks go to standard error.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator
from typing import Final, TextIO, TypeGuard

from clients import events as ev
from clients.errors import ServerError
from clients.subscription import Subscription
from clients.terminal.chat import Chat, Refused
from clients.terminal.commands import Commands
from clients.terminal.words import Words
from clients.terminal.wrapping import harmless
from protocol.codes import EndReason, MsgKind
from protocol.rows import Msg

AFTERMATH_S: Final = 90.0
"""How long the message of an answer that broke off may take to come."""


class Plain:
    """Reads lines and writes answers until the input ends or `/quit` comes."""

    def __init__(self, chat: Chat, words: Words, source: TextIO, out: TextIO, err: TextIO):
        self.chat = chat
        self.words = words
        self._source = source
        self._out = out
        self._err = err
        self._commands = Commands(chat, words, self._show)
        self._failed = False

    async def run(self) -> int:
        """Return 0 when every answer came whole, else 1."""
        interactive = self._source.isatty() and self._out.isatty()
        self._prompt(interactive)
        async for line in read_lines(self._source):
            text = line.strip()
            if text.startswith("/"):
                if not await self._commands.run(text):
                    break
            elif text:
                await self._converse(text)
            self._prompt(interactive)
        return 1 if self._failed else 0

    def _prompt(self, interactive: bool) -> None:
        if interactive:
            self._out.write("> ")
            self._out.flush()

    def _show(self, text: str) -> None:
        self._out.write(f"{harmless(text)}\n")
        self._out.flush()

    def _complain(self, text: str) -> None:
        self._failed = True
        self._err.write(f"{harmless(text)}\n")
        self._err.flush()

    async def _converse(self, text: str) -> None:
        with self.chat.client.events() as events:
            try:
                entry = self.chat.say(text)
                sent = await asyncio.shield(entry.acknowledged)
            except Refused as exc:
                self._complain(str(exc))
            except ServerError as exc:
                self._complain(self.words("not sent", reason=exc.detail or exc.reason))
            else:
                if sent.sid:
                    await self._print_answer(sent.sid, events)
                elif sent.dup:
                    # The first answer to this send was lost, and with it which stream it began.
                    await self._print_reply_to(sent.seq, events)

    async def _print_answer(self, sid: int, events: Subscription) -> None:
        """Print an answer as it comes; what a lost connection hid is printed from its message."""
        printed = ""
        silence_s: float | None = None
        while True:
            try:
                async with asyncio.timeout(silence_s):
                    event = await anext(events)
            except (TimeoutError, StopAsyncIteration):
                self._finish(EndReason.INTERRUPTED)
                return
            if isinstance(event, ev.StreamText) and (event.sid, event.part) == (sid, 0):
                printed += event.text
                self._write(event.text)
            elif isinstance(event, ev.StreamEnded) and event.sid == sid:
                if event.reason is not None and not event.seq:
                    self._nothing_stored(event, printed)
                    return
                silence_s = AFTERMATH_S
            elif _is_answer(event, sid):
                self._complete(printed, event.msg)
                return

    async def _print_reply_to(self, seq: int, events: Subscription) -> None:
        """Print the answer to a message whose acknowledgement, and so its sid, was lost."""
        with contextlib.suppress(TimeoutError, StopAsyncIteration):
            async with asyncio.timeout(AFTERMATH_S):
                while True:
                    for stream in self.chat.running:
                        self._write(stream.text())
                        return await self._print_answer(stream.sid, events)
                    view = self.chat.view
                    for later in (later for later in view.seqs if later > seq):
                        if view.messages[later].kind == MsgKind.AI_REPLY:
                            return self._complete("", view.messages[later])
                    await anext(events)
        self._complain(self.words("no answer in time"))

    def _nothing_stored(self, event: ev.StreamEnded, printed: str) -> None:
        if event.text or printed:
            self._write("\n")
        if event.code:
            reason = event.detail or f"error {event.code}"
            self._complain(self.words("answer failed", reason=reason))
        elif event.reason:
            self._finish(event.reason)

    def _complete(self, printed: str, msg: Msg) -> None:
        same = msg.text.startswith(printed)
        self._write(msg.text[len(printed) :] if same else f"\n{msg.text}")
        self._write("\n")
        self._finish((msg.x.finish if msg.x is not None else 0) or 0)

    def _finish(self, reason: int) -> None:
        if reason in (EndReason.ERROR, EndReason.INTERRUPTED, EndReason.FILTERED):
            self._complain(f"[{self.words(f'finish {int(reason)}')}]")
        elif reason in set(EndReason) - {EndReason.STOP}:
            self._err.write(f"[{self.words(f'finish {int(reason)}')}]\n")

    def _write(self, text: str) -> None:
        self._out.write(harmless(text))
        self._out.flush()


def _is_answer(event: ev.Event, sid: int) -> TypeGuard[ev.MessageAdded]:
    if not isinstance(event, ev.MessageAdded):
        return False
    return event.msg.x is not None and event.msg.x.sid == sid


async def read_lines(source: TextIO) -> AsyncIterator[str]:
    """Yield the lines of a stream without blocking the event loop.

    Works on pipes, terminals and plain files.
    """
    mode = os.fstat(source.fileno()).st_mode
    if stat.S_ISREG(mode) or not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)):
        for line in source:
            yield line
        return
    reader = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), source
        )
    except (PermissionError, ValueError):  # /dev/null and its kind never block
        for line in source:
            yield line
        return
    try:
        while line_bytes := await reader.readline():
            yield line_bytes.decode(source.encoding or "utf-8", errors="replace")
    finally:
        transport.close()
