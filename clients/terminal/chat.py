"""What the terminal client does, whatever shows it: one conversation open, and the ways between.

The screen and the plain mode both stand on `Chat`; it never writes to the terminal itself.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from clients import events as ev
from clients.client import Client
from clients.errors import ClientError, RequestTimeout, ServerError
from clients.outbox import Outgoing
from clients.streams import Stream
from clients.terminal.words import Words
from clients.views import ConvView
from protocol.codes import ConvKind, EndReason, GenMode, MsgKind, Scope
from protocol.envelopes import UsageInfo
from protocol.errors import ProtocolError
from protocol.rows import ConvSet, Msg, Persona, SendX, User

T = TypeVar("T")

REQUEST_S: Final = 10.0
PAGE: Final = 50
SCREENFUL: Final = 20
PERSONAS_MAX: Final = 500
_GENERAL: Final = frozenset({"assistant", "助手", "陪伴"})


class Refused(Exception):
    """Something cannot be done; the text says it to the user, in their language."""


class Ghost:
    """What was read of an answer whose end was missed, until its message comes."""

    def __init__(self, sid: int, conv: int, persona: int, text: str, why: str) -> None:
        self.sid = sid
        self.conv = conv
        self.persona = persona
        self.text = text
        self.why = why


class Chat:
    """State and actions of a terminal session.

    Attributes:
        conv: the open conversation; 0 before the first.
        personas: those this user may use, as listed last.
        numbered: conversations in the order in which they were listed last.
        ghosts: unfinished answers by sid, see `Ghost`.
        on_conv: called when another conversation is opened.
    """

    def __init__(self, client: Client, words: Words) -> None:
        self.client = client
        self.words = words
        self.conv = 0
        self.personas: list[Persona] = []
        self.numbered: list[int] = []
        self.ghosts: dict[int, Ghost] = {}
        self.on_conv: Callable[[int], None] = lambda conv: None
        self._names: dict[int, str] = {}
        self._persona_names: dict[int, str] = {}
        client.add_listener(self._listen)

    # what there is

    @property
    def view(self) -> ConvView:
        """The open conversation."""
        return self.client.feeds.convs.get(self.conv) or ConvView(self.conv)

    @property
    def running(self) -> list[Stream]:
        """Answers that are being made in the open conversation."""
        return self.client.streams.of(self.conv)

    @property
    def questions(self) -> list[ev.ToolAsked]:
        """Tools that wait for the user's yes or no, those of the open conversation first."""
        return sorted(self.client.questions.open, key=lambda asked: asked.conv != self.conv)

    @property
    def unsent(self) -> list[Outgoing]:
        """Messages of the open conversation that the server has not acknowledged."""
        return [entry for entry in self.client.unsent if entry.unsent.conv == self.conv]

    @property
    def persona(self) -> int:
        """The persona of the open conversation, or the user's choice."""
        profile = self.client.feeds.profile
        chosen = profile.row.persona if profile is not None else None
        return self.view.row.persona or chosen or 0

    def persona_name(self, persona: int) -> str:
        """Return the name of a persona, as far as it is known."""
        held = self.client.feeds.personas.get(persona)
        if held is not None and held.row.name:
            return held.row.name
        return self._persona_names.get(persona) or self.words("assistant")

    def sender_name(self, msg: Msg) -> str:
        """Return who said something."""
        if msg.sender == self.client.user:
            return self.words("you")
        if msg.kind == MsgKind.SYSTEM:
            return self.words("system")
        if msg.kind == MsgKind.AI_REPLY:
            return self.persona_name(msg.sender)
        return self.user_name(msg.sender)

    def user_name(self, user: int) -> str:
        """Return the name of a person, as far as it is known."""
        return self._names.get(user) or self.words("somebody", id=user)

    def title_of(self, conv: int) -> str:
        """Return what to call a conversation."""
        view = self.client.feeds.convs.get(conv)
        if view is None:
            return self.words("untitled")
        if view.my.remark or view.row.title:
            return view.my.remark or view.row.title or ""
        if view.row.kind == ConvKind.DIRECT:
            others = [m.user or 0 for m in view.present() if m.user != self.client.user]
            return ", ".join(self.user_name(user) for user in others)
        return self.words("untitled")

    # beginning

    async def begin(self, persona: str = "", conv: int = 0) -> None:
        """Open a conversation: with the persona named, the one given, the latest, or a first one.

        Raises:
            Refused: no such persona, or none at all.
        """
        await self.list_personas()
        if persona:
            await self.choose(persona)
            return
        known = self.client.feeds.convs
        if conv in known and not known[conv].left and not known[conv].row.deleted:
            await self.open(conv)
            return
        latest = self._latest(lambda view: view.row.kind == ConvKind.AI)
        if latest:
            await self.open(latest)
            return
        await self._first()

    async def _first(self) -> None:
        if not self.personas:
            raise Refused(self.words("no personas"))
        persona = self._by_id(self.persona) or self._suited()
        await self.create(persona.id or 0)
        await self._save_choice(persona.id or 0)

    def _suited(self) -> Persona:
        """Return the first persona that speaks the language of the interface."""
        chinese = self.words.lang == "zh"
        suited = [p for p in self.personas if _speaks_chinese(p) == chinese] or self.personas
        helpers = [p for p in suited if _GENERAL.intersection(p.tags or ())]
        return (helpers or suited)[0]

    def _by_id(self, persona: int) -> Persona | None:
        return next((p for p in self.personas if p.id == persona), None)

    def _latest(self, wanted: Callable[[ConvView], bool]) -> int:
        views = self.client.feeds.convs.values()
        found = [v for v in views if wanted(v) and not v.left and not v.row.deleted]
        return max(found, key=lambda view: view.updated).conv if found else 0

    # personas

    async def list_personas(self, word: str = "") -> list[Persona]:
        """Read the personas; return those whose name or tags hold `word`."""
        found: list[Persona] = []
        for scope in (Scope.PRIVATE, Scope.TENANT, Scope.PUBLIC):
            found += await self._ask(self._personas_of(scope))
        found = list({persona.id: persona for persona in found}.values())
        # Those of one's own first, then those that speak one's language.
        chinese = self.words.lang == "zh"
        found.sort(key=lambda p: (p.owner != self.client.user, _speaks_chinese(p) != chinese, p.id))
        self.personas = found
        self._persona_names.update({p.id or 0: p.name or "" for p in found})
        folded = word.casefold()
        return [p for p in found if folded in " ".join([p.name or "", *(p.tags or ())]).casefold()]

    async def _personas_of(self, scope: Scope) -> list[Persona]:
        found: list[Persona] = []
        async for persona in self.client.personas(scope):
            found.append(persona)
            if len(found) >= PERSONAS_MAX:
                break
        return found

    def find_persona(self, name: str) -> Persona:
        """Return the persona of this number in the list, or whose name begins so.

        Raises:
            Refused: there is none.
        """
        if name.isdecimal() and 0 < int(name) <= len(self.personas):
            return self.personas[int(name) - 1]
        folded = name.casefold()
        exact = [p for p in self.personas if (p.name or "").casefold() == folded]
        begins = [p for p in self.personas if (p.name or "").casefold().startswith(folded)]
        for persona in (*exact, *begins):
            return persona
        raise Refused(self.words("no persona", name=name))

    async def choose(self, name: str) -> Persona:
        """Talk with another persona: in the latest conversation with it, or in a new one."""
        persona = self.find_persona(name)
        wanted = persona.id or 0
        await self._save_choice(wanted)
        latest = self._latest(
            lambda view: view.row.kind == ConvKind.AI and view.row.persona == wanted
        )
        if latest:
            await self.open(latest)
        else:
            await self.create(wanted)
        return persona

    async def _save_choice(self, persona: int) -> None:
        profile = self.client.feeds.profile
        if profile is None or profile.row.persona != persona:
            await self._ask(self.client.set_profile(User(persona=persona)))

    # conversations

    async def list_conversations(self) -> list[int]:
        """Read the newest conversations; their order is what numbers mean in `open_numbered`."""
        page = await self._ask(self.client.conversation_page())
        self.numbered = [row.id for row in page.rows if row.id is not None and not row.deleted]
        return self.numbered

    async def open_numbered(self, name: str) -> None:
        """Open the conversation of this number in the list, or whose title begins so."""
        if not self.numbered:
            await self.list_conversations()
        if name.isdecimal() and 0 < int(name) <= len(self.numbered):
            await self.open(self.numbered[int(name) - 1])
            return
        folded = name.casefold()
        for conv in self.numbered:
            if folded and self.title_of(conv).casefold().startswith(folded):
                await self.open(conv)
                return
        raise Refused(self.words("no conversation", name=name))

    async def create(self, persona: int = 0) -> None:
        """Begin and open a new conversation with a persona."""
        persona = persona or self.persona
        info = await self._ask(self.client.create_conversation(ConvKind.AI, persona=persona))
        await self.open(info.row.id or 0)

    async def open(self, conv: int) -> None:
        """Make a conversation the open one: watch it, and load its newest messages."""
        self.conv = conv
        self.on_conv(conv)
        await self._ask(self.client.watch([conv]))
        view = self.view
        first = view.whole_from()
        if not self.at_beginning and (not first or view.last_seq - first < SCREENFUL):
            await self._ask(self.client.history(conv, first, limit=PAGE))
        await self.learn_names()
        self.mark_read()

    async def load_older(self) -> bool:
        """Load a page of older messages; False when there are none."""
        view = self.view
        first = view.whole_from()
        if self.at_beginning:
            return False
        page = await self._ask(self.client.history(self.conv, first, limit=PAGE))
        await self.learn_names()
        return bool(page.msgs)

    @property
    def at_beginning(self) -> bool:
        """True when the first message is loaded."""
        view = self.view
        floor = max(view.my.min_seq or 0, view.my.joined_seq or 0)
        return view.last_seq <= floor or 0 < view.whole_from() <= floor + 1

    def mark_read(self) -> None:
        """Everything shown is read."""
        if self.conv and self.view.last_seq:
            self.client.mark(self.conv, self.view.last_seq)

    # messages

    def say(self, text: str, quote: int | None = None) -> Outgoing:
        """Put a message into the outbox.

        Raises:
            Refused: it can never be sent.
        """
        try:
            x = SendX(quote=quote) if quote is not None else None
            return self.client.post(self.conv, text, x=x)
        except (ProtocolError, ClientError) as exc:
            reason = exc.reason if isinstance(exc, ProtocolError) else str(exc)
            raise Refused(self.words("not sent", reason=reason)) from None

    async def stop(self) -> bool:
        """Stop the running answers; False when there are none."""
        running = self.running
        for stream in running:
            await self._ask(self.client.cancel(stream.sid))
        return bool(running)

    async def confirm(self, *, yes: bool) -> None:
        """Say whether the tool that asks first may run.

        Raises:
            Refused: none asks, or it is settled already.
        """
        questions = self.questions
        if not questions:
            raise Refused(self.words("nothing asked"))
        await self._ask(self.client.confirm(questions[0].sid, questions[0].call, yes=yes))

    async def usage(self) -> UsageInfo:
        """Return what the user's answers used."""
        return await self._ask(self.client.usage())

    async def regenerate(self) -> None:
        """Ask for the last answer again."""
        await self._ask(self.client.generate(self.conv, GenMode.REGENERATE))

    async def edit(self, seq: int, text: str) -> None:
        """Change one's own message."""
        await self._ask(self.client.edit(self.conv, seq, text))

    async def recall(self, seq: int) -> None:
        """Take a message back."""
        await self._ask(self.client.recall(self.conv, seq))

    async def rename(self, title: str) -> None:
        """Give the open conversation another title."""
        await self._ask(self.client.change_conversation(self.conv, ConvSet(title=title)))

    def own_last(self) -> int:
        """Return the seq of one's own last message that is not taken back; 0 for none."""
        view = self.view
        for seq in reversed(view.seqs):
            msg = view.messages[seq]
            if msg.sender == self.client.user and not (msg.x is not None and msg.x.recalled):
                return seq
        return 0

    async def members(self) -> list[str]:
        """Return the names of everybody in the open conversation, personas included."""
        info = await self._ask(self.client.get_conversation(self.conv))
        await self.learn_names()
        names = [
            self.words("you") if m.user == self.client.user else self.user_name(m.user or 0)
            for m in info.members
        ]
        if info.row.persona:
            names.append(self.persona_name(info.row.persona))
        return names

    async def learn_names(self) -> None:
        """Look up the people of the open conversation whose names are not known yet."""
        view = self.view
        people = {m.user or 0 for m in view.present()}
        people |= {msg.sender for msg in view.messages.values() if msg.kind < MsgKind.SYSTEM}
        unknown = sorted(people - self._names.keys() - {0, self.client.user})[:100]
        if unknown:
            for user in await self._ask(self.client.get_users(unknown)):
                self._names[user.id or 0] = user.nick or user.name or ""

    # the rest

    async def _ask(self, call: Awaitable[T]) -> T:
        """Await a request that a person waits for, and say its failure in their language."""
        try:
            async with asyncio.timeout(REQUEST_S):
                return await call
        except TimeoutError:
            raise Refused(self.words("no answer in time")) from None
        except ClientError as exc:
            raise Refused(explain(exc, self.words)) from None

    def _listen(self, event: ev.Event) -> None:
        if isinstance(event, ev.StreamEnded):
            if event.seq == 0 and event.text:
                why = "interrupted" if event.reason is None else f"finish {int(event.reason)}"
                if event.reason is EndReason.STOP:
                    return
                self.ghosts[event.sid] = Ghost(event.sid, event.conv, 0, event.text, why)
        elif isinstance(event, ev.MessageAdded | ev.MessageChanged):
            if event.msg.x is not None and event.msg.x.sid is not None:
                self.ghosts.pop(event.msg.x.sid, None)
        elif isinstance(event, ev.Forgotten):
            self.ghosts.clear()


def explain(exc: BaseException, words: Words) -> str:
    """Return what to tell the user about an error of the client library."""
    if isinstance(exc, RequestTimeout):
        return words("no answer in time")
    if isinstance(exc, ServerError):
        return words("failed", reason=exc.detail or exc.reason)
    return words("failed", reason=str(exc))


def _speaks_chinese(persona: Persona) -> bool:
    shown: Iterable[str] = [persona.name or "", persona.greeting or "", *(persona.tags or ())]
    return any("\u4e00" <= char <= "\u9fff" for text in shown for char in text)
