"""docs/protocol.md says what the code says."""

import enum
import re
from pathlib import Path

import pytest

from protocol import codes
from protocol.codec import CODES, NAMES
from protocol.codes import Code
from protocol.frames import PREFACE
from protocol.listing import BEGIN, END, RESERVED, place_listing, write_listing
from protocol.text import MAX_MARKS

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")


def test_the_listing_is_up_to_date() -> None:
    assert place_listing(DOCUMENT) == DOCUMENT, (
        "run `python -m protocol.listing --write docs/protocol.md`"
    )


def test_the_listing_holds_every_message_once() -> None:
    lines = write_listing().splitlines()
    for cls, name in NAMES.items():
        found = [line for line in lines if re.match(rf"(C|S|CS) {CODES[cls]} {name}( |$)", line)]
        assert len(found) == 1, name


def test_reserved_codes_are_said_to_be_reserved() -> None:
    for code, name in RESERVED.items():
        assert f"{code} `{name}`" in DOCUMENT


def test_a_document_without_markers_is_refused() -> None:
    for text in ("", BEGIN, END):
        with pytest.raises(ValueError):
            place_listing(text)


def test_every_error_code_is_explained() -> None:
    explained = {int(code) for code in re.findall(r"^\| (\d{3}) \| \w", DOCUMENT, re.MULTILINE)}
    assert explained == set(Code)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("`Conv.kind`", codes.ConvKind),
        ("message `kind`", codes.MsgKind),
        ("`role`", codes.Role),
        ("`scope`", codes.Scope),
        ("`User.kind`", codes.UserKind),
        ("`gen.mode`", codes.GenMode),
        ("stream `state`", codes.StreamState),
        ("`part`", codes.StreamPart),
        ("`reason` of `s_end`, `finish`", codes.EndReason),
        ("`typing.state`", codes.TypingState),
        ("`Pres.state`", codes.PresenceState),
        ("`fmt`", codes.TextFormat),
        ("`SendX.ai`", codes.AiMode),
        ("`notice.kind`", codes.NoticeKind),
        ("`tool_settled.state`", codes.Settled),
        ("`method`", codes.AuthMethod),
    ],
)
def test_every_enumeration_is_listed(row: str, kind: type[enum.IntEnum]) -> None:
    line = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| {row} |"))
    values = line.split("|")[2].split(";")[0]
    assert [int(number) for number in re.findall(r"(?:^|, ) ?(\d+)", values)] == list(kind)


def test_every_capability_is_listed() -> None:
    line = next(line for line in DOCUMENT.splitlines() if line.startswith("| `caps` |"))
    assert {int(number) for number in re.findall(r"\d+", line)} == {int(bit) for bit in codes.Caps}


def test_the_preface_is_shown_as_it_is() -> None:
    assert f"`{PREFACE.hex(' ').upper()}`" in DOCUMENT


def test_the_bound_of_combining_marks_is_told() -> None:
    assert f"more than {MAX_MARKS} combining marks" in DOCUMENT


def test_links_within_the_document_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", DOCUMENT, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    targets = re.findall(r"\]\(#([^)]+)\)", DOCUMENT)
    assert targets
    assert set(targets) <= anchors


def test_links_to_files_lead_somewhere() -> None:
    targets = re.findall(r"\]\((\.\./[^)#]+)\)", DOCUMENT)
    assert targets
    assert all((ROOT / "docs" / target).exists() for target in targets)
