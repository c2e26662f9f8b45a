"""Clients of services whose settings change: the new one at once, the old one to its end."""

from __future__ import annotations

import pytest

from ai_bridge.config import ProviderConfig
from ai_bridge.errors import ProviderFailure
from ai_bridge.renewed import Renewed


class Client:
    def __init__(self, config: ProviderConfig) -> None:
        if config.kind == "gemini":
            raise ValueError("cannot")
        self.url = config.base_url
        self.closed = False

    async def aclose(self) -> None:
        self.closed = True


def closed(*clients: Client) -> list[bool]:
    return [client.closed for client in clients]


class World:
    def __init__(self) -> None:
        self.config: ProviderConfig | None = ProviderConfig(name="a", base_url="http://one")
        self.renewed = Renewed(lambda: self.config, Client)


async def test_equal_settings_keep_the_client() -> None:
    world = World()
    async with world.renewed.use() as (_, first):
        pass
    world.config = ProviderConfig(name="a", base_url="http://one")
    async with world.renewed.use() as (config, second):
        assert second is first
        assert config.name == "a"
    assert not first.closed


async def test_other_settings_hold_at_once_and_the_old_client_ends_its_calls() -> None:
    world = World()
    async with world.renewed.use() as (_, old):
        world.config = ProviderConfig(name="a", base_url="http://two")
        async with world.renewed.use() as (_, new):
            assert new.url == "http://two"
        assert closed(old, new) == [False, False]
    assert closed(old, new) == [True, False]
    await world.renewed.aclose()
    assert closed(old, new) == [True, True]


async def test_an_idle_client_of_before_is_closed_by_the_next_call() -> None:
    world = World()
    old = world.renewed.present
    world.config = ProviderConfig(name="a", base_url="http://two")
    assert world.renewed.present is not old
    async with world.renewed.use():
        pass
    assert old is not None
    assert old.closed


@pytest.mark.parametrize(
    "config", [None, ProviderConfig(name="a", kind="gemini", base_url="http://one")]
)
async def test_without_a_usable_service_a_call_fails_with_words(
    config: ProviderConfig | None,
) -> None:
    world = World()
    world.config = config
    assert world.renewed.present is None
    with pytest.raises(ProviderFailure) as caught:
        async with world.renewed.use():
            pass
    assert "operator" in caught.value.text
