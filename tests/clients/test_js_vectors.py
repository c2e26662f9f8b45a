"""The JavaScript codec reads damaged frames as Python does, and its tables are up to date."""

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.codec import MSGPACK
from protocol.errors import Malformed, TooDeep
from protocol.frames import HEADER_BYTES
from protocol.listing_javascript import build_files
from protocol.vectors.lines import read_lines

SDK = Path(__file__).parents[2] / "clients" / "web" / "sdk"
NODE = shutil.which("node")
MUTANTS = 6000
MUTANT_BYTES = 400

needs_node = pytest.mark.skipif(NODE is None, reason="Node.js (`node`) is not installed")


def run_node(*arguments: str, text: str = "") -> str:
    """Run Node; return what it printed, or fail with it."""
    assert NODE is not None
    done = subprocess.run(
        [NODE, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tables_are_what_the_generator_writes() -> None:
    stale = [
        name
        for name, text in build_files().items()
        if (SDK / name).read_text(encoding="utf-8") != text
    ]
    assert not stale, "run `python -m protocol.listing_javascript --write clients/web/sdk`"


@needs_node
def test_damaged_frames_mean_the_same_in_javascript() -> None:
    frames = list(mutants(random.Random(20)))
    text = "".join(f"{direction} {payload.hex()}\n" for direction, payload in frames)
    theirs = run_node(
        str(Path(__file__).parent / "js" / "vector_outcomes.mjs"), text=text
    ).splitlines()
    ours = [outcome(direction, payload) for direction, payload in frames]
    assert len(theirs) == len(ours)
    for (direction, payload), mine, its in zip(frames, ours, theirs, strict=True):
        # Python writes some small maps with a long header: compare what the bytes mean.
        got = its if ":" in its else outcome(direction, bytes.fromhex(its)[HEADER_BYTES:])
        assert got == mine, (direction, payload.hex())
    refused = sum(isinstance(one, str) for one in ours)
    assert MUTANTS // 10 < refused < MUTANTS * 9 // 10, "both kinds must be among them"


def mutants(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield good frames with one to three bytes changed, put in or left out."""
    good = [
        (line["dir"], bytes.fromhex(line["hex"])[HEADER_BYTES:])
        for line in read_lines("messages")
        if len(line["hex"]) < 2 * MUTANT_BYTES
    ]
    for _ in range(MUTANTS):
        direction, payload = rng.choice(good)
        changed = bytearray(payload)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(changed))
            changed[at : at + rng.randint(0, 1)] = rng.randbytes(rng.randint(0, 1))
            if not changed:
                changed = bytearray(payload)
        yield direction, bytes(changed)


def outcome(direction: str, payload: bytes) -> Any:
    """Return the message that Python decodes, or the words of the vectors and the request id."""
    try:
        decode = MSGPACK.decode_client if direction == "c2s" else MSGPACK.decode_server
        return decode(payload)
    except TooDeep as error:
        return f"close:{error.code:d} {error.rid}"
    except Malformed as error:
        return f"err:{error.code:d} {error.rid}"
