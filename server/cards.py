"""Character cards, as other programs write them: read, kept whole, written again.

V1 is a flat object, V2 (`chara_card_v2`) and V3 (`chara_card_v3`) have their fields in `data`
(character-card-spec-v2, SPEC_V3 of character-card-spec-v3). A card comes from a stranger: fields
of a wrong type count as empty, what cannot be a card at all is refused, nothing in it is run.
"""

import json
import math
import re
from typing import Any, Final, NamedTuple, NoReturn

from protocol.errors import ProtocolError
from protocol.rows import Persona
from protocol.text import clean_name, clean_text
from server.card_errors import CardError
from server.card_png import MAX_JSON_BYTES, SIGNATURE, read_picture, write_picture
from server.card_zip import read_archive

MAX_FILE_BYTES: Final = 16 << 20
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 200_000
MAX_PROMPT_CHARS: Final = 16_000
MAX_WHOLE_PROMPT_CHARS: Final = 100_000
"""A prompt is never cut, and more than this fills the windows of most models."""
MAX_GREETING_CHARS: Final = 2_000
MAX_TAGS: Final = 16

_V1_FIELDS: Final = ("description", "personality", "scenario", "first_mes", "mes_example")
_search_refused: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]").search
_drop_refused: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]").sub


class Card:
    """One card. `raw` is its JSON as it came, which nothing here changes.

    Raises:
        CardError: it has no name, too much to say, or the shape of no version.
    """

    def __init__(self, raw: Any) -> None:
        if not isinstance(raw, dict):
            raise CardError("card: not a JSON object")
        self.raw: dict[str, Any] = raw
        data = raw.get("data")
        spec = raw.get("spec")
        if isinstance(data, dict) and isinstance(data.get("name"), str):
            self.data: dict[str, Any] = data
            self.version = 3 if spec == "chara_card_v3" else 2
        elif isinstance(raw.get("name"), str) and any(key in raw for key in _V1_FIELDS):
            self.data = raw
            self.version = 1
        else:
            raise CardError("card: neither V1, V2 nor V3 (no name or no description)")
        self.name = _name(self.data["name"])
        if len(self.prompt) > MAX_WHOLE_PROMPT_CHARS:
            raise CardError(f"card: it describes more than {MAX_WHOLE_PROMPT_CHARS} characters")

    def text(self, field: str) -> str:
        """Return a text field without control characters; "" if it is missing or no text."""
        return tidy(self.data.get(field))

    @property
    def extensions(self) -> dict[str, Any]:
        """What programs add of their own."""
        found = self.data.get("extensions")
        return found if isinstance(found, dict) else {}

    @property
    def prompt(self) -> str:
        """What the card says the character is, whole."""
        named = (("personality", "Personality"), ("scenario", "Scenario"))
        parts = [self.text("description")]
        parts += [f"{title}: {text}" for field, title in named if (text := self.text(field))]
        return "\n\n".join(part for part in parts if part)

    @property
    def greetings(self) -> list[str]:
        """The first message, and those that may take its place."""
        others = self.data.get("alternate_greetings")
        texts = [self.data.get("first_mes"), *(others if isinstance(others, list) else ())]
        return [text for text in map(tidy, texts) if text]

    @property
    def tags(self) -> list[str]:
        """The first tags, cleaned to what a persona may have."""
        found = self.data.get("tags")
        cleaned = (_tag(tag) for tag in (found if isinstance(found, list) else ())[:200])
        return list(dict.fromkeys(tag for tag in cleaned if tag))[:MAX_TAGS]

    def row(self) -> Persona:
        """Return the persona, its texts cut to what a persona's row may hold."""
        greetings = self.greetings
        return Persona(
            name=self.name,
            prompt=_fitting(self.prompt, MAX_PROMPT_CHARS),
            greeting=_fitting(greetings[0], MAX_GREETING_CHARS) if greetings else "",
            tags=self.tags,
        )

    def dump(self) -> str:
        """Return the card as JSON text that can be stored and sent."""
        text = json.dumps(self.raw, ensure_ascii=False, separators=(",", ":"))
        # Half a surrogate pair can be written in JSON, but not in UTF-8.
        return text if text.isascii() or _is_encodable(text) else json.dumps(self.raw)


class CardFile(NamedTuple):
    """A card with the picture that came with it."""

    card: Card
    picture: bytes | None

    @property
    def has_png(self) -> bool:
        """Whether the card can be written into its own picture."""
        return self.picture is not None and self.picture.startswith(SIGNATURE)


def read_card_file(data: bytes) -> CardFile:
    """Read a card of any kind: JSON, PNG or CHARX. Takes milliseconds: not for the event loop.

    Raises:
        CardError: with what is wrong with it.
    """
    if len(data) > MAX_FILE_BYTES:
        raise CardError(f"card: larger than {MAX_FILE_BYTES >> 20} MiB")
    if data.startswith(SIGNATURE):
        found = read_picture(data)
        return CardFile(parse_card(found.json), found.picture)
    if data.startswith(b"PK\x03\x04"):
        text, picture = read_archive(data)
        return CardFile(parse_card(text), picture)
    return CardFile(parse_card(data), None)


def parse_card(text: bytes | str) -> Card:
    """Return the card that a JSON text holds.

    Raises:
        CardError: too large, not UTF-8, not JSON, too deep, or no card.
    """
    if len(text) > (MAX_JSON_BYTES if isinstance(text, bytes) else 6 * MAX_JSON_BYTES):
        raise CardError(f"card: its JSON is larger than {MAX_JSON_BYTES >> 20} MiB")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        raw = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError:
        raise CardError("card: not UTF-8") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, CardError):
            raise
        raise CardError("card: not JSON") from None
    _check_bounds(raw)
    return Card(raw)


def edited(card: Card, row: Persona) -> Card:
    """Return the card with what its owner changed in the persona since; else the same card."""
    was = card.row()
    changes: dict[str, Any] = {}
    if row.name and row.name != was.name:
        changes["name"] = row.name
    if (row.prompt or "") != was.prompt:
        changes |= {"description": row.prompt or "", "personality": "", "scenario": ""}
    if (row.greeting or "") != was.greeting:
        changes["first_mes"] = row.greeting or ""
    if (row.tags or []) != was.tags:
        changes["tags"] = row.tags or []
    if not changes:
        return card
    data = card.data | changes
    return Card(data if card.version == 1 else card.raw | {"data": data})


def card_of(row: Persona) -> Card:
    """Return a card for a persona that came from none."""
    data = {
        "name": row.name or "",
        "description": row.prompt or "",
        "personality": "",
        "scenario": "",
        "first_mes": row.greeting or "",
        "mes_example": "",
        "creator_notes": "",
        "system_prompt": "",
        "post_history_instructions": "",
        "alternate_greetings": [],
        "tags": row.tags or [],
        "creator": "",
        "character_version": "",
        "extensions": {},
    }
    return Card({"spec": "chara_card_v2", "spec_version": "2.0", "data": data})


def card_picture(card: Card, picture: bytes | None) -> bytes:
    """Return the card as a PNG. V3 goes in as V2 too, for programs that know no newer one."""
    text = card.dump().encode()
    if card.version < 3:
        return write_picture(picture or b"", {"chara": text})
    older = {"spec": "chara_card_v2", "spec_version": "2.0"}
    return write_picture(
        picture or b"", {"chara": Card(card.raw | older).dump().encode(), "ccv3": text}
    )


def tidy(value: object) -> str:
    """Return a text without control characters and halves of surrogate pairs; "" for no text."""
    if not isinstance(value, str):
        return ""
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return _drop_refused("", text).strip() if _search_refused(text) else text.strip()


def _fitting(text: str, most: int) -> str:
    if len(text) > most:
        text = text[: most - 1].rstrip() + "…"
    while True:
        try:
            cleaned = clean_text(text, 3 * most)
        except ProtocolError:
            raise CardError("card: a text cannot be shown (too many combining marks)") from None
        if len(cleaned) <= most:
            return cleaned
        text = text[: most // 2]  # composing made it longer


def _name(value: str) -> str:
    try:
        return clean_name(" ".join(tidy(value[:1000]).split())[:64], 64)
    except ProtocolError:
        raise CardError("card: its name is empty or cannot be shown") from None


def _tag(value: object) -> str:
    try:
        return clean_name(" ".join(tidy(value)[:1000].split())[:32], 32)
    except ProtocolError:
        return ""


def _check_bounds(raw: Any) -> None:
    """Count values and depth without recursion.

    Raises:
        CardError: too many, or too deep.
    """
    level = [raw]
    values = depth = 0
    while level:
        values += len(level)
        depth += 1
        if depth > MAX_DEPTH or values > MAX_VALUES:
            raise CardError("card: its JSON is too deep or has too many values")
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
        level = below


def _refuse(constant: str) -> NoReturn:
    raise CardError("card: not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise CardError("card: a number is too large")
    return value


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
