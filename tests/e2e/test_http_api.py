"""The examples of docs/http-api.md, run as they are written there."""

import asyncio
import json
import re
import shutil

import pytest

from bench.provider.script import answer_text, parse_model
from bench.provider.server import ScriptedProvider
from tests.e2e.harness import ROOT, Process, environment

PAGE = ROOT / "docs" / "http-api.md"
ANSWER = answer_text(parse_model("tokens=20"))


async def test_the_examples_of_the_page_run_as_written(
    server: Process, provider: ScriptedProvider
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    assert len(blocks) >= 7
    script = "set -euo pipefail\n" + "\necho\n".join(blocks)
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(URL=f"http://127.0.0.1:{server.port}"),
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 30)
    said = out.decode()
    assert process.returncode == 0, said + err.decode()
    assert '"nick":"Anna"' in said
    assert '"title":"第一次"' in said
    assert f'"text":{json.dumps(ANSWER, ensure_ascii=False)}' in said
    events = re.findall(r"^event: (\w+)$", said, re.M)
    assert (events[0], events[-1]) == ("message", "end")
    assert '"status":"done"' in said
