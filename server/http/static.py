"""The files of the web app, from memory: read and compressed once, before the first request.

What is handed out is what `read_site` found: a path is looked up, never opened, so no request can
reach another file. Files whose path carries a hash or the version of a library never change under
their name; all others are asked for again each time, and cost one 304 when they are the same.
"""

import asyncio
import gzip
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from server.http.errors import HttpRefusal
from server.http.middleware import PartOfPage
from server.http.preloads import with_preloads

WEB_ROOT: Final = Path(__file__).resolve().parents[2] / "clients" / "web"
"""Beside the package `server`, in a checkout and where it is installed."""

MAX_FILES: Final = 1_000
MAX_TOTAL_BYTES: Final = 16 << 20
"""Of all files together, as they lie on the disk."""
MAX_PLAIN_BYTES: Final = 256 << 10
"""Larger files are kept compressed only: who takes no gzip, hardly anybody, waits for a thread."""

_MIN_COMPRESSED_BYTES: Final = 512
_ETAG_DIGITS: Final = 20
"""80 bits: versions of one file are told apart, and nobody gains by making two alike."""

_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".ico": "image/x-icon",
    ".png": "image/png",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
_PARTS_OF_PAGES: Final = {_TYPES[".css"], _TYPES[".js"]}
_PACKED: Final = {".ico", ".png", ".webp", ".woff2"}
_NOT_SERVED: Final = {"test", "tests", "node_modules"}

_never_changes: Final = re.compile(
    r"vendor/[^/]+/\d+\.\d+\.\d+[^/]*/.+|(?:.*/)?[^/]+\.[0-9a-f]{8,64}\.[a-z0-9]+"
).fullmatch
_is_plain_host: Final = re.compile(
    r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?"
)

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "font-src 'self'; media-src 'self' blob:; manifest-src 'self'; worker-src 'none'; "
    "connect-src 'self'{socket}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


class SiteTooLarge(Exception):
    """The folder of the web app holds more than a server keeps in memory."""


class StaticFile(msgspec.Struct, frozen=True):
    """One file as it is sent; one of `body` and `packed` is always there."""

    body: bytes | None
    """As it is, unless it is large."""
    packed: bytes | None
    """Compressed with gzip, when that is smaller."""
    content_type: str
    etag: str
    cache_control: str


_SITE: Final = web.AppKey("static_site", dict[str, StaticFile])


def read_site(root: Path) -> dict[str, StaticFile]:
    """Return what is served below `root`, by path with slashes; blocks, so run it in a thread.

    Left out are hidden files, tests, symbolic links, and files of unknown types.

    Raises:
        SiteTooLarge: more than MAX_FILES files or MAX_TOTAL_BYTES bytes.
    """
    bodies = _bodies(root)
    for name, body in bodies.items():
        if name.endswith(".html"):
            bodies[name] = with_preloads(body, bodies)
    return {name: _load(body, name) for name, body in bodies.items()}


def _bodies(root: Path) -> dict[str, bytes]:
    bodies: dict[str, bytes] = {}
    total = 0
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if not _is_served(root, name):
            continue
        total += path.stat().st_size
        if total > MAX_TOTAL_BYTES or len(bodies) >= MAX_FILES:
            raise SiteTooLarge(
                f"{root} holds more than {MAX_FILES} files or {MAX_TOTAL_BYTES} bytes: "
                "take out of it what does not belong to the web app"
            )
        bodies[name.as_posix()] = path.read_bytes()
    return bodies


def _is_served(root: Path, name: Path) -> bool:
    if name.suffix not in _TYPES or any(part.startswith(".") for part in name.parts):
        return False
    if not _NOT_SERVED.isdisjoint(name.parts):
        return False
    steps = [root / name, *(root / parent for parent in name.parents)][:-1]
    return not any(step.is_symlink() for step in steps) and (root / name).is_file()


def _load(body: bytes, name: str) -> StaticFile:
    suffix = Path(name).suffix
    packed = None
    if suffix not in _PACKED and len(body) >= _MIN_COMPRESSED_BYTES:
        packed = gzip.compress(body, 9, mtime=0)
    if packed is not None and len(packed) >= len(body):
        packed = None
    return StaticFile(
        body if packed is None or len(body) <= MAX_PLAIN_BYTES else None,
        packed,
        _TYPES[suffix],
        hashlib.sha256(body).hexdigest()[:_ETAG_DIGITS],
        "public, max-age=31536000, immutable" if _never_changes(name) else "no-cache",
    )


def page_policy(request: web.Request) -> str:
    """Return the Content-Security-Policy of the app's pages and scripts.

    Names the WebSocket origin too, for browsers whose 'self' does not hold it.
    """
    secure = request.secure or request.headers.get("X-Forwarded-Proto") == "https"
    host = request.host if _is_plain_host.fullmatch(request.host) else ""
    socket = f" {'wss' if secure else 'ws'}://{host}" if host else ""
    return _POLICY.format(socket=socket)


def page(request: web.Request, name: str) -> web.Response:
    """Return the answer with a page of the app.

    Raises:
        HttpRefusal: 404, the server was installed without the app.
    """
    file = request.app[_SITE].get(name)
    if file is None:
        raise HttpRefusal(404, "no web app", "This server was installed without its web app.")
    return _respond(request, file)


def _respond(request: web.Request, file: StaticFile) -> web.Response:
    """Return the answer with a file, or 304 when the browser has it already."""
    packed = file.packed if file.body is None or _takes_gzip(request) else None
    tag = file.etag if packed is None else f"{file.etag}-gzip"
    kind = PartOfPage if file.content_type in _PARTS_OF_PAGES else web.Response
    response = kind(headers=_headers(request, file))
    response.etag = tag
    if any(known.value in (tag, "*") for known in request.if_none_match or ()):
        response.set_status(304)
        return response
    response.headers["Content-Type"] = file.content_type
    if packed is not None:
        response.headers["Content-Encoding"] = "gzip"
    response.body = file.body if packed is None else packed
    return response


def _headers(request: web.Request, file: StaticFile) -> dict[str, str]:
    headers = {
        "Cache-Control": file.cache_control,
        "Vary": "Accept-Encoding",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    if file.content_type.startswith("text/html"):
        # Scripts need none of these: they run under the policy of their page, and workers, which
        # would run under their own, are not allowed.
        headers["Content-Security-Policy"] = page_policy(request)
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=(), payment=()"
    return headers


def _takes_gzip(request: web.Request) -> bool:
    """Tell whether gzip is accepted (RFC 9110 §12.5.3; a weight of zero refuses)."""
    for item in request.headers.get("Accept-Encoding", "").lower().split(","):
        name, _, weight = item.partition(";")
        if name.strip() in ("gzip", "x-gzip", "*"):
            return not re.fullmatch(r"\s*q\s*=\s*0(?:\.0*)?\s*", weight)
    return False


async def _file(request: web.Request) -> web.Response:
    file = request.app[_SITE].get(request.match_info["path"])
    if file is None:
        raise HttpRefusal(404, "no such file", "Load the page again: the app may have changed.")
    if file.body is None and file.packed is not None and not _takes_gzip(request):
        body = await asyncio.to_thread(gzip.decompress, file.packed)
        file = msgspec.structs.replace(file, body=body, packed=None)
    return _respond(request, file)


async def _read(app: web.Application) -> AsyncIterator[None]:
    app[_SITE].update(await asyncio.to_thread(read_site, WEB_ROOT))
    yield
    app[_SITE].clear()


def install(app: web.Application) -> None:
    """Have the application read the files when it starts, and add their routes."""
    app[_SITE] = {}
    app.cleanup_ctx.append(_read)
    suffixes = "|".join(suffix[1:] for suffix in _TYPES if suffix != ".json")
    app.router.add_get(r"/{path:(?:app|sdk|vendor)/.+}", _file)
    app.router.add_get(rf"/{{path:[A-Za-z0-9_-]+\.(?:{suffixes})}}", _file)
