"""Engines as a command sees them: made from the settings and the store, asked, and let go."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ai_bridge.engines.base import EngineInfo
from ai_bridge.engines.chat_engine import CHAT_ENGINE
from ai_bridge.engines.registry import EngineRegistry
from server.ai_providers import added_providers
from server.ai_setup import make_bridge, make_engines, make_mem0
from server.config import Config, data_dir
from server.config_sections import AiConfig
from server.vault import make_vault

if TYPE_CHECKING:
    from storage.store import Store


def known_engines(ai: AiConfig) -> list[EngineInfo]:
    """Return the engines that these settings offer."""
    return [CHAT_ENGINE, *make_engines(make_mem0(ai))]


@asynccontextmanager
async def open_engines(store: "Store", config: Config) -> AsyncIterator[EngineRegistry]:
    """The engines as a server would make them now; what running ones learnt they do not know.

    Raises:
        VaultError: the key of an AI service cannot be opened.
        ValueError: an AI service is not usable as configured; the text says why.
    """
    auth = config.auth
    vault = make_vault(auth.master_key, auth.old_master_keys, data_dir(config))
    bridge = make_bridge(config.ai, None, await added_providers(store, vault))
    try:
        await bridge.start()
        yield bridge.engines
    finally:
        await bridge.aclose()
