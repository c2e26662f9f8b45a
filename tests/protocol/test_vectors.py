"""The vectors are up to date, and this implementation meets every one of them."""

import json
from typing import Any
from zlib import crc32

import pytest

from protocol.codec import CLIENT_FRAMES, CODES, JSON, MSGPACK, NAMES, SERVER_FRAMES
from protocol.errors import FrameTooLarge, Malformed, TooDeep
from protocol.frames import FIRST_BYTE, MAJOR_AT, PREFACE, FrameDecoder
from protocol.vectors import SPEC_CRC
from protocol.vectors.generate import build_files
from protocol.vectors.lines import FOLDER, Line, read_lines
from tests.protocol.script_player import ScriptPlayer, assert_holds

BINARY_FILES = ("messages", "evolution", "bounds", "hostile")
SCRIPTS = read_lines("scripts")
FRAMING = read_lines("framing")


def decode(codec: Any, line: Line, payload: bytes) -> Any:
    return (codec.decode_client if line["dir"] == "c2s" else codec.decode_server)(payload)


def outcome(codec: Any, line: Line, payload: bytes) -> tuple[str, int]:
    try:
        decode(codec, line, payload)
    except TooDeep as error:
        return f"close:{error.code:d}", error.rid
    except Malformed as error:
        return f"err:{error.code:d}", error.rid
    return "ok", 0


def test_the_files_are_what_the_generator_writes() -> None:
    stale = [
        name
        for name, text in build_files().items()
        if (FOLDER / name).read_bytes() != text.encode()
    ]
    assert not stale, "run `python -m protocol.vectors.generate`"


def test_the_spec_crc_is_that_of_the_manifest() -> None:
    manifest = (FOLDER / "MANIFEST.json").read_bytes()
    assert crc32(manifest) == SPEC_CRC
    for name, facts in json.loads(manifest)["files"].items():
        data = (FOLDER / name).read_bytes()
        assert (crc32(data), data.count(b"\n")) == (facts["crc32"], facts["lines"])


@pytest.mark.parametrize("name", BINARY_FILES)
def test_binary_outcome(name: str) -> None:
    for line in read_lines(name):
        payload = bytes.fromhex(line["hex"])[4:]
        got = outcome(MSGPACK, line, payload)
        assert got == (line["expect"], line.get("rid", 0)), line["name"]


@pytest.mark.parametrize("name", BINARY_FILES)
def test_header_is_the_length(name: str) -> None:
    for line in read_lines(name):
        data = bytes.fromhex(line["hex"])
        assert int.from_bytes(data[:4], "big") == len(data) - 4, line["name"]


@pytest.mark.parametrize("name", BINARY_FILES)
def test_canonical_lines_are_reproduced(name: str) -> None:
    for line in read_lines(name):
        if line.get("canonical"):
            data = bytes.fromhex(line["hex"])
            assert MSGPACK.encode(decode(MSGPACK, line, data[4:])) == data, line["name"]


@pytest.mark.parametrize("name", BINARY_FILES)
def test_json_twins_say_the_same(name: str) -> None:
    for line in read_lines(name):
        if line["json"] is None:
            continue
        text = json.dumps(line["json"]).encode()
        if line["expect"] != "ok":
            assert outcome(JSON, line, text) == (line["expect"], line["rid"]), line["name"]
            continue
        message = decode(MSGPACK, line, bytes.fromhex(line["hex"])[4:])
        assert decode(JSON, line, text) == message, line["name"]
        assert json.loads(JSON.encode(message)) == line["json"], line["name"]


def test_json_texts() -> None:
    for line in read_lines("json"):
        got = outcome(JSON, line, line["text"].encode())
        assert got == (line["expect"], line["rid"]), line["name"]


def test_every_message_is_there_minimal_and_full() -> None:
    names = {(line["dir"], line["name"]) for line in read_lines("messages")}
    for direction, classes in (("c2s", CLIENT_FRAMES), ("s2c", SERVER_FRAMES)):
        for cls in classes:
            assert {(direction, f"{NAMES[cls]} {size}") for size in ("minimal", "full")} <= names


def test_every_code_is_met_by_an_unknown_one_only_where_it_is_unknown() -> None:
    known = {CODES[cls] for cls in CLIENT_FRAMES}
    unknown = [line for line in read_lines("evolution") if line["expect"] == "err:102"]
    codes = {bytes.fromhex(line["hex"])[5] for line in unknown}
    assert len(codes) == 4
    assert not codes & known


@pytest.mark.parametrize("line", FRAMING, ids=lambda line: line["name"])
def test_framing(line: Line) -> None:
    decoder = FrameDecoder(line["limit"])
    payloads = [
        payload for chunk in line["chunks"] for payload in decoder.feed(bytes.fromhex(chunk))
    ]
    expect = "ok" if decoder.error is None else f"close:{decoder.error.code:d}"
    assert expect == line["expect"]
    assert payloads == [bytes.fromhex(payload) for payload in line["payloads"]]
    assert decoder.buffered_bytes == line["rest"]
    assert isinstance(decoder.error, FrameTooLarge) == (expect == "close:103")


def test_prefaces_differ_from_ours_where_they_are_refused() -> None:
    for line in read_lines("preface"):
        data = bytes.fromhex(line["hex"])
        is_ours = data[:MAJOR_AT] == PREFACE[:MAJOR_AT]
        expect = "ok" if data == PREFACE else "close:105" if is_ours else "close:100"
        if data[0] != FIRST_BYTE:
            expect = "close"  # nobody knows what this peer speaks
        assert line["expect"] == expect, line["name"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script["name"])
def test_scripts_hold_only_messages_of_the_protocol(script: Line) -> None:
    fields = {NAMES[cls]: set(cls.__struct_fields__) | {"t"} for cls in NAMES}
    seen = 0
    for step in script["steps"]:
        if "in" in step:
            assert JSON.decode_server(json.dumps(step["in"]).encode())
            seen += 1
        elif "out" in step:
            assert set(step["out"]) <= fields[step["out"]["t"]]
            seen += 1
    assert seen


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script["name"])
def test_a_client_that_keeps_the_rules_meets_the_script(script: Line) -> None:
    player = ScriptPlayer(script["me"])
    rids: dict[int, int] = {}
    for step in script["steps"]:
        player.step(step, rids)
    assert not player.out, "the client asked for more than the script foresees"
    end = script["end"]
    assert_holds({str(feed): rev for feed, rev in player.feeds.items()}, end["feeds"])
    for conv, rows in end.get("rows", {}).items():
        known = player.rows.get(int(conv), {})
        assert_holds([known[seq] for seq in sorted(known)], rows)
    if "streams" in end:
        running = {
            str(sid): {str(part): text.decode() for part, text in parts.items()}
            for sid, parts in player.streams.items()
        }
        assert running == end["streams"]
    assert list(player.outbox) == end.get("outbox", [])
