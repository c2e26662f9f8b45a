"""The personas that come with the server, so that a newcomer has somebody to talk to."""

from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec

from protocol.codes import Scope
from protocol.rows import GenOpt, Persona
from storage.ops import Op
from storage.personas import upsert_builtin
from storage.writes import Tx

if TYPE_CHECKING:
    from storage.store import Store


class BuiltinPersona(msgspec.Struct, forbid_unknown_fields=True):
    """One file of the folder `server/builtin_personas`."""

    id: str
    name: str
    tags: list[str]
    temperature: float
    prompt: str
    greeting: str

    def row(self) -> Persona:
        """Return it as everybody sees it."""
        return Persona(
            name=self.name,
            prompt=self.prompt,
            greeting=self.greeting,
            tags=self.tags,
            opt=GenOpt(temperature=self.temperature),
            scope=int(Scope.PUBLIC),
        )


def read_builtins() -> list[BuiltinPersona]:
    """Return the personas of the folder, by name of their files."""
    folder = files("server") / "builtin_personas"
    decode = msgspec.json.Decoder(BuiltinPersona).decode
    entries = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".json")),
        key=lambda entry: entry.name,
    )
    return [decode(entry.read_bytes()) for entry in entries]


async def install_builtins(store: "Store") -> None:
    """Store the built-in personas, new or changed; others are left alone."""
    for persona in read_builtins():
        await store.change((), partial(_upsert, slug=persona.id, row=persona.row()))


def _upsert(tx: Tx, slug: str, row: Persona) -> Op[Persona]:
    return upsert_builtin(tx, slug, row)
