"""Accounts: who may come in, and what proves it - passwords, refresh tokens, API keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.rows import User
from storage.errors import Exists, NotFound
from storage.ids import new_id
from storage.ops import Op, Row, Statement, in_list
from storage.people import USER_COLUMNS, index_key, user_from
from storage.rows import Account, ApiKey, Credentials, LoginState, RefreshUse
from storage.writes import Tx

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

_encode: Final = msgspec.json.Encoder().encode
_decode_scopes: Final = msgspec.json.Decoder(list[str]).decode


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
        f"SELECT {USER_COLUMNS} FROM user AS u WHERE u.tenant = ? AND u.name_key = ?",
        (tenant, index_key(name)),
    )
    if rows:
        if rows[0][0] == id:
            return user_from(rows[0])
        raise Exists("the name is taken")
    user = new_id() if id is None else id
    tx.create(user)
    names = (name, index_key(name), nick, index_key(nick))
    row = (user, tenant, *names, 0, "", kind, 0, 0, tx.ts, 0, 0)
    yield tx.dialect.insert("user", _USER_INSERT, [row])
    if password_hash is not None:
        yield from _write_password(tx, user, password_hash)
    return user_from((user, name, nick, 0, "", kind, 0))


_ACCOUNT: Final = "id, name, nick, kind, created, disabled"


def _account(row: Row) -> Account:
    return Account(row[0], row[1], row[2], row[3], row[4], bool(row[5]))


def list_accounts(tenant: int, after: str, limit: int, prefix: str = "") -> Op[list[Account]]:
    """Return a page of the tenant's users by name, also disabled ones.

    Args:
        after: the last name of the page before, "" for the first page.
        prefix: how the names begin, in any case.
    """
    first = index_key(prefix)
    rows = yield Statement(
        f"SELECT {_ACCOUNT} FROM user WHERE tenant = ? AND name_key > ? AND name_key >= ?"
        " AND name_key < ? ORDER BY name_key LIMIT ?",
        (tenant, index_key(after) if after else "", first, first + "\U0010ffff", limit),
    )
    return [_account(row) for row in rows]


def get_account(tenant: int, user: int) -> Op[Account | None]:
    """Return one of the tenant's users, also a disabled one."""
    rows = yield Statement(
        f"SELECT {_ACCOUNT} FROM user WHERE id = ? AND tenant = ?", (user, tenant)
    )
    return _account(rows[0]) if rows else None


def set_disabled(tx: Tx, user: int, disabled: bool) -> Op[None]:
    """Lock a user out or let them in again; either way every sign-in so far ends.

    Sign-in tokens become void and refresh tokens are deleted.
    """
    yield Statement("UPDATE user SET disabled = ? WHERE id = ?", (int(disabled), user))
    yield from _end_sign_ins(user)


def _end_sign_ins(user: int) -> Op[None]:
    yield Statement("UPDATE user SET token_epoch = token_epoch + 1 WHERE id = ?", (user,))
    yield Statement("DELETE FROM refresh_token WHERE user = ?", (user,))


# passwords and sign-in


def credentials(tenant: int, name: str) -> Op[Credentials | None]:
    """Return what a password is checked against; None for no such user or no password."""
    rows = yield Statement(
        "SELECT u.id, c.password_hash, u.disabled, u.token_epoch FROM user AS u"
        " JOIN credential AS c ON c.user = u.id WHERE u.tenant = ? AND u.name_key = ?",
        (tenant, index_key(name)),
    )
    return Credentials(rows[0][0], rows[0][1], bool(rows[0][2]), rows[0][3]) if rows else None


def set_password(tx: Tx, user: int, password_hash: str, revoke: bool = True) -> Op[None]:
    """Store a new hash; with revoke, every sign-in so far ends.

    Without revoke it serves to renew the hash of the same password.
    """
    yield from _write_password(tx, user, password_hash)
    if revoke:
        yield from _end_sign_ins(user)


def _write_password(tx: Tx, user: int, password_hash: str) -> Op[None]:
    columns = ("user", "password_hash", "updated")
    yield tx.dialect.upsert("credential", columns, [(user, password_hash, tx.ts)])


def login_state(user: int, device: bytes, family: int = 0) -> Op[LoginState | None]:
    """Return what a handshake must know, in one statement; None for no such user."""
    rows = yield Statement(
        f"SELECT {USER_COLUMNS}, u.tenant, u.disabled, u.token_epoch, d.user, d.revoked_at, d.seen,"
        " (SELECT COUNT(*) FROM device AS e WHERE e.user = u.id AND e.revoked_at <= 0),"
        " f.family, EXISTS (SELECT 1 FROM refresh_token AS r WHERE r.family = ?)"
        " FROM user AS u LEFT JOIN device AS d ON d.user = u.id AND d.device = ?"
        " LEFT JOIN device_family AS f ON f.user = u.id AND f.device = ?"
        " WHERE u.id = ?",
        (family, device, device, user),
    )
    if not rows:
        return None
    tenant, disabled, epoch, known, revoked_at, seen, count, last_family, lives = rows[0][7:]
    revoked_at = revoked_at or 0
    return LoginState(
        user=user_from(rows[0]),
        tenant=tenant,
        disabled=bool(disabled),
        token_epoch=epoch,
        device_known=known is not None and revoked_at <= 0,
        device_revoked_at=abs(revoked_at),
        device_seen=seen or 0,
        device_count=count,
        device_family=last_family or 0,
        family_lives=bool(lives),
    )


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
    use = RefreshUse(user, bytes(device), tenant, epoch, family)
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


def drop_refresh(tx: Tx, hash: bytes) -> Op[int]:
    """Sign out: delete the token's whole family; return whose it was, 0 for an unknown token."""
    rows = yield Statement("SELECT family, user FROM refresh_token WHERE hash = ?", (hash,))
    if not rows:
        return 0
    family, user = rows[0]
    yield Statement("DELETE FROM refresh_token WHERE family = ?", (family,))
    return int(user)


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


def list_api_keys(tenant: int, limit: int = 1_000, after: int = 0) -> Op[list[ApiKey]]:
    """Return a page of the tenant's keys by id, also revoked ones."""
    rows = yield Statement(
        f"SELECT {_API_COLUMNS} FROM api_key WHERE tenant = ? AND id > ? ORDER BY id LIMIT ?",
        (tenant, after, limit),
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
