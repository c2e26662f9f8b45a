"""Bots: accounts that answer what people write to them.

    async def shout(message: Message) -> str | None:
        return message.text.upper()

    Bot("parlance://127.0.0.1:8420", "Echo").run(shout)

Guarantees. Every text that a person writes in a conversation of the bot is given to it at least
once, in the order of the conversation, also if it came while the bot or the server was away; a
reply is stored once, although the message may be given again. Bots do not hear one another, and no
persona answers them. One message is handled at a time.
"""

import asyncio
import contextlib
import functools
import hashlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from pathlib import Path
from typing import Final, TypeVar

import msgspec

import clients.events as ev
from clients.auth import Account, Tokens
from clients.client import Client
from clients.errors import ClientError, RequestTimeout, ServerError, SignInFailed, Stopped
from clients.state import FileState, write_private
from clients.timing import DEFAULT, Timing
from clients.views import ConvView
from protocol.codes import AiMode, ConvKind, MsgKind
from protocol.rows import Msg, SendX

log = logging.getLogger("parlance.bot")

BOT_MARK: Final = "bot"
"""Key in `meta` of everything that bots write; its value is the name of the bot."""

KEPT_MAX: Final = 200
"""Handled messages of one conversation that are held."""

_PAGE: Final = 50

T = TypeVar("T")


class Message:
    """What a person wrote.

    Attributes:
        conv: the conversation; reply there with `reply`.
        sender: id of the person.
        row: the whole message.
    """

    __slots__ = ("_bot", "_replies", "conv", "row", "sender", "text")

    def __init__(self, bot: "Bot", conv: int, row: Msg) -> None:
        self._bot = bot
        self._replies = 0
        self.conv = conv
        self.sender = row.sender
        self.text = row.text
        self.row = row

    async def reply(self, text: str) -> bool:
        """Write into the conversation; True once the server has stored it.

        The same reply to the same message is stored once, whoever crashes in between. False when
        the server refused it for good, such as to a bot that was muted or removed.

        Raises:
            ProtocolError: the text can never be accepted.
        """
        cid = (self.conv << 64 | self.row.seq << 16 | self._replies).to_bytes(16, "big")
        self._replies += 1
        x = SendX(ai=int(AiMode.NONE), meta={BOT_MARK: self._bot.name})
        try:
            await self._bot.client.send(self.conv, text, x=x, cid=cid)
        except ServerError as exc:
            log.warning("bot.reply_refused", extra={"code": exc.code, "reason": exc.reason})
            return False
        return True


Answer = Callable[[Message], Awaitable[str | None]]


class Bot:
    """An account, its connection, and what it has not handled yet.

    The account is made at the first start, as a guest of this name, and is the same at later ones:
    its tokens, its outbox and how far it has read are kept in `folder`. People find it by its name.

    Args:
        url: of the server, see `clients.address`.
        name: that people see; with a password, the name of an account that exists.
        folder: for what the bot keeps; `parlance/bots` in the user's state folder by default.

    Raises:
        StateInUse: when it is entered while the same bot runs in another process.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        password: str = "",
        folder: Path | str | None = None,
        timing: Timing = DEFAULT,
    ) -> None:
        self.url = url
        self.name = name
        self._password = password
        self._folder = Path(folder) if folder is not None else _state_folder()
        self._key = hashlib.sha256(f"{name} {url}".encode()).hexdigest()[:16]
        self._account = Account(url, tokens=self._kept_tokens(), changed=self._keep_tokens)
        self._timing = timing
        self._handled = _Handled(self._folder / f"{self._key}.handled")
        self._told: ev.Link | None = None
        self.client: Client

    async def __aenter__(self) -> "Bot":
        self.client = Client(
            self.url,
            self._token,
            state=FileState(self._folder / f"{self._key}.outbox"),
            agent="Parlance bot/python",
            timing=self._timing,
        )
        self.client.add_listener(self._follow)
        await self.client.start()
        self._saving = asyncio.create_task(self._handled.keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._saving.cancel()
        await asyncio.gather(self._saving, return_exceptions=True)
        await self.client.close()
        await self._handled.save()

    def run(self, answer: Answer) -> None:
        """Reply with what `answer` returns, if anything, until Ctrl-C; says on stdout how it goes.

        A message whose `answer` raises is logged and passed over. Ends the process with a sentence
        when the server does not let the bot in.
        """
        try:
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(self._answer_all(answer))
        except ClientError as exc:
            sys.exit(f"{self.name}: {exc}")

    async def _answer_all(self, answer: Answer) -> None:
        async with self:
            self.client.add_listener(self._tell)
            async for message in self.messages():
                try:
                    text = await answer(message)
                    if text:
                        await message.reply(text)
                except Stopped:
                    raise
                except Exception:
                    log.exception("bot.answer_failed")

    def _tell(self, event: ev.Event) -> None:
        """Say it when the connection comes and goes, once however often it is tried."""
        if not isinstance(event, ev.LinkChanged) or event.link is self._told:
            return
        if event.link is ev.Link.ONLINE:
            print(f"{self.name} is online: write to it. Ctrl-C ends it.", flush=True)
        elif event.link is ev.Link.OFFLINE:
            print(f"{self.name} is offline and keeps trying: {event.reason}", flush=True)
        else:
            return
        self._told = event.link

    # signing in

    async def _token(self, renew: bool) -> str:
        """Token source of the client: failures of the network are tried again by it."""
        if self._account.tokens is not None:
            try:
                return await self._account.token(renew)
            except SignInFailed as exc:
                # The store was replaced, or the bot was away for too long.
                log.warning("bot.signed_out", extra={"reason": exc.reason})
        if self._password:
            return (await self._account.login(self.name, self._password)).access_token
        return (await self._account.guest(self.name)).access_token

    def _kept_tokens(self) -> Tokens | None:
        try:
            return msgspec.json.decode(self._tokens_file.read_bytes(), type=Tokens)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _keep_tokens(self, tokens: Tokens) -> None:
        write_private(self._tokens_file, msgspec.json.encode(tokens))

    @property
    def _tokens_file(self) -> Path:
        return self._folder / f"{self._key}.tokens"

    # what is new

    async def messages(self) -> AsyncIterator[Message]:
        """Yield what people write, beginning with what came while the bot was away.

        A message counts as handled when the next one is asked for. In a group it begins with what
        was written after the bot came in.

        Raises:
            Stopped: the bot was closed, or the server does not let it in any more.
        """
        with self.client.events() as events:
            await self.client.wait_online()
            async for conv in self._conversations():
                async for message in self._new_in(conv):
                    yield message
            async for event in events:
                for conv in self._touched(event):
                    async for message in self._new_in(conv):
                        yield message

    async def _conversations(self) -> AsyncIterator[int]:
        cursor = ""
        listed = set()
        while True:
            page = await _persist(functools.partial(self.client.conversation_page, cursor))
            for row in page.rows:
                conv = row.id or 0
                listed.add(conv)
                self._handled.lower(conv, row.last_seq or 0)
                yield conv
            cursor = page.cursor
            if not cursor:
                break
        self._handled.retain(listed)

    def _follow(self, event: ev.Event) -> None:
        """Forget at once what does not hold any more, also while a message is handled."""
        if isinstance(event, ev.ConvGone):
            self._handled.forget(event.conv)
        elif isinstance(event, ev.ConvReset):
            view = self.client.feeds.convs.get(event.conv)
            self._handled.lower(event.conv, view.last_seq if view is not None else 0)
        elif isinstance(event, ev.Forgotten):
            self._handled.retain(set())

    def _touched(self, event: ev.Event) -> list[int]:
        """Return the conversations in which there may be something new."""
        if isinstance(event, ev.MessageAdded | ev.ConvChanged | ev.ConvReset):
            return [event.conv]
        if isinstance(event, ev.Lagged):
            return list(self.client.feeds.convs)
        if isinstance(event, ev.LinkChanged) and event.link is ev.Link.STOPPED:
            raise Stopped(event.reason, event.code)
        return []

    async def _new_in(self, conv: int) -> AsyncIterator[Message]:
        """Yield what was not handled in a conversation, and mark it as read."""
        try:
            while (view := self.client.feeds.convs.get(conv)) is not None and not view.left:
                done = self._handled.of(conv)
                if done is None:
                    await self._handled.begin(conv, await self._begin_at(view))
                    continue
                if done >= view.last_seq:
                    return
                row = view.messages.get(done + 1) or await self._load(conv, done)
                if row is not None and self._is_for_us(row):
                    yield Message(self, conv, row)
                if self._handled.of(conv) == done:  # else it was forgotten meanwhile
                    done = done + 1 if row is None else row.seq
                    self._handled.put(conv, done)
                    self.client.mark(conv, done)
                    self.client.feeds.trim(conv, KEPT_MAX + view.last_seq - done)
        except ServerError as exc:
            # Removed from it in the meantime, say. The next message there begins anew.
            log.warning("bot.unreadable", extra={"code": exc.code, "reason": exc.reason})

    async def _begin_at(self, view: ConvView) -> int:
        """Return the number of the last message that was handled, or is not for the bot."""
        my = view.my
        floor = max(my.read or 0, my.min_seq or 0, my.joined_seq or 0)
        if view.row.kind != ConvKind.GROUP:
            return floor
        info = await _persist(lambda: self.client.get_conversation(view.conv))
        joined = next((m.joined for m in info.members if m.user == self.client.user), None)
        if joined is None:
            return view.last_seq
        page = await _persist(lambda: self.client.history(view.conv, limit=_PAGE))
        before = [row.seq for row in page.msgs if row.ts < joined]
        return max(floor, min((row.seq for row in page.msgs), default=1) - 1, *before)

    async def _load(self, conv: int, seq: int) -> Msg | None:
        """Return the first message after `seq`, None when there is none."""
        page = await _persist(lambda: self.client.history(conv, seq, back=False, limit=_PAGE))
        return min(page.msgs, key=lambda row: row.seq, default=None)

    def _is_for_us(self, row: Msg) -> bool:
        if row.kind != MsgKind.TEXT or row.sender == self.client.user or not row.text:
            return False
        return row.x is None or not (row.x.recalled or BOT_MARK in (row.x.meta or {}))


class _Handled:
    """How far each conversation was handled; on disk soon after.

    The server's read cursor does not say it: to write counts as having read everything before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seqs: dict[int, int] = {}
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            self._seqs = msgspec.json.decode(path.read_bytes(), type=dict[int, int])
        self._dirty = asyncio.Event()
        self._writing = asyncio.Lock()

    def of(self, conv: int) -> int | None:
        """Return the number of the last message handled; None for a new conversation."""
        return self._seqs.get(conv)

    def put(self, conv: int, seq: int) -> None:
        self._seqs[conv] = seq
        self._dirty.set()

    async def begin(self, conv: int, seq: int) -> None:
        """Put it, and return when it is on disk: before the first reply."""
        self.put(conv, seq)
        await self.save()

    def lower(self, conv: int, last_seq: int) -> None:
        """The conversation ends here: more was handled if its store was restored from a backup."""
        if self._seqs.get(conv, 0) > last_seq:
            self.put(conv, last_seq)

    def forget(self, conv: int) -> None:
        """The bot is not in it any more."""
        self._seqs.pop(conv, None)
        self._dirty.set()

    def retain(self, convs: Set[int]) -> None:
        """Forget all others."""
        for conv in self._seqs.keys() - convs:
            self.forget(conv)

    async def keep(self) -> None:
        """Save what changes, until cancelled."""
        while True:
            await self._dirty.wait()
            await self.save()

    async def save(self) -> None:
        async with self._writing:
            self._dirty.clear()
            encoded = msgspec.json.encode(self._seqs)
            try:
                await asyncio.to_thread(write_private, self._path, encoded)
            except OSError as exc:
                # A full disk must not keep the bot from answering.
                log.error("bot.progress_unsaved", extra={"reason": exc.strerror})


async def _persist(call: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer: the server may be away for longer than a request waits."""
    while True:
        try:
            return await call()
        except RequestTimeout:
            continue


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "parlance" / "bots"
