"""The words of the interface, in a real browser."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import Ground

pytestmark = pytest.mark.asyncio(loop_scope="session")

MAKE = """async ([wanted, kept]) => {
  const { Words } = await import("/app/i18n.js");
  const shelf = new Map(kept ? [["parlance.language", kept]] : []);
  const storage = { getItem: (k) => shelf.get(k) ?? null, setItem: (k, v) => shelf.set(k, v) };
  const words = new Words({ wanted, storage });
  globalThis.words = words;
  globalThis.shelf = shelf;
  return words.language;
}"""


CHOICES: tuple[tuple[list[str], str, str], ...] = (
    (["zh-CN", "en"], "", "zh"),
    (["zh-Hant-TW"], "", "zh"),
    (["de-DE", "zh", "en"], "", "zh"),
    (["de-DE", "en-GB", "zh"], "", "en"),
    (["fr"], "", "en"),
    ([], "", "en"),
    (["zh"], "en", "en"),
    (["zh"], "klingon", "zh"),
    (["constructor"], "constructor", "en"),
)


async def test_the_language_is_the_persons_then_the_browsers_then_english(ground: Ground) -> None:
    for wanted, kept, chosen in CHOICES:
        assert await ground.page.evaluate(MAKE, [wanted, kept]) == chosen, (wanted, kept)
    assert ground.trouble == []


async def test_a_choice_is_told_and_remembered(ground: Ground) -> None:
    await ground.page.evaluate(MAKE, [["en"], ""])
    seen = await ground.page.evaluate("""() => {
      let told = 0;
      words.addEventListener("change", () => told++);
      words.choose("zh");
      words.choose("zh");
      return [told, words.say("action.send"), words.locale, shelf.get("parlance.language")];
    }""")
    assert seen == [1, "发送", "zh-CN", "zh"]


async def test_a_storage_that_refuses_is_no_obstacle(ground: Ground) -> None:
    seen = await ground.page.evaluate("""async () => {
      const { Words } = await import("/app/i18n.js");
      const refuse = () => { throw new DOMException("no", "SecurityError"); };
      const words = new Words({ wanted: ["en"], storage: { getItem: refuse, setItem: refuse } });
      words.choose("zh");
      return words.say("action.copy");
    }""")
    assert seen == "复制"


async def test_both_tables_say_the_same_things_with_the_same_values(ground: Ground) -> None:
    tables = await ground.page.evaluate("""async () => (await import("/app/i18n.js")).tables""")
    assert list(tables["en"]) == list(tables["zh"]) == sorted(tables["en"])

    def values(entry: str | dict[str, str]) -> set[str]:
        forms = [entry] if isinstance(entry, str) else list(entry.values())
        assert all(form.strip() for form in forms)
        assert isinstance(entry, str) or "other" in entry
        return {name for form in forms for name in re.findall(r"\{(\w+)\}", form)}

    for key, entry in tables["en"].items():
        assert values(entry) == values(tables["zh"][key]), key


async def test_numbers_choose_the_form_and_values_are_not_words(ground: Ground) -> None:
    await ground.page.evaluate(MAKE, [["en"], ""])
    seen = await ground.page.evaluate("""() => [
      words.say("chat.new_messages", { count: 1 }),
      words.say("chat.new_messages", { count: 1200 }),
      words.say("chat.typing", { name: "{count} $& <b>" }),
    ]""")
    assert seen == ["1 new message", "1,200 new messages", "{count} $& <b> is typing"]


async def test_words_that_are_missing_are_an_error_at_once(ground: Ground) -> None:
    await ground.page.evaluate(MAKE, [["en"], ""])
    seen = await ground.page.evaluate("""() => ["chat.nothing", "constructor"].map((key) => {
      try { words.say(key); return "said"; } catch (error) { return error.name; }
    })""")
    assert seen == ["RangeError", "RangeError"]


async def test_a_page_brings_words_of_its_own_beside_the_common_ones(ground: Ground) -> None:
    seen = await ground.page.evaluate("""async () => {
      const { Words } = await import("/app/i18n.js");
      const tables = { en: { "own.lag": "Lag" }, zh: { "own.lag": "延迟" } };
      const words = new Words({ wanted: ["en"], storage: null, tables });
      const said = [words.say("own.lag"), words.say("action.copy")];
      words.choose("zh");
      return [...said, words.say("own.lag"), words.say("action.copy")];
    }""")
    assert seen == ["Lag", "Copy", "延迟", "复制"]


async def test_times_are_short_today_and_whole_in_other_years(ground: Ground) -> None:
    await ground.page.evaluate(MAKE, [["zh"], ""])
    seen = await ground.page.evaluate("""() => {
      const now = new Date(2026, 4, 6, 18, 0);
      return [new Date(2026, 4, 6, 9, 5), new Date(2026, 4, 5, 9, 5), new Date(2025, 4, 5, 9, 5)]
        .map((date) => words.time(date, now));
    }""")
    assert seen == ["09:05", "5月5日 09:05", "2025年5月5日 09:05"]
