"""Fetch the libraries of the web app again: `python -m clients.web.vendor.refresh`.

For those who maintain the libraries; nobody else needs it, or npm. The packages come from the
registry that npm is set up for. A package whose hash is not the one written here is refused. What
it lays down is listed in MANIFEST.json, which tests compare with the files.

A new version: change its version and integrity below (`npm view NAME@VERSION dist.integrity`), run
this, change the version in the imports of clients/web/app, and the record of decisions.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

FOLDER: Final = Path(__file__).resolve().parent
MANIFEST: Final = FOLDER / "MANIFEST.json"


class Library(NamedTuple):
    """One package, and which of its files are taken, by the name they get here."""

    folder: str
    package: str
    version: str
    licence: str
    integrity: str
    files: Mapping[str, str]
    imports: Mapping[str, str] = MappingProxyType({})
    """Names of packages that its modules import, and the paths that stand for them here: browsers
    know no names."""


_LANGUAGES: Final = (
    *("bash", "c", "cpp", "csharp", "css", "diff", "dockerfile", "go", "ini", "java"),
    *("javascript", "json", "kotlin", "lua", "makefile", "markdown", "php", "python"),
    *("ruby", "rust", "sql", "swift", "typescript", "xml", "yaml"),
)

LIBRARIES: Final = (
    Library(
        "markdown-it",
        "markdown-it",
        "15.0.3",
        "MIT",
        "sha512-+Az7Ojz3iRGu8KYMvJ6xVhvrxP3eE+vEtJX75Ow88XBpcQNV/0lGX5ZynIIBftREo4DC2jsveAMDaeltmm8QvQ==",
        {
            "markdown-it.esm.min.mjs": "dist/browser/markdown-it.esm.min.mjs",
            "LICENSE": "LICENSE",
        },
    ),
    *(
        # Parts of what markdown-it publishes for browsers; only their licences are needed.
        Library(f"markdown-it-{name}", name, version, licence, integrity, {"LICENSE": source})
        for name, version, licence, source, integrity in (
            (
                "entities",
                "8.1.0",
                "BSD-2-Clause",
                "LICENSE",
                "sha512-kxL7msIffSuh9aaFAMD7rxAIuTRMAHMeBtgHW2yUdWw732ZNh4MehkF2gdjvtdmikkaIP9bFDDJOPlsvm7avrA==",
            ),
            (
                "linkify-it",
                "6.1.0",
                "MIT",
                "LICENSE",
                "sha512-wJ/TwpSDTLepCrQoYWYIExIKg5Zchex2Nn5yk2mFnB+6PtdkHtyLx742md9csRjjOnGkKIS/RrbY7l8D6gT9Vw==",
            ),
            (
                "mdurl",
                "2.1.0",
                "MIT",
                "LICENSE",
                "sha512-1+HBaOx0zi/dQWht8rNv9MYf9qqpqL/kxI0hXImU6Y547zM6Sni8BQibt7ifgMcYtQg41ao3Ivd6cnSM86inpg==",
            ),
            (
                "uc.micro",
                "3.0.0",
                "MIT",
                "LICENSE.txt",
                "sha512-U3PppEkleoTnIfi8BozMx3yju3qc/L6SwqWo2Sw+54PX+PX0q9I+r1Um5HCmqD7n9VDX5/v3vQH/AjA6deDdtw==",
            ),
            (
                "punycode.js",
                "2.3.1",
                "MIT",
                "LICENSE-MIT.txt",
                "sha512-uxFIHU0YlHYhDQtV4R9J6a52SLx28BCjT+4ieh7IGbgwVJWO+km431c4yRlREUAsAmt/uMjQUyQHNEPf0M39CA==",
            ),
        )
    ),
    Library(
        "highlight",
        "@highlightjs/cdn-assets",
        "11.12.0",
        "BSD-3-Clause",
        "sha512-KvOKXODaiFmId9xaq3xc5xCL66wVLUuOngDbO9B/kewbFTqdGbn2nJxNhN3H5R1cgDTVj6R8vH0zgiNDEGjpDw==",
        {
            "core.min.js": "es/core.min.js",
            **{f"languages/{name}.min.js": f"es/languages/{name}.min.js" for name in _LANGUAGES},
            "LICENSE": "LICENSE",
        },
    ),
    Library(
        "uplot",
        "uplot",
        "1.6.32",
        "MIT",
        "sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        {
            "uPlot.iife.min.js": "dist/uPlot.iife.min.js",
            "uPlot.min.css": "dist/uPlot.min.css",
            "LICENSE": "LICENSE",
        },
    ),
    Library(
        # Draws /docs. Its dependency counts installations; it is neither fetched nor run.
        "swagger-ui",
        "swagger-ui-dist",
        "5.35.0",
        "Apache-2.0",
        "sha512-U06rpMtW9V3XPGOBeamTUSr0Z09jMX4IJuANpE/EZbAhw0G8CgwrzU4YmXkn/h0wCDNsXdGarTNNHC3sU8yVUQ==",
        {
            "swagger-ui-bundle.js": "swagger-ui-bundle.js",
            "swagger-ui-bundle.js.LICENSE.txt": "swagger-ui-bundle.js.LICENSE.txt",
            "swagger-ui.css": "swagger-ui.css",
            "LICENSE": "LICENSE",
            "NOTICE": "NOTICE",
        },
    ),
    Library(
        "preact",
        "preact",
        "11.2.0",
        "MIT",
        "sha512-/HfHI/7N84e6GrWBJ3J280z3mLaRJiDcSvj/A+y/4AbLnND/1UlGHe1sR6oYuTGwId0nP7dqDU9OnLxMPZ7xBg==",
        {
            "preact.mjs": "dist/preact.mjs",
            "hooks.mjs": "hooks/dist/hooks.mjs",
            "LICENSE": "LICENSE",
        },
        {"preact": "./preact.mjs"},
    ),
    Library(
        "preact-signals",
        "@preact/signals",
        "2.11.4",
        "MIT",
        "sha512-Rb+5RPo9gWSaHtzJeauhHxiC8KP/IF2DEPkHPEOGOnuy2wnJzRqyeLRankUCYd6ADqtxS6GnWGv6Ie343d8aYw==",
        {"signals.mjs": "dist/signals.mjs", "LICENSE": "LICENSE"},
        {
            "preact": "../../preact/11.2.0/preact.mjs",
            "preact/hooks": "../../preact/11.2.0/hooks.mjs",
            "@preact/signals-core": "../../preact-signals-core/1.14.5/signals-core.mjs",
        },
    ),
    Library(
        "preact-signals-core",
        "@preact/signals-core",
        "1.14.5",
        "MIT",
        "sha512-vcRv7Ityz5JVmeiVqIluLFzT/PDS/AlhHUpw3/aUWqcVUs6bDGIPXE/6RSC4evBNWYvnniozg5Syfj33al3gkg==",
        {"signals-core.mjs": "dist/signals-core.mjs", "LICENSE": "LICENSE"},
    ),
    Library(
        "htm",
        "htm",
        "3.1.1",
        "Apache-2.0",
        "sha512-983Vyg8NwUE7JkZ6NmOqpCZ+sh1bKv2iYTlUkzlWmA5JD2acKoxd4KVxbMmxX/85mtfdnDmTFoNKcg5DGAvxNQ==",
        {"htm.mjs": "dist/htm.mjs", "LICENSE": "LICENSE"},
    ),
)


class Refused(Exception):
    """A package is not what was expected; nothing of it was laid down."""


def check_integrity(package: bytes, integrity: str) -> None:
    """Compare a package with its hash, written as the registry writes it.

    Raises:
        Refused: they differ, or the hash is of a kind that is not trusted.
    """
    kind, _, expected = integrity.partition("-")
    if kind != "sha512":
        raise Refused(f"only sha512 is trusted, not {kind!r}")
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != expected:
        raise Refused("the package does not have the expected hash")


def unpack(package: bytes, library: Library) -> dict[str, bytes]:
    """Return the wanted files of a package, by the names they get here.

    Raises:
        Refused: one of them is missing, or the version or licence is another.
    """
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        about = json.loads(_member(archive, "package.json"))
        if (about["version"], about["license"]) != (library.version, library.licence):
            raise Refused(f"{library.package} is {about['version']}, {about['license']}")
        files = {name: _member(archive, source) for name, source in library.files.items()}
    return {name: _with_paths(name, file, library.imports) for name, file in files.items()}


def _with_paths(name: str, content: bytes, imports: Mapping[str, str]) -> bytes:
    """Return a module that imports paths where it imported names; other files as they are.

    Modules are those called `.mjs`: in a plain script the words mean nothing, and stand in texts.

    Raises:
        Refused: a name is imported that no path is known for.
    """
    if not name.endswith(".mjs"):
        return content

    def path_of(found: re.Match[bytes]) -> bytes:
        wanted = found[2].decode()
        if wanted not in imports:
            raise Refused(f"{name} imports {wanted}, for which no path is known")
        return found[1] + imports[wanted].encode() + found[3]

    return re.sub(rb"""(\b(?:from|import)\s*["'])([@\w][^"'\n]*)(["'])""", path_of, content)


def _member(archive: tarfile.TarFile, path: str) -> bytes:
    try:
        file = archive.extractfile(f"package/{path}")
    except KeyError:
        file = None
    if file is None:
        raise Refused(f"the package has no file {path}")
    return file.read()


def describe(library: Library, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the manifest's entry about a library."""
    return {
        "name": library.package,
        "version": library.version,
        "licence": library.licence,
        "integrity": library.integrity,
        "files": [
            {
                "path": f"{library.folder}/{library.version}/{name}",
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
            }
            for name, content in sorted(files.items())
        ],
    }


def _fetch(library: Library) -> bytes:
    """Have npm fetch a package."""
    with tempfile.TemporaryDirectory() as folder:
        name = f"{library.package}@{library.version}"
        command = ["npm", "pack", name, "--ignore-scripts", "--pack-destination", folder]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        (found,) = Path(folder).glob("*.tgz")
        return found.read_bytes()


def _lay_down(library: Library, files: Mapping[str, bytes]) -> None:
    """Replace whatever version was there."""
    shutil.rmtree(FOLDER / library.folder, ignore_errors=True)
    for name, content in files.items():
        path = FOLDER / library.folder / library.version / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def main() -> None:
    """Fetch and check everything first, then write."""
    checked = []
    for library in LIBRARIES:
        package = _fetch(library)
        try:
            check_integrity(package, library.integrity)
            checked.append((library, unpack(package, library)))
        except Refused as error:
            sys.exit(f"{library.package} {library.version}: {error}. Nothing was changed.")
    for library, files in checked:
        _lay_down(library, files)
        print(f"{library.package} {library.version}: {sum(map(len, files.values()))} bytes")
    entries = [describe(library, files) for library, files in checked]
    MANIFEST.write_text(json.dumps({"libraries": entries}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
