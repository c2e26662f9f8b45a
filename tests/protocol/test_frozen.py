"""Codes, names and the order of fields, once more by hand: what clients rely on never changes.

Do not edit a line here to make a test pass. New messages, fields and numbers are appended.
"""

import enum
from typing import Any, cast

import pytest
from msgspec import Struct, inspect

from protocol import codes, rows
from protocol.codec import CODES, NAMES
from protocol.listing import RESERVED

MESSAGES = {
    "hello": (1, "ver method secret device client caps hb max_frame lang sync watch"),
    "welcome": (2, "ver session user tenant ticket ticket_ms hb now epoch caps limits dict spec"),
    "auth": (3, "rid method secret"),
    "authed": (4, "rid expires"),
    "ping": (5, "n"),
    "pong": (6, "n now"),
    "goaway": (7, "code reason drain_ms spread_ms"),
    "bye": (8, "code reason retry spread_ms"),
    "err": (9, "rid code reason retry detail"),
    "done": (10, "rid"),
    "changed": (11, "rid feed rev ts"),
    "sync": (12, "rid q"),
    "synced": (13, "rid epoch me_rev me convs streams more now"),
    "watch": (14, "rid w"),
    "watching": (15, "rid pres streams"),
    "resync": (16, "feeds"),
    "send": (20, "rid conv cid kind text x"),
    "sent": (21, "rid conv seq rev ts dup sid"),
    "edit": (22, "rid conv seq text base x"),
    "recall": (23, "rid conv seq"),
    "mark": (28, "conv read recv"),
    "typing": (29, "conv state"),
    "history": (30, "rid conv anchor back limit"),
    "page": (31, "rid conv msgs more"),
    "get": (32, "rid conv seqs"),
    "conv_create": (40, "rid cid kind title members persona set"),
    "conv_info": (41, "rid row my members"),
    "conv_get": (42, "rid conv"),
    "conv_list": (43, "rid archived cursor limit"),
    "conv_page": (44, "rid rows mine cursor"),
    "conv_set": (45, "rid conv set"),
    "my_set": (46, "rid conv set"),
    "conv_drop": (47, "rid conv"),
    "members": (48, "rid conv cursor limit"),
    "member_page": (49, "rid items cursor"),
    "member_add": (50, "rid conv users"),
    "member_drop": (51, "rid conv user"),
    "member_set": (52, "rid conv user role mute_ms"),
    "persona_save": (60, "rid cid p"),
    "persona_info": (61, "rid p rev"),
    "persona_get": (62, "rid persona"),
    "persona_list": (63, "rid scope cursor limit"),
    "persona_page": (64, "rid items cursor"),
    "persona_drop": (65, "rid persona"),
    "gen": (66, "rid conv cid mode seq persona opt"),
    "gen_ok": (67, "rid sid state"),
    "cancel": (68, "rid sid"),
    "open": (69, "rid sid part off"),
    "pick": (74, "rid conv seq"),
    "opened": (70, "rid sid conv state part off text total place"),
    "user_get": (75, "rid users"),
    "users": (76, "rid items cursor"),
    "user_find": (77, "rid query limit"),
    "profile_set": (78, "rid set"),
    "device_list": (86, "rid"),
    "devices": (87, "rid items"),
    "device_drop": (88, "rid device"),
    "msg": (100, "conv rev seq ts sender kind text x"),
    "conv": (102, "conv rev row"),
    "member": (103, "conv rev m"),
    "my_conv": (104, "rev my row"),
    "persona": (106, "rev p"),
    "profile": (107, "rev u"),
    "device": (108, "rev d"),
    "typing_at": (110, "conv user state"),
    "presence": (111, "items"),
    "receipt": (112, "conv reads"),
    "s_start": (114, "sid conv persona ask ts state"),
    "s_delta": (115, "sid part off text"),
    "s_end": (116, "sid conv reason rev seq ts total crc usage code detail ask"),
    "notice": (117, "kind text expires"),
    "skip": (118, "feed rev"),
    "confirm": (59, "rid sid call yes"),
    "usage": (71, "rid"),
    "usage_info": (72, "rid today month"),
    "s_queued": (119, "sid conv place"),
    "tool_ask": (120, "sid conv call name args left until"),
    "tool_settled": (121, "sid call state"),
}
ROWS = {
    "ConvDelta": "conv rev gap msgs members reads row",
    "Head": "conv rev",
    "Msg": "seq rev ts sender kind text x",
    "Pres": "user state seen",
    "Read": "user read recv",
    "StreamPos": "sid conv persona part off place",
    "Sync": "me_rev since heads streams budget",
    "Watch": "convs users",
    "Use": "used_in used_out spent quota resets",
}
NUMBERS = {
    "Code": {
        "FRAMING": 100,
        "MALFORMED": 101,
        "UNKNOWN_TYPE": 102,
        "TOO_LARGE": 103,
        "WRONG_STATE": 104,
        "VERSION": 105,
        "POLICY": 106,
        "BAD_CREDENTIALS": 200,
        "EXPIRED": 201,
        "REVOKED": 202,
        "REPLACED": 203,
        "TICKET_INVALID": 204,
        "NOT_FOUND": 300,
        "NOT_PERMITTED": 301,
        "BLOCKED": 302,
        "INVALID": 310,
        "STALE": 311,
        "TOO_LATE": 312,
        "GONE": 314,
        "RATE": 400,
        "QUOTA": 401,
        "IN_FLIGHT": 402,
        "SIZE_LIMIT": 403,
        "INTERNAL": 500,
        "TIMEOUT": 501,
        "OVERLOADED": 502,
        "DRAINING": 503,
        "SLOW_CONSUMER": 504,
        "MODEL_UNAVAILABLE": 600,
        "REFUSED": 601,
        "CONTEXT_TOO_LONG": 602,
        "BUSY": 603,
    },
    "Caps": {
        "ZSTD": 1,
        "DICTIONARY": 2,
        "AI_DELTAS": 4,
        "PRESENCE": 8,
        "RECEIPTS": 16,
        "CONFIRM": 32,
    },
    "AuthMethod": {
        "JWT": 1,
        "TICKET": 2,
    },
    "ConvKind": {
        "AI": 1,
        "DIRECT": 2,
        "GROUP": 3,
    },
    "MsgKind": {
        "TEXT": 0,
        "IMAGE": 1,
        "FILE": 2,
        "VOICE": 3,
        "VIDEO": 4,
        "SYSTEM": 5,
        "AI_REPLY": 6,
        "CARD": 7,
    },
    "Role": {
        "GONE": 0,
        "MEMBER": 1,
        "ADMIN": 2,
        "OWNER": 3,
    },
    "Scope": {
        "PRIVATE": 0,
        "TENANT": 1,
        "PUBLIC": 2,
    },
    "UserKind": {
        "PERSON": 0,
        "GUEST": 1,
        "SERVICE": 2,
    },
    "GenMode": {
        "REPLY": 1,
        "REGENERATE": 2,
        "CONTINUE": 3,
    },
    "TalkMode": {
        "CALLED": 0,
        "LIVELY": 1,
        "ALWAYS": 2,
    },
    "StreamState": {
        "QUEUED": 0,
        "RUNNING": 1,
        "DONE": 2,
    },
    "StreamPart": {
        "ANSWER": 0,
        "REASONING": 1,
        "TOOLS": 2,
    },
    "EndReason": {
        "STOP": 0,
        "LENGTH": 1,
        "CANCELLED": 2,
        "FILTERED": 3,
        "ERROR": 4,
        "INTERRUPTED": 5,
    },
    "Settled": {
        "NO": 0,
        "YES": 1,
        "EXPIRED": 2,
        "WITHDRAWN": 3,
    },
    "AiMode": {
        "AUTO": 0,
        "NONE": 1,
    },
    "TypingState": {
        "STOP": 0,
        "TEXT": 1,
        "VOICE": 2,
    },
    "PresenceState": {
        "OFFLINE": 0,
        "ONLINE": 1,
        "AWAY": 2,
    },
    "NoticeKind": {
        "AUTH_EXPIRING": 1,
        "MAINTENANCE": 2,
        "ANNOUNCEMENT": 3,
    },
    "TextFormat": {
        "PLAIN": 0,
        "MARKDOWN": 1,
    },
}


BY_NAME = {name: cls for cls, name in NAMES.items()}


def assert_only_appended(cls: type[Struct], frozen: str) -> None:
    """Check that the frozen fields come first, and that all later ones may be missing."""
    names = frozen.split()
    assert list(cls.__struct_fields__[: len(names)]) == names
    info = cast(inspect.StructType, inspect.type_info(cls))
    assert not any(field.required for field in info.fields[len(names) :])


@pytest.mark.parametrize("name", MESSAGES)
def test_message(name: str) -> None:
    code, fields = MESSAGES[name]
    assert CODES[BY_NAME[name]] == code
    assert_only_appended(BY_NAME[name], fields)


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str) -> None:
    assert_only_appended(getattr(rows, name), ROWS[name])


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str) -> None:
    kind: Any = getattr(codes, name)
    assert issubclass(kind, enum.IntEnum | enum.IntFlag)
    now = {member.name: member.value for member in kind}
    assert NUMBERS[name].items() <= now.items()


def test_every_message_is_frozen() -> None:
    assert set(MESSAGES) == set(BY_NAME)


def test_codes_are_used_once_and_take_one_byte() -> None:
    taken = sorted([*CODES.values(), *RESERVED])
    assert taken == sorted(set(taken))
    assert all(0 < code < 128 for code in taken)


def test_names_are_used_once() -> None:
    taken = [*NAMES.values(), *RESERVED.values()]
    assert len(taken) == len(set(taken))


def test_optional_fields_stand_at_the_end() -> None:
    for cls in (*NAMES, *(getattr(rows, name) for name in ROWS)):
        info = cast(inspect.StructType, inspect.type_info(cls))
        required = [field.required for field in info.fields]
        assert required == sorted(required, reverse=True)


def test_numbers_are_used_once() -> None:
    for name in NUMBERS:
        kind = getattr(codes, name)
        assert len(kind.__members__) == len({member.value for member in kind})
