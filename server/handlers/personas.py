"""Personas: make, change, list, remove. Choosing one is `profile_set`."""

from typing import TYPE_CHECKING

from protocol.codes import Code, Scope
from protocol.envelopes import (
    Changed,
    PersonaDrop,
    PersonaGet,
    PersonaInfo,
    PersonaList,
    PersonaPage,
    PersonaPush,
    PersonaSave,
)
from protocol.rows import Persona
from protocol.text import clean_name, clean_text
from server.errors import ServiceError, invalid, not_permitted
from server.persona_cache import shown_to
from server.router import Caller, Router
from storage.personas import drop_persona, list_personas, save_persona

if TYPE_CHECKING:
    from server.core import Core


PAGE_BYTES = 384 * 1024
"""Prompts and greetings of one page; a frame holds at most 1 MiB."""


def register(router: Router) -> None:
    """Add this subject's rows to the table."""
    router.serve(PersonaSave, save, 5)
    router.serve(PersonaGet, get, 1)
    router.serve(PersonaList, list_page, 2)
    router.serve(PersonaDrop, drop, 1)


async def save(core: "Core", caller: Caller, f: PersonaSave) -> PersonaInfo:
    """Create a persona (no id), or change one's own."""
    wanted = _clean(f.p)
    if wanted.id:
        row = core.personas.require(caller, wanted.id)
        if row.owner != caller.user:
            raise not_permitted("not your persona")
    elif not wanted.name:
        raise invalid("name", "A persona needs a name.")
    if wanted.opt is not None and wanted.opt.model and not core.knows_model(wanted.opt.model):
        raise ServiceError(Code.INVALID, "model", "Known models: " + core.model_names()[:400])

    def publish(result: tuple[Persona, int]) -> None:
        _publish(core, caller.tenant, caller.user, *result)

    saved, rev = await core.store.change(
        (caller.user,),
        lambda tx: save_persona(tx, caller.tenant, caller.user, wanted.id, f.cid, wanted),
        publish=publish,
    )
    return PersonaInfo(f.rid, saved, rev)


async def get(core: "Core", caller: Caller, f: PersonaGet) -> PersonaInfo:
    """Return one persona."""
    row = core.personas.require(caller, f.persona)
    return PersonaInfo(f.rid, shown_to(caller.user, row), row.rev or 0)


async def list_page(core: "Core", caller: Caller, f: PersonaList) -> PersonaPage:
    """Return a page of the personas of at least this scope that the caller may use."""
    limit = f.limit
    while True:
        items, cursor = await core.store.read(
            list_personas(caller.tenant, caller.user, f.scope, f.cursor, limit)
        )
        shown = [shown_to(caller.user, item) for item in items]
        limit = len(shown) // 2
        if not limit or sum(map(_size, shown)) <= PAGE_BYTES:
            return PersonaPage(f.rid, shown, cursor)


def _size(p: Persona) -> int:
    return sum(len(text.encode()) for text in (p.prompt, p.greeting) if text)


async def drop(core: "Core", caller: Caller, f: PersonaDrop) -> Changed:
    """Remove one's own persona; what it said stays readable."""
    row = core.personas.require(caller, f.persona)
    if row.owner != caller.user:
        raise not_permitted("not your persona")

    def publish(result: tuple[Persona, int]) -> None:
        _publish(core, caller.tenant, caller.user, *result)

    _, rev = await core.store.change(
        (caller.user,), lambda tx: drop_persona(tx, f.persona, caller.user), publish=publish
    )
    return Changed(f.rid, 0, rev, core.now_ms())


def _publish(core: "Core", tenant: int, owner: int, persona: Persona, rev: int) -> None:
    core.personas.put(tenant, persona)
    if rev:
        core.hub.publish((owner,), PersonaPush(rev, persona))


def _clean(p: Persona) -> Persona:
    if p.name:
        p.name = clean_name(p.name, 64)
    if p.prompt:
        p.prompt = clean_text(p.prompt, 16_000)
    if p.greeting:
        p.greeting = clean_text(p.greeting, 2000)
    if p.tags:
        p.tags = [clean_name(tag, 32) for tag in p.tags]
    if p.scope is not None and p.scope not in set(Scope):
        raise invalid("scope")
    if p.scope == Scope.PUBLIC:
        # Public personas are the server's own; a user's reach ends with the tenant.
        p.scope = int(Scope.TENANT)
    return p
