"""The examples with curl of the pages that people read first, run as they are written there.

What a page may rely on: a server at 127.0.0.1:8420 (curl is led to the one of the tests, and fails
where a request fails), the command `parlance` that belongs to it, `python3`, and in `KEY` an API
key that may do everything. The blocks of one page are one script.
"""

import asyncio
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from bench.provider.script import answer_text, parse_model
from bench.provider.server import ScriptedProvider
from server.api_keys import SCOPES
from tests.e2e.harness import ROOT, Process, command, environment, free_port
from tests.e2e.serving import answering, serving

MODEL: Final = "tokens=20"
ANSWER: Final = answer_text(parse_model(MODEL))
_find_blocks: Final = re.compile(r"^```(?:sh|bash|shell)\n(.*?)^```", re.S | re.M).findall


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server of its own: the examples change its AI services."""
    with serving(Process(tmp_path_factory.mktemp("examples"), free_port())) as process:
        yield process


@pytest.fixture
async def provider(server: Process) -> AsyncIterator[ScriptedProvider]:
    """The AI service of that server; its models are asked for whenever the services change."""
    async with answering(server.provider_port, MODEL) as provider:
        yield provider


@pytest.fixture(autouse=True)
def _curl() -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")


def blocks_of(page: str) -> list[str]:
    """Return the blocks of a page that hold a command; of the API's own page also the others."""
    found: list[str] = _find_blocks((ROOT / page).read_text(encoding="utf-8"))
    return [block for block in found if "curl" in block or page == "docs/http-api.md"]


def surroundings(server: Process, folder: Path) -> dict[str, str]:
    """Return the environment that examples run in."""
    tools = folder / "bin"
    tools.mkdir()
    parlance = tools / "parlance"
    parlance.write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" -m server "$@"\n')
    parlance.chmod(0o755)
    here = f"127.0.0.1:{server.port}"
    lines = ["fail-with-body", "silent", "show-error"]
    lines += [f'connect-to = "{host}:8420:{here}"' for host in ("127.0.0.1", "localhost")]
    (folder / ".curlrc").write_text("\n".join(lines) + "\n")
    words = [word for scope in SCOPES for word in ("--scope", scope)]
    key = command("token", "key", "add", "examples", *words, config=server.config)
    assert key.returncode == 0, key.stderr
    env = environment(
        CURL_HOME=str(folder), PARLANCE_CONFIG=str(server.config), KEY=key.stdout.strip()
    )
    return env | {"PATH": f"{tools}:{env['PATH']}"}


async def run(blocks: list[str], server: Process, folder: Path) -> str:
    """Return what the blocks print, run as one script; each of their commands must succeed."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", "set -euo pipefail\n" + "\necho\n".join(blocks),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=surroundings(server, folder),
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 45)
    assert process.returncode == 0, out.decode() + err.decode()
    return out.decode()


async def test_the_examples_of_the_api_run_as_written(
    server: Process, provider: ScriptedProvider, tmp_path: Path
) -> None:
    blocks = blocks_of("docs/http-api.md")
    assert len(blocks) >= 7
    said = await run(blocks, server, tmp_path)
    assert '"nick":"Anna"' in said
    assert '"title":"第一次"' in said
    assert f'"text":{json.dumps(ANSWER, ensure_ascii=False)}' in said
    events = re.findall(r"^event: (\w+)$", said, re.M)
    assert (events[0], events[-1]) == ("message", "end")
    assert '"status":"done"' in said


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/operations.md"])
async def test_the_examples_of_other_pages_run_as_written(
    server: Process, provider: ScriptedProvider, tmp_path: Path, page: str
) -> None:
    blocks = blocks_of(page)
    if not blocks:
        pytest.skip("there is no example with curl on this page")
    assert await run(blocks, server, tmp_path)


async def test_an_example_that_fails_is_noticed(server: Process, tmp_path: Path) -> None:
    """Also in a pipe, and where curl is not told to fail."""
    with pytest.raises(AssertionError, match="no credentials"):
        await run(["curl http://localhost:8420/api/v1/me | cat"], server, tmp_path)
