"""`parlance chat`: its arguments, signing in, and which of the two faces is shown."""

import argparse
import asyncio
import contextlib
import errno
import getpass
import os
import platform
import sys
from collections.abc import Sequence
from typing import Final

from clients import events as ev
from clients.address import parse_address
from clients.auth import Account
from clients.client import Client
from clients.errors import AddressError, SignInFailed, StateInUse, Stopped
from clients.state import FileState, MemoryState, State
from clients.terminal.chat import Chat, Refused
from clients.terminal.home import DEMO, Home
from clients.terminal.plain import Plain
from clients.terminal.words import Words, system_language
from clients.terminal.wrapping import clipped
from protocol.codes import Code

DEFAULT_URL: Final = "parlance://127.0.0.1:8420"
FIRST_CONNECT_S: Final = 15.0
_STALE: Final = frozenset({Code.BAD_CREDENTIALS, Code.EXPIRED, Code.REVOKED})


class _Failed(Exception):
    """The client cannot go on; the text says why and what to do."""


def run(argv: Sequence[str] | None = None) -> int:
    """Run the terminal client; return the exit code."""
    options = _parse(argv)
    words = Words(options.lang or system_language())
    try:
        return asyncio.run(_Chatting(options, words).run())
    except _Failed as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="parlance chat", description="Talk in this terminal.")
    parser.add_argument("--url", default=DEFAULT_URL, help=f"server (default: {DEFAULT_URL})")
    parser.add_argument("--user", default="", help="name of the account")
    parser.add_argument("--demo", action="store_true", help="go in as a demo guest")
    parser.add_argument("--persona", default="", metavar="NAME", help="whom to talk with")
    parser.add_argument("--lang", choices=("zh", "en"), help="language (default: by $LANG)")
    parser.add_argument("--plain", action="store_true", help="lines in, answers out")
    options = parser.parse_args(argv)
    try:
        parse_address(options.url)
    except AddressError as exc:
        parser.error(str(exc))
    return options


class _Chatting:
    """One run of the program."""

    def __init__(self, options: argparse.Namespace, words: Words) -> None:
        self.options = options
        self.words = words
        self.home = Home()
        self.url: str = options.url
        self.user: str = DEMO if options.demo else options.user or self.home.last_user(self.url)
        self.plain: bool = options.plain or not (sys.stdin.isatty() and sys.stdout.isatty())

    async def run(self) -> int:
        account = await self._signed_in()
        try:
            return await self._chat(account)
        except Stopped as exc:
            if exc.code not in _STALE or not self.options.demo:
                raise _Failed(self._why_stopped(exc)) from None
        # The guest's account is gone with an older store: begin again as a fresh one.
        self.home.forget(self.url, self.user)
        account = await self._signed_in()
        try:
            return await self._chat(account)
        except Stopped as exc:
            raise _Failed(self._why_stopped(exc)) from None

    def _why_stopped(self, exc: Stopped) -> str:
        if exc.code in _STALE:
            self.home.forget(self.url, self.user)
            return self.words("signed out", reason=exc.reason)
        if exc.code == Code.REPLACED:
            return self.words("stopped", reason=self.words("replaced"))
        return self.words("stopped", reason=exc.reason)

    # signing in

    async def _signed_in(self) -> Account:
        remembered = self.home.account(self.url, self.user) if self.user else None
        account = Account(
            self.url,
            tokens=remembered.tokens if remembered is not None else None,
            changed=lambda tokens: self.home.keep_tokens(self.url, self.user, tokens),
        )
        try:
            if remembered is not None:
                await account.token()
                return account
        except SignInFailed:
            pass  # the refresh token is void: sign in anew
        except OSError as exc:
            raise self._no_server(exc) from None
        try:
            if self.options.demo:
                await account.guest()
            else:
                await self._ask_and_sign_in(account)
        except SignInFailed as exc:
            raise _Failed(self.words("sign-in failed", reason=exc.reason)) from None
        except OSError as exc:
            raise self._no_server(exc) from None
        return account

    async def _ask_and_sign_in(self, account: Account) -> None:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise _Failed(self.words("not signed in"))
        print(self.words("sign in", address=self.url), file=sys.stderr)
        name = self.options.user
        if not name:
            name = (await asyncio.to_thread(input, self.words("name"))).strip()
        password = await asyncio.to_thread(getpass.getpass, self.words("password"))
        self.user = name
        try:
            await account.login(name, password)
        except SignInFailed as exc:
            print(exc.reason, file=sys.stderr)
            question = self.words("make account", name=clipped(name, 40))
            answer = await asyncio.to_thread(input, question)
            if answer.strip().lower() not in ("y", "yes", "是", "好"):
                raise
            await account.register(name, password)

    def _no_server(self, exc: OSError) -> _Failed:
        # asyncio puts the address into the text of a refusal; it stands in the sentence already.
        refused = isinstance(exc, ConnectionRefusedError)
        reason = os.strerror(errno.ECONNREFUSED) if refused else exc.strerror or str(exc)
        address = parse_address(self.url).authority
        return _Failed(self.words("no server", address=address, reason=reason))

    # talking

    async def _chat(self, account: Account) -> int:
        client = Client(
            self.url,
            account.token,
            state=self._state(),
            agent=f"Parlance terminal/{platform.system().lower()}"[:64],
            lang=self.words.lang,
            confirms=not self.plain,
        )
        chat = Chat(client, self.words)
        chat.on_conv = lambda conv: self.home.keep_conv(self.url, self.user, conv)
        async with client:
            await self._connect(client)
            remembered = self.home.account(self.url, self.user)
            conv = remembered.conv if remembered is not None else 0
            try:
                await chat.begin(self.options.persona, conv)
            except Refused as exc:
                raise _Failed(str(exc)) from None
            if self.plain:
                return await Plain(chat, self.words, sys.stdin, sys.stdout, sys.stderr).run()
            return await self._full_screen(chat)

    async def _full_screen(self, chat: Chat) -> int:
        from clients.terminal.screen import Screen

        screen = Screen(chat, self.words, typed=self.home.input_history())
        name = chat.persona_name(chat.persona)
        screen.transcript.note(self.words("welcome", name=name))
        await screen.run()
        return 0

    async def _connect(self, client: Client) -> None:
        """Wait for the first connection; a server that is not there is said at once."""
        with client.events() as events, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_CONNECT_S):
                if client.link is ev.Link.ONLINE:
                    return
                async for event in events:
                    if not isinstance(event, ev.LinkChanged):
                        continue
                    if event.link is ev.Link.ONLINE:
                        return
                    if event.link is ev.Link.STOPPED:
                        raise Stopped(event.reason, event.code)
                    if event.link is ev.Link.OFFLINE and not event.code:
                        raise self._no_server(OSError(event.reason))
        raise self._no_server(TimeoutError("no answer"))

    def _state(self) -> State:
        try:
            return FileState(self.home.state_file(self.url, self.user))
        except StateInUse:
            print(self.words("second window"), file=sys.stderr)
            return MemoryState()
