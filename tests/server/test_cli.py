"""The command line, on an SQLite file; starting the interpreter only where that is the point."""

import asyncio
import configparser
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from typer.testing import CliRunner

from server.__main__ import app, put_first
from server.card_png import plain_picture
from server.cards import Card, card_picture, read_card_file
from server.commands.context import command_line
from tests.server.shell import Shell

ROOT = Path(__file__).parents[2]
GOOD = "a good password\n"


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password on standard input, again and again."""

    class Stdin:
        def readline(self) -> str:
            return GOOD

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr("sys.stdin", Stdin())


def python(*words: str, cwd: Path, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        timeout=timeout,
        check=False,
    )


# the whole


def test_help_is_there_at_once_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import server.__main__; "
        "print(time.perf_counter() - t); "
        "heavy = ('aiohttp', 'uvloop', 'jwt', 'argon2', 'storage.store'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    took, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert float(took) < 0.5
    helped = python("--help", cwd=tmp_path)
    assert helped.returncode == 0
    assert "serve" in helped.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["serve"],
        ["user"],
        ["user", "add"],
        ["tenant"],
        ["token"],
        ["token", "key", "add"],
        ["persona"],
        ["persona", "import"],
        ["dead-letters"],
        ["migrate"],
        ["doctor"],
        ["show-config"],
    ],
)
def test_every_command_explains_itself(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_common_options_may_stand_anywhere() -> None:
    words = ["user", "list", "--data-dir", "d", "--set=a.b=c", "--tenant", "t"]
    assert put_first(words) == ["--data-dir", "d", "--set=a.b=c", "user", "list", "--tenant", "t"]
    assert put_first(["chat", "--config", "x"]) == ["chat", "--config", "x"]
    key = ["token", "key", "add", "x", "--scope", "chat"]
    assert put_first([*key, "--data-dir", "d"]) == ["--data-dir", "d", *key]
    assert put_first(["user", "--", "--config"]) == ["user", "--", "--config"]


def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(app, ["nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    package = configparser.ConfigParser()
    package.read(ROOT / "setup.cfg")
    assert command_line(app, ["--version"]) == 0
    assert capsys.readouterr().out == f"parlance {package['metadata']['version']}\n"


def test_the_javascript_sdk_has_the_version_of_the_package() -> None:
    package = json.loads((ROOT / "clients/web/sdk/package.json").read_text("utf-8"))
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert package["version"] == config["metadata"]["version"]


# settings


def test_check_config_says_all_that_is_wrong(shell: Shell, tmp_path: Path) -> None:
    assert "The settings are good" in shell.run("check-config")
    bad = tmp_path / "bad.toml"
    bad.write_text("[server]\nprot = 1\n")
    said = shell.run("check-config", "--config", str(bad), code=1)
    assert "did you mean server.port?" in said
    said = shell.run("check-config", "--set", "server.host=0.0.0.0", code=1)
    assert "allow_cleartext" in said


def test_show_config_tells_values_and_sources_but_no_secrets(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLANCE_STORAGE_URL", "mysql://u:geheim@h/d")
    said = shell.run("show-config")
    assert "geheim" not in said
    (line,) = [line for line in said.splitlines() if "storage.url" in line]
    assert "(set)" in line
    assert "environment PARLANCE_STORAGE_URL" in line
    assert "limits.rate" not in shell.run("show-config", "--changed")


def test_config_doc_can_be_checked(shell: Shell, tmp_path: Path) -> None:
    target = tmp_path / "docs" / "c.md"
    shell.run("config-doc", str(target), "--check", code=1)
    shell.run("config-doc", str(target))
    assert "up to date" in shell.run("config-doc", str(target), "--check")


# accounts


@pytest.mark.usefixtures("password")
def test_users_are_added_listed_disabled_and_get_passwords(shell: Shell) -> None:
    assert "Added Anna" in shell.run("user", "add", "Anna", "--password-stdin", "--nick", "A")
    assert "name is taken" in shell.run("user", "add", "anna", "--password-stdin", code=1)
    assert "Anna" in shell.run("user", "list")
    shell.run("user", "disable", "Anna")
    assert "disabled" in shell.run("user", "list")
    assert "disabled" in shell.run("token", "user", "Anna", code=1)
    shell.run("user", "disable", "Anna", "--undo")
    token = shell.run("token", "user", "Anna").splitlines()[0]
    assert token.count(".") == 2
    assert "new password" in shell.run("user", "passwd", "Anna", "--password-stdin")
    assert "there is no user 'Bert'" in shell.run("token", "user", "Bert", code=1)


@pytest.mark.usefixtures("password")
def test_bad_names_are_refused_before_anything_is_opened(shell: Shell) -> None:
    assert "2 to 32" in shell.run("user", "add", "x", "--password-stdin", code=1)
    assert not shell.folder.exists()


@pytest.mark.usefixtures("password")
def test_without_a_terminal_no_password_is_asked_for(shell: Shell) -> None:
    assert "--password-stdin" in shell.run("user", "add", "Anna", code=1)


@pytest.mark.usefixtures("password")
def test_tenants_are_separate(shell: Shell) -> None:
    shell.run("tenant", "add", "acme", "--name", "Acme Inc.")
    assert "Acme Inc." in shell.run("tenant", "list")
    shell.run("user", "add", "Anna", "--tenant", "acme", "--password-stdin")
    assert "Anna" not in shell.run("user", "list")
    assert "Anna" in shell.run("user", "list", "--tenant", "acme")
    assert "no tenant 'other'" in shell.run("user", "list", "--tenant", "other", code=1)
    assert "slug" in shell.run("tenant", "add", "Not OK", code=1)
    assert "is called 新名" in shell.run("tenant", "rename", "acme", "新名")
    assert "新名" in shell.run("tenant", "list")
    assert "no tenant 'other'" in shell.run("tenant", "rename", "other", "x", code=1)


def test_api_keys_are_shown_once_and_revoked(shell: Shell) -> None:
    text = shell.run("token", "key", "add", "site", "--scope", "exchange").splitlines()[0]
    assert text.startswith("pk_")
    listed = shell.run("token", "key", "list")
    assert text not in listed
    number = next(word for word in listed.split() if word.isdecimal())
    shell.run("token", "key", "revoke", number)
    assert "Scopes are" in shell.run("token", "key", "add", "x", "--scope", "all", code=1)
    assert "--scope" in shell.run("token", "key", "add", "x", code=1)


# personas


def test_personas_are_added_changed_and_removed(shell: Shell) -> None:
    shell.run("persona", "add", "Captain Red", "--prompt", "You command.", "--tag", "sea")
    assert "already" in shell.run("persona", "add", "Captain Red", code=1)
    shell.run("persona", "edit", "Captain-Red", "--temperature", "0.4", "--greeting", "Aye")
    shell.run("persona", "edit", "Captain-Red", "--model", "m")
    shown = json.loads(shell.run("persona", "show", "Captain Red"))
    assert (shown["prompt"], shown["greeting"]) == ("You command.", "Aye")
    assert (shown["temperature"], shown["model"]) == (0.4, "m")
    shell.run("persona", "remove", "Captain Red")
    assert "Captain" not in shell.run("persona", "list")
    assert "no persona" in shell.run("persona", "show", "Captain Red", code=1)
    # Adding it again brings it back.
    shell.run("persona", "add", "Captain Red", "--prompt", "Anew.")
    assert "Captain Red" in shell.run("persona", "list")


def test_a_folder_of_personas_goes_in_and_comes_out_as_it_was(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "personas"
    folder.mkdir()
    picture = "iVBORw0KGgphYmM="
    seed = {"id": "p1", "name": "小红", "prompt": "你是小红。", "avatar": picture}
    (folder / "p1.json").write_text(json.dumps(seed | {"create_time": "2023-01-01"}))
    full = {"id": "p2", "name": "Two", "greeting": "Hi", "model": "m", "temperature": 1.5}
    (folder / "p2.json").write_text(json.dumps(full | {"max_tokens": 9, "tags": ["a"]}))
    (folder / "p3.json").write_text("{")
    (folder / "p4.json").write_text('{"id": "p4", "name": "P4", "avatar": "AAAA"}')
    said = shell.run("persona", "import", str(folder))
    assert "2 taken in, 2 left out" in said
    assert "p3.json: not JSON" in said
    assert "p4.json: avatar" in said
    out = tmp_path / "out"
    assert "2 written" in shell.run("persona", "export", str(out))
    first = json.loads((out / "p1.json").read_text())
    assert {name: first[name] for name in seed} == seed
    assert first["create_time"] == "2023-01-01T00:00:00.000+00:00"
    second = json.loads((out / "p2.json").read_text())
    assert {name: second[name] for name in full} == full
    # Again: renewed, not doubled.
    (folder / "p1.json").write_text(json.dumps(seed | {"name": "小明"}))
    shell.run("persona", "import", str(folder))
    listed = shell.run("persona", "list")
    assert "小明" in listed
    assert "小红" not in listed


def test_cards_go_in_and_come_out_whole(shell: Shell, tmp_path: Path) -> None:
    folder, out = tmp_path / "cards", tmp_path / "out"
    folder.mkdir()
    data = {"name": "小红", "description": "{{char}}在里昂。", "extensions": {"x/y": [1, None]}}
    raw = {"spec": "chara_card_v3", "spec_version": "3.0", "data": data}
    (folder / "a.json").write_text(json.dumps(raw))
    (folder / "b c.png").write_bytes(card_picture(Card(raw), plain_picture()))
    (folder / "bad.png").write_bytes(plain_picture())
    (folder / "notes.txt").write_text("not looked at")
    own = {"id": "own", "name": "Own", "prompt": "One."}
    (folder / "own.json").write_text(json.dumps(own))
    said = shell.run("persona", "import", str(folder))
    assert "3 taken in, 1 left out" in said
    assert "bad.png: PNG: there is no character card in this picture" in said
    assert "3 written" in shell.run("persona", "export", str(out))
    assert json.loads((out / "a.json").read_text()) == raw
    found = read_card_file((out / "b-c.png").read_bytes())
    assert (found.card.raw, found.picture) == (raw, plain_picture())
    assert json.loads((out / "own.json").read_text())["prompt"] == "One."
    assert "1 taken in" in shell.run("persona", "import", str(out / "b-c.png"))
    assert "3 written" in shell.run("persona", "export", str(out), "--cards", "png")
    assert read_card_file((out / "own.png").read_bytes()).card.prompt == "One."
    assert "no file or folder" in shell.run("persona", "import", str(tmp_path / "x"), code=1)


@pytest.mark.usefixtures("password")
def test_personas_of_a_user_go_out_and_in_without_doubling(shell: Shell, tmp_path: Path) -> None:
    shell.run("user", "add", "Anna", "--password-stdin")
    shell.run("persona", "add", "Mine", "--prompt", "One.", "--user", "Anna")
    assert "Mine" not in shell.run("persona", "list")
    out = tmp_path / "out"
    shell.run("persona", "export", str(out), "--user", "Anna")
    (path,) = out.iterdir()
    path.write_text(path.read_text().replace("One.", "Two."))
    shell.run("persona", "import", str(out), "--user", "Anna")
    listed = shell.run("persona", "list", "--user", "Anna")
    assert listed.count("Mine") == 1
    assert json.loads(shell.run("persona", "show", "Mine"))["prompt"] == "Two."


# the database


def test_a_database_that_cannot_be_opened_is_one_line_and_1(shell: Shell) -> None:
    shell.folder.mkdir()
    (shell.folder / "parlance.db").mkdir()
    for words in (["serve"], ["user", "list"], ["migrate"]):
        said = shell.run(*words, code=1)
        lines = [line for line in said.splitlines() if line.startswith("parlance: ")]
        assert len(lines) == 1, said
        assert lines[0].startswith("parlance: database: ")
        assert "Traceback" not in said


def test_migrate_applies_and_says_where_it_stands(shell: Shell) -> None:
    assert "up to date" in shell.run("migrate")
    assert "up to date" in shell.run("migrate", "status")
    assert "up to date" in shell.run("migrate", "apply")


def test_migrate_status_changes_nothing(shell: Shell) -> None:
    assert "parlance migrate" in shell.run("migrate", "status", code=1)
    assert "parlance migrate" in shell.run("migrate", "status", code=1)


def test_dead_letters_can_be_looked_at_and_thrown_away(shell: Shell) -> None:
    shell.run("migrate")
    letter = {
        "id": 5,
        "created": 1_700_000_000_000,
        "kind": "change:edit",
        "reason": "was refused",
        "payload": "{}",
        "replayed_at": 0,
    }
    (shell.folder / "dead-letters.jsonl").write_text(json.dumps(letter) + "\n")
    assert "was refused" in shell.run("dead-letters", "list")
    assert "change:edit" in shell.run("dead-letters", "show", "5")
    assert "no dead message 5" in shell.run("dead-letters", "replay", "5", code=1)
    assert "0 stored, 0 failed" in shell.run("dead-letters", "replay")
    assert "Dropped 1." in shell.run("dead-letters", "drop", "5", "--yes")
    assert "no dead letter 5" in shell.run("dead-letters", "show", "5", code=1)


def test_the_doctor_looks_at_everything(shell: Shell) -> None:
    said = shell.run("doctor")
    for word in ("Python", "settings", "data", "open files", "sqlite", "AI", "clock"):
        assert word in said
    providers = '[{"name": "gone", "base_url": "http://127.0.0.1:1/v1"}]'
    said = shell.run("doctor", "--set", f"ai.providers={providers}", code=1)
    assert "fail  AI gone: cannot be reached" in said


# serving


def test_a_port_in_use_is_explained(shell: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = shell.run("serve", "--port", str(port), code=1)
    assert f"127.0.0.1:{port} is in use" in said
    assert f"--port {port + 1}" in said


def test_serve_says_what_to_type_next_and_stops_when_asked(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "server", "serve", "--port", "0", "--set", "ai.detect=false"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
    )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "Stop with" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()[1]
        text = "".join(lines)
        port = int(text.split("http://127.0.0.1:")[1].split("/")[0])
        assert f"parlance chat --url 127.0.0.1:{port}" in text

        async def ask() -> int:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/health") as response,
            ):
                return response.status

        assert asyncio.run(ask()) == 200
        # A second program may write beside the server.
        said = python("token", "key", "add", "x", "--scope", "metrics", cwd=tmp_path)
        assert said.stdout.startswith("pk_"), said.stderr
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=15)
        assert process.returncode == 0, err
        assert time.monotonic() - started < 5
        for line in err.splitlines():
            assert json.loads(line)["event"]
    finally:
        process.kill()
        process.wait()
