"""Every statement walks an index, on every engine."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from protocol.codes import ConvKind
from protocol.rows import ConvSet, Head, MySet, Persona, Sync, User
from storage import (
    accounts,
    conversations,
    dead_letters,
    devices,
    engines,
    erasure,
    mcp_servers,
    mem0_erasures,
    members,
    memories,
    memory_marks,
    messages,
    mysql,
    people,
    persona_cards,
    personas,
    prices,
    providers,
    revisions,
    sqlite,
    summaries,
    turns,
    usage,
)
from storage.ids import new_id
from storage.mysql_text import encode_bulk, encode_statement
from storage.ops import Bulk, Op, Rows, Statement
from storage.rows import (
    DeviceTouch,
    EndTurn,
    MarkRow,
    NewTurn,
    StoreOptions,
    TurnCheckpoint,
    TurnStatus,
)
from storage.store import Store
from storage.sync import sync
from tests.storage.world import World, cid

SMALL = {
    "schema_version",
    "tenant",
    "dead_letter",
    "setting",
    "ai_provider",
    "ai_price",
    "revision",
    "mcp_server",
}
"""Tables read whole on purpose, by operators or at start."""

TABLES = (
    "ai_memory",
    "ai_memory_mark",
    "ai_memory_setting",
    "ai_turn",
    "ai_usage",
    "budget",
    "conversation",
    "device",
    "device_family",
    "engine_choice",
    "feed",
    "mem0_erasure",
    "member",
    "message",
    "message_change",
    "persona",
    "persona_card",
    "refresh_token",
    "room",
    "user",
)
ALLOWED_SCANS = {
    # By id with a LIMIT, for a cache at start.
    "FROM persona WHERE id > ?",
    # At most a thousand entries of an index, for a figure.
    "FROM mem0_erasure WHERE due > ?",
}


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> dict[str, Statement]:
    """Collects each different statement of rows and bulks that an engine executes."""
    seen: dict[str, Statement] = {}

    def note(command: Statement | Bulk) -> None:
        if isinstance(command, Bulk):
            text = next(encode_bulk(command._replace(rows=command.rows[:2]), 1 << 20)).decode()
            seen.setdefault(command.head, Statement(text))
        else:
            seen.setdefault(re.sub(r"\?(,\?)+", "?…", command.sql), command)

    lite, big = sqlite.Connection.execute, mysql.Connection.execute

    def execute(self: sqlite.Connection, command: Statement | Bulk) -> Rows:
        note(command)
        return lite(self, command)

    async def execute_async(self: mysql.Connection, command: Statement | Bulk) -> Rows:
        note(command)
        return await big(self, command)

    monkeypatch.setattr(sqlite.Connection, "execute", execute)
    monkeypatch.setattr(mysql.Connection, "execute", execute_async)
    return seen


async def use_everything(store: Store) -> None:
    """Call every operation once, over tables that hold enough for an optimiser to care."""
    world = World(store)
    users = await world.users(60)
    ann, bob, eve = users[:3]
    convs = [await world.conv([ann, bob]) for _ in range(10)]
    room = ConvSet(talk=1)
    others = [await world.conv(users[n : n + 3], set=room) for n in range(2, 57) for _ in range(3)]
    conv = convs[0]
    await asyncio.gather(*(world.submit(c, ann, str(n)) for n in range(10) for c in convs + others))
    read, change = store.read, store.change

    async def do(feeds: Sequence[int], make: Any, **options: Any) -> Any:
        return await change(feeds, partial(make, **options))

    await world.conv([ann, eve], kind=ConvKind.DIRECT)
    await world.conv([eve, ann], kind=ConvKind.DIRECT)
    used = [usage.UsageRow(1, day, ann, 7, "m", 1, 1, 1, 1) for day in range(200)]
    await do((), usage.add_usage, rows=[*used, *(replace(row, tenant=2) for row in used)])
    await read(usage.spent_by_users(1, 190, 199))
    await read(usage.usage_by_day(1, ann, 170, 31))
    await read(usage.usage_page(1, 190, 199, used[195], 10))
    for user in users:
        await do((), usage.set_budget, budget=usage.BudgetRow(1, user, 1, 1))
    await read(usage.budgets((1, ann)))
    service = providers.ProviderRow("name", "{}", b"")
    await do((), providers.save_provider, row=service)
    await do((), providers.drop_provider, name="name")
    await read(providers.providers())
    await do((), prices.set_price, model="m", price="{}")
    await do((), prices.import_prices, version="1", prices={"m": "{}", "n": "{}"})
    await read(prices.list_prices())
    await do((), prices.remove_price, model="m")
    for user in users:
        for persona in (0, 7):
            asked = await do((), engines.ask_engine, tenant=user, persona=persona, engine="e")
    await do((), engines.ask_engine, tenant=ann, persona=7, engine="f")
    await do((), engines.settle_engine, choice=asked)
    await read(engines.engine_choices((ann, 0)))
    await read(engines.tenant_choices(ann))
    await read(engines.engine_choice(ann, 7))
    await read(revisions.revisions())
    await do((), mcp_servers.note_tools, name="s", seen="[]", first={"a": "b"})
    await do((), mcp_servers.pin_tools, name="s", digests={"a": "c"})
    await do((), mcp_servers.note_problem, name="s", problem="connect")
    await do((), mcp_servers.ask_for_lists)
    await read(mcp_servers.mcp_server("s"))
    # a repeat: the careful path
    for _ in range(2):
        turn = NewTurn(new_id(), 1, ann, 7)
        await world.send(conv, ann, cid_=cid(77), new_turn=turn)
    await world.send(conv, 7, end_turn=EndTurn(turn.sid, 2, 0))
    await do([conv], messages.edit_message, conv=conv, seq=1, by=ann, text="x", x=None, base=0)
    recall = partial(do, make=messages.recall_message, by=ann, by_admin=True, window_ms=0)
    for other in others[:40]:
        await recall([other], conv=other, seq=1)
    await recall([conv], conv=conv, seq=2)
    for anchor, back in ((0, True), (9, True), (9, False)):
        await read(messages.history(conv, anchor, back, 50, 0))
    await read(messages.get_messages(conv, [1, 2, 3], 0))
    ops: list[Op[Any]] = [
        conversations.load_conversations(convs[:8]),
        conversations.list_conversations(ann, False, "", 20),
        conversations.list_conversations(ann, False, "99999999999999:5", 20),
        conversations.list_conversations(ann, True, "", 20),
        conversations.get_conversation(conv, ann),
        members.member_page(conv, "", 20),
        people.get_users(users[:8]),
        people.users_of_tenant(1, users[:8]),
        people.user_by_name(1, "x"),
        people.find_users(1, f"user-{ann}", 10),
        accounts.credentials(1, "x"),
        accounts.login_state(ann, cid(1)),
        devices.devices(ann),
        accounts.api_key_by_hash(b"x" * 32),
        accounts.list_api_keys(1),
        accounts.list_accounts(1, "n", 20, "na"),
        accounts.get_account(1, 5),
        people.tenant_by_slug("default"),
        people.list_tenants(20, 1),
        people.get_avatar(5),
        personas.get_personas([5, 6]),
        personas.list_personas(1, ann, 0, "", 10),
        personas.list_personas(1, ann, 1, "", 10),
        personas.all_personas(),
        turns.get_turn(5),
        turns.orphan_turns("n", 1, 10),
        turns.turns_asked_by(5, turns.TurnFilter(), 9, 10),
        turns.turns_asked_by(5, turns.TurnFilter(7, TurnStatus.DONE, 1, 2), 9, 10),
        dead_letters.list_dead(10),
        dead_letters.unplayed_dead(10),
        dead_letters.show_dead(5),
        sync(ann, 1, Sync(0, 0, [], [], 100_000)),
        sync(ann, 1, Sync(1, 1, [Head(c, 3) for c in convs[:9]], [], 100_000)),
    ]
    for op in ops:
        await read(op)
    await do([conv], conversations.change_conversation, conv=conv, given=ConvSet(title="t"))
    await do([conv, bob], conversations.change_conversation, conv=conv, given=ConvSet(owner=bob))
    await do([ann], members.change_mine, conv=conv, user=ann, given=MySet(pinned=True))
    await do([conv, eve], members.add_members, conv=conv, users=[eve], max_members=9)
    await do([conv], members.set_member, conv=conv, user=eve, role=2, mute_until=1)
    await do([conv, eve], members.drop_member, conv=conv, user=eve)
    marks = [MarkRow(c, ann, 3, 3) for c in convs[:9]]
    await do([ann], members.write_marks, marks=marks)
    await do([ann], people.set_profile, user=ann, given=User(nick="n"))
    await do((), accounts.set_password, user=ann, password_hash="x")
    await do((), accounts.set_disabled, user=eve, disabled=True)
    for name in ("a", "a", "b"):
        touches = [DeviceTouch(ann, cid(1), name, "p", 5), DeviceTouch(eve, cid(2), name, "p")]
        await do([ann, eve], devices.touch_devices, touches=touches, max_devices=5)
    for number, user in enumerate(users):
        touches = [DeviceTouch(user, cid(number), "n", "p", number + 9)]
        await do([user], devices.touch_devices, touches=touches)
        await do((), devices.note_device, user=user, device=cid(number + 99), family=number + 9)
    await do([ann], devices.drop_device, user=ann, device=cid(1))
    token = {"user": ann, "device": cid(2), "expires": 2**50}
    await do((), accounts.add_refresh, hash=b"a" * 32, **token)
    use = partial(do, (), accounts.use_refresh, expires=2**50)
    await use(hash=b"a" * 32, new_hash=b"b" * 32)
    await use(hash=b"a" * 32, new_hash=b"c" * 32)
    for number, user in enumerate(users[:40]):
        theirs = token | {"user": user, "hash": number.to_bytes(32, "big")}
        await do((), accounts.add_refresh, **theirs)
    await do((), accounts.add_refresh, hash=b"d" * 32, **token | {"expires": 1})
    await do((), accounts.purge_refresh)
    await do((), accounts.drop_refresh, hash=b"b" * 32)
    key = await do((), accounts.add_api_key, tenant=1, hash=b"k" * 32, name="n", scopes=[])
    await do((), accounts.touch_api_keys, ids=[key.id])
    await do((), accounts.revoke_api_key, tenant=1, id=key.id)
    await do((), people.add_avatar, tenant=1, owner=ann, mime="m", data=b"d")
    save = partial(do, [ann], personas.save_persona, tenant=1, owner=ann, cid=cid(5))
    for number in range(90):
        given = Persona(name=f"p{number}", scope=number % 2)
        user = users[number % 30]
        made, _ = await do(
            [user], personas.save_persona, tenant=1, owner=user, id=None, given=given, cid=cid()
        )
    made, _ = await save(id=None, given=given)
    await save(id=made.id, given=Persona(prompt="p"))
    await do([ann], personas.drop_persona, id=made.id, owner=ann)
    await do((), personas.upsert_builtin, slug="s", given=Persona(name="b"))
    await do((), personas.set_builtin_deleted, slug="s", deleted=True)
    await do((), personas.set_persona_created, id=made.id, created_ms=5)
    for place in others[:60]:
        new = NewTurn(new_id(), 1, ann, 7)
        await do((), turns.create_turn, turn=new, conv=place, ask_seq=1, cid=cid())
    steps = [TurnCheckpoint(new.sid, 5, "t"), TurnCheckpoint(turn.sid, 5)]
    await do((), turns.checkpoint_turns, turns=steps)
    (orphan, *_) = await read(turns.orphan_turns("", 6, 1))
    await do((), turns.claim_turn, turn=orphan, node="n", lease_until=7)
    await do((), turns.end_turn, end=EndTurn(new.sid, 2, 0))
    for number, place in enumerate(others[:60]):
        told = summaries.StoredSummary(place, 7, 0, 1, "they met")
        await do([place], summaries.save_summary, summary=told, rev=99)
        await do((), persona_cards.save_card, persona=number, card="{}")
    await read(summaries.get_summary(conv, 7))
    await read(summaries.conversation_rev(conv))
    await do([conv], summaries.drop_summaries, conv=conv)
    await read(persona_cards.get_card(5))
    picture = {"mime": "image/png", "data": b"x", "id": new_id()}
    await do((), persona_cards.add_card_picture, tenant=1, owner=ann, **picture)
    await use_memories(store, users, others)
    await use_mem0_erasures(store, users, others)
    await use_erasure(store, users, others)


async def use_memories(store: Store, users: list[int], convs: list[int]) -> None:
    """Call every operation on memories, over enough rows of enough pairs."""
    read = store.read

    async def do(user: int, make: Any, **options: Any) -> Any:
        return await store.change([user, *convs[:3]], partial(make, user=user, **options))

    add = partial(do, make=memories.add_memory, tenant=1, kind="other", text="t")
    made = [await add(user, persona=5 + n) for user in users for n in range(4)]
    ann, one = users[0], made[0]
    for user in users[10:]:
        await do(user, memories.set_off, off=True)
    for n, conv in enumerate(convs):
        notes = [memory_marks.Noted(user, 5, conv, 1, 2) for user in users[n % 50 :][:2]]
        await store.change(users, partial(memory_marks.note_messages, notes=notes))
    for op in (
        memory_marks.pending_pairs(2**50, 10),
        memory_marks.last_asks(5),
        memories.list_memories(ann, 0, 0, 10),
        memories.list_memories(ann, 5, 0, 10, replaced=True),
        memories.is_off(ann),
    ):
        await read(op)
    _, rows = await read(memories.pair_memories(ann, 5))
    unread = await read(memory_marks.unread_messages(ann, 5, 10))
    facts = [
        memory_marks.Learnt(
            "other", "f", memory_marks.Written(convs[0], 1, rev, ""), "f", b"v", "m", old
        )
        for rev, old in ((1, (one.id,)), (2, ()))
    ]
    learn = partial(memory_marks.learn, tenant=1, persona=5, spans=unread.spans, facts=facts)
    await do(ann, learn)
    vectors = [(memory, b"v" * 8) for memory, _, _ in rows]
    await do(ann, memories.set_vectors, persona=5, model="m", vectors=vectors)
    await store.change((), partial(memories.touch_memories, uses=[(one.id, 2), (made[1].id, 1)]))
    await do(ann, memories.change_memory, id=made[1].id, text="other", pinned=True)
    await do(ann, memories.erase_memory, id=made[1].id)
    await store.change((), partial(memories.forget_message, conv=convs[0], seq=1))
    await store.change((), partial(memories.forget_conversation, conv=convs[0]))
    await do(ann, memories.set_off, off=True)
    for user, persona in ((ann, 5), (users[1], 0)):
        await do(user, memories.erase_memories, persona=persona)
    await do(ann, memories.forget_user)


async def use_mem0_erasures(store: Store, users: list[int], convs: list[int]) -> None:
    """Call every step of erasing at a mem0 server, with enough of them for an optimiser to care."""
    read = store.read

    async def do(make: Any, **options: Any) -> Any:
        return await store.change((), partial(make, **options))

    await do(mem0_erasures.set_noting, on=True)
    for conv in convs:
        learners = [mem0_erasures.Learner(1, user, 7) for user in users[:3]]
        await do(mem0_erasures.note_learners, learners=learners, conv=conv)
        await do(mem0_erasures.note_source, conv=conv, seq=1)
    await do(mem0_erasures.note_user, user=users[0], conv=convs[0], after=b"")
    await read(mem0_erasures.count_mem0_erasures())
    await read(mem0_erasures.due_mem0_erasures(1, 20))
    one = mem0_erasures.Mem0Erasure(0, 0, convs[0], 1, 0, 5, 0, 0, 0)
    for start in (b"", 0):
        await do(mem0_erasures.spread, one=one, after=start)
    await do(mem0_erasures.note_so_far, user=users[0], persona=7)
    await do(mem0_erasures.note_so_far, user=users[0])
    so_far = mem0_erasures.SO_FAR
    wish = mem0_erasures.Mem0Erasure(users[0], so_far, so_far, 0, 1, 5, 0, 0, 0)
    for walk in (mem0_erasures.Walk(), mem0_erasures.Walk(convs[0])):
        await do(mem0_erasures.spread_user, one=wish, walk=walk)
    await do(mem0_erasures.put_off_mem0_erasure, one=one, due=5, looks=1, failures=0)
    await do(mem0_erasures.drop_mem0_erasure, one=one)
    await do(mem0_erasures.set_noting, on=False)


async def use_erasure(store: Store, users: list[int], convs: list[int]) -> None:
    """Call every step of erasing, with enough erasures for an optimiser to care."""
    read, change = store.read, store.change
    for conv in convs[100:]:
        await change([conv], partial(erasure.begin_conversation, conv=conv))
        await change((), partial(erasure.finish_conversation, conv=conv))
    gone, conv, whole = users[40], convs[40], convs[41]
    for user in users[40:]:
        job = await change([user], partial(erasure.begin_user, user=user))
    for user in users[42:]:
        await change([user], partial(erasure.finish_user, user=user))
    await change((), partial(erasure.note_progress, job=job, conv=1, seq=2, done=3))
    place = await read(erasure.next_place(users[41], 0, 5))
    assert place is not None
    feeds = [feed for feed in (place.conv, users[41], place.heir) if feed]
    leave = partial(erasure.leave_conversation, place=place, user=users[41])
    await change(feeds, leave)
    ops: list[Op[Any]] = [
        erasure.get_erasure(1, gone),
        erasure.open_erasures(1),
        erasure.sent_messages(conv, users[0], 0),
        erasure.running_turns(conv),
        erasure.running_turns(conv, users[0]),
        erasure.present_members(conv),
    ]
    for op in ops:
        await read(op)
    await change([conv], partial(erasure.recall_sent, conv=conv, user=users[0], seqs=[1, 2]))
    await change((), partial(erasure.end_running, sids=[5]))
    member = (await read(erasure.present_members(whole)))[0]
    everybody = partial(erasure.drop_everybody, conv=whole, users=[member])
    await change([whole, member], everybody)
    for step in (
        erasure.close_conversation,
        erasure.delete_messages,
        erasure.delete_turns,
        erasure.empty_conversation,
    ):
        await change([whole], partial(step, conv=whole))
    await change((), partial(erasure.clear_turns, conv=conv, user=users[0]))
    for _ in range(2):
        await change([users[5]], partial(erasure.erase_user_memories, user=users[5]))
    for after in (0, 5):
        await change([users[5]], partial(erasure.erase_personas, user=users[5], after=after))
        await change((), partial(erasure.erase_pictures, user=users[0], after=after))
        await change((), partial(erasure.erase_dead_letters, after=after))
    await change([gone], partial(erasure.finish_user, user=gone))


@pytest.fixture
async def explained(
    new_store_url: Callable[[], str], statements: dict[str, Statement], store_engine: str
) -> AsyncIterator[dict[str, list[dict[str, Any]]]]:
    store = await Store.open(StoreOptions(url=new_store_url(), batch_rows=64))
    await use_everything(store)
    engine: Any = store._engine
    if store_engine == "sqlite":
        plans = await engine._writer.run(partial(explain_sqlite, list(statements.values())))
    else:
        plans = await explain_mysql(engine, list(statements.values()))
    yield plans
    await store.close(5)


EXPLAINABLE = ("SELECT", "UPDATE", "DELETE", "INSERT INTO message", "WITH")


def explain_sqlite(commands: list[Statement], connection: sqlite.Connection) -> dict[str, Any]:
    plans = {}
    for sql, args in commands:
        if sql.startswith(EXPLAINABLE) and "sqlite_master" not in sql:
            text = f"EXPLAIN QUERY PLAN {sql}"
            plans[sql] = [{"detail": row[3]} for row in connection._db.execute(text, args)]
    return plans


async def explain_mysql(engine: mysql.MysqlEngine, commands: list[Statement]) -> dict[str, Any]:
    connection = await engine._connect_writer()
    # Statistics are otherwise gathered at leisure.
    for table in TABLES:
        await connection.execute(Statement(f"ANALYZE TABLE {table}"))
    plans = {}
    for command in commands:
        if command.sql.startswith(EXPLAINABLE) and " FROM " in command.sql:
            if "_LOCK(" in command.sql or "information_schema" in command.sql:
                continue
            raw = connection._raw
            await raw.query(b"EXPLAIN FORMAT=TRADITIONAL " + encode_statement(command))
            names = [column[0] for column in raw._result.description]
            plans[command.sql] = [dict(zip(names, r, strict=True)) for r in raw._result.rows]
    connection.abort()
    return plans


def scans(row: dict[str, Any], sql: str) -> bool:
    """Tell whether a step of a plan reads a whole table or index."""
    if any(text in sql for text in ALLOWED_SCANS):
        return False
    if "detail" in row:
        match = re.match(r"SCAN (\w+)", row["detail"])
        # Parts of a UNION and lists of VALUES are read whole, of course.
        derived = re.compile(r"t\d+|v|k|CONSTANT|\d+")
        return match is not None and match[1] not in SMALL and not derived.fullmatch(match[1])
    table = row["table"]
    if table is None or row["type"] not in ("ALL", "index"):
        return False
    return table not in SMALL and not str(table).startswith("<")


async def test_every_statement_uses_an_index(explained: dict[str, list[dict[str, Any]]]) -> None:
    assert len(explained) > 60
    bad = {sql: rows for sql, rows in explained.items() if any(scans(r, sql) for r in rows)}
    assert not bad, "\n".join(f"{sql[:200]}\n   {rows}" for sql, rows in bad.items())


async def test_what_reads_many_has_a_limit(statements: dict[str, Statement], world: World) -> None:
    await use_everything_small(world)
    for sql in statements:
        if not sql.startswith("SELECT") or " FROM " not in sql or "schema" in sql:
            continue
        one = r"WHERE (\w\.)?(id|hash|slug|name|direct_key|owner|tenant|conv|user) = "
        # IN: as many as were asked for.
        bounded = " LIMIT " in sql or "COUNT(*)" in sql or " IN (" in sql or re.search(one, sql)
        assert bounded, sql


async def use_everything_small(world: World) -> None:
    ann = await world.user()
    conv = await world.conv([ann])
    await world.send(conv, ann)
    await world.store.read(sync(ann, 1, Sync(0, 0, [], [], 100_000)), snapshot=True)
    await world.store.read(conversations.list_conversations(ann, False, "", 20))
