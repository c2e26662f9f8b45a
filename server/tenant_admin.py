"""Tenants as administrators handle them, by command and over HTTP."""

import re
from typing import TYPE_CHECKING, Final

from server.errors import invalid, not_found
from storage.ids import new_id
from storage.people import create_tenant, list_tenants, rename_tenant, tenant_by_slug
from storage.rows import Tenant

if TYPE_CHECKING:
    from storage.store import Store

MAX_NAME: Final = 128
_is_slug: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}").fullmatch


class TenantAdmin:
    """Lists, makes and renames tenants; safe beside a running server.

    Methods raise ServiceError with a text for the administrator, or StorageError.
    """

    def __init__(self, store: "Store") -> None:
        self._store = store

    async def page(self, after: int, limit: int) -> list[Tenant]:
        """Return tenants by id, those after the one of this id."""
        return await self._store.read(list_tenants(limit, after))

    async def get(self, slug: str) -> Tenant:
        """Return a tenant.

        Raises:
            ServiceError: NOT_FOUND.
        """
        found = await self._store.read(tenant_by_slug(slug))
        if found is None:
            raise not_found("tenant")
        return found

    async def create(self, slug: str, name: str) -> Tenant:
        """Make a tenant; without a name it is called as its slug.

        Raises:
            ServiceError: INVALID.
            Exists: the slug is taken.
        """
        if not _is_slug(slug):
            raise invalid("slug", "A slug has 1 to 64 characters out of a-z, 0-9 and '-'.")
        called, made = _clean(name) or slug, new_id()
        return await self._store.change([], lambda tx: create_tenant(tx, slug, called, made))

    async def rename(self, slug: str, name: str) -> Tenant:
        """Change the full name; the slug stays.

        Raises:
            ServiceError: INVALID.
            NotFound: no such tenant.
        """
        called = _clean(name) or slug
        return await self._store.change([], lambda tx: rename_tenant(tx, slug, called))


def _clean(name: str) -> str:
    name = name.strip()
    if len(name) > MAX_NAME or not name.isprintable():
        raise invalid("name", f"A name has up to {MAX_NAME} characters, all visible.")
    return name
