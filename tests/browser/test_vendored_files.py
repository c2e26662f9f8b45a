"""The libraries of the web app are what their makers published. Nothing is fetched here."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from clients.web.vendor import refresh
from clients.web.vendor.refresh import FOLDER, LIBRARIES, MANIFEST, Library, Refused

ENTRIES: list[dict[str, Any]] = json.loads(MANIFEST.read_text(encoding="utf-8"))["libraries"]


def test_every_file_is_the_one_in_the_manifest() -> None:
    listed = {file["path"]: file for entry in ENTRIES for file in entry["files"]}
    ours = {"MANIFEST.json", "__init__.py", "refresh.py"}
    found = {
        path.relative_to(FOLDER).as_posix()
        for path in FOLDER.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found - ours == set(listed)
    for name, file in listed.items():
        content = (FOLDER / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (
            file["bytes"],
            file["sha256"],
        ), name


def test_the_manifest_is_of_the_versions_that_would_be_fetched() -> None:
    written = [(e["name"], e["version"], e["licence"], e["integrity"]) for e in ENTRIES]
    assert written == [(x.package, x.version, x.licence, x.integrity) for x in LIBRARIES]


def test_every_library_comes_with_its_licence() -> None:
    for entry in ENTRIES:
        (path,) = [file["path"] for file in entry["files"] if file["path"].endswith("/LICENSE")]
        assert "copyright" in (FOLDER / path).read_text(encoding="utf-8").lower()


def test_the_app_asks_for_libraries_that_are_there() -> None:
    sources = [*(FOLDER.parent / "app").rglob("*.js"), *FOLDER.parent.glob("*.html")]
    asked = {
        name
        for source in sources
        for name in re.findall(r"vendor/([\w@./-]+\.m?js)", source.read_text(encoding="utf-8"))
    }
    assert asked
    assert [name for name in asked if not (FOLDER / name).is_file()] == []


def packed(files: dict[str, bytes]) -> tuple[bytes, str]:
    """Return a package as the registry would, and its hash."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    package = buffer.getvalue()
    return package, "sha512-" + base64.b64encode(hashlib.sha512(package).digest()).decode()


def library(integrity: str) -> Library:
    return Library("lib", "lib", "1.0.0", "MIT", integrity, {"lib.js": "dist/lib.js"})


@pytest.fixture
def package() -> tuple[bytes, str]:
    about = json.dumps({"version": "1.0.0", "license": "MIT"}).encode()
    return packed({"package.json": about, "dist/lib.js": b"export {}", "other.js": b"no"})


def test_what_is_wanted_is_taken_and_nothing_else(package: tuple[bytes, str]) -> None:
    content, integrity = package
    refresh.check_integrity(content, integrity)
    assert refresh.unpack(content, library(integrity)) == {"lib.js": b"export {}"}


@pytest.mark.parametrize("spoil", [lambda b: b + b"\0", lambda b: b[:-1]])
def test_a_changed_package_is_refused(package: tuple[bytes, str], spoil: Any) -> None:
    content, integrity = package
    with pytest.raises(Refused, match="expected hash"):
        refresh.check_integrity(spoil(content), integrity)


def test_a_weak_hash_is_refused(package: tuple[bytes, str]) -> None:
    with pytest.raises(Refused, match="only sha512"):
        refresh.check_integrity(package[0], "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=")


@pytest.mark.parametrize("about", [{"version": "1.0.1", "license": "MIT"}, {"license": "GPL"}])
def test_another_version_or_licence_is_refused(about: dict[str, str]) -> None:
    full = {"version": "1.0.0", **about}
    content, integrity = packed({"package.json": json.dumps(full).encode(), "dist/lib.js": b""})
    with pytest.raises(Refused, match="lib is"):
        refresh.unpack(content, library(integrity))


def test_modules_import_paths_and_plain_scripts_are_left_alone() -> None:
    plain, module = b"say('import \\'x\\' from \"other\"')", b'import {x} from"other";'
    about = json.dumps({"version": "1.0.0", "license": "MIT"}).encode()
    files = {"package.json": about, "plain.js": plain, "module.mjs": module}
    content, integrity = packed(files)
    wanted = library(integrity)._replace(
        files={"plain.js": "plain.js", "module.mjs": "module.mjs"},
        imports={"other": "../other.mjs"},
    )
    assert refresh.unpack(content, wanted) == {
        "plain.js": plain,
        "module.mjs": b'import {x} from"../other.mjs";',
    }
    with pytest.raises(Refused, match="imports other"):
        refresh.unpack(content, wanted._replace(imports={}))


def test_a_package_without_a_wanted_file_is_refused() -> None:
    about = json.dumps({"version": "1.0.0", "license": "MIT"}).encode()
    content, integrity = packed({"package.json": about})
    with pytest.raises(Refused, match=r"no file dist/lib\.js"):
        refresh.unpack(content, library(integrity))


def test_a_refused_package_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: tuple[bytes, str]
) -> None:
    content, integrity = package
    good, bad = library(integrity), library("sha512-AAAA")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "kept").touch()
    monkeypatch.setattr(refresh, "FOLDER", tmp_path)
    monkeypatch.setattr(refresh, "MANIFEST", tmp_path / "MANIFEST.json")
    monkeypatch.setattr(refresh, "_fetch", lambda _: content)
    monkeypatch.setattr(refresh, "LIBRARIES", (good, bad))
    with pytest.raises(SystemExit, match="Nothing was changed"):
        refresh.main()
    assert [path.name for path in tmp_path.rglob("*")] == ["lib", "kept"]
    monkeypatch.setattr(refresh, "LIBRARIES", (good,))
    refresh.main()
    assert (tmp_path / "lib" / "1.0.0" / "lib.js").read_bytes() == b"export {}"
    assert "1.0.0" in (tmp_path / "MANIFEST.json").read_text(encoding="utf-8")
