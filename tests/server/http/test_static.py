"""The files of the web app: what is handed out, how, and what never is."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from server.http import static
from server.http.preloads import with_preloads
from server.http.static import MAX_FILES, WEB_ROOT, SiteTooLarge, read_site
from tests.server.http.conftest import Answer, Site

SCRIPT = b"export const answer = 42; // " + b"many words " * 200
LARGE = b"export const text = 'much of it'; // " * 10_000
INDEX = b"<!doctype html><title>Parlance</title>" + b"<p>text</p>" * 100
HEADERS_BYTES = 350
"""Of each answer, at most (see the test of parts of pages)."""
MAX_FIRST_LOAD_BYTES = 285_000
"""The web app promises 300 KB: what is left is for the connection and for pictures."""
TAGS = ("require-trusted-types-for 'script'", "base-uri 'none'", "frame-ancestors 'none'")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small web app."""
    folder = tmp_path / "web"
    for name, content in {
        "index.html": INDEX,
        "style.css": b"p{}",
        "picture.svg": b"<svg/>",
        "app/main.js": SCRIPT,
        "app/large.js": LARGE,
        "app/data.bin": b"unknown type",
        "app/.hidden.js": b"hidden",
        "app/test/case.js": b"a test",
        "app/pixel.png": b"\x89PNG" + b"0" * 4000,
        "app/theme.0a1b2c3d.css": b"q{}",
        "vendor/parser/1.2.3/parser.mjs": SCRIPT,
        "vendor/refresh.py": b"secret",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "outside.js").write_bytes(b"outside")
    (folder / "app" / "link.js").symlink_to(tmp_path / "outside.js")
    (folder / "app" / "away").symlink_to(tmp_path)
    return folder


class Client:
    """Asks a server for files, and leaves what it sends as it is."""

    def __init__(self, session: aiohttp.ClientSession, url: str, port: int) -> None:
        self.session = session
        self.url = url
        self.port = port

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("Accept-Encoding", "identity")
        async with self.session.request(method, self.url + path, headers=named) as response:
            return Answer(response.status, response.headers, await response.read(), None)

    async def raw_status(self, path: str) -> int:
        """Ask for a path that no well-behaved client would send unchanged."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert b"outside" not in answer
        assert b"secret" not in answer
        return int(answer.split(b" ", 2)[1])


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, object]:
    """Let the server of this file's tests hand out the small web app."""
    monkeypatch.setattr(static, "WEB_ROOT", root)
    return getattr(request, "param", {})


@pytest.fixture
async def client(site: Site) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield Client(session, site.url, site.port)


async def test_a_file_is_sent_with_its_type_and_is_not_sent_again(client: Client) -> None:
    first = await client.ask("/app/main.js")
    assert (first.status, first.body) == (200, SCRIPT)
    assert first.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert first.headers["Cache-Control"] == "no-cache"
    again = await client.ask("/app/main.js", If_None_Match=first.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    other = await client.ask("/app/main.js", If_None_Match='"something else"')
    assert other.status == 200


async def test_compression_is_offered_and_has_a_tag_of_its_own(client: Client) -> None:
    plain = await client.ask("/app/main.js")
    packed = await client.ask("/app/main.js", Accept_Encoding="br, gzip;q=0.8")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == SCRIPT
    assert packed.headers["Vary"] == "Accept-Encoding"
    assert packed.headers["ETag"] != plain.headers["ETag"]
    same = await client.ask(
        "/app/main.js", Accept_Encoding="gzip", If_None_Match=packed.headers["ETag"]
    )
    assert same.status == 304


async def test_a_large_file_is_kept_compressed_only_and_comes_either_way(
    client: Client, root: Path
) -> None:
    assert len(LARGE) > static.MAX_PLAIN_BYTES
    kept = read_site(root)["app/large.js"]
    assert kept.body is None
    assert kept.packed is not None
    packed = await client.ask("/app/large.js", Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.body == kept.packed
    plain = await client.ask("/app/large.js")
    assert "Content-Encoding" not in plain.headers
    assert plain.body == LARGE
    assert plain.headers["ETag"] != packed.headers["ETag"]


@pytest.mark.parametrize("accepted", ["gzip;q=0", "gzip; q=0.000", "br", "deflate"])
async def test_compression_is_not_forced_on_anyone(client: Client, accepted: str) -> None:
    answer = await client.ask("/app/main.js", Accept_Encoding=accepted)
    assert "Content-Encoding" not in answer.headers
    assert answer.body == SCRIPT


async def test_small_and_packed_files_are_sent_as_they_are(client: Client) -> None:
    for path in ("/style.css", "/app/pixel.png"):
        answer = await client.ask(path, Accept_Encoding="gzip")
        assert answer.status == 200
        assert "Content-Encoding" not in answer.headers


async def test_head_tells_the_size_and_sends_nothing(client: Client) -> None:
    answer = await client.ask("/app/main.js", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(SCRIPT))


@pytest.mark.parametrize("path", ["/vendor/parser/1.2.3/parser.mjs", "/app/theme.0a1b2c3d.css"])
async def test_what_has_its_version_in_its_path_is_kept_by_browsers(
    client: Client, path: str
) -> None:
    assert "immutable" in (await client.ask(path)).headers["Cache-Control"]


async def test_the_first_page_is_the_app_when_there_is_one(client: Client) -> None:
    answer = await client.ask("/", Accept_Encoding="gzip")
    assert gzip.decompress(answer.body) == INDEX
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"


async def test_pages_run_only_what_the_server_sent(client: Client) -> None:
    headers = (await client.ask("/")).headers
    policy = headers["Content-Security-Policy"]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert "unsafe" not in policy
    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == rules["style-src"] == ["'self'"]
    assert rules["img-src"] == ["'self'", "data:", "blob:"]
    assert rules["connect-src"] == ["'self'", f"ws://127.0.0.1:{client.port}"]
    assert all(tag in policy for tag in TAGS)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/app/main.js", "/app/theme.0a1b2c3d.css"])
async def test_parts_of_pages_carry_no_header_that_only_a_document_obeys(
    client: Client, path: str
) -> None:
    first = await client.ask(path, Accept_Encoding="gzip")
    again = await client.ask(path, Accept_Encoding="gzip", If_None_Match=first.headers["ETag"])
    assert (first.status, again.status) == (200, 304)
    documents = {"Content-Security-Policy", "X-Frame-Options", "Referrer-Policy", "X-Request-ID"}
    for answer in (first, again):
        assert documents.isdisjoint(answer.headers)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert sum(len(name) + len(value) + 4 for name, value in first.headers.items()) < 350


@pytest.mark.parametrize(
    "settings", [{"websocket.origins": "same-origin,https://a.example"}], indirect=True
)
async def test_only_pages_of_other_origins_are_told_that_they_may_use_a_script(
    client: Client,
) -> None:
    allowed = {}
    for origin in (client.url, "https://a.example", "https://b.example"):
        answer = await client.ask("/app/main.js", Origin=origin)
        assert "Origin" in answer.headers.getall("Vary")
        allowed[origin] = answer.headers.get("Access-Control-Allow-Origin")
    assert list(allowed.values()) == [None, "https://a.example", None]


async def test_a_picture_that_can_be_opened_by_itself_runs_no_script(client: Client) -> None:
    answer = await client.ask("/picture.svg")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert answer.headers["X-Frame-Options"] == "DENY"


async def test_behind_a_proxy_with_tls_the_socket_is_secure(client: Client) -> None:
    answer = await client.ask("/", Host="chat.example", X_Forwarded_Proto="https")
    assert "connect-src 'self' wss://chat.example;" in answer.headers["Content-Security-Policy"]


async def test_a_host_cannot_add_to_the_policy(client: Client) -> None:
    answer = await client.ask("/", Host="a; script-src *")
    assert "connect-src 'self';" in answer.headers["Content-Security-Policy"]
    assert "*" not in answer.headers["Content-Security-Policy"]


async def test_a_page_that_is_not_installed_says_so(client: Client, root: Path) -> None:
    assert not (root / "dashboard.html").exists()
    answer = await client.ask("/dashboard")
    assert answer.status == 404
    assert b"installed without its web app" in answer.body


@pytest.mark.parametrize(
    "path",
    [
        *("/app/nothing.js", "/app/data.bin", "/app/.hidden.js", "/app/test/case.js"),
        *("/app/link.js", "/app/away/outside.js", "/vendor/refresh.py", "/app/../../outside.js"),
        *("/app/%2e%2e/%2e%2e/outside.js", "/app/..%2f..%2foutside.js", "/vendor//etc/passwd"),
        *("/app/..\\..\\outside.js", "/app/main.js%00.css", "/app/main.js/", "/app//main.js"),
    ],
)
async def test_nothing_else_is_handed_out(client: Client, path: str) -> None:
    assert await client.raw_status(path) in (400, 404)


def test_a_folder_that_grew_out_of_bounds_is_refused_with_advice(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "MAX_TOTAL_BYTES", 3000)
    with pytest.raises(SiteTooLarge, match="take out of it"):
        read_site(root)


def test_too_many_files_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(read_site(root)) == 8
    monkeypatch.setattr(static, "MAX_FILES", 5)
    with pytest.raises(SiteTooLarge):
        read_site(root)


def test_the_files_that_are_shipped_are_far_below_the_bounds() -> None:
    site = read_site(WEB_ROOT)
    assert len(site) < MAX_FILES / 2
    assert sum(len(x.body or b"") + len(x.packed or b"") for x in site.values()) < 4 << 20
    assert "vendor/highlight/11.12.0/core.min.js" in site


def test_a_first_load_of_a_conversation_with_code_stays_below_its_weight() -> None:
    site = read_site(WEB_ROOT)
    bodies = {name: file.body or b"" for name, file in site.items()}
    chat = b'<head><script type="module" src="/app/chat.js"></script></head>'
    pages = (bodies["index.html"] + with_preloads(chat, bodies)).decode()
    names = {"index.html", "app/chat.js", *re.findall(r'(?:src|href)="/([^"]+)"', pages)}
    colours = "vendor/highlight/11.12.0/"
    names |= {f"{colours}core.min.js", f"{colours}languages/python.min.js"}
    assert len(names) > 80
    sent = sum(HEADERS_BYTES + len(site[name].packed or bodies[name]) for name in names)
    assert sent <= MAX_FIRST_LOAD_BYTES
