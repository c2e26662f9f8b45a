"""The JSON inside the picture of a character card, and the picture without it.

PNG (W3C, third edition): a signature, then chunks of length, type, data and CRC. A card is the
base64 of its JSON in a text chunk named `chara` (V1, V2) or `ccv3` (V3, which wins). Files come
from strangers: every length is checked before it is believed, and compressed text is unpacked to
a bound only.
"""

import base64
import binascii
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from server.card_errors import CardError

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS: Final = 10_000
MAX_TEXT_CHUNKS: Final = 64
MAX_JSON_BYTES: Final = 2 << 20
_MAX_BASE64_BYTES: Final = (MAX_JSON_BYTES + 2) // 3 * 4 + 4
_KEYWORDS: Final = (b"ccv3", b"chara")
# Texts may hold what an image tool was told, Exif may hold where a photo was taken.
_LEFT_OUT: Final = frozenset((b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME"))
_HEAD: Final = struct.Struct(">I4s")


class CardPicture(NamedTuple):
    """The JSON of a card, and the picture without texts and Exif."""

    json: bytes
    picture: bytes


def read_picture(data: bytes) -> CardPicture:
    """Take the card out of a PNG.

    Raises:
        CardError: damaged, beyond the bounds, or no card inside.
    """
    texts: dict[bytes, bytes] = {}
    kept = bytearray(SIGNATURE)
    text_chunks = 0
    for kind, start, end in _chunks(data):
        if kind not in _LEFT_OUT:
            kept += data[start - 8 : end + 4]
            continue
        if kind == b"eXIf" or kind == b"tIME":
            continue
        text_chunks += 1
        if text_chunks > MAX_TEXT_CHUNKS:
            raise CardError("PNG: too many text chunks")
        keyword, _, rest = data[start:end].partition(b"\0")
        if keyword.lower() in _KEYWORDS:
            texts.setdefault(keyword.lower(), _text(kind, rest))
    for keyword in _KEYWORDS:
        if keyword in texts:
            return CardPicture(_decode(texts[keyword]), bytes(kept))
    raise CardError("PNG: there is no character card in this picture")


def write_picture(picture: bytes, texts: dict[str, bytes]) -> bytes:
    """Return a PNG with cards (keyword and JSON) in front of its end.

    A picture that is no PNG is replaced by a plain one: there is no way to put a card into it.
    """
    try:
        bounds = list(_chunks(picture))
    except CardError:
        return write_picture(plain_picture(), texts)
    end = bounds[-1][1] - 8
    added = b"".join(
        _chunk(b"tEXt", keyword.encode("ascii") + b"\0" + base64.b64encode(json))
        for keyword, json in texts.items()
    )
    return picture[:end] + added + picture[end:]


def plain_picture(width: int = 256, height: int = 384) -> bytes:
    """Return a grey PNG in the usual shape of cards."""
    rows = (b"\0" + b"\xa0" * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of each chunk's data, up to IEND; what follows is ignored."""
    if not data.startswith(SIGNATURE):
        raise CardError("PNG: not a PNG")
    at = len(SIGNATURE)
    for number in range(MAX_CHUNKS):
        if at + 12 > len(data):
            raise CardError("PNG: cut off")
        size, kind = _HEAD.unpack_from(data, at)
        start, end = at + 8, at + 8 + size
        if end + 4 > len(data):
            raise CardError("PNG: cut off")
        if (number == 0) != (kind == b"IHDR") or (number == 0 and size != 13):
            raise CardError("PNG: does not begin with its header")
        with memoryview(data) as view:
            crc = zlib.crc32(view[at + 4 : end])
        if crc != int.from_bytes(data[end : end + 4], "big"):
            raise CardError("PNG: damaged (a checksum is wrong)")
        yield kind, start, end
        if kind == b"IEND":
            return
        at = end + 4
    raise CardError("PNG: too many chunks")


def _chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(data, zlib.crc32(kind))
    return _HEAD.pack(len(data), kind) + data + crc.to_bytes(4, "big")


def _text(kind: bytes, rest: bytes) -> bytes:
    """Return the text behind the keyword of a tEXt, zTXt or iTXt chunk (PNG §11.3.3)."""
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return _unpack(rest[1:])
    compressed = rest[:1] == b"\x01"
    # Compression flag and method, language tag, translated keyword.
    _, _, rest = rest[2:].partition(b"\0")
    _, _, rest = rest.partition(b"\0")
    return _unpack(rest) if compressed else rest


def _unpack(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, _MAX_BASE64_BYTES)
    except zlib.error:
        raise CardError("PNG: damaged (a text cannot be unpacked)") from None
    if unpacker.unconsumed_tail:
        raise CardError("PNG: the card is too large")
    return text


def _decode(text: bytes) -> bytes:
    if len(text) > _MAX_BASE64_BYTES:
        raise CardError("PNG: the card is too large")
    try:
        # Some tools leave the padding out or break lines.
        text = bytes(text.translate(None, b" \r\n\t"))
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise CardError("PNG: the card is not in base64") from None
