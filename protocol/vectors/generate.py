"""Writes every vector file, the manifest and its CRC; the same bytes on every machine.

Run `python -m protocol.vectors.generate` after a change of the protocol; with `--check` it only
compares, and fails if a file is out of date.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final, cast
from zlib import crc32

import msgspec
from msgspec import Struct, inspect

from protocol.codec import CLIENT_FRAMES, CODES, MSGPACK, NAMES, SERVER_FRAMES
from protocol.codes import Caps, Code
from protocol.envelopes import (
    Frame,
    Ping,
    Presence,
    Receipt,
    Reply,
    Request,
    StreamDelta,
    StreamEnd,
    StreamQueued,
    StreamStart,
    ToolAsk,
    ToolSettled,
    TypingAt,
)
from protocol.frames import BEFORE_WELCOME_BYTES, MAX_LENGTH, PREFACE, join_frame
from protocol.vectors.hostile import hostile_lines, json_lines
from protocol.vectors.lines import FOLDER, Line, dump_lines, shorten_hex, shorten_json
from protocol.vectors.samples import bounds, fullest, grow, json_form, plain_of, smallest
from protocol.vectors.scripts import SCRIPTS

NEEDED_CAPS: Final[dict[type[Frame], Caps]] = {
    StreamStart: Caps.AI_DELTAS,
    StreamDelta: Caps.AI_DELTAS,
    StreamEnd: Caps.AI_DELTAS,
    StreamQueued: Caps.AI_DELTAS,
    ToolAsk: Caps.CONFIRM,
    ToolSettled: Caps.CONFIRM,
    TypingAt: Caps.PRESENCE,
    Presence: Caps.PRESENCE,
    Receipt: Caps.RECEIPTS,
}
"""Messages a server sends only to a client that asked for them."""

_encode = msgspec.msgpack.encode


def _sides() -> Iterator[tuple[str, type[Frame]]]:
    for direction, classes in (("c2s", CLIENT_FRAMES), ("s2c", SERVER_FRAMES)):
        for cls in sorted(classes, key=CODES.__getitem__):
            yield direction, cls


def _line(
    name: str, direction: str, cls: type[Frame], plain: Any, expect: str, payload: bytes = b""
) -> Line:
    try:
        form = shorten_json(json_form(inspect.type_info(cls), plain))
    except ValueError:
        form = None
    payload = payload or _encode(plain)
    line: Line = {
        "name": name,
        "dir": direction,
        "caps": int(NEEDED_CAPS.get(cls, 0)),
        "json": form,
        "hex": shorten_hex(join_frame(payload)),
        "expect": expect,
    }
    if expect == "ok":
        line["canonical"] = _is_canonical(direction, payload)
    else:
        line["rid"] = _rid_of(cls, plain)
    return line


def _is_canonical(direction: str, payload: bytes) -> bool:
    decode = MSGPACK.decode_client if direction == "c2s" else MSGPACK.decode_server
    return MSGPACK.encode(decode(payload)) == join_frame(payload)


def _rid_of(cls: type[Frame], plain: Any) -> int:
    """Return the request id that can still be found in a message that is wrong."""
    if not issubclass(cls, (Request, Reply)) or len(plain) < 2:
        return 0
    rid = plain[1]
    return rid if isinstance(rid, int) and 0 <= rid < 2**32 else 0


def _messages() -> Iterator[Line]:
    for direction, cls in _sides():
        for label, make in (("minimal", smallest), ("full", fullest)):
            plain = plain_of(make(cls))
            yield _line(f"{NAMES[cls]} {label}", direction, cls, plain, "ok")


def _evolution() -> Iterator[Line]:
    for direction, cls in _sides():
        name = NAMES[cls]
        plain = plain_of(fullest(cls))
        required = 1 + _required(cls)
        grown = grow(inspect.type_info(cls), plain)
        yield _other(f"{name} of a later version", direction, cls, plain, grown)
        for length in range(required, len(plain)):
            shorter = plain[:length]
            yield _line(f"{name} {length} elements", direction, cls, shorter, "ok")
        if required > 1:
            cut = plain[: required - 1]
            yield _line(f"{name} too short", direction, cls, cut, "err:101")
        yield _other(f"{name} long integers", direction, cls, plain, plain, _widen)
    yield from _unknown_codes()


def _required(cls: type[Struct]) -> int:
    info = cast(inspect.StructType, inspect.type_info(cls))
    return sum(field.required for field in info.fields)


def _other(
    name: str,
    direction: str,
    cls: type[Frame],
    meant: Any,
    sent: Any,
    encode: Callable[[Any], bytes] = _encode,
) -> Line:
    """Return a line whose bytes say `sent` but are to be read as `meant`."""
    return _line(name, direction, cls, meant, "ok", encode(sent))


def _widen(plain: Any) -> bytes:
    """Encode with the longest form of every integer but the code: allowed, not canonical."""
    if isinstance(plain, bool) or not isinstance(plain, int | list):
        return _encode(plain)
    if isinstance(plain, int):
        return (b"\xcf" if plain >= 0 else b"\xd3") + (plain % 2**64).to_bytes(8, "big")
    head = b"\xdc" + len(plain).to_bytes(2, "big")
    return head + b"".join(_widen(item) for item in plain)


def _unknown_codes() -> Iterator[Line]:
    for label, code in (("reserved", 24), ("free", 126), ("last", 127), ("of the server", 21)):
        line: Line = {"name": f"code {label}", "dir": "c2s", "caps": 0, "json": None}
        payload = _encode([code, 77, "whatever", {"x": 1}])
        line |= {"hex": shorten_hex(join_frame(payload)), "expect": "err:102", "rid": 77}
        yield line


def _bounds() -> Iterator[Line]:
    seen: set[type] = set()
    for direction, cls in _sides():
        if cls in seen:
            continue
        for sample in bounds(cls, seen):
            name = NAMES[cls] + sample.name
            expect = "ok" if sample.fits else "err:101"
            yield _line(name, direction, cls, sample.plain, expect)


def _framing() -> Iterator[Line]:
    first, second = MSGPACK.encode(Ping(1)), MSGPACK.encode(Ping(2**53 - 1))
    both = [first[4:].hex(), second[4:].hex()]
    stream = first + second
    yield _cut("two frames in one piece", [stream], both)
    yield _cut("byte by byte", [bytes([byte]) for byte in stream], both)
    for at in range(1, len(stream)):
        yield _cut(f"cut at {at}", [stream[:at], stream[at:]], both)
    yield _cut("many frames in one piece", [first * 100], both[:1] * 100)
    for end in range(1, len(first)):
        yield _cut(f"{end} bytes of the next frame", [first + first[:end]], both[:1], rest=end)
    yield from _framing_limits(first, both)


def _framing_limits(good: bytes, both: list[str]) -> Iterator[Line]:
    limit = BEFORE_WELCOME_BYTES
    body = b"\xc0" * limit
    yield _cut("as long as allowed", [join_frame(body)], [shorten_hex(body)])
    before = both[:1]
    for name, word, expect in (
        ("one byte too long", limit + 1, "close:103"),
        ("longest that can be said", MAX_LENGTH, "close:103"),
        ("empty", 0, "close:100"),
        ("flag 01", 0x01000003, "close:100"),
        ("flag 02", 0x02000003, "close:100"),
        ("flag 80", 0x80000003, "close:100"),
        ("all flags", 0xFFFFFFFF, "close:100"),
        ("HTTP in place of a frame", int.from_bytes(b"GET ", "big"), "close:100"),
    ):
        header = word.to_bytes(4, "big")
        yield _cut(name, [header], [], expect=expect)
        yield _cut(f"{name}, after a good frame", [good + header + good], before, expect=expect)
        pieces = [bytes([byte]) for byte in good + header]
        yield _cut(f"{name}, byte by byte", pieces, before, expect=expect)


def _cut(
    name: str, chunks: list[bytes], payloads: list[Any], *, expect: str = "ok", rest: int = 0
) -> Line:
    return {
        "name": name,
        "dir": "c2s",
        "limit": BEFORE_WELCOME_BYTES,
        "chunks": [shorten_hex(chunk) for chunk in chunks],
        "payloads": payloads,
        "rest": rest,
        "expect": expect,
    }


def _prefaces() -> Iterator[Line]:
    closing = f"close:{Code.VERSION:d}"
    broken = f"close:{Code.FRAMING:d}"
    for name, data, expect in (
        ("major 1", PREFACE, "ok"),
        ("major 2", PREFACE[:6] + b"\x02\x00", closing),
        ("major 0", PREFACE[:6] + b"\x00\x00", closing),
        ("reserved byte not 0", PREFACE[:7] + b"\x01", closing),
        ("line ends mangled to LF", PREFACE.replace(b"\r\n", b"\n"), broken),
        ("line ends mangled to CR", PREFACE.replace(b"\r\n", b"\r\r"), broken),
        ("top bit lost", b"\x0b" + PREFACE[1:], "close"),
        ("other letters", PREFACE.replace(b"PWP", b"PNG"), broken),
    ):
        yield {"name": name, "dir": "c2s", "hex": data.hex(), "expect": expect}


def build_files() -> dict[str, str]:
    """Return every generated file of the folder by name."""
    lists: dict[str, list[Line]] = {
        "messages": list(_messages()),
        "evolution": list(_evolution()),
        "bounds": list(_bounds()),
        "framing": list(_framing()),
        "preface": list(_prefaces()),
        "hostile": list(hostile_lines()),
        "json": list(json_lines()),
        "scripts": SCRIPTS,
    }
    for name, lines in lists.items():
        _refuse_twins(name, lines)
    files = {f"{name}.jsonl": dump_lines(lines) for name, lines in lists.items()}
    listed = {
        name: {"lines": text.count("\n"), "crc32": crc32(text.encode())}
        for name, text in files.items()
    }
    manifest = json.dumps({"protocol": "PWP/1", "files": listed}, indent=1) + "\n"
    source = (FOLDER / "__init__.py").read_text(encoding="utf-8")
    return {
        **files,
        "MANIFEST.json": manifest,
        "__init__.py": _place_crc(source, crc32(manifest.encode())),
    }


def _refuse_twins(name: str, lines: list[Line]) -> None:
    names = sorted(f"{line.get('dir', '')} {line['name']}" for line in lines)
    twins = [one for one, other in pairwise(names) if one == other]
    if twins:
        raise ValueError(f"{name}: two lines are called {twins[0]}")


def _place_crc(source: str, crc: int) -> str:
    head, mark, tail = source.partition("SPEC_CRC: Final = ")
    return f"{head}{mark}{crc}\n{tail.partition(chr(10))[2]}"


def main() -> int:
    """Write or check all files; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m protocol.vectors.generate")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args()
    stale = []
    for name, text in build_files().items():
        path = FOLDER / name
        if path.exists() and path.read_bytes() == text.encode():
            continue
        stale.append(name)
        if not options.check:
            path.write_bytes(text.encode())
    if stale:
        print(("out of date: " if options.check else "written: ") + ", ".join(stale))
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
