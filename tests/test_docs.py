"""The documents: what they name exists, and the two READMEs say the same."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command

from ai_bridge.stats import BridgeStats
from protocol.codes import Code
from server.config import gather
from server.config_source import ENTRIES, ENV_PATH, env_name
from server.memory_stats import MemoryStats, memory_figures
from server.metrics import (
    CoreFigures,
    LoopLag,
    Metrics,
    bridge_figures,
    core_figures,
    store_figures,
)
from storage.batcher import Stats
from tests.support.programs import KINDS

ROOT = Path(__file__).resolve().parent.parent
README, TWIN = ROOT / "README.md", ROOT / "README.zh-CN.md"
DECISIONS = ROOT / "docs" / "decisions"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "README.md",
    ROOT / "protocol" / "vectors" / "README.md",
]
PACKAGES = ("server", "protocol", "storage", "ai_bridge", "clients", "bench", "tests")
FOLDERS = (*PACKAGES, "examples", "docs", ".ci")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


class Block(NamedTuple):
    """One fenced block of code."""

    language: str
    text: str


_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    return tuple(Block(*match) for match in _FENCE.findall(page.read_text(encoding="utf-8")))


@cache
def prose(page: Path) -> str:
    """Return the page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def spans(page: Path) -> tuple[str, ...]:
    """Return what stands between backticks."""
    return tuple(re.findall(r"`([^`\n]+)`", prose(page)))


def shell(page: Path) -> Iterator[str]:
    """Yield everything that a reader could type: spans, and lines of shell blocks."""
    yield from spans(page)
    for block in blocks(page):
        if block.language in ("sh", "console"):
            yield from (line.removeprefix("$ ") for line in block.text.splitlines())


def headings(page: Path) -> list[tuple[int, str]]:
    found = re.findall(r"^(#+) (.+)$", prose(page), re.M)
    return [(len(marks), text.strip()) for marks, text in found]


def slug(heading: str) -> str:
    """Return the anchor that a heading gets on the usual code hosts."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def links(page: Path) -> list[str]:
    found = re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", prose(page))
    return [target for target in found if "://" not in target]


@cache
def sources(*folders: str) -> str:
    """Return all Python text below these folders."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


# links


@every_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    lost = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        anchors = {slug(text) for _, text in headings(found)} if anchor and found.exists() else ()
        if not found.exists() or (anchor and anchor not in anchors):
            lost.append(target)
    assert lost == []


@every_page
def test_every_path_that_is_named_exists(page: Path) -> None:
    named = [
        span
        for span in spans(page)
        if span.split("/")[0] in FOLDERS and re.fullmatch(r"[\w.-]+/[\w./-]*", span)
    ]
    # Templates such as NNNN_name.mysql.sql name a shape, not a file.
    missing = [path for path in named if "NNNN" not in path and not (ROOT / path).exists()]
    assert missing == []


def resolve(name: str) -> object:
    """Import as much of a dotted name as is a module and look the rest up in it.

    Raises:
        ModuleNotFoundError: there is no such thing.
    """
    words = name.split(".")
    found: Any = importlib.import_module(words[0])
    for count, word in enumerate(words[1:], 2):
        if hasattr(found, word):
            found = getattr(found, word)
        else:
            found = importlib.import_module(".".join(words[:count]))
    return found


@every_page
def test_every_module_class_and_function_that_is_named_exists(page: Path) -> None:
    dotted = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
    missing = []
    for span in spans(page):
        if dotted.fullmatch(span):
            try:
                resolve(span)
            except ModuleNotFoundError:
                if span not in ENTRIES:  # `server.port` is a setting
                    missing.append(span)
    assert missing == []


# commands


@every_page
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
    typed = [
        match[1]
        for text in shell(page)
        if (match := re.match(r"(?:[A-Z_]+=\S+ )*make ([a-z][a-z-]*)", text))
    ]
    assert set(typed) <= targets


def find_command(words: list[str]) -> str | None:
    """Follow the words of a command line through its groups; return what does not exist."""
    command: Any = get_command(importlib.import_module("server.__main__").app)
    for word in words:
        below = getattr(command, "commands", None)
        if below is None or not re.fullmatch(r"[a-z][a-z-]*", word):
            return None
        if word not in below:
            return word
        command = below[word]
    return None


@every_page
def test_every_command_that_is_named_exists(page: Path) -> None:
    typed = []
    for text in shell(page):
        match = re.match(r"(?:[A-Z_]+=\S+ )*(?:parlance|\S*python -m server) (.+)", text)
        if match:
            typed.append(match[1].split())
    missing = [" ".join(words) for words in typed if find_command(words) is not None]
    assert missing == []


@every_page
def test_every_module_that_is_run_exists(page: Path) -> None:
    named = [match[1] for text in shell(page) if (match := re.search(r"python -m ([\w.]+)", text))]
    assert [name for name in named if importlib.util.find_spec(name) is None] == []


# settings


@every_page
def test_every_setting_that_is_named_exists(page: Path) -> None:
    named = [match for span in spans(page) if (match := re.fullmatch(r"\[(\w+)\] (\w+)", span))]
    unknown = [match[0] for match in named if f"{match[1]}.{match[2]}" not in ENTRIES]
    assert unknown == []


@every_page
def test_every_environment_variable_that_is_named_is_read(page: Path) -> None:
    own_servers = {f"PARLANCE_TEST_{kind.upper()}_URL" for kind in KINDS}
    known = {ENV_PATH, *map(env_name, ENTRIES), *own_servers}
    named = set(re.findall(r"\bPARLANCE_[A-Z_]+[A-Z]\b", page.read_text(encoding="utf-8")))
    code = sources(*PACKAGES)
    assert [name for name in sorted(named - known) if f'"{name}"' not in code] == []


@every_page
def test_every_configuration_that_is_shown_is_accepted(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language == "toml":
            (tmp_path / "secret").write_text("a secret", encoding="utf-8")
            file = tmp_path / "parlance.toml"
            text = re.sub(r'"file:[^"]+"', '"file:secret"', block.text)
            file.write_text(text, encoding="utf-8")
            secrets = dict.fromkeys(re.findall(r'"env:(\w+)"', text), "a secret")
            assert gather(file, secrets).sources


# code


@every_page
def test_python_that_is_shown_compiles_and_imports_what_exists(page: Path) -> None:
    for block in blocks(page):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                for name in node.names:
                    resolve(f"{node.module}.{name.name}")


# figures, codes, tests, addresses


@cache
def figures() -> frozenset[str]:
    """Return the names of all series of the metrics page."""
    page = Metrics(
        [
            core_figures(lambda: CoreFigures()),
            store_figures(Stats()),
            bridge_figures(BridgeStats()),
            LoopLag().figures,
            memory_figures(MemoryStats(), dict),
        ]
    ).render()
    names = set(re.findall(r"^# TYPE (\S+) ", page.decode(), re.M))
    # These need a whole server to be read.
    modules = ("talk_figures", "engines", "tool_figures", "speech", "embedder", "usage_sums")
    dashboard = ("sampler", "alerts", "http/dashboard")
    http = ("http/asking", "http/repeats", "http/search_routes")
    for module in (*modules, *dashboard, "mem0_erasures", *http):
        text = (ROOT / "server" / f"{module}.py").read_text()
        found = re.findall(r'(?:Figure\(\s*"\w+", |Spread\(\s*)"(\w+)"', text)
        names |= {f"parlance_{name}" for name in found}
    return frozenset(names | {f"{name}_total" for name in names})


@every_page
def test_every_figure_that_is_named_is_on_the_metrics_page(page: Path) -> None:
    named = {span.partition("{")[0] for span in spans(page) if span.startswith("parlance_")}
    assert named <= figures()


@every_page
def test_every_code_that_is_named_exists(page: Path) -> None:
    named = {
        int(match[1]) for span in spans(page) if (match := re.fullmatch(r"(?:err|bye) (\d+)", span))
    }
    assert named <= set(map(int, Code))


@every_page
def test_every_test_that_is_named_exists(page: Path) -> None:
    defined = set(re.findall(r"def (test_\w+)", sources("tests")))
    named = {span for span in spans(page) if re.fullmatch(r"test_[a-z0-9_]+", span)}
    # CONTRIBUTING shows what a good name looks like; the other is a setting.
    named -= {"test_slow_reader_is_closed_above_the_hard_mark", "test_page"}
    assert named <= defined


@every_page
def test_every_address_and_chat_command_that_is_named_is_in_the_code(page: Path) -> None:
    code = sources("server", "clients")
    named = {
        span.removesuffix("*") for span in spans(page) if re.fullmatch(r"/[a-z][a-z0-9/_*-]*", span)
    }
    assert [path for path in sorted(named) if path not in code] == []


# the twin


def test_the_chinese_readme_has_the_same_headings_code_and_links() -> None:
    assert [level for level, _ in headings(README)] == [level for level, _ in headings(TWIN)]
    assert blocks(README) == blocks(TWIN)
    pages = [
        [target.partition("#")[0] for target in links(page) if not target.startswith("#")]
        for page in (README, TWIN)
    ]
    pages[0].remove(TWIN.name)
    pages[1].remove(README.name)
    assert pages[0] == pages[1]


def test_the_chinese_readme_is_punctuated_in_chinese() -> None:
    chinese = "[\u4e00-\u9fff]"
    text = re.sub(r"\]\([^)]*\)", "]", prose(TWIN))
    marks = re.findall(rf"{chinese}[,;:?!()]|[,;:?!(]{chinese}", text)
    assert marks == []


@pytest.mark.parametrize("page", [README, TWIN], ids=lambda page: page.name)
def test_no_figure_of_the_readme_is_left_to_be_measured(page: Path) -> None:
    assert "TO-BE-" + "MEASURED" not in page.read_text(encoding="utf-8")


# decisions


def test_the_list_of_decisions_has_every_record_in_order() -> None:
    records = sorted(path.name for path in DECISIONS.glob("[0-9]*.md"))
    listed = [target for target in links(DECISIONS / "README.md") if target[0].isdigit()]
    assert listed == records
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))


@pytest.mark.parametrize("record", sorted(DECISIONS.glob("[0-9]*.md")), ids=lambda path: path.stem)
def test_every_decision_tells_context_decision_consequences_and_measurements(record: Path) -> None:
    parts = [text.lower() for _, text in headings(record)]
    missing = {"context", "decision", "consequences", "measured"} - set(parts)
    assert missing == set()


def test_every_page_can_be_reached_from_the_list_of_documents() -> None:
    reached = {ROOT / "docs" / "index.md"}
    waiting = list(reached)
    while waiting:
        page = waiting.pop()
        for target in links(page):
            found = (page.parent / target.partition("#")[0]).resolve()
            if found.suffix == ".md" and found.exists() and found not in reached:
                reached.add(found)
                waiting.append(found)
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in reached] == []
