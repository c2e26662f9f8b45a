"""Asking for answers, stopping them, and reading running ones."""

from typing import TYPE_CHECKING

from ai_bridge.turn import character_border
from protocol.codes import Code, GenMode, MsgKind
from protocol.envelopes import (
    Cancel,
    Changed,
    Confirm,
    Done,
    Gen,
    GenOk,
    Open,
    Opened,
    Pick,
    Usage,
    UsageInfo,
)
from protocol.rows import Msg
from server.delivery import publish_rows
from server.directory import Conversation
from server.errors import ServiceError, invalid, not_found
from server.handlers.messages import require_writable
from server.own_use import read_use
from server.router import Caller, Router
from storage.branches import MAX_SIBLINGS, pick_sibling
from storage.messages import get_messages, history
from storage.rows import TurnRow, TurnStatus
from storage.turns import create_turn, get_turn

if TYPE_CHECKING:
    from server.core import Core
    from server.session import Session


def register(router: Router) -> None:
    """Add this subject's rows to the table."""
    router.serve(Gen, gen, 5)
    router.serve(Cancel, cancel, 1)
    router.serve(Pick, pick, 1)
    router.direct(Open, open_stream, 1)
    router.serve(Confirm, confirm, 1)
    router.serve(Usage, usage, 2)


async def gen(core: "Core", caller: Caller, f: Gen) -> GenOk:
    """Ask for an answer without sending a message: again, once more, or further."""
    if f.mode not in set(GenMode):
        raise invalid("mode")
    entry = await core.directory.require(f.conv, caller)
    require_writable(core, entry, entry.members[caller.user])
    ask, persona = await _question(core, entry, caller, f)
    core.personas.require(caller, persona)
    new = core.turns.new(caller.tenant, caller.user, persona, GenMode(f.mode))

    def publish(result: tuple[TurnRow, bool]) -> None:
        if result[0].sid == new.sid:  # also when it was found stored by its own first try
            core.turns.begin(core.directory.peek(entry.id) or entry, new, ask, f.opt)

    row, _ = await core.store.change(
        (), lambda tx: create_turn(tx, new, entry.id, ask, f.cid), publish=publish
    )
    stream = core.streams.get(row.sid)
    state = 2 if row.status >= TurnStatus.DONE else int(stream.state) if stream else 0
    return GenOk(f.rid, row.sid, state)


async def _question(core: "Core", entry: Conversation, caller: Caller, f: Gen) -> tuple[int, int]:
    """Return (number of the message to answer, persona to answer it)."""
    floor = entry.floor(caller.user)
    if f.seq:
        rows: list[Msg] = await core.store.read(get_messages(entry.id, [f.seq], floor))
    else:
        rows, _ = await core.store.read(history(entry.id, 0, True, 1, floor))
    if not rows:
        raise not_found("message")
    row = rows[-1]
    spoke = row.sender if row.kind == MsgKind.AI_REPLY else 0
    persona = f.persona or spoke or entry.row.persona or 0
    if not persona:
        raise invalid("persona", "Say which persona is to answer.")
    if f.mode == GenMode.CONTINUE and not spoke:
        raise invalid("seq", "Only an answer can be continued.")
    alts = row.x.alts if row.x is not None else None
    if f.mode == GenMode.REGENERATE and alts is not None and len(alts) >= MAX_SIBLINGS:
        raise ServiceError(Code.SIZE_LIMIT, "too many answers", "Pick one, or ask anew.")
    return row.seq, persona


async def cancel(core: "Core", caller: Caller, f: Cancel) -> Done:
    """Stop a running answer. Cancelling one that has ended changes nothing."""
    stream = core.streams.get(f.sid)
    if stream is not None:
        await core.directory.require(stream.conv, caller)
        core.turns.cancel(f.sid)
        return Done(f.rid)
    row = await core.store.read(get_turn(f.sid))
    if row is None or row.tenant != caller.tenant:
        raise not_found("stream")
    await core.directory.require(row.conv, caller)
    return Done(f.rid)


async def pick(core: "Core", caller: Caller, f: Pick) -> Changed:
    """Choose which of several answers to one question counts from now on."""
    entry = await core.directory.require(f.conv, caller)
    require_writable(core, entry, entry.members[caller.user])
    if f.seq <= entry.floor(caller.user):
        raise not_found("message")
    rows = await core.store.change(
        (entry.id,),
        lambda tx: pick_sibling(tx, entry.id, f.seq),
        publish=lambda rows: publish_rows(core, entry, rows),
    )
    return Changed(f.rid, entry.id, rows[-1].rev if rows else 0, core.now_ms())


async def confirm(core: "Core", caller: Caller, f: Confirm) -> Done:
    """Say whether a tool may run for one's own answer."""
    core.confirmations.answer(caller.tenant, caller.user, f)
    return Done(f.rid)


async def usage(core: "Core", caller: Caller, f: Usage) -> UsageInfo:
    """Tell what the caller's own answers used."""
    today, month = await read_use(core, caller)
    return UsageInfo(f.rid, today, month)


def open_stream(core: "Core", session: "Session", f: Open) -> None:
    """Return the text of a stream from an offset on; deltas go on from there."""
    session.hold_slot()
    core.spawn(session.serve(f.rid, _open(core, session, f)))


async def _open(core: "Core", session: "Session", f: Open) -> Opened:
    stream = core.streams.get(f.sid)
    if stream is not None:
        await core.directory.require(stream.conv, session)
        opened = core.streams.open(session, stream, f.part, f.off)
        opened.rid = f.rid
        return opened
    row = await core.store.read(get_turn(f.sid))
    if row is None or row.tenant != session.tenant:
        raise not_found("stream")
    entry = await core.directory.require(row.conv, session)
    text = ""
    if row.answer_seq and f.part == 0:
        floor = entry.floor(session.user)
        rows = await core.store.read(get_messages(entry.id, [row.answer_seq], floor))
        text = rows[0].text if rows else ""
    data = text.encode()
    start = character_border(data, f.off)
    state = 2 if row.status >= TurnStatus.DONE else 0
    return Opened(f.rid, f.sid, row.conv, state, f.part, start, data[start:].decode(), len(data))
