"""Cards of personas: kept whole, on every engine."""

from __future__ import annotations

from functools import partial

from storage.ids import new_id
from storage.people import get_avatar
from storage.persona_cards import add_card_picture, get_card, save_card
from tests.storage.world import World


async def test_a_card_is_kept_and_replaced(world: World) -> None:
    persona = new_id()
    assert await world.store.read(get_card(persona)) is None
    for card in ('{"name":"小红 🏮"}', '{"name":"' + "长" * 700_000 + '"}'):
        await world.store.change((), partial(save_card, persona=persona, card=card))
        assert await world.store.read(get_card(persona)) == card


async def test_a_picture_of_a_card_may_be_larger_than_an_avatar(world: World) -> None:
    user, picture, data = await world.user(), new_id(), b"\x89PNG" * 200_000
    await world.store.change(
        (), lambda tx: add_card_picture(tx, 1, user, "image/png", data, picture)
    )
    found = await world.store.read(get_avatar(picture))
    assert found is not None
    assert (found.owner, found.mime, found.data) == (user, "image/png", data)
