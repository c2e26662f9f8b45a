"""AI services that were added while the server runs: kept in the store, their keys sealed."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ai_bridge.bridge import Bridge
from ai_bridge.config import ProviderConfig as BridgeProvider
from ai_bridge.secrets import Secret
from server.ai_setup import bridge_config, to_provider
from server.config_sections import AiConfig, ProviderConfig
from server.errors import ServiceError, invalid
from server.vault import Vault, VaultError
from storage.providers import ProviderRow, providers, save_provider
from storage.revisions import revisions

if TYPE_CHECKING:
    from storage.store import Store

log = logging.getLogger("parlance.ai")

_SECRET: Final = ("api_key", "api_keys", "headers")


def sealed_name(name: str) -> str:
    """Return the name under which a service's key is sealed."""
    return f"ai_provider/{name}"


def make_row(config: ProviderConfig, vault: Vault) -> ProviderRow:
    """Return what is stored of a service.

    Raises:
        ServiceError: INVALID, it has secrets that only a configuration file can hold.
    """
    if config.api_keys or config.headers:
        raise invalid("provider", "More keys and headers belong into the configuration file.")
    open_part = {
        field: getattr(config, field)
        for field in ProviderConfig.__struct_fields__
        if field not in _SECRET
    }
    sealed = vault.seal(sealed_name(config.name), config.api_key) if config.api_key else b""
    return ProviderRow(config.name, msgspec.json.encode(open_part).decode(), sealed)


def read_row(row: ProviderRow, vault: Vault) -> ProviderConfig:
    """Return the service of a row.

    Raises:
        VaultError: its key does not open.
        ServiceError: INVALID, it is not a service that this version knows.
    """
    try:
        found = msgspec.json.decode(row.config, type=ProviderConfig, dec_hook=_no_secrets)
    except msgspec.MsgspecError:
        raise invalid("provider", f"The stored AI service {row.name} cannot be read.") from None
    key = vault.open(sealed_name(row.name), row.sealed) if row.sealed else Secret()
    return msgspec.structs.replace(found, name=row.name, api_key=key)


def _no_secrets(kind: type, value: Any) -> Any:
    raise NotImplementedError(kind.__name__)


async def added_providers(store: "Store", vault: Vault) -> tuple[BridgeProvider, ...]:
    """Return the stored services; one that cannot be read is left out and logged."""
    found = []
    for row in await store.read(providers()):
        try:
            found.append(to_provider(read_row(row, vault)))
        except (VaultError, ServiceError) as error:
            log.error("provider.unusable", extra={"provider": row.name, "reason": str(error)})
    return tuple(found)


async def reseal(store: "Store", vault: Vault) -> int:
    """Seal all keys with the present master key; return how many were sealed with an older one.

    Raises:
        VaultError: one does not open; those before it are done.
    """
    count = 0
    for row in await store.read(providers()):
        if row.sealed and not vault.is_current(row.sealed):
            key = vault.open(sealed_name(row.name), row.sealed)
            sealed = vault.seal(sealed_name(row.name), key)
            fresh = msgspec.structs.replace(row, sealed=sealed)
            await store.change((), partial(save_provider, row=fresh))
            count += 1
    return count


async def reload_providers(ai: AiConfig, store: "Store", bridge: Bridge, vault: Vault) -> None:
    """Give the bridge the services of the store; if one cannot be used, it keeps those it has."""
    added = await added_providers(store, vault)
    try:
        await bridge.reload(bridge_config(ai, added))
    except ValueError as error:
        log.error("provider.unusable", extra={"provider": "", "reason": str(error)})


class AiRefresh:
    """Reloads what others have changed in the store: one action per subject of storage.revisions.

    Args:
        seen: the revisions that were read before what they tell of was loaded.
    """

    def __init__(self, store: "Store", seen: Mapping[str, int]) -> None:
        self._store = store
        self._seen = dict(seen)
        self._actions: dict[str, Callable[[], Awaitable[None]]] = {}

    def add(self, subject: str, reload: Callable[[], Awaitable[None]]) -> None:
        """Call `reload` after each change of a subject."""
        self._actions[subject] = reload

    async def run(self) -> list[str]:
        """Look for changes once, with one statement; return the subjects that were reloaded.

        One whose reload raises is logged and tried again the next time.
        """
        found = await self._store.read(revisions())
        reloaded = []
        for subject, reload in self._actions.items():
            rev = found.get(subject, 0)
            if rev == self._seen.get(subject, 0):
                continue
            try:
                await reload()
            except Exception:
                log.exception("refresh.failed", extra={"subject": subject})
                continue
            self._seen[subject] = rev
            reloaded.append(subject)
        return reloaded
