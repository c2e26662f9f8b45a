"""Sending, changing and reading messages, and passing signals."""

import time
from pathlib import Path

import pytest
from msgspec import structs

from protocol.codes import Caps, Code, ConvKind, MsgKind
from protocol.envelopes import (
    Changed,
    ConvChange,
    ConvDrop,
    Edit,
    Get,
    History,
    MemberAdd,
    MsgPush,
    Recall,
    Send,
    Typing,
    TypingAt,
    WatchRequest,
)
from protocol.rows import ConvSet, SendX
from server.config_sections import MessagesConfig
from storage.members import HIDE_HISTORY
from tests.server.harness import Peer, Server, cid, serving, watching


async def pair(server: Server) -> tuple[Peer, Peer, int]:
    """Return Ann, who owns a group, Bob, who is in it, and the group."""
    ann, bob = await server.people("ann bob")
    pa, pb = await server.everybody([ann, bob])
    conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
    for peer in (pa, pb):
        await peer.settled()
    return pa, pb, conv


# sending


async def test_what_a_message_carries_reaches_everybody_and_the_store(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, pb, conv = await pair(server)
        await pa.send_text(conv, "first")
        x = SendX(quote=1, mentions=[5, 6], fmt=1, meta={"k": "v"}, fwd_conv=9, fwd_seq=3)
        sent = await pa.send_text(conv, "second", x)
        await pb.expect(MsgPush)
        push = await pb.expect(MsgPush)
        row = (await pb.ask(Get, conv, [2])).msgs[0]
        assert push.x is not None
        assert (push.seq, push.rev, push.ts) == (sent.seq, sent.rev, sent.ts)
        assert (row.seq, row.rev, row.ts, row.text) == (sent.seq, sent.rev, sent.ts, "second")
        assert structs.asdict(push.x) == structs.asdict(row.x)
        given = structs.asdict(push.x)
        for name in ("quote", "mentions", "fmt", "meta", "fwd_conv", "fwd_seq"):
            assert given[name] == getattr(x, name)


@pytest.mark.parametrize("kind", [MsgKind.SYSTEM, MsgKind.AI_REPLY, MsgKind.FILE, 99])
async def test_people_cannot_speak_as_the_system_or_a_persona(tmp_path: Path, kind: int) -> None:
    async with serving(tmp_path) as server:
        pa, pb, conv = await pair(server)
        assert await pa.refused(Send, conv, cid(), int(kind), "x") == Code.INVALID
        assert await pb.settled() == []


async def test_the_longest_text_is_sent_and_one_letter_more_is_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, pb, conv = await pair(server)
        await pa.send_text(conv, "x" * 32_000)
        assert len((await pb.expect(MsgPush)).text) == 32_000
        assert await pa.refused(Send, conv, cid(), 0, "x" * 32_001) == Code.MALFORMED
        assert await pa.refused(Send, conv, cid(), 0, "x", SendX(quote=0)) == Code.INVALID


# changing


async def test_an_edit_replaces_the_text_for_everybody(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, pb, conv = await pair(server)
        sent = await pa.send_text(conv, "helo", SendX(quote=7))
        changed = await pa.ask(Edit, conv, sent.seq, "hello", sent.rev)
        assert (changed.feed, changed.rev) == (conv, sent.rev + 1)
        for peer in (pa, pb):
            push = await peer.expect(MsgPush, lambda f: f.text == "hello")
            assert (push.seq, push.rev, push.ts) == (sent.seq, changed.rev, sent.ts)
            assert push.x is not None
            assert push.x.edited
            assert push.x.quote == 7
        stale = await pa.refused(Edit, conv, sent.seq, "hello there", sent.rev)
        assert stale == Code.STALE
        assert await pb.refused(Edit, conv, sent.seq, "hacked", 0) == Code.NOT_PERMITTED
        assert await pa.refused(Edit, conv, 99, "x", 0) == Code.NOT_FOUND
        assert await pa.refused(Edit, conv, sent.seq, " ", 0) == Code.INVALID


async def test_an_edit_that_changes_nothing_takes_no_revision(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, pb, conv = await pair(server)
        sent = await pa.send_text(conv, "hello")
        await pb.expect(MsgPush)
        changed = await pa.ask(Edit, conv, sent.seq, "hello", 0)
        assert isinstance(changed, Changed)
        assert changed.rev == 0
        assert await pb.settled() == []
        assert (await pa.send_text(conv, "next")).rev == sent.rev + 1


async def test_a_recalled_message_is_empty_for_everybody_and_for_good(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, pb, conv = await pair(server)
        mine = await pa.send_text(conv, "oops", SendX(meta={"a": "b"}))
        theirs = await pb.send_text(conv, "rude")
        assert await pb.refused(Recall, conv, mine.seq) == Code.NOT_PERMITTED
        await pa.ask(Recall, conv, mine.seq)
        await pa.ask(Recall, conv, theirs.seq)  # as the owner
        page = await pb.ask(History, conv, 0, True, 10)
        assert [(m.text, m.x and m.x.recalled, m.x and m.x.meta) for m in page.msgs] == [
            ("", server.core.hub.sessions_of(page.msgs[0].sender)[0].user, None),
            ("", page.msgs[0].sender, None),
        ]
        again = await pa.ask(Recall, conv, mine.seq)
        assert again.rev == 0
        assert await pa.refused(Edit, conv, mine.seq, "again", 0) == Code.GONE
        pushes = [f for f in await pb.settled() if isinstance(f, MsgPush)]
        assert [p.text for p in pushes] == ["oops", "", ""]


async def test_old_messages_are_neither_changed_nor_taken_back(tmp_path: Path) -> None:
    windows = MessagesConfig(recall_window_s=60, edit_window_s=60)
    async with serving(tmp_path, messages=windows) as server:
        pa, pb, conv = await pair(server)
        sent = await pb.send_text(conv, "hello")
        assert isinstance(await pb.ask(Edit, conv, sent.seq, "hello!", 0), Changed)
        clock = server.store._batcher._committer
        clock._clock = lambda: time.time() + 61
        assert await pb.refused(Edit, conv, sent.seq, "hello?", 0) == Code.TOO_LATE
        assert await pb.refused(Recall, conv, sent.seq) == Code.TOO_LATE
        assert isinstance(await pa.ask(Recall, conv, sent.seq), Changed), "administrators may"
        assert server.store.stats.dead == 0


# reading


async def test_history_is_read_from_either_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, _, conv = await pair(server)
        for n in range(1, 11):
            await pa.send_text(conv, str(n))

        async def read(anchor: int, back: bool, limit: int) -> tuple[list[int], bool]:
            page = await pa.ask(History, conv, anchor, back, limit)
            return [m.seq for m in page.msgs], page.more

        assert await read(0, True, 3) == ([8, 9, 10], True)
        assert await read(8, True, 100) == ([1, 2, 3, 4, 5, 6, 7], False)
        assert await read(0, False, 3) == ([1, 2, 3], True)
        assert await read(7, False, 3) == ([8, 9, 10], False)
        assert await read(10, False, 3) == ([], False)
        page = await pa.ask(Get, conv, [10, 2, 99, 2])
        assert [m.seq for m in page.msgs] == [2, 10]
        assert await pa.refused(History, conv, 0, True, 101) == Code.MALFORMED
        assert await pa.refused(Get, conv, []) == Code.MALFORMED


async def test_pages_of_long_messages_fit_into_a_frame(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, _, conv = await pair(server)
        for _ in range(30):
            await pa.send_text(conv, "长" * 20_000)
        seen: list[int] = []
        anchor = 0
        while True:
            page = await pa.ask(History, conv, anchor, True, 100)
            assert sum(len(m.text.encode()) for m in page.msgs) < 1 << 20
            seen = [m.seq for m in page.msgs] + seen
            if not page.more:
                break
            anchor = seen[0]
        assert seen == list(range(1, 31))
        wanted = list(range(1, 31))
        while wanted:
            page = await pa.ask(Get, conv, wanted)
            assert 0 < sum(len(m.text.encode()) for m in page.msgs) < 1 << 20
            wanted = wanted[len(page.msgs) :]
            assert page.more is bool(wanted)


async def test_newcomers_see_what_the_group_lets_them_see(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, _, conv = await pair(server)
        cat, dan = await server.people("cat dan")
        pc, pd = await server.everybody([cat, dan])
        await pa.send_text(conv, "one")
        await pa.ask(MemberAdd, conv, [cat.id])
        await pa.ask(ConvChange, conv, ConvSet(flags=HIDE_HISTORY))
        await pa.ask(MemberAdd, conv, [dan.id])
        await pa.send_text(conv, "two")
        for clear_cache in (False, True):
            if clear_cache:
                server.core.directory._entries.clear()
            for peer, texts in ((pc, ["one", "two"]), (pd, ["two"])):
                page = await peer.ask(History, conv, 0, True, 10)
                assert [m.text for m in page.msgs] == texts
                assert [m.text for m in (await peer.ask(Get, conv, [1, 2])).msgs] == texts
        # Leaving and coming back does not show more, nor a change of a hidden message.
        await pa.ask(Edit, conv, 1, "changed", 0)
        assert "changed" not in [f.text for f in await pd.settled() if isinstance(f, MsgPush)]


async def test_deleted_conversations_can_still_be_read(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, pb, conv = await pair(server)
        await pa.send_text(conv, "keep me")
        await pa.ask(ConvDrop, conv)
        assert [m.text for m in (await pb.ask(History, conv, 0, True, 5)).msgs] == ["keep me"]


# signals


async def test_typing_reaches_those_who_watch(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, pb, conv = await pair(server)
        deaf = await server.connect(await server.person("cat"), caps=int(Caps.AI_DELTAS))
        await pb.ask(WatchRequest, watching(conv))
        await pa.ask(WatchRequest, watching(conv))
        await pa.send_text(conv, "warm")
        await pb.expect(MsgPush)
        pa.send(Typing(conv, 1), Typing(conv, 1))
        user = pa.welcome.user if pa.welcome else 0
        assert await pb.settled() == [TypingAt(conv, user, 1)]
        pa.send(Typing(conv, 0))
        assert await pb.settled() == [TypingAt(conv, user, 0)]
        assert await pa.settled() == []
        server.advance(5)
        pa.send(Typing(conv, 2), Typing(conv, 9))
        assert await pb.settled() == [TypingAt(conv, user, 2)]
        await pb.ask(WatchRequest, watching())
        server.advance(5)
        pa.send(Typing(conv, 1))
        assert await pb.settled() == []
        assert await deaf.settled() == []


async def test_typing_is_not_told_to_those_who_did_not_ask_for_such_signals(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa = await server.connect(ann)
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        pb = await server.connect(bob, caps=0, watch=watching(conv))
        await pa.send_text(conv)
        await pb.settled()
        pa.send(Typing(conv, 1))
        assert await pb.settled() == []
