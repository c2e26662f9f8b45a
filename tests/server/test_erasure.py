"""Erasing while people are connected, and by command where no server runs."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from protocol.codes import Code, ConvKind, Role
from protocol.envelopes import (
    ConvPush,
    MemberPush,
    MsgPush,
    MyConvPush,
    StreamStart,
    UserGet,
)
from server.commands.erasing import LOOK_S, do_here, follow
from server.erasure import RETRY_S
from storage import erasure
from storage.accounts import create_user
from storage.erasure import Erasure, Kind
from storage.errors import LimitReached
from storage.memories import add_memory, list_memories
from storage.ops import Op, Statement
from storage.rows import StoreOptions
from storage.store import Store
from tests.conftest import sqlite_url
from tests.server.harness import Peer, Person, Server, serving
from tests.server.memory_world import MemoryWorld
from tests.server.shell import Shell
from tests.support.eventually import WAIT_S, eventually


async def finished(server: Server, kind: Kind, target: int) -> Erasure:
    """Wait until an erasure is done; return it."""
    found: list[Erasure] = []

    async def look() -> None:
        while not found:
            job = await server.store.read(erasure.get_erasure(kind, target))
            if job is not None and job.finished:
                found.append(job)
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), WAIT_S)
    return found[0]


async def erased(server: Server, person: Person) -> None:
    await server.core.erasures.erase_user(person.id)
    await finished(server, Kind.USER, person.id)


async def trio(server: Server) -> tuple[list[Person], list[Peer], int]:
    """Return three people, their connections, and the room that Ann owns."""
    people = await server.people("ann bob eve")
    peers = await server.everybody(people)
    conv = (await peers[0].create(ConvKind.GROUP, *people[1:])).row.id or 0
    for peer in peers:
        await peer.settled()
    return people, peers, conv


async def test_others_see_messages_taken_back_and_who_owns_the_room(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (ann, bob, eve), (pa, pb, pe), conv = await trio(server)
        await pa.send_text(conv, "我养了一只猫")
        await pb.send_text(conv, "kept")
        await pe.settled()
        await erased(server, ann)
        gone = await pe.expect(MsgPush, lambda push: push.seq == 1)
        assert gone.text == ""
        assert gone.x is not None
        assert gone.x.recalled == ann.id
        told = [f for f in await pe.settled() if isinstance(f, MemberPush)]
        roles = {push.m.user: push.m.role for push in told}
        assert roles == {ann.id: Role.GONE, bob.id: Role.OWNER}
        entry = server.core.directory.peek(conv)
        assert entry is not None
        assert set(entry.members) == {bob.id, eve.id}
        assert entry.row.owner == bob.id
        users = (await pb.ask(UserGet, [ann.id])).items
        assert [user.name for user in users] == [f"erased-{ann.id}"]
        assert (await pb.send_text(conv, "we go on")).seq == 3


async def test_every_connection_of_the_erased_user_ends_for_good(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peers = [await server.connect(ann, number=number) for number in (1, 2)]
        await server.core.erasures.erase_user(ann.id)
        for peer in peers:
            bye = await peer.bye()
            assert (bye.code, bye.retry) == (Code.REVOKED, -1)
        again = await server.dial()
        again.send(again.hello(ann))
        assert (await again.bye()).code == Code.REVOKED


async def test_a_conversation_of_one_goes_with_its_running_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        persona = await server.persona(ann)
        conv = (await peer.create(ConvKind.AI, persona=persona)).row.id or 0
        await peer.send_text(conv, "tell me a long story")
        await peer.expect(StreamStart)
        assert server.core.streams.of(conv)
        await erased(server, ann)
        assert not server.core.streams.of(conv)
        for table in ("message", "ai_turn"):
            assert await rows_of(server, table, conv) == 0
        assert (await finished(server, Kind.CONVERSATION, conv)).finished


async def rows_of(server: Server, table: str, conv: int) -> int:
    def count() -> Op[int]:
        rows = yield Statement(f"SELECT COUNT(*) FROM {table} WHERE conv = ?", (conv,))
        return int(rows[0][0])

    return await server.store.read(count())


async def test_an_erased_conversation_leaves_everybodys_list(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        _, (pa, pb, pe), conv = await trio(server)
        await pa.send_text(conv, "words")
        await server.core.erasures.erase_conversation(conv)
        await finished(server, Kind.CONVERSATION, conv)
        for peer in (pa, pb, pe):
            row = await peer.expect(ConvPush)
            assert row.row.deleted
            mine = await peer.expect(MyConvPush, lambda push: push.my.conv == conv)
            assert mine.my.left
            assert mine.my.role == Role.GONE
        assert await rows_of(server, "message", conv) == 0
        entry = server.core.directory.peek(conv)
        assert entry is not None
        assert not entry.members


async def test_what_a_command_decided_is_taken_up_by_the_server(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (ann, *_), (pa, pb, _), conv = await trio(server)
        await pa.send_text(conv, "words")
        server.advance(1)  # the look at the start
        await server.store.change((ann.id,), partial(erasure.begin_user, user=ann.id))
        await server.core.erasures.look()
        assert (await pa.bye()).code == Code.REVOKED
        assert (await pb.expect(MsgPush, lambda push: not push.text)).seq == 1
        await finished(server, Kind.USER, ann.id)


async def test_what_a_dead_server_left_goes_on_at_the_start(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        await server.store.change((ann.id,), partial(erasure.begin_user, user=ann.id))
    async with serving(tmp_path) as server:
        server.advance(1)
        await finished(server, Kind.USER, ann.id)


async def test_an_erasure_that_the_store_refused_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        erasures = server.core.erasures

        def refuse(tx: Any, user: int) -> Op[None]:
            yield from ()
            raise LimitReached("no room")

        with monkeypatch.context() as patch:
            patch.setattr(erasure, "finish_user", refuse)
            await erasures.erase_user(ann.id)
            await eventually(lambda: erasures.failed == 1)
        server.advance(1)
        job = await server.store.read(erasure.get_erasure(Kind.USER, ann.id))
        assert job is not None
        assert not job.finished
        server.advance(RETRY_S)
        await finished(server, Kind.USER, ann.id)
        await eventually(lambda: erasures.done == 1)
        figures = {figure.name: figure.value for figure in erasures.figures()}
        assert figures["erasures"] == {"done": 1, "failed": 1}


async def test_nothing_of_the_user_is_kept_in_memory_to_be_recalled(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        pairs = server.core.memories.pairs
        await server.store.change(
            (ann.id,), lambda tx: add_memory(tx, 1, ann.id, 7, "other", "a cat")
        )
        assert await pairs.search(ann.id, 7, "cat", 0)
        await erased(server, ann)
        assert len(pairs) == 0
        assert pairs.nbytes == 0
        assert await pairs.search(ann.id, 7, "cat", 0) == ()


# by command


def test_a_user_is_erased_by_command_and_the_name_is_free(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.commands.users._ask_password", lambda stdin: "a good password")
    added = shell.run("user", "add", "anna")
    number = added[added.index("(") + 1 : added.index(")")]
    assert f"Erased anna ({number})" in shell.run("user", "erase", "anna", "--yes")
    assert f"erased-{number}" in shell.run("user", "list")
    assert "no user 'anna'" in shell.run("user", "erase", "anna", "--yes", code=1)
    # Again, by its id: nothing is left to do.
    assert "Erased" in shell.run("user", "erase", number, "--yes")
    shell.run("user", "add", "anna")
    name = f"erased-{number}"
    assert "cannot come back" in shell.run("user", "disable", name, "--undo", code=1)


def test_erasing_asks_first(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.commands.users._ask_password", lambda stdin: "a good password")
    shell.run("user", "add", "anna")
    asked: list[str] = []

    def confirm(question: str, abort: bool) -> None:
        asked.append(question)
        raise SystemExit(1)

    monkeypatch.setattr("typer.confirm", confirm)
    shell.run("user", "erase", "anna", code=1)
    shell.run("conversation", "erase", "5", code=1)
    assert len(asked) == 2
    assert "anna" in shell.run("user", "list")


def test_a_conversation_that_does_not_exist_cannot_be_erased(shell: Shell) -> None:
    assert "no conversation 5" in shell.run("conversation", "erase", "5", "--yes", code=1)


async def test_a_command_waits_for_the_server_that_works(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        job = await server.core.erasures.erase_user(ann.id)
        seen: list[Erasure] = []
        assert await follow(server.store, job, seen.append, 20.0)


async def test_a_command_does_it_itself_when_no_server_moves(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        store: Store = server.store
        user = await store.change((), lambda tx: create_user(tx, 1, "ann"))
        job = await store.change((user.id or 0,), partial(erasure.begin_user, user=user.id or 0))
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        assert not await follow(store, job, lambda now: None, 3.0, sleep)
        assert sum(slept) >= 3.0 - LOOK_S
        await do_here(store, job)
        assert await follow(store, job, lambda now: None, 3.0, sleep)
        assert await store.read(list_memories(user.id or 0, 0, 0, 10)) == []


async def test_a_reader_that_is_at_work_learns_nothing_any_more(tmp_path: Path) -> None:
    store = await Store.open(StoreOptions(url=sqlite_url(tmp_path)))
    world = MemoryWorld(store)
    ann = await world.user()
    conv = await world.conv([ann], kind=ConvKind.AI)
    world.model.gate = asyncio.Event()
    await world.say(conv, ann, "我养了一只猫叫年糕")
    await world.pass_time()
    await world.pass_time(world.limits.idle_s)
    await eventually(lambda: world.model.requests)  # it reads, and waits for the model
    await do_here(store, await store.change((ann,), partial(erasure.begin_user, user=ann)))
    world.model.gate.set()
    world.model.gate = None
    await world.pass_time()
    await world.pass_time(world.limits.idle_s)
    assert world.memories.stats.overtaken == 1
    assert await world.known(ann) == []
    assert len(world.model.requests) == 1
    await world.memories.aclose()
    await store.close(5)
