"""What strangers may send: requests made from the document, answers held against it.

Schemathesis reads the served document, makes good and bad requests to every route, and reports
an answer with a status, kind, header or body that the document does not name, and every 5xx.
Deeper, by hand: PARLANCE_SCHEMATHESIS_EXAMPLES=40 pytest tests/e2e/test_schemathesis.py
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from server.api_keys import SCOPES
from tests.e2e.harness import Process, command, environment

EXAMPLES: Final = int(os.environ.get("PARLANCE_SCHEMATHESIS_EXAMPLES", "2"))
QUICK: Final = EXAMPLES <= 2
LIMIT_S: Final = 300 if QUICK else 3_600  # some 20 s on an idle machine
CHECKS: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
)
RUN: Final = "from schemathesis.cli import schemathesis; schemathesis()"


class World:
    """A server with somebody on it, and what there is to be asked for."""

    def __init__(self, server: Process) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{server.port}"
        self.token = ""
        who = self.ask("auth/register", name="Anna", password="a right long password")
        self.token, self.user = who["token"], who["user"]["id"]
        self.persona = self.ask("personas?scope=2")["personas"][0]["id"]
        self.conv = self.ask("conversations", persona=self.persona)["conversation"]["id"]
        said = [
            self.ask(f"conversations/{self.conv}/messages?wait=answer", text=text)
            for text in ("你好", "How are you?")
        ]
        self.turns = [one["turn"] for one in said]
        room = {"kind": 3, "title": "room", "members": []}
        self.room = self.ask("conversations", **room)["conversation"]["id"]
        self.own = self.ask("personas", name="Own", prompt="Be brief.")["id"]
        self.memory = self.ask("memories", persona=self.persona, text="Likes tea.")["id"]
        self.avatar = self._picture()
        words = [word for scope in SCOPES for word in ("--scope", scope)]
        made = command("token", "key", "add", "everything", *words, config=server.config)
        assert made.returncode == 0, made.stderr
        self.key = made.stdout.strip()
        self.victim = self.ask("admin/users", name="Victim")["id"]
        self.victims_key = self.ask("admin/keys", name="victim", scopes=["chat"])["id"]
        self.ask("admin/tenants", slug="acme")

    def ask(self, path: str, **body: object) -> Any:
        """Return the answer to a GET, or with a body to a POST."""
        secret = self.key if path.startswith("admin/") else self.token
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {secret}"}
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"{self.url}/api/v1/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def _picture(self) -> int:
        """Return the number of a picture that was uploaded."""
        data = b"\x89PNG\r\n\x1a\n" + bytes(32)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "image/png"}
        request = urllib.request.Request(f"{self.url}/api/v1/avatars", data, headers, method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(json.load(answer)["id"])

    def settings(self) -> str:
        """Return the configuration of a run: who asks, and ids that are there."""
        known = {
            "conversations": [self.conv, self.room],
            "seqs": [1, 2, 3, 4],
            "users": [self.user],
            "turns": self.turns,
            "personas": [self.persona, self.own],
            "memories": [self.memory],
            "messages": [f"{self.conv}-1", f"{self.conv}-2"],
            "models": ["nova"],
            "engines": ["chat"],
            "avatars": [self.avatar],
            "victims": [self.victim],
            "keys": [self.victims_key],
            "tenants": ["default", "acme"],
            "scopes": list(SCOPES),
            "days": ["2026-01-01", "2026-01-31"],
        }
        lines = [
            f"[dictionaries.{name}]\nvalues = {json.dumps(values)}"
            for name, values in known.items()
        ]
        lines += [
            f'[auth.openapi.token]\nbearer = "{self.token}"',
            f'[auth.openapi.key]\napi_key = "{self.key}"',
        ]
        for path, names in PARAMETERS.items():
            bound = ", ".join(
                f'"{name}" = {{ dictionary = "{of}", probability = 0.7 }}'
                for name, of in names.items()
            )
            lines.append(
                f"[[operations]]\ninclude-path-regex = '{path}'\nparameters = {{ {bound} }}"
            )
        # The server would ask made-up addresses for their models.
        lines.append("[[operations]]\ninclude-path-regex = '/admin/providers/'\nenabled = false")
        return "\n".join(lines) + "\n"


PARAMETERS: Final = {
    "^/api/v1/conversations/": {
        "path.id": "conversations",
        "path.seq": "seqs",
        "path.user": "users",
        "body.seq": "seqs",
    },
    "^/api/v1/conversations$": {"body.persona": "personas"},
    "^/api/message/(send|list)": {
        "query.conversation_id": "conversations",
        "body.conversation_id": "conversations",
    },
    "^/api/message/.id": {"path.id": "messages"},
    "^/api/(v1/turns|ai)": {"path.id": "turns", "query.conversation": "conversations"},
    "^/api/v1/personas": {"path.id": "personas"},
    "^/api/v1/users": {"path.id": "users"},
    "^/api/v1/memories": {"path.id": "memories", "body.persona": "personas"},
    "^/v1/": {"path.name": "models", "body.model": "models"},
    "^/api/v1/chat": {"body.persona_id": "personas", "body.model": "models"},
    "^/api/v1/engines": {"path.name": "engines"},
    "^/api/v1/avatars": {"path.id": "avatars"},
    "^/api/v1/admin/users/": {"path.id": "victims"},
    "^/api/v1/admin/keys": {"path.id": "keys", "body.scopes[*]": "scopes"},
    "^/api/v1/admin/tenants/": {"path.slug": "tenants"},
    "^/api/v1/admin/(users|keys|budgets|usage)": {"query.tenant": "tenants"},
    "^/api/v1/admin/usage": {"query.since": "days", "query.until": "days"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server of its own: nothing is left as it was."""
    server = Process(tmp_path_factory.mktemp("fuzzed"))
    fast = server.template.replace("rate = 1000.0", "rate = 1e6")
    server.template = fast.replace("burst = 2000.0", "burst = 1e6")
    server.start()
    try:
        yield World(server)
    finally:
        server.kill()


@pytest.mark.timeout(LIMIT_S + 30)
def test_every_answer_is_one_that_the_document_names(world: World, tmp_path: Path) -> None:
    if importlib.util.find_spec("schemathesis") is None:
        pytest.skip("schemathesis is not installed")
    config = tmp_path / "schemathesis.toml"
    config.write_text(world.settings(), encoding="utf-8")
    how = ["--generation-deterministic"] if QUICK else ["--generation-database", "none"]
    done = subprocess.run(
        [
            sys.executable, "-c", RUN, "--config-file", str(config),
            "run", f"{world.url}/api/openapi.json", "--checks", ",".join(CHECKS),
            "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(EXAMPLES), *how,
            "--no-shrink", "--request-timeout", "10", "--continue-on-failure",
            "--warnings", "off", "--no-color",
        ],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=LIMIT_S,
        check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-20_000:]
    found = re.search(r"(\d+) generated", said)
    assert found is not None, said[-2_000:]
    assert int(found[1]) > 3_000
    assert "http.crashed" not in world.server.log.read_text()
