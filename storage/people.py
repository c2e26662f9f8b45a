"""Users as others see them, their pictures, and tenants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from protocol.rows import User
from protocol.text import name_key
from storage.errors import Exists, Invalid, NotFound, NotPermitted
from storage.ids import new_id
from storage.ops import Op, Row, Statement, in_list
from storage.rows import Avatar, Tenant
from storage.writes import Tx

MAX_AVATAR_BYTES: Final = 256 << 10

_KEY_LENGTH: Final = 255
USER_COLUMNS: Final = "u.id, u.name, u.nick, u.avatar, u.bio, u.kind, u.persona"


def user_from(row: Row) -> User:
    """Build a user from `USER_COLUMNS`."""
    return User(
        id=row[0],
        name=row[1],
        nick=row[2] or None,
        avatar=row[3] or None,
        bio=row[4] or None,
        kind=row[5],
        persona=row[6] or None,
    )


def index_key(name: str) -> str:
    """Return the comparable form, within what an index takes (only absurd names are cut)."""
    return name_key(name)[:_KEY_LENGTH]


def get_users(ids: Sequence[int]) -> Op[list[User]]:
    """Return those of the users that exist, by id. Nothing here knows tenants: the caller must."""
    if not ids:
        return []
    marks, args = in_list(ids)
    rows = yield Statement(
        f"SELECT {USER_COLUMNS} FROM user AS u WHERE u.id IN ({marks}) ORDER BY u.id", args
    )
    return [user_from(row) for row in rows]


def users_of_tenant(tenant: int, ids: Sequence[int]) -> Op[list[User]]:
    """Return those of the users that exist in tenant, by id."""
    if not ids:
        return []
    marks, args = in_list(ids)
    rows = yield Statement(
        f"SELECT {USER_COLUMNS} FROM user AS u WHERE u.id IN ({marks}) AND u.tenant = ?"
        " ORDER BY u.id",
        (*args, tenant),
    )
    return [user_from(row) for row in rows]


def user_by_name(tenant: int, name: str) -> Op[User | None]:
    rows = yield Statement(
        f"SELECT {USER_COLUMNS} FROM user AS u WHERE u.tenant = ? AND u.name_key = ?",
        (tenant, index_key(name)),
    )
    return user_from(rows[0]) if rows else None


def find_users(tenant: int, query: str, limit: int) -> Op[list[User]]:
    """Return enabled users whose name or nick begins with query, in any case; names first."""
    prefix = index_key(query)
    if not prefix:
        return []
    found: dict[int, User] = {}
    for column in ("name_key", "nick_key"):
        # A range instead of LIKE: every engine then walks the index, whatever the text holds.
        rows = yield Statement(
            f"SELECT {USER_COLUMNS} FROM user AS u WHERE u.tenant = ? AND u.{column} >= ?"
            f" AND u.{column} < ? AND u.disabled = 0 ORDER BY u.{column} LIMIT ?",
            (tenant, prefix, prefix + "\U0010ffff", limit),
        )
        for row in rows:
            found.setdefault(row[0], user_from(row))
    return list(found.values())[:limit]


def set_profile(tx: Tx, user: int, given: User) -> Op[tuple[User, int]]:
    """Change nick, avatar, bio or the chosen persona; return the user and the rev, 0 if none.

    Raises:
        NotFound: no such user.
    """
    rows = yield Statement(f"SELECT {USER_COLUMNS} FROM user AS u WHERE u.id = ?", (user,))
    if not rows:
        raise NotFound("no such user")
    now = user_from(rows[0])
    changes: dict[str, Any] = {}
    for name in ("nick", "avatar", "bio", "persona"):
        value = getattr(given, name)
        if value is not None and value != (getattr(now, name) or type(value)()):
            changes[name] = value
            setattr(now, name, value or None)
    if not changes:
        return now, 0
    if "nick" in changes:
        changes["nick_key"] = index_key(changes["nick"])
    changes["rev"] = rev = tx.bump(user)
    sets = ", ".join(f"{name} = ?" for name in changes)
    yield Statement(f"UPDATE user SET {sets} WHERE id = ?", (*changes.values(), user))
    return now, rev


# tenants


def create_tenant(tx: Tx, slug: str, name: str, id: int | None = None) -> Op[Tenant]:
    """Create a tenant. Give `id` so that a repeat finds its own.

    Raises:
        Exists: the slug is taken.
    """
    found = yield from tenant_by_slug(slug)
    if found is not None:
        if found.id == id:
            return found
        raise Exists("the slug is taken")
    tenant = Tenant(new_id() if id is None else id, slug, name, tx.ts)
    yield tx.dialect.insert(
        "tenant", ("id", "slug", "name", "created"), [(tenant.id, slug, name, tx.ts)]
    )
    return tenant


def tenant_by_slug(slug: str) -> Op[Tenant | None]:
    rows = yield Statement("SELECT id, slug, name, created FROM tenant WHERE slug = ?", (slug,))
    return Tenant(*rows[0]) if rows else None


def list_tenants(limit: int = 1_000, after: int = 0) -> Op[list[Tenant]]:
    """Return a page of the tenants by id."""
    rows = yield Statement(
        "SELECT id, slug, name, created FROM tenant WHERE id > ? ORDER BY id LIMIT ?",
        (after, limit),
    )
    return [Tenant(*row) for row in rows]


def rename_tenant(tx: Tx, slug: str, name: str) -> Op[Tenant]:
    """Change a tenant's full name; the slug stays what it is.

    Raises:
        NotFound: no such tenant.
    """
    found = yield from tenant_by_slug(slug)
    if found is None:
        raise NotFound("no such tenant")
    yield Statement("UPDATE tenant SET name = ? WHERE id = ?", (name, found.id))
    return Tenant(found.id, slug, name, found.created)


# avatars


def add_avatar(
    tx: Tx, tenant: int, owner: int, mime: str, data: bytes, id: int | None = None
) -> Op[int]:
    """Store a picture of at most `MAX_AVATAR_BYTES`; return its id.

    Raises:
        Invalid: too large.
    """
    if len(data) > MAX_AVATAR_BYTES:
        raise Invalid("the picture is too large")
    avatar = new_id() if id is None else id
    known = yield Statement("SELECT owner FROM avatar WHERE id = ?", (avatar,))
    if known:
        if known[0][0] != owner:
            raise NotPermitted("another's picture")
        return avatar
    columns = ("id", "tenant", "owner", "mime", "data", "created")
    yield tx.dialect.insert("avatar", columns, [(avatar, tenant, owner, mime, data, tx.ts)])
    return avatar


def get_avatar(id: int) -> Op[Avatar | None]:
    rows = yield Statement("SELECT id, tenant, owner, mime, data FROM avatar WHERE id = ?", (id,))
    if not rows:
        return None
    found, tenant, owner, mime, data = rows[0]
    return Avatar(found, tenant, owner, mime, bytes(data))
