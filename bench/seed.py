"""Fill an empty database with users and conversations, through the storage package itself."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from bench.fixture import TENANT
from protocol.codes import ConvKind, Scope, UserKind
from protocol.rows import Persona
from storage.accounts import create_user
from storage.conversations import create_conversation
from storage.ids import new_id
from storage.personas import save_persona
from storage.rows import NewConversation
from storage.store import Store, StoreOptions

AT_ONCE: Final = 2000
"""Changes under way together: enough to fill batches, less than the store's queue."""


@dataclass(frozen=True)
class Group:
    """A conversation to be made: member numbers count the seeded users; the first one makes it.

    Those of kind AI all get the same persona.
    """

    members: Sequence[int]
    kind: ConvKind = ConvKind.GROUP


@dataclass(frozen=True)
class Seeded:
    """Ids of what was made, in the order asked for."""

    users: list[int]
    convs: list[int]


def seed(url: str, users: int, groups: Sequence[Group] = ()) -> Seeded:
    """Make users "bench-0", "bench-1", … and conversations in the database at url."""
    return asyncio.run(_seed(url, users, groups))


async def _seed(url: str, users: int, groups: Sequence[Group]) -> Seeded:
    store = await Store.open(StoreOptions(url=url))
    try:
        ids = [new_id() for _ in range(users)]
        await _in_slices(partial(_make_user, store, i, one) for i, one in enumerate(ids))
        convs = [new_id() for _ in groups]
        persona = 0
        if any(group.kind is ConvKind.AI for group in groups):
            persona = await _make_persona(store, ids[0])
        await _in_slices(
            partial(
                _make_conversation, store, conv, group, [ids[i] for i in group.members], persona
            )
            for conv, group in zip(convs, groups, strict=True)
        )
        return Seeded(ids, convs)
    finally:
        await store.close(30)


async def _in_slices(makers: Iterable[Callable[[], Awaitable[None]]]) -> None:
    todo = list(makers)
    for at in range(0, len(todo), AT_ONCE):
        await asyncio.gather(*(make() for make in todo[at : at + AT_ONCE]))


async def _make_user(store: Store, number: int, user: int) -> None:
    name = f"bench-{number}"
    await store.change(
        (user,), lambda tx: create_user(tx, TENANT, name, name, UserKind.PERSON, None, id=user)
    )


async def _make_persona(store: Store, owner: int) -> int:
    given = Persona(name="Bench", prompt="You answer briefly.", scope=Scope.TENANT)
    saved, _ = await store.change(
        (owner,), lambda tx: save_persona(tx, TENANT, owner, None, owner.to_bytes(16, "big"), given)
    )
    return saved.id or 0


async def _make_conversation(
    store: Store, conv: int, group: Group, members: list[int], persona: int
) -> None:
    new = NewConversation(
        id=conv,
        tenant=TENANT,
        kind=group.kind,
        creator=members[0],
        cid=conv.to_bytes(16, "big"),
        title="" if group.kind is ConvKind.DIRECT else f"bench {conv}",
        members=members,
        persona=persona if group.kind is ConvKind.AI else 0,
    )
    await store.change((conv, *members), lambda tx: create_conversation(tx, new))
