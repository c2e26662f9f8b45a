"""Sending, changing and reading messages."""

from typing import TYPE_CHECKING

from protocol.codes import AiMode, Caps, Code, ConvKind, MsgKind, Role, TypingState
from protocol.envelopes import (
    Changed,
    Edit,
    Get,
    History,
    Mark,
    Page,
    Recall,
    Send,
    Typing,
    TypingAt,
)
from protocol.rows import Msg, MsgX, SendX
from protocol.text import clean_text
from server.delivery import PendingMessage, Sender, publish_row
from server.directory import Conversation
from server.errors import ServiceError, invalid, not_found, not_permitted
from server.router import Caller, Router
from server.turn_requests import NO_EXTRA, Extra
from storage.errors import TooLate
from storage.messages import edit_message, get_messages, history, recall_message
from storage.ops import Op
from storage.rows import MemberRow, NewTurn
from storage.writes import Tx

if TYPE_CHECKING:
    from server.core import Core
    from server.session import Session

KINDS = frozenset({MsgKind.TEXT, MsgKind.CARD})
"""What a client may send today; the kinds with files come with the files."""
PAGE_BYTES = 384 * 1024
"""Text of one page of history; clients accept frames of 1 MiB."""
ROW_BYTES = 200
TYPING_EVERY_S = 4.0
TYPING_MEMBERS = 200


def register(router: Router) -> None:
    """Add this subject's rows to the table."""
    router.direct(Send, send, 1)
    router.direct(Mark, mark, 0.2)
    router.direct(Typing, typing, 0.2)
    router.serve(Edit, edit, 1)
    router.serve(Recall, recall, 1)
    router.serve(History, read_history, 2)
    router.serve(Get, get, 2)


def send(core: "Core", session: "Session", f: Send) -> None:
    """Hand a message to the batcher; the acknowledgement comes with the commit."""
    entry = core.directory.get(f.conv)
    if entry is not None:
        submit(core, entry, session, session, f)
        session.hold_slot()
        return

    def found(entry: Conversation | None, error: Exception | None) -> None:
        try:
            if error is not None:
                raise error
            if entry is None:
                raise not_found("conversation")
            submit(core, entry, session, session, f)
        except Exception as exc:
            session.fail(f.rid, exc)
            session.free_slot()

    session.hold_slot()
    core.directory.find(f.conv, found)


def submit(
    core: "Core",
    entry: Conversation,
    sender: Sender,
    session: "Session | None",
    f: Send,
    extra: Extra = NO_EXTRA,
) -> None:
    """Check a message and put it into the batcher's queue, or raise and leave nothing behind.

    When this returns, the sender will be answered and its slot freed exactly once.

    Args:
        extra: what is added to the answer that the message asks for, and is not stored.
    """
    user = sender.user
    member = entry.members.get(user)
    if member is None or entry.tenant != sender.tenant:
        raise not_found("conversation")
    require_writable(core, entry, member)
    if f.kind not in KINDS:
        raise invalid("kind", "This kind of message cannot be sent yet.")
    text = clean_text(f.text)
    if not text or text.isspace():
        raise invalid("empty message")
    policy = core.policy
    if not entry.may_send(policy.conversation_per_s, policy.conversation_burst, core.clock()):
        raise ServiceError(Code.RATE, "conversation rate", retry_ms=1000)
    x = None if f.x is None else _options(entry, member.role, f.x)
    turn = None
    if entry.kind is not ConvKind.DIRECT and (f.x is None or f.x.ai != AiMode.NONE):
        turn = _turn_for(core, entry, sender, f)
    core.store.submit(PendingMessage(core, entry, sender, session, f, text, x, turn, extra))


def require_writable(core: "Core", entry: Conversation, member: MemberRow) -> None:
    """Refuse what would add to a deleted conversation, or what a muted member says."""
    if entry.row.deleted:
        raise ServiceError(Code.GONE, "conversation is deleted", "Restore it to write in it.")
    if member.mute_until and member.mute_until > core.now_ms():
        raise not_permitted("muted")


def _options(entry: Conversation, role: int, x: SendX) -> MsgX:
    if x.quote is not None and x.quote < 1:
        raise invalid("quote")
    mentions = x.mentions
    if mentions and 0 in mentions and role < Role.ADMIN and entry.kind is ConvKind.GROUP:
        raise not_permitted("mention everyone")
    return MsgX(
        quote=x.quote,
        fwd_conv=x.fwd_conv,
        fwd_seq=x.fwd_seq,
        mentions=mentions,
        fmt=x.fmt,
        meta=x.meta,
    )


def _turn_for(core: "Core", entry: Conversation, sender: Caller, f: Send) -> NewTurn | None:
    """Return the turn a message asks for: in an AI conversation always, in a group when called."""
    x = f.x
    if x is not None and x.persona:
        persona = core.personas.require(sender, x.persona).id or 0
    elif entry.kind is ConvKind.GROUP:
        called = core.rooms.called(entry, f.text, None if x is None else x.mentions)
        persona = called[0] if called else 0
    else:
        persona = entry.row.persona or 0
        if persona and not core.personas.may_use(sender, persona):
            persona = 0
    return core.turns.new(sender.tenant, sender.user, persona) if persona else None


async def edit(core: "Core", caller: Caller, f: Edit) -> Changed:
    """Replace the text of one's own message."""
    entry = await core.directory.require(f.conv, caller)
    text = clean_text(f.text)
    if not text or text.isspace():
        raise invalid("empty message")
    x = None if f.x is None else _options(entry, entry.members[caller.user].role, f.x)

    window_ms = core.config.messages.edit_window_s * 1000

    def write(tx: Tx) -> Op[tuple[Msg, bool]]:
        if window_ms:
            for old in (yield from get_messages(entry.id, [f.seq], 0)):
                if tx.ts - old.ts > window_ms:
                    raise TooLate("the message is too old to be changed")
        row = yield from edit_message(tx, entry.id, f.seq, caller.user, text, x, f.base)
        return row, tx.touched

    row, changed = await core.store.change(
        (entry.id,), write, publish=lambda result: _publish_change(core, entry, *result)
    )
    return Changed(f.rid, entry.id, row.rev if changed else 0, core.now_ms())


def _publish_change(core: "Core", entry: Conversation, row: Msg, changed: bool) -> None:
    if changed:
        publish_row(core, core.directory.changed(entry.id) or entry, row)


async def recall(core: "Core", caller: Caller, f: Recall) -> Changed:
    """Take a message back, everywhere."""
    entry = await core.directory.require(f.conv, caller)
    by_admin = entry.members[caller.user].role >= Role.ADMIN
    window_s = core.config.messages.recall_window_s
    row, changed = await core.store.change(
        (entry.id,),
        lambda tx: recall_message(tx, entry.id, f.seq, caller.user, by_admin, int(window_s * 1000)),
        publish=lambda result: _publish_change(core, entry, *result),
    )
    return Changed(f.rid, entry.id, row.rev if changed else 0, core.now_ms())


async def read_history(core: "Core", caller: Caller, f: History) -> Page:
    """Return a page of messages, oldest first."""
    entry = await core.directory.require(f.conv, caller)
    msgs, more = await core.store.read(
        history(entry.id, f.anchor, f.back, f.limit, entry.floor(caller.user))
    )
    fitting = _fit_page(msgs, f.back)
    return Page(f.rid, entry.id, fitting, more or len(fitting) < len(msgs))


def _fit_page(msgs: list[Msg], back: bool) -> list[Msg]:
    """Return as many messages as one frame should hold, from the end nearest to the anchor."""
    size = 0
    for count, msg in enumerate(reversed(msgs) if back else msgs):
        size += len(msg.text.encode()) + ROW_BYTES
        if size > PAGE_BYTES and count:
            return msgs[-count:] if back else msgs[:count]
    return msgs


async def get(core: "Core", caller: Caller, f: Get) -> Page:
    """Return messages by their numbers; those that do not exist are left out.

    `more`: the last ones did not fit into the page and must be asked for again.
    """
    entry = await core.directory.require(f.conv, caller)
    msgs = await core.store.read(
        get_messages(entry.id, sorted(set(f.seqs)), entry.floor(caller.user))
    )
    fitting = _fit_page(msgs, False)
    return Page(f.rid, entry.id, fitting, len(fitting) < len(msgs))


def mark(core: "Core", session: "Session", f: Mark) -> None:
    """Move the read cursor; written within a second, highest value wins."""

    def found(entry: Conversation | None, error: Exception | None) -> None:
        if entry is not None and entry.tenant == session.tenant and session.user in entry.members:
            core.marks.marked(f.conv, session.user, f.read, f.recv)
        elif error is None:
            session.missed()

    entry = core.directory.get(f.conv)
    if entry is not None:
        found(entry, None)
    else:
        core.directory.find(f.conv, found)


def typing(core: "Core", session: "Session", f: Typing) -> None:
    """Tell those who watch the conversation that somebody writes. Never stored."""
    entry = core.directory.peek(f.conv)
    if entry is None or entry.tenant != session.tenant or session.user not in entry.members:
        return
    now = core.clock()
    if len(entry.members) > TYPING_MEMBERS or f.state > TypingState.VOICE:
        return
    if f.state != TypingState.STOP:
        if now - session.typing_at < TYPING_EVERY_S:
            return
        session.typing_at = now
    watchers = [s for s in core.hub.watchers_of(f.conv) if s.user != session.user]
    frame = TypingAt(f.conv, session.user, f.state)
    core.hub.signal(watchers, ("typing", f.conv, session.user), frame, Caps.PRESENCE)
