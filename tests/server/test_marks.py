"""Read cursors: bounded while the store does not answer, highest value wins."""

from pathlib import Path

import pytest

from server import marks as module
from server.marks import Marks
from tests.server.harness import serving


async def test_read_cursors_are_bounded_while_the_store_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_DIRTY", 3)
    async with serving(tmp_path) as server:
        marks = Marks(server.core)
        marks._writing = True  # a write is under way and does not end
        for conv in range(1, 6):
            marks.sent(conv, 7, 1)
        assert marks.dropped == 2
        marks.sent(1, 7, 2)  # one that waits already only rises
        assert marks.dropped == 2
        for conv in range(1, 9):
            marks.marked(conv, 7, 1, 1)
        assert marks.dropped == 4
        marks.marked(1, 7, 5, 5)
        assert marks._dirty[1, 7].read == 5
