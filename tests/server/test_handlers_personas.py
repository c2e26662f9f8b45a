"""Personas: whose they are, who sees what of them, and the choice that follows."""

from pathlib import Path
from typing import Any

import pytest

from protocol.codes import Code, ConvKind, MsgKind, Scope
from protocol.envelopes import (
    Changed,
    ConvCreate,
    ConvInfo,
    ConvList,
    MsgPush,
    PersonaDrop,
    PersonaGet,
    PersonaInfo,
    PersonaList,
    PersonaPage,
    PersonaPush,
    PersonaSave,
    ProfilePush,
    ProfileSet,
    Send,
    Sent,
    Synced,
    UserGet,
)
from protocol.rows import ConvSet, GenOpt, Persona, SendX, User
from server.app import fill_personas
from server.builtin import install_builtins, read_builtins
from tests.server.harness import Peer, Server, cid, fresh_sync, serving

SECRET = "You are a spy. Never say so."


async def save(peer: Peer, **fields: object) -> PersonaInfo:
    """Make a persona over the wire."""
    reply = await peer.ask(PersonaSave, cid(), Persona(**({"name": "Ada"} | fields)))  # type: ignore[arg-type]
    assert isinstance(reply, PersonaInfo), reply
    return reply


async def two(server: Server) -> tuple[Peer, Peer]:
    """Return Ann and Bob of one tenant, connected."""
    ann, bob = await server.people("ann bob")
    pa, pb = await server.everybody([ann, bob])
    return pa, pb


async def test_creating_twice_with_one_cid_makes_one_persona(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, _ = await two(server)
        key = cid()
        first, second = [
            await pa.ask(PersonaSave, key, Persona(name="Ada", prompt=SECRET)) for _ in range(2)
        ]
        assert first.p.id == second.p.id
        assert (first.rev > 0, second.rev) == (True, 0)
        assert len((await pa.ask(PersonaList, 0, "", 10)).items) == 1


async def test_the_owner_changes_and_removes_it_and_other_devices_hear_of_it(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        pa, pb = await two(server)
        made = await save(pa, prompt=SECRET, tags=["a", "b\u202e"], opt=GenOpt(temperature=0.5))
        assert made.p.tags == ["a", "b"]
        changed = await pa.ask(PersonaSave, cid(), Persona(id=made.p.id, name="Ida", tags=[]))
        assert (changed.p.name, changed.p.prompt, changed.p.tags) == ("Ida", SECRET, None)
        push = await pa.expect(PersonaPush, lambda f: f.p.name == "Ida")
        assert push.rev == changed.rev
        assert isinstance(await pa.ask(PersonaDrop, made.p.id), Changed)
        assert (await pa.expect(PersonaPush, lambda f: bool(f.p.deleted))).p.id == made.p.id
        assert await pa.refused(PersonaGet, made.p.id) == Code.NOT_FOUND
        assert (await pa.ask(PersonaList, 0, "", 10)).items == []
        assert await pb.settled() == []


@pytest.mark.parametrize(
    ("scope", "visible"), [(Scope.PRIVATE, False), (Scope.TENANT, True), (Scope.PUBLIC, True)]
)
async def test_scope_says_who_may_see_and_use_it(
    tmp_path: Path, scope: Scope, visible: bool
) -> None:
    async with serving(tmp_path) as server:
        pa, pb = await two(server)
        stranger = await server.connect(await server.person("eve", tenant=2))
        made = await save(pa, prompt=SECRET, greeting="Hi.", scope=int(scope))
        persona = made.p.id
        assert made.p.scope == min(scope, Scope.TENANT), "public ones are the server's own"
        for peer, sees in ((pb, visible), (stranger, False)):
            shared = (await peer.ask(PersonaList, int(Scope.TENANT), "", 10)).items
            assert [p.id for p in shared] == ([persona] if sees else [])
            made_conv = await peer.ask(ConvCreate, cid(), 1, "", [], persona)
            chosen = await peer.ask(ProfileSet, User(persona=persona))
            got = await peer.ask(PersonaGet, persona)
            if sees:
                assert got.p.prompt is None
                assert got.p.greeting == "Hi."
                assert all(p.prompt is None for p in shared)
                assert isinstance(made_conv, ConvInfo)
                assert isinstance(chosen, Changed)
            else:
                assert {r.code for r in (got, made_conv, chosen)} == {Code.NOT_FOUND}
        own = await pa.ask(PersonaGet, persona)
        assert own.p.prompt == SECRET


async def test_only_the_owner_changes_a_shared_persona(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, pb = await two(server)
        shared = (await save(pa, scope=int(Scope.TENANT))).p.id
        private = (await save(pa, scope=int(Scope.PRIVATE))).p.id
        wanted = Persona(name="Mine")
        for persona, code in ((shared, Code.NOT_PERMITTED), (private, Code.NOT_FOUND)):
            wanted.id = persona
            assert await pb.refused(PersonaSave, cid(), wanted) == code
            assert await pb.refused(PersonaDrop, persona) == code
        # Becoming private again takes it back from the others.
        await pa.ask(PersonaSave, cid(), Persona(id=shared, scope=int(Scope.PRIVATE)))
        assert await pb.refused(PersonaGet, shared) == Code.NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": ""}, Code.INVALID),
        ({"name": "\u200b"}, Code.INVALID),
        ({"name": "Ada", "prompt": "\x00"}, Code.INVALID),
        ({"name": "Ada", "scope": 9}, Code.INVALID),
        ({"name": "Ada", "opt": GenOpt(model="nobody/nothing")}, Code.INVALID),
        ({"name": "Ada", "opt": GenOpt(temperature=2.1)}, Code.MALFORMED),
        ({"name": "x" * 65}, Code.MALFORMED),
        ({"name": "Ada", "prompt": "x" * 16_001}, Code.MALFORMED),
    ],
)
async def test_personas_that_make_no_sense_are_refused(
    tmp_path: Path, fields: dict[str, object], code: Code
) -> None:
    async with serving(tmp_path) as server:
        pa, _ = await two(server)
        given = Persona(**fields)  # type: ignore[arg-type]
        assert await pa.refused(PersonaSave, cid(), given) == code


async def test_the_choice_follows_to_another_device_and_stays_ones_own(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        tablet = await server.connect(ann, "ws", 2)
        persona = (await save(pa, scope=int(Scope.TENANT))).p.id
        await pa.ask(ProfileSet, User(persona=persona))
        assert (await tablet.expect(ProfilePush)).u.persona == persona
        assert (await pb.ask(UserGet, [ann.id])).items[0].persona is None
        assert (await pa.ask(UserGet, [ann.id])).items[0].persona == persona
        phone = await server.connect(ann, "json", 3, sync=fresh_sync())
        synced = await phone.expect(Synced)
        profile = next(item for item in synced.me if isinstance(item, ProfilePush))
        assert profile.u.persona == persona
        info = await phone.create(ConvKind.AI)
        assert info.row.persona == persona


async def test_the_choice_is_remembered_when_nobody_was_connected(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        persona = (await save(peer)).p.id
        await peer.ask(ProfileSet, User(persona=persona))
        await peer.close()
        await server.empty()
        again = await server.connect(ann)
        assert (await again.create(ConvKind.AI)).row.persona == persona
        await again.ask(ProfileSet, User(persona=0))
        assert await again.refused(ConvCreate, cid(), 1, "", []) == Code.INVALID


async def test_a_removed_persona_answers_no_more_and_its_words_stay(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, _ = await two(server)
        persona = (await save(pa, greeting="Hello.")).p.id or 0
        conv = (await pa.create(ConvKind.AI, persona=persona)).row.id or 0
        await pa.expect(MsgPush)
        await pa.ask(PersonaDrop, persona)
        sent = await pa.ask(Send, conv, cid(), 0, "still there?")
        assert isinstance(sent, Sent)
        assert sent.sid is None
        named = SendX(persona=persona)
        assert await pa.refused(Send, conv, cid(), 0, "and now?", named) == Code.NOT_FOUND


async def test_one_message_may_ask_another_persona(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, _ = await two(server)
        first = (await save(pa)).p.id or 0
        second = (await save(pa, name="Bea")).p.id or 0
        conv = (await pa.create(ConvKind.AI, persona=first)).row.id or 0
        await pa.send_text(conv, "hello", SendX(persona=second))
        answer = await pa.expect(MsgPush, lambda f: f.kind == MsgKind.AI_REPLY)
        assert answer.sender == second


async def test_lists_are_paged(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, _ = await two(server)
        made = [(await save(pa, name=f"p{n}")).p.id for n in range(5)]
        seen: list[int | None] = []
        cursor = ""
        while True:
            page = await pa.ask(PersonaList, 0, cursor, 2)
            seen += [p.id for p in page.items]
            cursor = page.cursor
            if not cursor:
                break
        assert seen == sorted(made, key=lambda id: id or 0)


async def test_pages_of_long_prompts_fit_into_a_frame(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pa, _ = await two(server)
        prompt = "长" * 16_000
        for _ in range(30):
            await save(pa, prompt=prompt)
            changes = ConvSet(prompt=prompt)
            await pa.ask(ConvCreate, cid(), int(ConvKind.GROUP), "", [], None, changes)
        for request, first in ((PersonaList, 0), (ConvList, False)):
            count, cursor = 0, ""
            while True:
                page = await pa.ask(request, first, cursor, 100)
                items: list[Any] = page.items if isinstance(page, PersonaPage) else page.rows
                assert 0 < sum(len(item.prompt.encode()) for item in items) < 1 << 20
                count += len(items)
                cursor = page.cursor
                if not cursor:
                    break
            assert count == 30


async def test_built_in_personas_are_everybodys_and_nobodys(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await install_builtins(server.store)
        await fill_personas(server.core, server.store)
        await install_builtins(server.store)
        pa, _ = await two(server)
        eve = await server.connect(await server.person("eve", tenant=2))
        for peer in (pa, eve):
            page = await peer.ask(PersonaList, int(Scope.PUBLIC), "", 100)
            assert {p.name for p in page.items} == {b.name for b in read_builtins()}
            assert all(p.prompt is None and p.owner is None for p in page.items)
            persona = page.items[0].id
            assert isinstance(await peer.ask(ConvCreate, cid(), 1, "", [], persona), ConvInfo)
            assert await peer.refused(PersonaDrop, persona) == Code.NOT_PERMITTED
            renamed = Persona(id=persona, name="Mine")
            assert await peer.refused(PersonaSave, cid(), renamed) == Code.NOT_PERMITTED
