"""Tells browsers at once which modules a page will ask for.

Without it they find out step by step: a module's imports are known when it is there, and each step
costs one way to the server and back. The links are made from the files when the server starts, so
nobody keeps a list (HTML, "Link type modulepreload").
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Final

_imports: Final = re.compile(rb"""\b(?:from|import)\s*["'](\.{1,2}/[^"']+)["']""").finditer
_module_scripts: Final = re.compile(rb"""<script type="module" src="/([^"]+)">""").finditer


def with_preloads(page: bytes, files: Mapping[str, bytes]) -> bytes:
    """Return the page with a link, before the end of its head, to all that its modules import.

    Modules loaded later, with `import()`, are left out. `files`: by path, without a leading slash.
    """
    wanted: dict[str, None] = {}
    for script in _module_scripts(page):
        _collect(script[1].decode(), files, wanted)
    for script in _module_scripts(page):
        wanted.pop(script[1].decode(), None)
    links = "".join(f'<link rel="modulepreload" href="/{escape(path)}">\n' for path in wanted)
    return page.replace(b"</head>", links.encode() + b"</head>", 1)


def _collect(path: str, files: Mapping[str, bytes], wanted: dict[str, None]) -> None:
    waiting = [path]
    while waiting:
        path = waiting.pop(0)
        if path in wanted or path not in files:
            continue
        wanted[path] = None
        waiting += _imported_by(path, files[path])


def _imported_by(path: str, module: bytes) -> Iterator[str]:
    for found in _imports(module):
        yield posixpath.normpath(posixpath.join(posixpath.dirname(path), found[1].decode()))
