"""CHARX: a ZIP with `card.json` and pictures (character card specification V3)."""

import io
import zipfile
import zlib
from typing import Final

from server.card_errors import CardError
from server.card_png import MAX_JSON_BYTES

MAX_MEMBERS: Final = 1_000
MAX_PICTURE_BYTES: Final = 4 << 20
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif")


def read_archive(data: bytes) -> tuple[bytes, bytes | None]:
    """Return the JSON of a CHARX and its first icon, None if it has none that is small enough.

    Members are unpacked to their bound only, whatever the archive says of their size.

    Raises:
        CardError: damaged, encrypted, beyond the bounds, or without a card.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [info.filename for info in archive.infolist()]
            if len(names) > MAX_MEMBERS:
                raise CardError("CHARX: too many files")
            if "card.json" not in names:
                raise CardError("CHARX: there is no card.json in it")
            json = _read(archive, "card.json", MAX_JSON_BYTES)
            if json is None:
                raise CardError("CHARX: the card is too large")
            return json, _icon(archive, names)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError):
        raise CardError("CHARX: damaged, encrypted or of an unknown kind") from None


def _icon(archive: zipfile.ZipFile, names: list[str]) -> bytes | None:
    icons = [
        name
        for name in names
        if "/icon/" in f"/{name.lower()}" and name.lower().endswith(_PICTURES)
    ]
    icons.sort(key=lambda name: ("main" not in name.lower(), name))
    return _read(archive, icons[0], MAX_PICTURE_BYTES) if icons else None


def _read(archive: zipfile.ZipFile, name: str, most: int) -> bytes | None:
    with archive.open(name) as member:
        content = member.read(most + 1)
    return content if len(content) <= most else None
