"""Configured AI characters: private, shared within a tenant, or built in."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from protocol.codes import Scope
from protocol.rows import GenOpt, Persona
from protocol.text import name_key
from storage.errors import NotFound
from storage.ids import new_id
from storage.ops import Op, Row, Statement, in_list
from storage.rows import StoredPersona
from storage.writes import Tx

BUILTIN_TENANT: Final = 0
"""Tenant and owner of built-in personas; everybody may use them."""

_COLUMN_NAMES: Final = (
    "id",
    "tenant",
    "owner",
    "cid",
    "slug",
    "name",
    "name_key",
    "prompt",
    "greeting",
    "avatar",
    "tags",
    "opt",
    "scope",
    "rev",
    "created",
    "updated",
    "deleted",
)
_COLUMNS: Final = ", ".join(_COLUMN_NAMES)
_SELECT: Final = f"SELECT {_COLUMNS} FROM persona"

_encode: Final = msgspec.json.Encoder().encode
_decode_tags: Final = msgspec.json.Decoder(list[str]).decode
_decode_opt: Final = msgspec.json.Decoder(GenOpt).decode


def _stored(row: Row) -> StoredPersona:
    """Build a persona from `_COLUMNS`."""
    persona = Persona(
        id=row[0],
        owner=row[2] or None,
        name=row[5],
        prompt=row[7] or None,
        greeting=row[8] or None,
        avatar=row[9] or None,
        tags=_decode_tags(row[10]) or None,
        opt=None if row[11] is None else _decode_opt(row[11]),
        scope=row[12],
        rev=row[13] or None,
        created=row[14],
        updated=row[15],
        deleted=True if row[16] else None,
    )
    return StoredPersona(persona, row[1], row[4] or "")


def save_persona(
    tx: Tx, tenant: int, owner: int, id: int | None, cid: bytes, given: Persona
) -> Op[tuple[Persona, int]]:
    """Create a persona (id None), or change the fields of one that given sets.

    Return it and the rev of the owner's feed, 0 if nothing changed. Creating again with the same
    (owner, cid) returns what the first call made.

    Raises:
        NotFound: no such persona of this owner, or deleted.
    """
    tx.head(owner)
    if id is None:
        rows = yield Statement(f"{_SELECT} WHERE owner = ? AND cid = ?", (owner, cid))
        if rows:
            return _stored(rows[0]).row, 0
        return (yield from _create(tx, tenant, owner, cid, None, given, tx.bump(owner)))
    rows = yield Statement(f"{_SELECT} WHERE id = ? AND owner = ?", (id, owner))
    if not rows or rows[0][16]:
        raise NotFound("no such persona")
    changes = _changes(rows[0], given)
    if not changes:
        return _stored(rows[0]).row, 0
    rev = tx.bump(owner)
    return (yield from _change(tx, rows[0], changes | {"rev": rev})), rev


def drop_persona(tx: Tx, id: int, owner: int) -> Op[tuple[Persona, int]]:
    """Mark a persona as deleted: existing conversations keep it. Again: rev 0.

    Raises:
        NotFound: no such persona of this owner.
    """
    rows = yield Statement(f"{_SELECT} WHERE id = ? AND owner = ?", (id, owner))
    if not rows:
        raise NotFound("no such persona")
    if rows[0][16]:
        return _stored(rows[0]).row, 0
    rev = tx.bump(owner)
    return (yield from _change(tx, rows[0], {"deleted": tx.ts, "rev": rev})), rev


def upsert_builtin(tx: Tx, slug: str, given: Persona) -> Op[Persona]:
    """Create or renew a built-in persona; its id stays. Everybody may use it."""
    given = msgspec.structs.replace(given, scope=int(Scope.PUBLIC))
    rows = yield Statement(f"{_SELECT} WHERE slug = ?{tx.dialect.for_update}", (slug,))
    if rows:
        changes = _changes(rows[0], given)
        return (yield from _change(tx, rows[0], changes)) if changes else _stored(rows[0]).row
    cid = blake2b(slug.encode(), digest_size=16).digest()
    return (yield from _create(tx, BUILTIN_TENANT, 0, cid, slug, given, 0))[0]


def set_builtin_deleted(tx: Tx, slug: str, deleted: bool) -> Op[None]:
    """Take a built-in persona away from everybody, or bring it back."""
    yield Statement(
        "UPDATE persona SET deleted = ?, updated = ? WHERE slug = ?",
        (tx.ts if deleted else 0, tx.ts, slug),
    )


def set_persona_created(tx: Tx, id: int, created_ms: int) -> Op[None]:
    """Give an imported persona the age that its file says."""
    yield Statement("UPDATE persona SET created = ? WHERE id = ?", (created_ms, id))


def get_personas(ids: Sequence[int]) -> Op[list[StoredPersona]]:
    """Return those of the personas that exist, deleted ones included, by id."""
    if not ids:
        return []
    marks, args = in_list(ids)
    rows = yield Statement(f"{_SELECT} WHERE id IN ({marks}) ORDER BY id", args)
    return [_stored(row) for row in rows]


def list_personas(
    tenant: int, user: int, scope: int, cursor: str, limit: int
) -> Op[tuple[list[Persona], str]]:
    """Return a page by id, and the next cursor.

    Args:
        scope: 0 user's own, 1 those shared within the tenant, 2 public and built-in ones.
    """
    after = int(cursor) if cursor.isdecimal() else 0
    if scope == Scope.PRIVATE:
        where, args = "owner = ?", [user]
    else:
        where, args = "tenant IN (?, ?) AND scope = ?", [tenant, BUILTIN_TENANT, scope]
    rows = yield Statement(
        f"{_SELECT} WHERE {where} AND id > ? AND deleted = 0 ORDER BY id LIMIT ?",
        (*args, after, limit + 1),
    )
    page = [_stored(row).row for row in rows[:limit]]
    return page, str(page[-1].id) if len(rows) > limit else ""


def all_personas(after: int = 0, limit: int = 1_000) -> Op[list[StoredPersona]]:
    """Return a page of all personas by id, for a cache; go on after the last id."""
    rows = yield Statement(
        f"{_SELECT} WHERE id > ? AND deleted = 0 ORDER BY id LIMIT ?", (after, limit)
    )
    return [_stored(row) for row in rows]


def changed_personas(owner: int, rev: int, limit: int) -> Op[list[Persona]]:
    """Return owner's personas changed after rev, in order of rev, deleted ones included."""
    rows = yield Statement(
        f"{_SELECT} WHERE owner = ? AND rev > ? ORDER BY rev LIMIT ?", (owner, rev, limit)
    )
    return [_stored(row).row for row in rows]


def _key(name: str) -> str:
    return name_key(name)[:255]


def _create(
    tx: Tx, tenant: int, owner: int, cid: bytes, slug: str | None, given: Persona, rev: int
) -> Op[tuple[Persona, int]]:
    name = given.name or ""
    row = (
        new_id(),
        tenant,
        owner,
        cid,
        slug,
        name,
        _key(name),
        given.prompt or "",
        given.greeting or "",
        given.avatar or 0,
        _encode(given.tags or []).decode(),
        None if given.opt is None else _encode(given.opt).decode(),
        given.scope or 0,
        rev,
        tx.ts,
        tx.ts,
        0,
    )
    yield tx.dialect.insert("persona", _COLUMN_NAMES, [row])
    return _stored(row).row, rev


def _changes(row: Row, given: Persona) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "name": given.name,
        "prompt": given.prompt,
        "greeting": given.greeting,
        "avatar": given.avatar,
        "tags": None if given.tags is None else _encode(given.tags).decode(),
        "opt": None if given.opt is None else _encode(given.opt).decode(),
        "scope": given.scope,
    }
    now = dict(zip(_COLUMN_NAMES, row, strict=True))
    changes = {name: v for name, v in wanted.items() if v is not None and v != now[name]}
    if "name" in changes:
        changes["name_key"] = _key(changes["name"])
    return changes


def _change(tx: Tx, row: Row, changes: dict[str, Any]) -> Op[Persona]:
    changes["updated"] = tx.ts
    sets = ", ".join(f"{name} = ?" for name in changes)
    yield Statement(f"UPDATE persona SET {sets} WHERE id = ?", (*changes.values(), row[0]))
    now = dict(zip(_COLUMN_NAMES, row, strict=True)) | changes
    return _stored(tuple(now[name] for name in _COLUMN_NAMES)).row
