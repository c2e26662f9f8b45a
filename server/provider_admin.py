"""AI services as administrators handle them, by command and over HTTP."""

from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from ai_bridge.config import BridgeConfig
from ai_bridge.detect import with_listed
from ai_bridge.secrets import Secret
from server.ai_providers import make_row, read_row
from server.ai_setup import to_provider
from server.config_sections import AiConfig, ProviderConfig
from server.errors import ServiceError, invalid, not_found
from server.vault import Vault, VaultError
from storage.errors import LimitReached
from storage.providers import MAX_PROVIDERS, ProviderRow, drop_provider, providers, save_provider

if TYPE_CHECKING:
    from storage.store import Store

TEST_S: Final = 5.0
MAX_URL: Final = 2_000
MAX_MODELS: Final = 500
_MAX_MODEL: Final = 200
_MAX_KEY: Final = 4_000


class ProviderView(Struct, frozen=True):
    """One AI service, never its key.

    `kept`: in the settings file, where only a restart changes it, or in the database; one of the
    database goes before one of the same name in the file. `complaint`: why it cannot be used.
    """

    name: str
    kind: str
    base_url: str
    models: list[str]
    max_streams: int
    tier: int
    has_key: bool
    kept: Literal["settings", "database"]
    complaint: str = ""


class ProviderTest(Struct, frozen=True):
    """Whether a service told its models; `complaint` says what to do where it did not."""

    name: str
    ok: bool
    models: list[str]
    complaint: str


class ProviderAdmin:
    """Lists, saves, tests and removes AI services; safe beside a running server.

    Methods raise ServiceError with a text for the administrator, or StorageError.

    Args:
        ai: the services of the settings.
    """

    def __init__(self, store: "Store", vault: Vault, ai: AiConfig) -> None:
        self._store = store
        self._vault = vault
        self._ai = ai

    async def all(self) -> list[ProviderView]:
        """Return the services, those of the settings first."""
        found = [_view(one, "settings") for one in self._ai.providers]
        for row in await self._store.read(providers()):
            try:
                found.append(_view(read_row(row, self._vault), "database"))
            except (VaultError, ServiceError) as error:
                complaint = error.detail if isinstance(error, ServiceError) else str(error)
                found.append(
                    ProviderView(
                        row.name, "", "", [], 0, 0, bool(row.sealed), "database", complaint or ""
                    )
                )
        return found

    async def get(self, name: str) -> ProviderView:
        """Return the service that answers to a name.

        Raises:
            ServiceError: NOT_FOUND.
        """
        for one in reversed(await self.all()):
            if one.name == name:
                return one
        raise not_found("provider")

    async def save(self, wanted: ProviderConfig, key: Secret | None) -> ProviderView:
        """Add a service, or replace the one of this name.

        Args:
            key: None keeps the one that is stored, for which kind and address must stay.

        Raises:
            ServiceError: INVALID, it cannot work as given.
        """
        _check(wanted)
        rows = {row.name: row for row in await self._store.read(providers())}
        if wanted.name not in rows and len(rows) >= MAX_PROVIDERS:
            raise LimitReached(f"{MAX_PROVIDERS} AI services are stored already; remove one")
        if key is None:
            key = self._kept_key(rows.get(wanted.name), wanted)
        elif not _is_sane(key.reveal(), _MAX_KEY):
            raise invalid("key", "A key has up to 4,000 characters, all visible and no spaces.")
        full = msgspec.structs.replace(wanted, api_key=key)
        row = make_row(full, self._vault)
        await self._store.change((), lambda tx: save_provider(tx, row))
        return _view(full, "database")

    def _kept_key(self, row: ProviderRow | None, wanted: ProviderConfig) -> Secret:
        if row is None or not row.sealed:
            return Secret()
        try:
            old = read_row(row, self._vault)
        except VaultError as error:
            raise invalid("key", f"{error}.") from None
        if (old.kind, old.base_url) != (wanted.kind, wanted.base_url):
            # Who may see no key could otherwise have it sent to an address of their own.
            raise invalid("key", "Give the key once more: it was set for another address.")
        return old.api_key

    async def remove(self, name: str) -> None:
        """Remove a service of the database; its key is wiped.

        Raises:
            NotFound: there is none of this name.
        """
        await self._store.change((), lambda tx: drop_provider(tx, name))

    async def test(self, name: str) -> ProviderTest:
        """Ask a service for its models, within `TEST_S`; costs nothing there.

        Raises:
            ServiceError: NOT_FOUND.
        """
        config = await self._config(name)
        if config.kind == "demo":
            return ProviderTest(name, True, [], "")
        asked = msgspec.structs.replace(to_provider(config), models=())
        listed = await with_listed(BridgeConfig(providers=(asked,)), timeout_s=TEST_S)
        models = list(listed.providers[0].models)
        complaint = (
            ""
            if models
            else f"{name} told no models within {TEST_S:g} s. Check its address and its key; some"
            " services list nothing and answer all the same."
        )
        return ProviderTest(name, bool(models), models, complaint)

    async def _config(self, name: str) -> ProviderConfig:
        for row in await self._store.read(providers()):
            if row.name == name:
                try:
                    return read_row(row, self._vault)
                except VaultError as error:
                    raise invalid("key", f"{error}.") from None
        for one in self._ai.providers:
            if one.name == name:
                return one
        raise not_found("provider")


def _check(wanted: ProviderConfig) -> None:
    if wanted.kind == "openai_chat" and not wanted.base_url:
        raise invalid("base_url", "base_url is missing, such as http://127.0.0.1:11434/v1")
    if wanted.base_url and not _is_address(wanted.base_url):
        raise invalid("base_url", "base_url must begin with http:// or https:// and name a host")
    if len(wanted.models) > MAX_MODELS or not all(
        model and _is_sane(model, _MAX_MODEL) for model in wanted.models
    ):
        raise invalid("models", f"Name up to {MAX_MODELS} models of up to {_MAX_MODEL} characters.")


def _is_address(text: str) -> bool:
    if len(text) > MAX_URL or not _is_sane(text, MAX_URL):
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_sane(text: str, most: int) -> bool:
    return len(text) <= most and text.isprintable() and " " not in text


def _view(config: ProviderConfig, kept: Literal["settings", "database"]) -> ProviderView:
    return ProviderView(
        config.name,
        config.kind,
        config.base_url,
        config.models,
        config.max_streams,
        config.tier,
        bool(config.api_key or config.api_keys),
        kept,
    )
