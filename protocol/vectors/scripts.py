"""Scripts: what arrives, what a client must send, and what it must know in the end.

They fix the client's side of docs/protocol.md §4, §5 and §8. README.md explains the steps.
"""

from typing import Any, Final
from zlib import crc32

from protocol.vectors.lines import Line

_Step = dict[str, Any]
ME, PEER, PERSONA, CONV, SID = 7, 8, 9, 10, 5
CID = "AAECAwQFBgcICQoLDA0ODw=="


def _script(section: int, name: str, steps: list[_Step], **end: Any) -> Line:
    line: Line = {"name": name, "section": section, "me": ME, "conv": CONV, "steps": steps}
    return {**line, "end": end}


def _in(name: str, **fields: Any) -> _Step:
    return {"in": {"t": name, **fields}}


def _out(name: str, **fields: Any) -> _Step:
    return {"out": {"t": name, **fields}}


def _wait(ms: int) -> _Step:
    return {"wait_ms": ms}


def _say(text: str) -> _Step:
    return {"say": {"conv": CONV, "cid": CID, "text": text}}


def _row(seq: int, rev: int, text: str, **more: Any) -> dict[str, Any]:
    return {
        "seq": seq,
        "rev": rev,
        "ts": 1000 + seq,
        "sender": PEER,
        "kind": 0,
        "text": text,
        **more,
    }


def _msg(seq: int, rev: int, text: str, **more: Any) -> _Step:
    return _in("msg", conv=CONV, **_row(seq, rev, text, **more))


def _delta(rev: int, *msgs: dict[str, Any], gap: bool = False, conv: int = CONV) -> dict[str, Any]:
    return {"conv": conv, "rev": rev, "gap": gap, "msgs": list(msgs), "members": [], "reads": []}


def _synced(*convs: dict[str, Any], rid: int = 0, **changes: Any) -> _Step:
    fields = {"epoch": 1, "me_rev": 1, "me": [], "streams": [], "more": False, "now": 5000}
    return _in("synced", rid=rid, convs=list(convs), **{**fields, **changes})


def _know(*rows: dict[str, Any], rev: int) -> _Step:
    """The state most scripts begin with: one conversation, known up to rev."""
    return _synced(_delta(rev, *rows, gap=True))


def _rows(*rows: tuple[int, int, str]) -> dict[str, Any]:
    """The rows of the conversation in the end: (seq, rev, text) of each."""
    return {str(CONV): [{"seq": seq, "rev": rev, "text": text} for seq, rev, text in rows]}


def _ordering() -> list[Line]:
    begin = _know(_row(1, 1, "one"), rev=1)
    one, two, three = (1, 1, "one"), (2, 2, "two"), (3, 3, "three")
    return [
        _script(
            4,
            "in order",
            [begin, _msg(2, 2, "two"), _msg(3, 3, "three")],
            feeds={"10": 3},
            rows=_rows(one, two, three),
        ),
        _script(
            4,
            "twice",
            [begin, _msg(2, 2, "two"), _msg(2, 2, "two"), _msg(1, 1, "one")],
            feeds={"10": 2},
            rows=_rows(one, two),
        ),
        _script(
            4,
            "neighbours swapped",
            [begin, _msg(3, 3, "three"), _wait(400), _msg(2, 2, "two"), _wait(600)],
            feeds={"10": 3},
            rows=_rows(one, two, three),
        ),
        _script(
            4,
            "one is lost",
            [
                begin,
                _msg(3, 3, "three"),
                _wait(500),
                _out("sync", rid=1, q={"me_rev": 1, "heads": [{"conv": CONV, "rev": 1}]}),
                _synced(_delta(3, _row(2, 2, "two"), _row(3, 3, "three")), rid=1),
            ],
            feeds={"10": 3},
            rows=_rows(one, two, three),
        ),
        _script(
            4,
            "skip advances and changes nothing",
            [begin, _in("skip", feed=CONV, rev=2), _msg(2, 3, "two")],
            feeds={"10": 3},
            rows=_rows(one, (2, 3, "two")),
        ),
        _too_many_held(begin),
    ]


def _too_many_held(begin: _Step) -> Line:
    held = [_msg(seq, seq, "x") for seq in range(3, 67)]
    rows = [_row(seq, seq, "x") for seq in range(2, 68)]
    steps = [
        begin,
        *held,
        _msg(67, 67, "x"),
        _out("sync", rid=1, q={}),
        _synced(_delta(67, *rows), rid=1),
    ]
    known = [(1, 1, "one"), *((seq, seq, "x") for seq in range(2, 68))]
    return _script(4, "a 65th item to hold", steps, feeds={"10": 67}, rows=_rows(*known))


def _changes() -> list[Line]:
    begin = _know(_row(1, 1, "one"), rev=1)
    edited = _row(1, 3, "one, edited", x={"edited": 2000})
    return [
        _script(
            4,
            "edit replaces the row",
            [begin, _msg(1, 2, "changed", x={"edited": 2000})],
            feeds={"10": 2},
            rows=_rows((1, 2, "changed")),
        ),
        _script(
            4,
            "history ran ahead of the feed",
            [
                begin,
                {"page": {"conv": CONV, "anchor": 0}},
                _out("history", rid=1, conv=CONV),
                _in("page", rid=1, conv=CONV, msgs=[edited], more=False),
                _msg(1, 2, "half edited", x={"edited": 1500}),
                _msg(1, 3, "one, edited", x={"edited": 2000}),
            ],
            feeds={"10": 3},
            rows=_rows((1, 3, "one, edited")),
        ),
        _script(
            4,
            "my_conv with a row starts a feed there",
            [
                _synced(),
                _in("my_conv", rev=2, my={"conv": CONV, "role": 1}, row={"id": CONV, "rev": 4}),
                _msg(3, 5, "three"),
            ],
            feeds={"0": 2, "10": 5},
            rows=_rows((3, 5, "three")),
        ),
        _script(
            4,
            "an unknown feed starts with a sync",
            [
                _synced(),
                _msg(3, 5, "three"),
                _out("sync", rid=1, q={"heads": [{"conv": CONV, "rev": 0}]}),
                _synced(_delta(5, _row(3, 5, "three"), gap=True), rid=1),
            ],
            feeds={"10": 5},
            rows=_rows((3, 5, "three")),
        ),
    ]


def _sends() -> list[Line]:
    begin = _know(_row(1, 1, "one"), rev=1)
    sent = {"conv": CONV, "seq": 2, "ts": 1002}
    send = _out("send", rid=1, conv=CONV, cid=CID, text="hi")
    again = _out("send", rid=2, conv=CONV, cid=CID, text="hi")
    mine = _row(2, 2, "hi", sender=ME, x={"cid": CID})
    hello = _out("hello", sync={"me_rev": 1, "since": 5000, "heads": [{"conv": CONV, "rev": 1}]})
    end: dict[str, Any] = {"feeds": {"10": 2}, "rows": _rows((1, 1, "one"), (2, 2, "hi"))}
    failed = _in("err", rid=1, code=500, reason="internal", retry=0)
    return [
        _script(
            4,
            "sent stands for the push",
            [begin, _say("hi"), send, _in("sent", rid=1, rev=2, dup=False, **sent)],
            **end,
            outbox=[],
        ),
        _script(
            4,
            "after 500 the same cid again",
            [begin, _say("hi"), send, failed, again, _in("sent", rid=2, rev=2, dup=False, **sent)],
            **end,
            outbox=[],
        ),
        _script(
            4,
            "the reply is lost, the sync brings the message",
            [
                begin,
                _say("hi"),
                send,
                {"cut": True},
                hello,
                _synced(_delta(2, mine)),
                again,
                _in("sent", rid=2, rev=0, dup=True, **sent),
            ],
            **end,
            outbox=[],
        ),
        _script(
            4,
            "the request is lost",
            [
                begin,
                _say("hi"),
                send,
                {"cut": True},
                hello,
                _synced(),
                again,
                _in("sent", rid=2, rev=2, dup=False, **sent),
            ],
            **end,
            outbox=[],
        ),
        _script(
            4,
            "refused for good",
            [
                begin,
                _say("hi"),
                send,
                _in("err", rid=1, code=301, reason="not permitted", retry=-1),
            ],
            feeds={"10": 1},
            rows=_rows((1, 1, "one")),
            outbox=[],
        ),
    ]


def _catching_up() -> list[Line]:
    begin = _know(_row(1, 1, "one"), _row(2, 2, "two"), rev=2)
    hello = _out("hello", sync={"me_rev": 1, "since": 5000, "heads": [{"conv": CONV, "rev": 2}]})
    cut = {"cut": True}
    return [
        _script(
            5,
            "changed rows only",
            [begin, cut, hello, _synced(_delta(5, _row(1, 4, "edited"), _row(3, 5, "three")))],
            feeds={"10": 5},
            rows=_rows((1, 4, "edited"), (2, 2, "two"), (3, 5, "three")),
        ),
        _script(
            5,
            "gap drops what was known",
            [begin, cut, hello, _synced(_delta(900, _row(500, 900, "late"), gap=True))],
            feeds={"10": 900},
            rows=_rows((500, 900, "late")),
        ),
        _script(
            5,
            "more to come",
            [
                begin,
                cut,
                hello,
                _synced(_delta(3, _row(3, 3, "three")), more=True, now=6000),
                _out("sync", rid=1, q={"since": 5000, "heads": [{"conv": CONV, "rev": 3}]}),
                _msg(5, 5, "five"),
                _wait(600),
                _synced(_delta(5, _row(4, 4, "four"), _row(5, 5, "five")), rid=1, now=7000),
            ],
            feeds={"10": 5},
            rows=_rows(
                (1, 1, "one"), (2, 2, "two"), (3, 3, "three"), (4, 4, "four"), (5, 5, "five")
            ),
        ),
        _script(
            5,
            "another epoch: all revisions are forgotten",
            [
                begin,
                cut,
                hello,
                _synced(epoch=2),
                _out("sync", rid=1, q={"me_rev": 0, "since": 0, "heads": []}),
                _synced(_delta(1, _row(1, 1, "one"), gap=True), rid=1, epoch=2),
            ],
            feeds={"10": 1},
            rows=_rows((1, 1, "one")),
        ),
        _script(
            5,
            "resync",
            [
                begin,
                _in("resync", feeds=[CONV]),
                _out("sync", rid=1, q={"heads": [{"conv": CONV, "rev": 2}]}),
                _synced(_delta(3, _row(3, 3, "three")), rid=1),
            ],
            feeds={"10": 3},
            rows=_rows((1, 1, "one"), (2, 2, "two"), (3, 3, "three")),
        ),
        _script(
            5,
            "the user's own feed has holes too",
            [
                begin,
                _in("my_conv", rev=3, my={"conv": CONV, "read": 2}),
                _wait(500),
                _out("sync", rid=1, q={"me_rev": 1}),
                _synced(rid=1, me_rev=3, me=[]),
            ],
            feeds={"0": 3, "10": 2},
        ),
    ]


ANSWER: Final = "你好, Ada!"
_BYTES: Final = ANSWER.encode()


def _start() -> _Step:
    return _in("s_start", sid=SID, conv=CONV, persona=PERSONA, ask=1, ts=1001, state=1)


def _piece(begin: int, end: int, *, part: int = 0) -> _Step:
    """A delta of the answer's bytes begin to end."""
    return _in("s_delta", sid=SID, part=part, off=begin, text=_BYTES[begin:end].decode())


def _end(**changes: Any) -> _Step:
    fields = {
        "reason": 0,
        "rev": 2,
        "seq": 2,
        "ts": 1002,
        "total": len(_BYTES),
        "crc": crc32(_BYTES),
    }
    return _in("s_end", sid=SID, conv=CONV, **{**fields, **changes})


def _opened(off: int, end: int, state: int = 1) -> _Step:
    fields = {"rid": 1, "sid": SID, "conv": CONV, "state": state, "part": 0, "off": off}
    return _in("opened", **fields, text=_BYTES[off:end].decode(), total=end)


def _streams() -> list[Line]:
    begin = _know(_row(1, 1, "ask", sender=ME), rev=1)
    whole = {"feeds": {"10": 2}, "rows": _rows((1, 1, "ask"), (2, 2, ANSWER)), "streams": {}}
    stored = _row(2, 2, ANSWER, kind=6, sender=PERSONA, x={"persona": PERSONA, "sid": SID})
    open_3 = _out("open", rid=1, sid=SID, part=0, off=3)
    fetch = _out("get", rid=1, conv=CONV, seqs=[2])
    page = _in("page", rid=1, conv=CONV, msgs=[stored], more=False)
    return [
        _script(
            8,
            "piece by piece",
            [begin, _start(), _piece(0, 3), _piece(3, len(_BYTES)), _end()],
            **whole,
        ),
        _script(
            8,
            "overlapping pieces",
            [
                begin,
                _start(),
                _piece(0, 6),
                _piece(3, 8),
                _piece(0, 3),
                _piece(8, len(_BYTES)),
                _end(),
            ],
            **whole,
        ),
        _script(
            8,
            "a piece is missing",
            [
                begin,
                _start(),
                _piece(0, 3),
                _piece(6, 8),
                open_3,
                _opened(3, 8),
                _piece(8, len(_BYTES)),
                _end(),
            ],
            **whole,
        ),
        _script(
            8,
            "msg in place of s_end",
            [begin, _start(), _piece(0, 3), _in("msg", conv=CONV, **stored)],
            **whole,
        ),
        _script(
            8,
            "not the text that was stored",
            [begin, _start(), _piece(0, len(_BYTES)), _end(crc=1), fetch, page],
            **whole,
        ),
        _script(
            8,
            "the end without the whole text",
            [begin, _start(), _piece(0, 3), _end(), fetch, page],
            **whole,
        ),
        _script(
            8,
            "second device",
            [
                _synced(
                    _delta(1, _row(1, 1, "ask", sender=ME), gap=True),
                    streams=[{"sid": SID, "conv": CONV, "persona": PERSONA, "part": 0, "off": 8}],
                ),
                _piece(0, 8),
                _piece(8, len(_BYTES)),
                _end(),
            ],
            **whole,
        ),
        _script(
            8,
            "cut in the middle",
            [
                begin,
                _start(),
                _piece(0, 3),
                {"cut": True},
                _out("hello", sync={"streams": [{"sid": SID, "part": 0, "off": 3}]}),
                _synced(
                    streams=[{"sid": SID, "conv": CONV, "persona": PERSONA, "part": 0, "off": 8}]
                ),
                _piece(3, len(_BYTES)),
                _end(),
            ],
            **whole,
        ),
        _script(
            8,
            "reasoning counts by itself",
            [
                begin,
                _start(),
                _in("s_delta", sid=SID, part=1, off=0, text="hm, "),
                _in("s_delta", sid=SID, part=1, off=4, text="so"),
                _piece(0, 6),
            ],
            feeds={"10": 1},
            streams={str(SID): {"0": "你好", "1": "hm, so"}},
        ),
        _script(
            8,
            "nothing was stored",
            [begin, _start(), _end(reason=4, rev=0, seq=0, total=0, crc=0)],
            feeds={"10": 1},
            rows=_rows((1, 1, "ask")),
            streams={},
        ),
    ]


SCRIPTS: Final[list[Line]] = [
    *_ordering(),
    *_changes(),
    *_sends(),
    *_catching_up(),
    *_streams(),
]
