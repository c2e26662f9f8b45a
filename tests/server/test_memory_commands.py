"""parlance memory …, on an SQLite file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from storage.accounts import create_user
from storage.ids import new_id
from storage.memories import add_memory, set_off
from storage.rows import StoreOptions
from storage.store import Store
from tests.conftest import sqlite_url
from tests.server.shell import Shell

Run = Callable[..., str]


@pytest.fixture
def ids(tmp_path: Path) -> list[int]:
    """Memories of anna: two with persona 5, one with persona 6."""

    async def fill() -> list[int]:
        store = await Store.open(StoreOptions(url=sqlite_url(tmp_path)))
        anna = new_id()
        await store.change((), partial(create_user, tenant=1, name="anna", id=anna))
        made = []
        for persona, text in ((5, "我养了一只猫叫年糕"), (5, "likes tea"), (6, "lives in Rome")):
            add = partial(add_memory, tenant=1, user=anna, persona=persona, kind="other")
            made.append((await store.change([anna], partial(add, text=text))).id)
        await store.change([anna], partial(set_off, user=anna, off=True))
        await store.close()
        return made

    return asyncio.run(fill())


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return partial(Shell(tmp_path, capsys).run, "memory")


def test_the_list_shows_what_is_known_and_the_choice(ids: list[int], run: Run) -> None:
    shown = run("list", "anna")
    for text in ("我养了一只猫叫年糕", "likes tea", "lives in Rome", str(ids[0]), "nothing to be"):
        assert text in shown
    assert "Rome" not in run("list", "anna", "--persona", "5")


def test_an_export_is_json(ids: list[int], run: Run, tmp_path: Path) -> None:
    found = json.loads(run("export", "anna"))["memories"]
    assert [one["id"] for one in found] == ids
    out = tmp_path / "anna.json"
    assert "Wrote 1 memories" in run("export", "anna", "--persona", "6", "--out", str(out))
    assert json.loads(out.read_text())["memories"][0]["text"] == "lives in Rome"
    assert "cannot write" in run("export", "anna", "--out", str(tmp_path / "no" / "x"), code=1)


def test_erasing_one_some_and_all(ids: list[int], run: Run) -> None:
    assert "Erased 1." in run("erase", "anna", "--memory", str(ids[0]), "--yes")
    assert "no memory" in run("erase", "anna", "--memory", str(ids[0]), "--yes", code=1)
    assert "年糕" not in run("list", "anna")
    assert "Erased 1." in run("erase", "anna", "--persona", "5", "--yes")
    assert "lives in Rome" in run("list", "anna")
    assert "Erased 1." in run("erase", "anna", "--yes")
    assert json.loads(run("export", "anna")) == {"memories": []}


def test_unknown_people_are_named(ids: list[int], run: Run) -> None:
    assert "no user 'bob'" in run("list", "bob", code=1)
