"""Personas as administrators handle them: anybody's, and those that belong to nobody."""

from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from protocol.rows import GenOpt, Persona
from server.cards import CardFile, card_of, edited, parse_card
from server.http.avatars import image_type
from server.persona_files import SLUG_PREFIX, PersonaFile, file_for
from storage.ids import new_id
from storage.people import MAX_AVATAR_BYTES, add_avatar, get_avatar
from storage.persona_cards import MAX_PICTURE_BYTES, add_card_picture, get_card, save_card
from storage.personas import (
    all_personas,
    drop_persona,
    get_personas,
    save_persona,
    set_builtin_deleted,
    set_persona_created,
    upsert_builtin,
)
from storage.rows import StoredPersona

if TYPE_CHECKING:
    from storage.store import Store

DEFAULT_TENANT = 1


class PersonaAdmin:
    """Lists, saves and removes personas; all writes are safe beside a running server.

    Args:
        owner: user whose personas are meant; 0: those that everybody may use.
        tenant: tenant of owner.
    """

    def __init__(self, store: "Store", owner: int = 0, tenant: int = DEFAULT_TENANT) -> None:
        self._store = store
        self._owner = owner
        self._tenant = tenant

    async def all(self) -> list[StoredPersona]:
        """Return every persona of this owner, by id."""
        found: list[StoredPersona] = []
        after = 0
        while page := await self._store.read(all_personas(after)):
            after = page[-1].row.id or 0
            found += [one for one in page if (one.row.owner or 0) == self._owner]
        return found

    async def find(self, key: str) -> StoredPersona | None:
        """Return the persona of this id, file name or name, whoever owns it."""
        if key.isdecimal() and len(key) <= 16:
            found = await self._store.read(get_personas([int(key)]))
            if found and not found[0].row.deleted:
                return found[0]
        after = 0
        while page := await self._store.read(all_personas(after)):
            after = page[-1].row.id or 0
            for one in page:
                if key in (one.slug, one.slug.removeprefix(SLUG_PREFIX), one.row.name):
                    return one
        return None

    async def save(self, key: str, given: Persona) -> Persona:
        """Create the persona that files call key, or change the fields that given sets."""
        if not self._owner:
            slug = SLUG_PREFIX + key
            saved = await self._store.change([], lambda tx: upsert_builtin(tx, slug, given))
            if saved.deleted:
                await self._store.change([], lambda tx: set_builtin_deleted(tx, slug, False))
            return saved
        owner, tenant = self._owner, self._tenant
        cid = blake2b(key.encode(), digest_size=16).digest()
        known = await self._own(key)
        saved, rev = await self._store.change(
            [owner], lambda tx: save_persona(tx, tenant, owner, known, cid, given)
        )
        if known is None and not rev:
            # Made by an earlier call: creating again changed nothing.
            saved, _ = await self._store.change(
                [owner], lambda tx: save_persona(tx, tenant, owner, saved.id, cid, given)
            )
        return saved

    async def edit(self, one: StoredPersona, given: Persona) -> Persona:
        """Change the fields of a persona that given sets; others stay."""
        if given.opt is not None:
            given.opt = _merge(one.row.opt, given.opt)
        owner = one.row.owner or 0
        if not owner:
            return await self._store.change([], lambda tx: upsert_builtin(tx, one.slug, given))
        changed, _ = await self._store.change(
            [owner], lambda tx: save_persona(tx, one.tenant, owner, one.row.id, b"", given)
        )
        return changed

    async def remove(self, one: StoredPersona) -> None:
        """Take a persona away; conversations with it stay readable."""
        owner, persona = one.row.owner or 0, one.row.id or 0
        if owner:
            await self._store.change([owner], lambda tx: drop_persona(tx, persona, owner))
        else:
            await self._store.change([], lambda tx: set_builtin_deleted(tx, one.slug, True))

    async def take_in(self, file: PersonaFile) -> Persona:
        """Store what a file says, with its picture and its age.

        Raises:
            ValueError: the picture is too large or none.
        """
        given = file.row()
        picture = file.picture()
        if picture is not None:
            given.avatar = await self._add_picture(picture)
        saved = await self.save(str(file.id), given)
        created = file.created_ms()
        if created and saved.id:
            persona = saved.id
            await self._store.change([], lambda tx: set_persona_created(tx, persona, created))
        return saved

    async def take_in_card(self, key: str, file: CardFile) -> Persona:
        """Store a character card as the persona that files call key, with its picture."""
        given, text = file.card.row(), file.card.dump()
        mime = image_type(file.picture) if file.picture is not None else None
        if file.picture is not None and mime and len(file.picture) <= MAX_PICTURE_BYTES:
            picture, data = new_id(), file.picture
            tenant, owner, kind = self._tenant, self._owner, mime
            await self._store.change(
                [], lambda tx: add_card_picture(tx, tenant, owner, kind, data, picture)
            )
            given.avatar = picture
        saved = await self.save(key, given)
        persona = saved.id or 0
        await self._store.change([], lambda tx: save_card(tx, persona, text))
        return saved

    async def give_out_card(self, one: StoredPersona, always: bool = False) -> CardFile | None:
        """Return a persona as a card, with its picture; always: also if it came from none."""
        text = await self._store.read(get_card(one.row.id or 0))
        if text is None and not always:
            return None
        card = card_of(one.row) if text is None else edited(parse_card(text), one.row)
        avatar = await self._store.read(get_avatar(one.row.avatar)) if one.row.avatar else None
        return CardFile(card, avatar.data if avatar else None)

    async def give_out(self, one: StoredPersona) -> PersonaFile:
        """Return the file of a persona, with its picture."""
        picture = None
        if one.row.avatar:
            avatar = await self._store.read(get_avatar(one.row.avatar))
            picture = avatar.data if avatar else None
        return file_for(one.row, one.slug, picture)

    async def _own(self, key: str) -> int | None:
        """Files that were written here carry the number of the persona."""
        if not key.isdecimal() or len(key) > 16:
            return None
        found = await self._store.read(get_personas([int(key)]))
        return found[0].row.id if found and found[0].row.owner == self._owner else None

    async def _add_picture(self, data: bytes) -> int:
        mime = image_type(data)
        if mime is None or len(data) > MAX_AVATAR_BYTES:
            raise ValueError("avatar: not a PNG, JPEG, WebP or GIF of up to 256 KiB")
        picture = new_id()
        tenant, owner = self._tenant, self._owner
        return await self._store.change(
            [], lambda tx: add_avatar(tx, tenant, owner, mime, data, picture)
        )


def _merge(old: GenOpt | None, new: GenOpt) -> GenOpt:
    given = {
        name: value for name, value in msgspec.structs.asdict(new).items() if value is not None
    }
    return msgspec.structs.replace(old or GenOpt(), **given)
