"""The page at /: the web app, or what this is and how to talk to it when there is no web app.

That second page is one file, no script, nothing from outside.
"""

import base64
import hashlib
from html import escape
from typing import Final

from aiohttp import web

from server.http import static
from server.http.context import parts_of
from server.http.errors import HttpRefusal
from server.version import VERSION

_STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.6 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem}"
    "code{background:#8883;padding:.1em .35em;border-radius:.3em;overflow-wrap:anywhere}"
    "pre{background:#8883;padding:.8rem 1rem;border-radius:.5em;overflow-x:auto}"
    "pre code{background:none;padding:0}"
    "dt{font-weight:600;margin-top:.6rem}dd{margin:0}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'"

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Parlance</title>
<style>{style}</style>
</head>
<body>
<h1>Parlance</h1>
<p>This is a chat server for people and AI personas. It is running.</p>
<p lang="zh">这是一个供人与 AI 角色聊天的服务器,正在运行。</p>
<h2>Talk with a persona</h2>
<p>In a terminal, in the folder of the program:</p>
<pre><code>make chat</code></pre>
<p>or, wherever it is installed:</p>
<pre><code>parlance chat --url {tcp}</code></pre>
<h2>Addresses</h2>
<dl>
<dt>Native clients</dt><dd><code>{tcp}</code></dd>
<dt>WebSocket</dt><dd><code>{websocket}</code> with the subprotocol {subprotocols}</dd>
<dt>Sign in</dt><dd><code>POST {http}/api/v1/auth/login</code>, <code>register</code>,
<code>guest</code>, <code>refresh</code></dd>
<dt>Health</dt><dd><a href="/health"><code>/health</code></a>,
<a href="/health/live"><code>/health/live</code></a>,
<a href="/health/ready"><code>/health/ready</code></a></dd>
<dt>Figures</dt><dd><a href="/metrics"><code>/metrics</code></a></dd>
</dl>
<p><small>Version {version}</small></p>
</body>
</html>
"""


async def _page(request: web.Request) -> web.Response:
    index = static.index_of(request)
    return _about(request) if index is None else static.respond(request, index)


def _about(request: web.Request) -> web.Response:
    host = request.host
    secure = request.secure or request.headers.get("X-Forwarded-Proto") == "https"
    json_offered = parts_of(request).config.websocket.json
    names = ["pwp1.msgpack", "pwp1.json"] if json_offered else ["pwp1.msgpack"]
    text = _PAGE.format(
        style=_STYLE,
        tcp=escape(host),
        websocket=escape(f"{'wss' if secure else 'ws'}://{host}/ws"),
        http=escape(f"{'https' if secure else 'http'}://{host}"),
        subprotocols=" or ".join(f"<code>{name}</code>" for name in names),
        version=escape(VERSION),
    )
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
    return web.Response(text=text, content_type="text/html", headers=headers)


async def _upgrade_required(request: web.Request) -> web.Response:
    """A connection that already carried HTTP stays HTTP (docs/protocol.md §15)."""
    raise HttpRefusal(
        426,
        "upgrade required",
        "Open this address as a WebSocket, on a connection that carried nothing before.",
    )


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return [
        web.get("/", _page),
        web.get("/ws", _upgrade_required),
        web.get("/ws/echo", _upgrade_required),
    ]
