"""Personas as files: one JSON object each, in a folder of *.json.

The short form has id, name, prompt, avatar, create_time; the full one adds greeting, model,
temperature, max_tokens and tags. The database is the truth; files are for moving and editing.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from protocol.errors import ProtocolError
from protocol.rows import GenOpt, Persona
from protocol.text import clean_name, clean_text
from protocol.types import S32, S64, S2000, S16000, U

SLUG_PREFIX: Final = "file:"
"""Marks personas that came from files among those that belong to nobody."""
MAX_FILE_BYTES: Final = 1024 * 1024

_FileId = Annotated[str, Meta(pattern=r"^[\w.-]{1,48}$")]
_match_data_url: Final = re.compile(r"data:[^,]{0,100};base64,(.*)", re.DOTALL).fullmatch


class PersonaFile(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One file. `avatar` is a picture in base64, `create_time` a date or milliseconds."""

    id: _FileId | int
    name: S64
    prompt: S16000 = ""
    greeting: S2000 = ""
    avatar: str | None = None
    model: S64 | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_tokens: U | None = None
    tags: Annotated[list[S32], Meta(max_length=16)] = []
    create_time: str | int | None = None

    def row(self) -> Persona:
        """Return the persona, cleaned; its picture is handled apart.

        Raises:
            ProtocolError: the name or a text is not acceptable.
        """
        opt = GenOpt(
            model=self.model or None, temperature=self.temperature, max_tokens=self.max_tokens
        )
        return Persona(
            name=clean_name(self.name, 64),
            prompt=clean_text(self.prompt, 16_000),
            greeting=clean_text(self.greeting, 2000),
            tags=[clean_name(tag, 32) for tag in self.tags],
            opt=None if opt == GenOpt() else opt,
        )

    def picture(self) -> bytes | None:
        """Return the picture, None when there is none.

        Raises:
            ValueError: it is not base64.
        """
        if not self.avatar:
            return None
        url = _match_data_url(self.avatar)
        try:
            return base64.b64decode(
                "".join((url[1] if url else self.avatar).split()), validate=True
            )
        except binascii.Error:
            raise ValueError("avatar: not a picture in base64") from None

    def created_ms(self) -> int:
        """Return when it was made, 0 when the file does not say.

        Raises:
            ValueError: it is not a date.
        """
        given = self.create_time
        if isinstance(given, int):
            return given if given > 10**11 else given * 1000
        if not given:
            return 0
        try:
            moment = datetime.fromisoformat(given)
        except ValueError:
            raise ValueError("create_time: expected a date such as 2023-01-01") from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, int(moment.timestamp() * 1000))


class ReadFile(NamedTuple):
    """One file of a folder: what is in it, or what is wrong with it."""

    path: Path
    persona: PersonaFile | None
    problem: str = ""


def read_folder(folder: Path) -> Iterator[ReadFile]:
    """Yield every *.json of folder by name; a bad one is reported, not raised."""
    for path in sorted(folder.glob("*.json")):
        try:
            yield ReadFile(path, read_file(path))
        except (ValueError, OSError, ProtocolError) as error:
            yield ReadFile(path, None, str(error))


def read_file(path: Path) -> PersonaFile:
    """Return one file, checked in every part.

    Raises:
        ValueError, OSError, ProtocolError: what is wrong with it.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError("larger than 1 MiB")
    try:
        found = msgspec.json.decode(path.read_bytes(), type=PersonaFile)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    except msgspec.DecodeError:
        raise ValueError("not JSON") from None
    found.row()
    found.picture()
    found.created_ms()
    return found


def file_for(persona: Persona, slug: str, picture: bytes | None) -> PersonaFile:
    """Return the file of a stored persona."""
    opt = persona.opt or GenOpt()
    return PersonaFile(
        id=slug.removeprefix(SLUG_PREFIX) if slug else (persona.id or 0),
        name=persona.name or "",
        prompt=persona.prompt or "",
        greeting=persona.greeting or "",
        avatar=base64.b64encode(picture).decode() if picture else None,
        model=opt.model,
        temperature=opt.temperature,
        max_tokens=opt.max_tokens,
        tags=persona.tags or [],
        create_time=_iso(persona.created or 0),
    )


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def write_file(folder: Path, persona: PersonaFile) -> Path:
    """Write one file, whole or not at all; return where."""
    name = re.sub(r"[^\w.-]", "_", str(persona.id)).lstrip(".") or "persona"
    path = folder / f"{name}.json"
    draft = path.with_suffix(".json.part")
    content = msgspec.json.format(msgspec.json.encode(persona), indent=2)
    draft.write_bytes(content + b"\n")
    draft.replace(path)
    return path
