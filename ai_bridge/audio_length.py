"""How long a recording is, from its own figures, without decoding a sound.

Sources: RFC 3533 and RFC 7845 (Ogg, Opus), ISO/IEC 14496-12 (MP4, M4A), RFC 9639 (FLAC), the
RIFF WAVE description of Microsoft and IBM.
"""

from __future__ import annotations

import struct

_OPUS_RATE = 48_000
_OGG_TAIL_BYTES = 128 * 1024
"""A page is 64 KB at most, so the last one begins within this."""
_UNTOLD = 0xFFFF_FFFF


def seconds_of(data: bytes) -> float | None:
    """Return the length, None where the recording does not tell (MP3, WebM) or is damaged.

    The figures are the sender's: a hostile one can be told wrong, so bound the bytes as well.
    """
    try:
        if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
            return _wav(data)
        if data[:4] == b"OggS":
            return _ogg(data)
        if data[:4] == b"fLaC":
            return _flac(data)
        if data[4:8] == b"ftyp":
            return _mp4(data)
    except (struct.error, IndexError):
        return None
    return None


def _wav(data: bytes) -> float | None:
    form = data.find(b"fmt ", 12, 4096)
    if form < 0:
        return None
    (bytes_per_s,) = struct.unpack_from("<I", data, form + 16)
    body = data.find(b"data", form)
    if body < 0 or bytes_per_s == 0:
        return None
    (size,) = struct.unpack_from("<I", data, body + 4)
    # Recorders that write to a pipe leave the size open.
    return float(min(size, len(data) - body - 8) / bytes_per_s)


def _ogg(data: bytes) -> float | None:
    rate, skipped = _ogg_clock(data[:512])
    last = data.rfind(b"OggS", max(0, len(data) - _OGG_TAIL_BYTES))
    if rate == 0 or last < 0:
        return None
    (granule,) = struct.unpack_from("<q", data, last + 6)
    return max(0, granule - skipped) / rate if granule >= 0 else None


def _ogg_clock(head: bytes) -> tuple[int, int]:
    """Return samples per second and samples before the sound begins."""
    opus = head.find(b"OpusHead")
    if opus >= 0:
        (skipped,) = struct.unpack_from("<H", head, opus + 10)
        return _OPUS_RATE, skipped
    vorbis = head.find(b"\x01vorbis")
    if vorbis < 0:
        return 0, 0
    (rate,) = struct.unpack_from("<I", head, vorbis + 12)
    return rate, 0


def _flac(data: bytes) -> float | None:
    # STREAMINFO comes first: 20 bits of rate, 3 of channels, 5 of depth, 36 of samples.
    (packed,) = struct.unpack_from(">Q", data, 18)
    rate, samples = packed >> 44, packed & (1 << 36) - 1
    return samples / rate if rate and samples else None


def _mp4(data: bytes) -> float | None:
    at = data.find(b"mvhd")
    if at < 0:
        return None
    if data[at + 4] == 1:
        scale, duration = struct.unpack_from(">IQ", data, at + 24)
    else:
        scale, duration = struct.unpack_from(">II", data, at + 16)
        duration = 0 if duration == _UNTOLD else duration
    return duration / scale if scale and duration else None
