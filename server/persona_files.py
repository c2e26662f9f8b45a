"""Personas as files: our own JSON, one object each, or character cards of other programs.

The short form has id, name, prompt, avatar, create_time; the full one adds greeting, model,
temperature, max_tokens and tags. Cards are JSON, PNG or CHARX (cards.py). The database is the
truth; files are for moving and editing.
"""

import base64
import binascii
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from protocol.errors import ProtocolError
from protocol.rows import GenOpt, Persona
from protocol.text import clean_name, clean_text
from protocol.types import S32, S64, S2000, S16000, U
from server.cards import MAX_FILE_BYTES as MAX_CARD_BYTES
from server.cards import CardFile, card_picture, read_card_file

SLUG_PREFIX: Final = "file:"
"""Marks personas that came from files among those that belong to nobody."""
MAX_FILE_BYTES: Final = 1024 * 1024
SUFFIXES: Final = (".json", ".png", ".charx")

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
    """One file: the persona or the card that is in it, or what is wrong with it."""

    path: Path
    persona: PersonaFile | None
    problem: str = ""
    card: CardFile | None = None

    @property
    def key(self) -> str:
        """What a persona of this file is called among files."""
        return re.sub(r"[^\w.-]+", "-", self.path.stem).strip("-.")[:48] or "persona"


def files_in(path: Path) -> list[Path]:
    """Return a file itself, or the *.json, *.png and *.charx of a folder by name."""
    if not path.is_dir():
        return [path]
    return sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES and one.is_file())


def read_one(path: Path) -> ReadFile:
    """Read one file; what is wrong with it is reported, not raised."""
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise ValueError(f"larger than {MAX_CARD_BYTES >> 20} MiB")
        data = path.read_bytes()
        if path.suffix.lower() != ".json" or _is_card(data):
            return ReadFile(path, None, card=read_card_file(data))
        return ReadFile(path, read_file(data))
    except (ValueError, OSError, ProtocolError) as error:
        return ReadFile(path, None, str(error))


def _is_card(data: bytes) -> bool:
    """Tell whether a JSON file is a card and not one of ours: ours have an id and no such part."""
    try:
        head = msgspec.json.decode(data, type=_CardHead)
    except (msgspec.DecodeError, RecursionError):
        return False
    return head.spec is not None or (head.id is None and head.first_mes is not None)


class _CardHead(Struct):
    spec: str | None = None
    id: Any = None
    first_mes: str | None = None


def read_file(data: bytes) -> PersonaFile:
    """Return what one of our own files says, checked in every part.

    Raises:
        ValueError, ProtocolError: what is wrong with it.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ValueError("larger than 1 MiB")
    try:
        found = msgspec.json.decode(data, type=PersonaFile)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    except (msgspec.DecodeError, RecursionError):
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
    content = msgspec.json.format(msgspec.json.encode(persona), indent=2)
    return _write(folder / f"{_file_name(str(persona.id))}.json", content + b"\n")


def write_card(folder: Path, key: str, file: CardFile, kind: Literal["json", "png"]) -> Path:
    """Write one character card, whole or not at all; return where."""
    content = file.card.dump().encode()
    if kind == "png":
        content = card_picture(file.card, file.picture)
    return _write(folder / f"{_file_name(key)}.{kind}", content)


def _file_name(key: str) -> str:
    return re.sub(r"[^\w.-]", "_", key).lstrip(".") or "persona"


def _write(path: Path, content: bytes) -> Path:
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(content)
    draft.replace(path)
    return path
