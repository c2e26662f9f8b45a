"""All personas in memory, so that no answer needs an extra read for its persona."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from protocol.codes import Scope
from protocol.rows import Persona
from server.errors import not_found

if TYPE_CHECKING:
    from server.router import Caller
    from storage.rows import StoredPersona


class PersonaCache:
    """Owns the personas of all tenants, loaded at start and written through afterwards.

    Also remembers which persona each connected user has chosen.
    """

    def __init__(self) -> None:
        self._rows: dict[int, Persona] = {}
        self._tenants: dict[int, int] = {}
        self._choices: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def fill(self, stored: Iterable["StoredPersona"]) -> None:
        """Take what the store holds."""
        for item in stored:
            self.put(item.tenant, item.row)

    def put(self, tenant: int, persona: Persona) -> None:
        """Take a saved persona; a deleted one stays known to the conversations that use it."""
        if persona.id:
            self._rows[persona.id] = persona
            self._tenants[persona.id] = tenant

    def get(self, persona: int) -> Persona | None:
        """Return a persona whoever asks."""
        return self._rows.get(persona)

    def may_use(self, caller: "Caller", persona: int) -> bool:
        """Tell whether caller may see and use a persona: its own, its tenant's, or a public one."""
        row = self._rows.get(persona)
        if row is None or row.deleted:
            return False
        if row.scope == Scope.PUBLIC and not row.owner:
            return True
        if self._tenants.get(persona) != caller.tenant:
            return False
        return row.owner == caller.user or (row.scope or 0) >= Scope.TENANT

    def require(self, caller: "Caller", persona: int) -> Persona:
        """Return a persona that caller may use; unknown and forbidden look the same."""
        if not self.may_use(caller, persona):
            raise not_found("persona")
        return self._rows[persona]

    def choose(self, user: int, persona: int) -> None:
        """Remember the choice of a user who is connected."""
        if persona:
            self._choices[user] = persona
        else:
            self._choices.pop(user, None)

    def choice(self, user: int) -> int:
        """Return the persona that a connected user has chosen, 0 for none."""
        return self._choices.get(user, 0)

    def forget_user(self, user: int) -> None:
        """The user's last connection has gone."""
        self._choices.pop(user, None)


def shown_to(user: int, persona: Persona) -> Persona:
    """Return what this user may see of a persona: its prompt is its owner's business."""
    if persona.owner == user or persona.prompt is None:
        return persona
    return replace(persona, prompt=None)
