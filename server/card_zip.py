"""CHARX: a ZIP with `card.json` and pictures (character card specification V3)."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import Final

from server.card_errors import CardError
from server.card_png import MAX_JSON_BYTES

MAX_MEMBERS: Final = 1_000
MAX_PICTURE_BYTES: Final = 4 << 20
_PLAIN: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""LZMA and BZIP2 take as much memory as the archive asks for."""
_ENTRY: Final = b"PK\x01\x02"
# What the standard library raises on damaged archives, found by changing bytes at random.
_DAMAGES: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    LookupError,
    RuntimeError,
    ArithmeticError,
    EOFError,
    OSError,
)
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif")


def read_archive(data: bytes) -> tuple[bytes, bytes | None]:
    """Return the JSON of a CHARX and its first icon, None if it has none that is small enough.

    Members are unpacked to their bound only, whatever the archive says of their size.

    Raises:
        CardError: damaged, encrypted, beyond the bounds, or without a card.
    """
    # Counted before the directory becomes objects, a thousand bytes each.
    if data.count(_ENTRY) > MAX_MEMBERS:
        raise CardError("CHARX: too many files")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # Of two members with one name the last one counts, as for the library.
            members = {one.filename: one for one in archive.infolist()}
            card = members.get("card.json")
            if card is None or card.compress_type not in _PLAIN:
                raise CardError("CHARX: there is no card.json in it")
            json = _read(archive, card, MAX_JSON_BYTES)
            if json is None:
                raise CardError("CHARX: the card is too large")
            return json, _icon(archive, members.values())
    except CardError:
        raise
    except _DAMAGES:
        raise CardError("CHARX: damaged, encrypted or of an unknown kind") from None


def _icon(archive: zipfile.ZipFile, members: Iterable[zipfile.ZipInfo]) -> bytes | None:
    icons = [
        one
        for one in members
        if one.compress_type in _PLAIN
        and "/icon/" in f"/{one.filename.lower()}"
        and one.filename.lower().endswith(_PICTURES)
    ]
    icons.sort(key=lambda one: ("main" not in one.filename.lower(), one.filename))
    return _read(archive, icons[0], MAX_PICTURE_BYTES) if icons else None


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes | None:
    with archive.open(info) as member:
        content = member.read(most + 1)
    return content if len(content) <= most else None
