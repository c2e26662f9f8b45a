"""Vectors of what no honest client sends, in both encodings (docs/protocol.md §15)."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from protocol.frames import join_frame
from protocol.vectors.lines import Line, shorten_hex

_CID = bytes(range(16))
_encode = msgspec.msgpack.encode
_SEND = b"\x97\x14\x07\x0a\xc4\x10" + _CID + b"\x00"
"""A `send` with rid 7, complete but for its text and x."""


def hostile_lines() -> Iterator[Line]:
    """Yield payloads that are whole frames but not messages."""
    groups = (_lying_lengths(), _bad_text(), _nesting(), _numbers(), _shapes(), _bombs())
    for group in groups:
        for name, payload, expect, rid in group:
            yield {
                "name": name,
                "dir": "c2s",
                "caps": 0,
                "json": None,
                "hex": shorten_hex(join_frame(payload)),
                "expect": expect,
                "rid": rid,
            }


_Case = tuple[str, bytes, str, int]


def _wrong(name: str, payload: bytes, rid: int = 0) -> _Case:
    return name, payload, "err:101", rid


def _lying_lengths() -> Iterator[_Case]:
    yield _wrong("array claims 4 billion elements", b"\xdd\xff\xff\xff\xff\x05\x01")
    yield _wrong("array claims 65,535 elements", b"\xdc\xff\xff\x05\x01")
    yield _wrong("text claims 4 GB", _SEND + b"\xdb\xff\xff\xff\xffhi", 7)
    yield _wrong("text claims one byte more", _SEND + b"\xa3hi", 7)
    yield _wrong("binary claims 4 GB", b"\x97\x14\x07\x0a\xc6\xff\xff\xff\xff" + _CID, 7)
    yield _wrong("map claims 4 billion keys", _SEND + b"\xa2hi\xdf\xff\xff\xff\xff", 7)
    yield _wrong("list claims 4 billion items", b"\x94\x20\x07\x0a\xdd\xff\xff\xff\xff\x01", 7)
    yield _wrong("unknown element claims 4 GB", b"\x93\x05\x01\xc6\xff\xff\xff\xff\x00")
    yield _wrong("ends inside a number", b"\x92\x05\xcd\x01")
    yield _wrong("bytes behind the message", _encode([5, 1]) + b"\xc0")
    yield _wrong("two messages in one frame", _encode([5, 1]) * 2)


def _bad_text() -> Iterator[_Case]:
    for name, text in (
        ("stray byte", b"a\xffb"),
        ("cut character", b"\xe4\xbd"),
        ("overlong slash", b"\xc0\xaf"),
        ("surrogate half", b"\xed\xa0\x80"),
        ("beyond U+10FFFF", b"\xf4\x90\x80\x80"),
    ):
        packed = bytes([0xA0 + len(text)]) + text
        yield _wrong(f"text with {name}", _SEND + packed + b"\xc0", 7)
        pair = b"\x81\xa4meta\x81" + packed + b"\xa1v"
        yield _wrong(f"key with {name}", _SEND + b"\xa1x" + pair, 7)
    yield _wrong("binary as text", _SEND + b"\xc4\x01a\xc0", 7)


def _nesting() -> Iterator[_Case]:
    for kind, opening in (("lists", b"\x91"), ("maps", b"\x81\xa1k")):
        deep = b"\x93\x05\x01" + opening * 20_000 + b"\x01"
        yield f"{kind} 20,000 deep", deep, "close:101", 0
    deep = _SEND + b"\xa1x\x81\xa1?" + b"\x91" * 20_000 + b"\x01"
    yield "lists 20,000 deep in an unknown key", deep, "close:101", 0


def _numbers() -> Iterator[_Case]:
    yield _wrong("2^64-1", b"\x92\x05\xcf" + b"\xff" * 8)
    yield _wrong("-2^63", b"\x92\x05\xd3\x80" + b"\x00" * 7)
    yield _wrong("float as integer", _encode([5, 1.5]))
    yield _wrong("whole float as integer", _encode([5, 1.0]))
    yield _wrong("truth as integer", _encode([5, True]))
    yield _wrong("nothing as integer", _encode([5, None]))
    yield _wrong("rid 0", _encode([86, 0]))
    yield _wrong("rid 2^32", _encode([86, 2**32]))
    yield _wrong("negative conversation in mark", _encode([28, -5, 1, 1]))
    yield _wrong("negative cursor in mark, which has no rid", _encode([28, 5, -1, 1]))
    for name, bits in (("NaN", b"\x7f\xf8"), ("infinity", b"\x7f\xf0"), ("-1", b"\xbf\xf0")):
        opt = b"\x81\xabtemperature\xcb" + bits + b"\x00" * 6
        gen = b"\x98\x42\x07\x0a\xc4\x10" + _CID + b"\x01\x00\xc0" + opt
        yield _wrong(f"temperature {name}", gen, 7)


def _shapes() -> Iterator[_Case]:
    yield _wrong("map", _encode({"t": "ping", "n": 1}))
    yield _wrong("text", _encode("ping"))
    yield _wrong("nothing", b"\xc0")
    yield _wrong("empty array", b"\x90")
    yield _wrong("never used byte", b"\xc1")
    yield _wrong("code as text", _encode(["ping", 1]))
    yield _wrong("code 0", _encode([0, 1]))
    yield _wrong("code 128", _encode([128, 7]))
    yield _wrong("code -1", _encode([-1, 7]))
    yield _wrong("extension type as cid", b"\x97\x14\x07\x0a\xd8\x01" + _CID + b"\x00\xa0\xc0", 7)
    yield _wrong("text as cid", _encode([20, 7, 10, "x" * 16, 0, "", None]), 7)
    yield _wrong("list as text", _encode([20, 7, 10, _CID, 0, ["x"], None]), 7)
    yield _wrong("number as key", _encode([20, 7, 10, _CID, 0, "x", {1: 2}]), 7)
    yield _wrong("row as map", _encode([12, 7, {"me_rev": 0}]), 7)
    yield _wrong("entity as array", _encode([20, 7, 10, _CID, 0, "x", [1]]), 7)


def _bombs() -> Iterator[_Case]:
    many = 60_000
    for name, item in (("empty lists", b"\x90"), ("empty maps", b"\x80"), ("zeros", b"\x00")):
        body = b"\xdd" + many.to_bytes(4, "big") + item * many
        yield _wrong(f"60,000 {name} where 100 numbers may be", b"\x94\x20\x07\x0a" + body, 7)
        yield _wrong(f"60,000 {name} where a text may be", _SEND + body + b"\xc0", 7)
        yield f"60,000 {name} in an element nobody knows", b"\x93\x05\x01" + body, "ok", 0
    heads = b"\xdd" + (20_000).to_bytes(4, "big") + b"\x92\x01\x01" * 20_000
    yield _wrong("20,000 heads", b"\x93\x0c\x07\x95\x00\x00" + heads + b"\x90\x00", 7)
    pairs = b"\xde\x40\x00" + b"\xa1k\xa1v" * 16_384
    yield _wrong("16,384 times the same key", _SEND + b"\xa0\x81\xa4meta" + pairs, 7)


def json_lines() -> Iterator[Line]:
    """Yield texts of the JSON mode: right, strange and wrong."""
    for name, text, expect, rid in (*_json_accepted(), *_json_refused()):
        yield {"name": name, "dir": "c2s", "text": text, "expect": expect, "rid": rid}


_JsonCase = tuple[str, str | list[Any], str, int]


def _json_accepted() -> Iterator[_JsonCase]:
    yield "name not first", '{"n":1,"t":"ping"}', "ok", 0
    yield "white space", ' {\n\t"t" : "ping" , "n" : 1 }\r\n', "ok", 0
    yield "unknown keys", '{"t":"ping","n":1,"new":{"a":[1,2,null]}}', "ok", 0
    yield "escaped name", '{"t":"\\u0070ing","n":1}', "ok", 0
    yield "pair of surrogates", _send(text="\\ud83d\\ude00"), "ok", 0
    yield "optional field as null", _send(text="x", rest=',"x":null'), "ok", 0
    yield "whole number as float field", _gen("1"), "ok", 0


def _json_refused() -> Iterator[_JsonCase]:
    wrong = "err:101"
    yield "no object", "[5,1]", wrong, 0
    yield "nothing", "", wrong, 0
    yield "cut", '{"t":"ping","n":', wrong, 0
    yield "two objects", '{"t":"ping","n":1}{"t":"ping","n":2}', wrong, 0
    yield "no name", '{"n":1}', wrong, 0
    yield "name as number", '{"t":5,"n":1}', wrong, 0
    yield "unknown name", '{"t":"react","rid":9}', "err:102", 9
    yield "name of the server", '{"t":"welcome","rid":9}', "err:102", 9
    yield "missing field", '{"t":"conv_get","rid":9}', wrong, 9
    yield "missing rid", '{"t":"conv_get","conv":9}', wrong, 0
    yield "list as rid", '{"t":"conv_get","conv":9,"rid":[9]}', wrong, 0
    yield "huge number", '{"t":"ping","n":100000000000000000000}', wrong, 0
    yield "2^53", '{"t":"ping","n":9007199254740992}', wrong, 0
    yield "whole float", '{"t":"ping","n":1.0}', wrong, 0
    yield "exponent", '{"t":"ping","n":1e3}', wrong, 0
    yield "leading zero", '{"t":"ping","n":01}', wrong, 0
    yield "NaN", '{"t":"ping","n":NaN}', wrong, 0
    yield "infinite temperature", _gen("1e999"), wrong, 7
    yield "temperature as NaN", _gen("NaN"), wrong, 0
    yield "half a pair of surrogates", _send(text="\\ud800"), wrong, 0
    yield "raw control character", _send(text="a\x01b"), wrong, 0
    yield "bad base64", _send(text="x", cid="!!!!"), wrong, 7
    yield "short cid", _send(text="x", cid="AAEC"), wrong, 7
    yield (
        "deep lists",
        ['{"t":"ping","n":1,"z":', ["[", 20_000], ["]", 20_000], "}"],
        "close:101",
        0,
    )
    yield "many numbers", ['{"t":"get","rid":7,"conv":1,"seqs":[1', [",1", 30_000], "]}"], wrong, 7


def _send(*, text: str, cid: str = "AAECAwQFBgcICQoLDA0ODw==", rest: str = "") -> str:
    return (
        f'{{"t":"send","rid":7,"conv":10,"cid":{json.dumps(cid)},"kind":0,"text":"{text}"{rest}}}'
    )


def _gen(temperature: str) -> str:
    head = '{"t":"gen","rid":7,"conv":10,"cid":"AAECAwQFBgcICQoLDA0ODw==","mode":1,"seq":0,'
    return f'{head}"opt":{{"temperature":{temperature}}}}}'
