"""The tool server made with the official `mcp` package, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@contextmanager
def tool_server() -> Iterator[int]:
    """Run it; the port it listens on. Without the package the test is skipped."""
    pytest.importorskip("mcp")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ai_bridge.mcp_peer", "json"],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
