"""Names of models as programs write them: a persona's slug, `persona:<id>`, `provider/model`, or
the name of a route."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ai_bridge.http.openai_shapes import ModelRow
from ai_bridge.http.problems import unknown_model
from protocol.codes import Scope
from protocol.rows import Persona
from server.http.callers import HttpCaller
from storage.personas import all_personas, list_personas

if TYPE_CHECKING:
    from server.core import Core

PREFIX: Final = "persona:"
LISTED: Final = 1_000
"""Personas of each kind in a list of models at most."""
_PAGE: Final = 200


class Target(Struct, frozen=True):
    """Who is to answer: a persona, or a model alone; in a conversation neither need be said.

    Attributes:
        name: as the caller wrote it, and is told again.
        model: the providers' name of a model, None for the persona's own choice.
        provider: the one that is to answer, "" for any that has the model.
    """

    name: str
    persona: Persona | None
    model: str | None = None
    provider: str = ""

    @property
    def setting(self) -> str | None:
        """The model as the settings of a conversation name it."""
        return f"{self.provider}/{self.model}" if self.provider and self.model else self.model


class ModelNames:
    """Finds personas and models by their names.

    Owns the names (slugs) of the personas that come with the server; they are read at the start.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._ids: dict[str, int] = {}
        self._slugs: dict[int, str] = {}

    async def load(self) -> None:
        """Read the slugs, a page at a time."""
        after = 0
        while page := await self._core.store.read(all_personas(after)):
            for stored in page:
                if stored.slug:
                    self._ids[stored.slug] = stored.row.id or 0
                    self._slugs[stored.row.id or 0] = stored.slug
            after = page[-1].row.id or 0

    def find(self, caller: HttpCaller, name: str) -> Target:
        """Return what a name means to this caller.

        Raises:
            Problem: 404, for unknown and forbidden alike.
        """
        persona = self.persona(caller, name)
        if persona is not None:
            return Target(name, persona)
        target = self.raw(name) if caller.raw else None
        if target is not None:
            return target
        raise unknown_model(name)

    def persona(self, caller: HttpCaller, name: str) -> Persona | None:
        """Return the persona of this slug or `persona:<id>` that caller may use."""
        persona = self._ids.get(name, 0)
        if name.startswith(PREFIX):
            digits = name.removeprefix(PREFIX)
            persona = int(digits) if digits.isascii() and digits.isdecimal() else 0
        personas = self._core.personas
        return personas.get(persona) if persona and personas.may_use(caller, persona) else None

    def raw(self, name: str) -> Target | None:
        """Return what `provider/model` means, or the name of a route; None for neither."""
        provider, _, model = name.partition("/")
        for info in self._core.bridge.offered():
            if not info.provider:
                if info.id == name:
                    return Target(name, None, name)
            elif info.provider == provider and model and info.id in (model, "*"):
                return Target(name, None, model, provider)
        return None

    def served(self, provider: str, model: str) -> str | None:
        """Return the model of these names if there is one; "" stands for any."""
        for info in self._core.bridge.offered():
            if provider in ("", info.provider) and (info.id in (model, "*") or not model):
                return model or (None if info.id == "*" else info.id)
        return None

    def everybodys(self) -> Iterator[Persona]:
        """Yield the personas that came with the server."""
        for persona in map(self._core.personas.get, self._slugs):
            if persona is not None and not persona.deleted:
                yield persona

    def name_of(self, persona: Persona) -> str:
        """Return how programs name a persona."""
        return self._slugs.get(persona.id or 0) or f"{PREFIX}{persona.id}"

    async def listing(self, caller: HttpCaller) -> list[ModelRow]:
        """Return all that caller may name: personas, then models."""
        found: dict[int | None, Persona] = {}  # one's own may be the tenant's as well
        for scope in Scope:
            found.update((row.id, row) for row in await self._personas(caller, scope))
        rows = [self.row(persona) for persona in found.values()]
        if caller.raw:
            rows += self._models()
        return rows

    def row(self, persona: Persona) -> ModelRow:
        """Return a persona as an entry of the list."""
        owner = "user" if persona.owner else "parlance"
        return ModelRow(self.name_of(persona), (persona.created or 0) // 1000, owner)

    def _models(self) -> Iterator[ModelRow]:
        for info in self._core.bridge.offered():
            if info.id != "*":
                name = f"{info.provider}/{info.id}" if info.provider else info.id
                yield ModelRow(name, 0, info.provider or "route")

    async def _personas(self, caller: HttpCaller, scope: Scope) -> list[Persona]:
        found: list[Persona] = []
        if scope is Scope.PRIVATE and caller.key:
            return found  # a key owns nothing
        cursor = ""
        while len(found) < LISTED:
            page, cursor = await self._core.store.read(
                list_personas(caller.tenant, caller.user, int(scope), cursor, _PAGE)
            )
            found += page
            if not cursor:
                break
        return found[:LISTED]
