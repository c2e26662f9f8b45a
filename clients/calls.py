"""One method per request of the protocol (docs/protocol.md §12).

All of them wait for the connection, survive its loss (every request may be repeated: creates
carry a cid, the others set absolute state) and raise what `Client.request` raises.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

from clients.outbox import make_cid
from protocol import envelopes as e
from protocol.codes import ConvKind, GenMode
from protocol.rows import (
    Conv,
    ConvSet,
    Device,
    GenOpt,
    Member,
    MySet,
    Persona,
    SendX,
    User,
)


class Calls:
    """Typed requests; mixed into `Client`."""

    async def request(self, frame: e.Request, timeout_s: float = 30.0) -> Any:
        """Send a request and return its reply."""
        raise NotImplementedError

    # messages

    async def edit(
        self, conv: int, seq: int, text: str, *, base: int = 0, x: SendX | None = None
    ) -> e.Changed:
        """Replace the text of one's own message; `base` is the row's rev expected, 0 for any.

        With a base, a repeat after a lost reply can fail as STALE although the edit was made.
        """
        return cast(e.Changed, await self.request(e.Edit(0, conv, seq, text, base, x)))

    async def recall(self, conv: int, seq: int) -> e.Changed:
        """Take a message back for everybody."""
        return cast(e.Changed, await self.request(e.Recall(0, conv, seq)))

    async def history(
        self, conv: int, anchor: int = 0, *, back: bool = True, limit: int = 50
    ) -> e.Page:
        """Read a page before (or after) seq `anchor`, 0 for the newest; it joins the view."""
        return cast(e.Page, await self.request(e.History(0, conv, anchor, back, limit)))

    async def get_messages(self, conv: int, seqs: Sequence[int]) -> e.Page:
        """Read up to 100 messages by seq; they join the view."""
        return cast(e.Page, await self.request(e.Get(0, conv, list(seqs))))

    # conversations

    async def create_conversation(
        self,
        kind: ConvKind,
        *,
        title: str = "",
        members: Sequence[int] = (),
        persona: int | None = None,
        settings: ConvSet | None = None,
        cid: bytes | None = None,
    ) -> e.ConvInfo:
        """Create a conversation; for two people the one that exists is returned.

        Args:
            cid: repeat it to repeat the request safely, also after a restart.
        """
        frame = e.ConvCreate(
            0, cid or make_cid(), int(kind), title, list(members), persona, settings
        )
        return cast(e.ConvInfo, await self.request(frame))

    async def get_conversation(self, conv: int) -> e.ConvInfo:
        """Read a conversation, one's own view of it and its first members; they join the view."""
        return cast(e.ConvInfo, await self.request(e.ConvGet(0, conv)))

    async def conversation_page(
        self, cursor: str = "", *, archived: bool = False, limit: int = 50
    ) -> e.ConvPage:
        """Read a page of conversations, most recently active first; they join the views."""
        return cast(e.ConvPage, await self.request(e.ConvList(0, archived, cursor, limit)))

    async def conversations(self, *, archived: bool = False) -> AsyncIterator[Conv]:
        """Iterate over all conversations, most recently active first."""
        cursor = ""
        while True:
            page = await self.conversation_page(cursor, archived=archived)
            for row in page.rows:
                yield row
            cursor = page.cursor
            if not cursor:
                return

    async def change_conversation(self, conv: int, settings: ConvSet) -> e.Changed:
        """Change a conversation for everybody; 0 or "" clears a field."""
        return cast(e.Changed, await self.request(e.ConvChange(0, conv, settings)))

    async def change_my_view(self, conv: int, settings: MySet) -> e.Changed:
        """Change one's own view of a conversation."""
        return cast(e.Changed, await self.request(e.MyChange(0, conv, settings)))

    async def drop_conversation(self, conv: int) -> e.Changed:
        """Delete it (its owner can restore it), or leave it."""
        return cast(e.Changed, await self.request(e.ConvDrop(0, conv)))

    async def restore_conversation(self, conv: int) -> e.Changed:
        """Bring a deleted conversation back."""
        return await self.change_conversation(conv, ConvSet(deleted=False))

    async def member_page(self, conv: int, cursor: str = "", limit: int = 100) -> e.MemberPage:
        """Read a page of members."""
        return cast(e.MemberPage, await self.request(e.Members(0, conv, cursor, limit)))

    async def members(self, conv: int) -> AsyncIterator[Member]:
        """Iterate over all members."""
        cursor = ""
        while True:
            page = await self.member_page(conv, cursor)
            for member in page.items:
                yield member
            cursor = page.cursor
            if not cursor:
                return

    async def add_members(self, conv: int, users: Sequence[int]) -> e.Changed:
        """Add up to 50 people to a group."""
        return cast(e.Changed, await self.request(e.MemberAdd(0, conv, list(users))))

    async def drop_member(self, conv: int, user: int) -> e.Changed:
        """Remove somebody from a group, or leave it."""
        return cast(e.Changed, await self.request(e.MemberDrop(0, conv, user)))

    async def set_member(self, conv: int, user: int, role: int, mute_ms: int = 0) -> e.Changed:
        """Set a member's role and for how long from now they may not write."""
        return cast(e.Changed, await self.request(e.MemberSet(0, conv, user, role, mute_ms)))

    # personas and answers

    async def save_persona(self, persona: Persona, cid: bytes | None = None) -> e.PersonaInfo:
        """Create a persona, or change the one whose id is set."""
        frame = e.PersonaSave(0, cid or make_cid(), persona)
        return cast(e.PersonaInfo, await self.request(frame))

    async def get_persona(self, persona: int) -> e.PersonaInfo:
        """Read one persona."""
        return cast(e.PersonaInfo, await self.request(e.PersonaGet(0, persona)))

    async def persona_page(self, scope: int, cursor: str = "", limit: int = 100) -> e.PersonaPage:
        """Read a page of the personas of one scope (`protocol.codes.Scope`)."""
        return cast(e.PersonaPage, await self.request(e.PersonaList(0, scope, cursor, limit)))

    async def personas(self, scope: int) -> AsyncIterator[Persona]:
        """Iterate over all personas of one scope."""
        cursor = ""
        while True:
            page = await self.persona_page(scope, cursor)
            for persona in page.items:
                yield persona
            cursor = page.cursor
            if not cursor:
                return

    async def drop_persona(self, persona: int) -> e.Changed:
        """Remove one's own persona; what it said stays."""
        return cast(e.Changed, await self.request(e.PersonaDrop(0, persona)))

    async def generate(
        self,
        conv: int,
        mode: GenMode = GenMode.REPLY,
        *,
        seq: int = 0,
        persona: int | None = None,
        opt: GenOpt | None = None,
        cid: bytes | None = None,
    ) -> e.GenOk:
        """Ask for an answer apart from `send`: to message seq, again, or further; 0 is the last."""
        frame = e.Gen(0, conv, cid or make_cid(), int(mode), seq, persona, opt)
        return cast(e.GenOk, await self.request(frame))

    async def cancel(self, sid: int) -> e.Done:
        """Stop an answer; the text so far is kept. Stopping one that has ended does nothing."""
        return cast(e.Done, await self.request(e.Cancel(0, sid)))

    async def pick(self, conv: int, seq: int) -> e.Changed:
        """Choose one of the answers that `gen` made of one another."""
        return cast(e.Changed, await self.request(e.Pick(0, conv, seq)))

    async def open_stream(self, sid: int, part: int = 0, off: int = 0) -> e.Opened:
        """Read the text of a running answer from byte `off` on."""
        return cast(e.Opened, await self.request(e.Open(0, sid, part, off)))

    async def confirm(self, sid: int, call: int, *, yes: bool) -> e.Done:
        """Say whether a tool may run (`events.ToolAsked`); the first device that answers decides.

        Raises:
            ServerError: NOT_FOUND, the question is settled.
        """
        return cast(e.Done, await self.request(e.Confirm(0, sid, call, yes)))

    async def usage(self) -> e.UsageInfo:
        """Return what one's own answers used today and this month, and what may be spent."""
        return cast(e.UsageInfo, await self.request(e.Usage(0)))

    # people and devices

    async def get_users(self, users: Sequence[int]) -> list[User]:
        """Read up to 100 people by id; unknown ones are left out."""
        return cast(e.Users, await self.request(e.UserGet(0, list(users)))).items

    async def find_users(self, query: str, limit: int = 20) -> list[User]:
        """Find people of one's own tenant by the beginning of their name."""
        return cast(e.Users, await self.request(e.UserFind(0, query, limit))).items

    async def set_profile(self, changes: User) -> e.Changed:
        """Change one's own profile; `persona` is the choice that follows to other devices."""
        return cast(e.Changed, await self.request(e.ProfileSet(0, changes)))

    async def list_devices(self) -> list[Device]:
        """Return where one is signed in: one device of each sign-in, one's own first."""
        return cast(e.Devices, await self.request(e.DeviceList(0))).items

    async def drop_device(self, device: bytes) -> e.Changed:
        """Sign a device out, with all others of its sign-in."""
        return cast(e.Changed, await self.request(e.DeviceDrop(0, device)))
