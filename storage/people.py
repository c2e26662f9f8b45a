"""Users, what proves who they are, their devices and pictures, and tenants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from protocol.rows import Device, User
from protocol.text import name_key
from storage.errors import Exists, Invalid, LimitReached, NotFound, NotPermitted
from storage.ids import new_id
from storage.ops import Op, Row, Statement, in_list
from storage.rows import ApiKey, Avatar, Credentials, LoginState, RefreshUse, Tenant
from storage.writes import Tx

MAX_AVATAR_BYTES: Final = 256 << 10

_KEY_LENGTH: Final = 255
_USER_COLUMNS: Final = "u.id, u.name, u.nick, u.avatar, u.bio, u.kind, u.persona"
_USER_INSERT: Final = (
    "id",
    "tenant",
    "name",
    "name_key",
    "nick",
    "nick_key",
    "avatar",
    "bio",
    "kind",
    "persona",
    "rev",
    "created",
    "disabled",
    "token_epoch",
)
_DEVICE_COLUMNS: Final = "device, name, platform, seen, revoked_at, rev"
_MAX_DEVICES: Final = 1_000

_encode: Final = msgspec.json.Encoder().encode
_decode_scopes: Final = msgspec.json.Decoder(list[str]).decode


def user_from(row: Row) -> User:
    """Build a user from `_USER_COLUMNS`."""
    return User(
        id=row[0],
        name=row[1],
        nick=row[2] or None,
        avatar=row[3] or None,
        bio=row[4] or None,
        kind=row[5],
        persona=row[6] or None,
    )


def _key(name: str) -> str:
    """Return the comparable form, within what an index takes (only absurd names are cut)."""
    return name_key(name)[:_KEY_LENGTH]


# users


def create_user(
    tx: Tx,
    tenant: int,
    name: str,
    nick: str = "",
    kind: int = 0,
    password_hash: str | None = None,
    id: int | None = None,
) -> Op[User]:
    """Create a user and the user's feed.

    Give `id` (from `new_id`) so that a repeat after a lost reply finds its own user.

    Raises:
        Exists: the name is taken, in any case or width of its letters.
    """
    rows = yield Statement(
        f"SELECT {_USER_COLUMNS} FROM user AS u WHERE u.tenant = ? AND u.name_key = ?",
        (tenant, _key(name)),
    )
    if rows:
        if rows[0][0] == id:
            return user_from(rows[0])
        raise Exists("the name is taken")
    user = new_id() if id is None else id
    tx.create(user)
    row = (user, tenant, name, _key(name), nick, _key(nick), 0, "", kind, 0, 0, tx.ts, 0, 0)
    yield tx.dialect.insert("user", _USER_INSERT, [row])
    if password_hash is not None:
        yield from _write_password(tx, user, password_hash)
    return user_from((user, name, nick, 0, "", kind, 0))


def get_users(ids: Sequence[int]) -> Op[list[User]]:
    """Return those of the users that exist, by id. Nothing here knows tenants: the caller must."""
    if not ids:
        return []
    marks, args = in_list(ids)
    rows = yield Statement(
        f"SELECT {_USER_COLUMNS} FROM user AS u WHERE u.id IN ({marks}) ORDER BY u.id", args
    )
    return [user_from(row) for row in rows]


def users_of_tenant(tenant: int, ids: Sequence[int]) -> Op[list[User]]:
    """Return those of the users that exist in tenant, by id."""
    if not ids:
        return []
    marks, args = in_list(ids)
    rows = yield Statement(
        f"SELECT {_USER_COLUMNS} FROM user AS u WHERE u.id IN ({marks}) AND u.tenant = ?"
        " ORDER BY u.id",
        (*args, tenant),
    )
    return [user_from(row) for row in rows]


def user_by_name(tenant: int, name: str) -> Op[User | None]:
    rows = yield Statement(
        f"SELECT {_USER_COLUMNS} FROM user AS u WHERE u.tenant = ? AND u.name_key = ?",
        (tenant, _key(name)),
    )
    return user_from(rows[0]) if rows else None


def find_users(tenant: int, query: str, limit: int) -> Op[list[User]]:
    """Return enabled users whose name or nick begins with query, in any case; names first."""
    prefix = _key(query)
    if not prefix:
        return []
    found: dict[int, User] = {}
    for column in ("name_key", "nick_key"):
        # A range instead of LIKE: every engine then walks the index, whatever the text holds.
        rows = yield Statement(
            f"SELECT {_USER_COLUMNS} FROM user AS u WHERE u.tenant = ? AND u.{column} >= ?"
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
    rows = yield Statement(f"SELECT {_USER_COLUMNS} FROM user AS u WHERE u.id = ?", (user,))
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
        changes["nick_key"] = _key(changes["nick"])
    changes["rev"] = rev = tx.bump(user)
    sets = ", ".join(f"{name} = ?" for name in changes)
    yield Statement(f"UPDATE user SET {sets} WHERE id = ?", (*changes.values(), user))
    return now, rev


def set_disabled(tx: Tx, user: int, disabled: bool) -> Op[None]:
    """Lock a user out or let them in again; either way tokens made so far are void."""
    yield Statement(
        "UPDATE user SET disabled = ?, token_epoch = token_epoch + 1 WHERE id = ?",
        (int(disabled), user),
    )


# passwords and sign-in


def credentials(tenant: int, name: str) -> Op[Credentials | None]:
    """Return what a password is checked against; None for no such user or no password."""
    rows = yield Statement(
        "SELECT u.id, c.password_hash, u.disabled, u.token_epoch FROM user AS u"
        " JOIN credential AS c ON c.user = u.id WHERE u.tenant = ? AND u.name_key = ?",
        (tenant, _key(name)),
    )
    return Credentials(rows[0][0], rows[0][1], bool(rows[0][2]), rows[0][3]) if rows else None


def set_password(tx: Tx, user: int, password_hash: str, revoke: bool = True) -> Op[None]:
    """Store a new hash; with revoke, all tokens made so far become void.

    Without revoke it serves to renew the hash of the same password.
    """
    yield from _write_password(tx, user, password_hash)
    if revoke:
        yield Statement("UPDATE user SET token_epoch = token_epoch + 1 WHERE id = ?", (user,))


def _write_password(tx: Tx, user: int, password_hash: str) -> Op[None]:
    columns = ("user", "password_hash", "updated")
    yield tx.dialect.upsert("credential", columns, [(user, password_hash, tx.ts)])


def login_state(user: int, device: bytes) -> Op[LoginState | None]:
    """Return what a handshake must know, in one statement; None for no such user."""
    rows = yield Statement(
        f"SELECT {_USER_COLUMNS}, u.tenant, u.disabled, u.token_epoch, d.user, d.revoked_at,"
        " (SELECT COUNT(*) FROM device AS e WHERE e.user = u.id AND e.revoked_at = 0)"
        " FROM user AS u LEFT JOIN device AS d ON d.user = u.id AND d.device = ?"
        " WHERE u.id = ?",
        (device, user),
    )
    if not rows:
        return None
    tenant, disabled, epoch, known, revoked_at, count = rows[0][7:]
    return LoginState(
        user_from(rows[0]), tenant, bool(disabled), epoch, known is not None, revoked_at or 0, count
    )


# devices


def _device(row: Row) -> Device:
    """Build a device from `_DEVICE_COLUMNS`; a dropped one has no fields but its id."""
    if row[4]:
        return Device(device=bytes(row[0]))
    return Device(device=bytes(row[0]), name=row[1] or None, platform=row[2] or None, seen=row[3])


def touch_device(
    tx: Tx,
    user: int,
    device: bytes,
    name: str,
    platform: str,
    max_devices: int = 0,
) -> Op[tuple[Device, int] | None]:
    """Note that a device was seen; return it and the rev if other devices should hear of it.

    That is when it is new, came back after being dropped, or changed its name; else None.

    Raises:
        LimitReached: it is new and max_devices (0: no bound) are signed in.
    """
    rows = yield Statement(
        f"SELECT {_DEVICE_COLUMNS} FROM device WHERE user = ? AND device = ?", (user, device)
    )
    known = rows[0] if rows else None
    if known is not None and known[1:3] == (name, platform) and not known[4]:
        yield Statement(
            "UPDATE device SET seen = ? WHERE user = ? AND device = ?", (tx.ts, user, device)
        )
        return None
    if max_devices and (known is None or known[4]):
        counted = yield Statement(
            "SELECT COUNT(*) FROM device WHERE user = ? AND revoked_at = 0", (user,)
        )
        if counted[0][0] >= max_devices:
            raise LimitReached("too many devices")
    rev = tx.bump(user)
    if known is None:
        columns = ("user", "device", "name", "platform", "created", "seen", "revoked_at", "rev")
        row = (user, device, name, platform, tx.ts, tx.ts, 0, rev)
        yield tx.dialect.insert("device", columns, [row])
    else:
        yield Statement(
            "UPDATE device SET name = ?, platform = ?, seen = ?, revoked_at = 0, rev = ?"
            " WHERE user = ? AND device = ?",
            (name, platform, tx.ts, rev, user, device),
        )
    return _device((device, name, platform, tx.ts, 0, rev)), rev


def devices(user: int) -> Op[list[Device]]:
    """Return user's devices that were not dropped, most recently seen first."""
    rows = yield Statement(
        f"SELECT {_DEVICE_COLUMNS} FROM device WHERE user = ? AND revoked_at = 0"
        " ORDER BY seen DESC LIMIT ?",
        (user, _MAX_DEVICES),
    )
    return [_device(row) for row in rows]


def changed_devices(user: int, rev: int, limit: int) -> Op[list[tuple[int, Device]]]:
    """Return devices changed after rev, with their revs; dropped ones have only their id."""
    rows = yield Statement(
        f"SELECT {_DEVICE_COLUMNS} FROM device WHERE user = ? AND rev > ? ORDER BY rev LIMIT ?",
        (user, rev, limit),
    )
    return [(row[5], _device(row)) for row in rows]


def drop_device(tx: Tx, user: int, device: bytes) -> Op[tuple[Device, int]]:
    """Sign a device out for good: its refresh tokens go too. Again: rev 0.

    Raises:
        NotFound: no such device.
    """
    rows = yield Statement(
        f"SELECT {_DEVICE_COLUMNS} FROM device WHERE user = ? AND device = ?", (user, device)
    )
    if not rows:
        raise NotFound("no such device")
    if rows[0][4]:
        return _device(rows[0]), 0
    rev = tx.bump(user)
    yield Statement(
        "UPDATE device SET revoked_at = ?, rev = ? WHERE user = ? AND device = ?",
        (tx.ts, rev, user, device),
    )
    yield Statement("DELETE FROM refresh_token WHERE user = ? AND device = ?", (user, device))
    return Device(device=device), rev


# refresh tokens


def add_refresh(
    tx: Tx, hash: bytes, user: int, device: bytes, expires: int, family: int | None = None
) -> Op[None]:
    """Store a refresh token by its 32-byte hash; a new family is a new sign-in."""
    rows = yield Statement("SELECT user FROM refresh_token WHERE hash = ?", (hash,))
    if rows:
        return
    columns = ("hash", "user", "device", "family", "created", "expires", "used_at", "replaced_by")
    row = (hash, user, device, family or new_id(), tx.ts, expires, 0, None)
    yield tx.dialect.insert("refresh_token", columns, [row])


def use_refresh(tx: Tx, hash: bytes, new_hash: bytes, expires: int) -> Op[RefreshUse | None]:
    """Spend a refresh token for its successor; None when it is unknown, expired or spent.

    A token that was spent for another successor has leaked: its whole family is deleted, which
    is committed although nothing is returned. The same successor again is only a repeat.
    """
    rows = yield Statement(
        "SELECT r.user, r.device, r.family, r.expires, r.used_at, r.replaced_by, u.tenant,"
        " u.token_epoch, u.disabled FROM refresh_token AS r JOIN user AS u ON u.id = r.user"
        f" WHERE r.hash = ?{tx.dialect.for_update}",
        (hash,),
    )
    if not rows:
        return None
    user, device, family, until, used_at, replaced_by, tenant, epoch, disabled = rows[0]
    use = RefreshUse(user, bytes(device), tenant, epoch)
    if used_at:
        if bytes(replaced_by or b"") == new_hash:
            return use
        yield Statement("DELETE FROM refresh_token WHERE family = ?", (family,))
        return None
    if disabled or until <= tx.ts:
        return None
    yield Statement(
        "UPDATE refresh_token SET used_at = ?, replaced_by = ? WHERE hash = ?",
        (tx.ts, new_hash, hash),
    )
    yield from add_refresh(tx, new_hash, user, use.device, expires, family)
    return use


def drop_refresh(tx: Tx, hash: bytes) -> Op[None]:
    """Sign out: delete the token's whole family."""
    rows = yield Statement("SELECT family FROM refresh_token WHERE hash = ?", (hash,))
    if rows:
        yield Statement("DELETE FROM refresh_token WHERE family = ?", (rows[0][0],))


def purge_refresh(tx: Tx, limit: int = 1_000) -> Op[int]:
    """Delete up to limit expired tokens; return how many."""
    rows = yield Statement(
        "SELECT hash FROM refresh_token WHERE expires < ? ORDER BY expires LIMIT ?",
        (tx.ts, limit),
    )
    if rows:
        marks, args = in_list(bytes(row[0]) for row in rows)
        yield Statement(f"DELETE FROM refresh_token WHERE hash IN ({marks})", args)
    return len(rows)


# api keys

_API_COLUMNS: Final = "id, tenant, name, scopes, created, revoked, last_used"


def _api_key(row: Row) -> ApiKey:
    return ApiKey(row[0], row[1], row[2], _decode_scopes(row[3]), *row[4:])


def add_api_key(
    tx: Tx, tenant: int, hash: bytes, name: str, scopes: Sequence[str], id: int | None = None
) -> Op[ApiKey]:
    """Store an API key by its 32-byte hash; the same hash again returns the first one."""
    found = yield from api_key_by_hash(hash)
    if found is not None:
        return found
    key = new_id() if id is None else id
    columns = ("id", "tenant", "hash", "name", "scopes", "created", "revoked", "last_used")
    row = (key, tenant, hash, name, _encode(list(scopes)).decode(), tx.ts, 0, 0)
    yield tx.dialect.insert("api_key", columns, [row])
    return ApiKey(key, tenant, name, list(scopes), tx.ts, 0, 0)


def api_key_by_hash(hash: bytes) -> Op[ApiKey | None]:
    """Return a key, also a revoked one."""
    rows = yield Statement(f"SELECT {_API_COLUMNS} FROM api_key WHERE hash = ?", (hash,))
    return _api_key(rows[0]) if rows else None


def list_api_keys(tenant: int, limit: int = 1_000) -> Op[list[ApiKey]]:
    rows = yield Statement(
        f"SELECT {_API_COLUMNS} FROM api_key WHERE tenant = ? ORDER BY id LIMIT ?",
        (tenant, limit),
    )
    return [_api_key(row) for row in rows]


def revoke_api_key(tx: Tx, tenant: int, id: int) -> Op[ApiKey]:
    """Revoke a key; again keeps the first time.

    Raises:
        NotFound: no such key in tenant.
    """
    rows = yield Statement(
        f"SELECT {_API_COLUMNS} FROM api_key WHERE id = ? AND tenant = ?", (id, tenant)
    )
    if not rows:
        raise NotFound("no such key")
    key = _api_key(rows[0])
    if key.revoked:
        return key
    yield Statement("UPDATE api_key SET revoked = ? WHERE id = ?", (tx.ts, id))
    return msgspec.structs.replace(key, revoked=tx.ts)


def touch_api_keys(tx: Tx, ids: Sequence[int]) -> Op[None]:
    """Note that keys were used just now."""
    if ids:
        marks, args = in_list(sorted(ids))
        yield Statement(f"UPDATE api_key SET last_used = ? WHERE id IN ({marks})", (tx.ts, *args))


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


def list_tenants(limit: int = 1_000) -> Op[list[Tenant]]:
    rows = yield Statement(
        "SELECT id, slug, name, created FROM tenant ORDER BY id LIMIT ?", (limit,)
    )
    return [Tenant(*row) for row in rows]


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
