"""A page names the modules that it leads to."""

from server.http.preloads import with_preloads

PAGE = b'<html><head><script type="module" src="/app/main.js"></script></head><body></body></html>'


def links(files: dict[str, str]) -> list[str]:
    page = with_preloads(PAGE, {path: text.encode() for path, text in files.items()})
    assert page.replace(b"</head>", b"").endswith(b"<body></body></html>")
    lines = page.decode().partition("</script>")[2].partition("</head>")[0].splitlines()
    start, end = '<link rel="modulepreload" href="', '">'
    assert all(line.startswith(start) and line.endswith(end) for line in lines)
    return [line.removeprefix(start).removesuffix(end) for line in lines]


def test_what_a_module_imports_is_named_near_ones_first() -> None:
    files = {
        "app/main.js": 'import { a } from "./a.js";import "../sdk/b.js";\nexport * from "./c.js";',
        "app/a.js": "import{d}from'./deep/d.mjs';",
        "app/c.js": "",
        "app/deep/d.mjs": 'import "../c.js";',
        "sdk/b.js": "",
        "app/unused.js": "",
    }
    assert links(files) == ["/app/a.js", "/sdk/b.js", "/app/c.js", "/app/deep/d.mjs"]


def test_a_circle_ends() -> None:
    files = {"app/main.js": 'import "./a.js"', "app/a.js": 'import "./main.js"; import "./a.js"'}
    assert links(files) == ["/app/a.js"]


def test_what_is_loaded_later_or_is_not_there_is_left_out() -> None:
    files = {
        "app/main.js": 'import("./later.js"); import "./missing.js"; import x from "name";',
        "app/later.js": "",
    }
    assert links(files) == []


def test_a_page_without_modules_stays_as_it_is() -> None:
    page = b"<html><head></head></html>"
    assert with_preloads(page, {"app/main.js": b""}) == page
