"""GET /dashboard and GET /docs: the pages for those who run the server or write programs for it.

The pages are files of the web app and hold nothing secret: what they show is asked for with the
key or token that somebody gives them.
"""

from typing import Final

from aiohttp import web

from server.http import static

_NO_POLICY: Final = "trusted-types 'none'"
_ONE_POLICY: Final = "trusted-types dompurify"


def viewer_policy(request: web.Request) -> str:
    """Return the Content-Security-Policy of /docs.

    As of all pages, but that the library which draws it may make the Trusted Types policy that
    it makes as it loads. Nothing on the page uses it: our own component writes the descriptions,
    so texts are never read as HTML there either (clients/web/app/docs.js).
    """
    return static.page_policy(request).replace(_NO_POLICY, _ONE_POLICY)


async def _dashboard(request: web.Request) -> web.Response:
    return static.page(request, "dashboard.html")


async def _docs(request: web.Request) -> web.Response:
    response = static.page(request, "docs.html")
    response.headers["Content-Security-Policy"] = viewer_policy(request)
    return response


def routes() -> list[web.RouteDef]:
    """Return the routes of this file; the application needs `static.install`."""
    return [web.get("/dashboard", _dashboard), web.get("/docs", _docs)]
