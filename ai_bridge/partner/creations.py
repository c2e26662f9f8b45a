"""Longer pieces on request: stories, poems, lists and code, varied by the talk's dice."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from ai_bridge.partner.language import Lang
from ai_bridge.partner.samples import code_sample

MAX_ITEMS = 10
_MAX_TOPIC_CHARS = 40

_EN_STORY = re.compile(r"\b(?:story|tale|fairy ?tale|bedtime)\b", re.I)
_EN_POEM = re.compile(r"\b(?:poem|poetry|verse|haiku)\b", re.I)
_EN_LIST = re.compile(
    r"\b(?:list|ideas?|tips?|suggestions?|recommend\w*|(?:give|name|tell) me "
    r"(?:\d+|some|a few|three|five|ten))\b",
    re.I,
)
_EN_CODE = re.compile(
    r"\b(?:code|snippet|function|script|python|javascript|sql|bash|program (?:that|to|in))\b", re.I
)
_EN_ABOUT = (
    re.compile(
        r"\b(?:about|on|of|for|with)\s+(?:an? |the |my |some )?([\w' -]{2,40}?)"
        r"(?=[.,;!?\n]|\s+(?:please|in (?:english|chinese))\b|$)",
        re.I,
    ),
)
_ZH_STORY = re.compile(r"故事|童话")
_ZH_POEM = re.compile(r"诗")
_ZH_LIST = re.compile(
    r"清单|列(?:出|举|一)|(?:几|[一二三四五六七八九十\d]+)(?:个|条|点)(?:建议|办法|"
    r"主意|点子|想法|理由)|建议|推荐|点子"
)
_ZH_CODE = re.compile(r"代码|函数|脚本|编程|写(?:一)?个程序|python|javascript|sql|bash", re.I)
_ZH_ABOUT = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:关于|有关)([\u4e00-\u9fffA-Za-z ]{1,16}?)(?:的|[，。！？,.!?]|$)",
        r"以([\u4e00-\u9fffA-Za-z ]{1,16}?)为(?:主?题)",
        r"[条个点份些]([\u4e00-\u9fffA-Za-z ]{1,12}?)的(?:建议|想法|办法|点子|主意|清单|理由)",
        r"[个份]([\u4e00-\u9fff]{1,8}?)的?清单",
        r"[个首段篇]([\u4e00-\u9fff]{1,8}?)的(?:故事|童话|诗|小诗)",
    )
)
_COUNT = re.compile(
    r"\b(\d{1,2})\b|([二三四五六七八九十])(?=[个条点])|\b(three|five|seven|ten)\b", re.I
)
_WORD_COUNTS = {"three": 3, "five": 5, "seven": 7, "ten": 10}
_ZH_COUNTS = {char: value for value, char in enumerate("一二三四五六七八九十", 1)}


def create(text: str, lang: Lang, who: str, dice: random.Random) -> str | None:
    """Return the longer piece that a text asks for, None if it asks for none.

    Args:
        who: name of the person, "" if unknown; they may appear in a story.
    """
    topic = _topic(text, lang)
    asks: tuple[tuple[re.Pattern[str], Callable[[], str]], ...]
    if lang == "zh":
        asks = (
            (_ZH_STORY, lambda: _story_zh(topic or "灯塔", who or "小满", dice)),
            (_ZH_POEM, lambda: _poem_zh(topic or "夜晚", dice)),
            (_ZH_CODE, lambda: code_sample(text, lang)),
            (_ZH_LIST, lambda: _list_zh(topic or "过好一个周末", _count(text), dice)),
        )
    else:
        asks = (
            (_EN_STORY, lambda: _story_en(topic or "lighthouse", who or "Mara", dice)),
            (_EN_POEM, lambda: _poem_en(topic or "the night", dice)),
            (_EN_CODE, lambda: code_sample(text, lang)),
            (_EN_LIST, lambda: _list_en(topic or "a good weekend", _count(text), dice)),
        )
    for pattern, make in asks:
        if pattern.search(text):
            return make()
    return None


def _topic(text: str, lang: Lang) -> str:
    patterns = _ZH_ABOUT if lang == "zh" else _EN_ABOUT
    matches = (pattern.search(text) for pattern in patterns)
    found = next((match[1] for match in matches if match), "")
    if found in ("一个", "一首", "长", "短", "好听", "me", "code"):
        return ""
    return found.strip()[:_MAX_TOPIC_CHARS]


def _count(text: str) -> int:
    match = _COUNT.search(text)
    if match is None:
        return 5
    digits, chinese, word = match.groups()
    wanted = int(digits) if digits else _ZH_COUNTS.get(chinese or "", 0)
    wanted = wanted or _WORD_COUNTS.get((word or "").lower(), 5)
    return max(1, min(MAX_ITEMS, wanted))


def _story_en(topic: str, hero: str, dice: random.Random) -> str:
    place = dice.choice(
        ("a town by a grey sea", "a valley full of mist", "the last street of a big city")
    )
    helper = dice.choice(
        ("an old clockmaker", "a girl with ink on her fingers", "a dog with one white ear")
    )
    sound = dice.choice(("a low humming", "three slow knocks", "a voice that nearly was the wind"))
    found = dice.choice(("a small brass key", "a letter without a name", "a map drawn by a child"))
    end = dice.choice(
        (
            "Some things, {hero} thought, only wait until somebody asks.",
            "And if you pass there on a quiet evening, you can still see the light.",
            "Nobody in the town believed it. {hero} did not mind at all.",
        )
    )
    return (
        f"**The {topic.title()} at the End of the Road**\n\n"
        f"In {place} lived somebody called {hero}, who could not leave a question alone. The "
        f"newest question was about the {topic}. Everybody knew it, everybody passed it, and "
        "nobody could say why it was there.\n\n"
        f"One night {hero} heard {sound}. It came from the {topic}, no doubt. So {hero} put on "
        "a coat, took a lamp, and went out into the dark, which was cold and smelled of rain.\n\n"
        f'Halfway there {hero} met {helper}. "You hear it too?" asked {hero}. "Every year, on '
        f'this night," was the answer. "But I never dared to go alone." So they went '
        "together, and the way was only half as long.\n\n"
        f"Behind the {topic} they found {found}. It was old, and it was warm, as if a hand had "
        "held it a moment ago. When they lifted it, the sound stopped. The silence that followed "
        "was the friendliest silence either of them had ever heard.\n\n"
        f"They carried it home, and from that night on every door in the place opened a little "
        f"more easily. {end.format(hero=hero)}"
    )


def _story_zh(topic: str, hero: str, dice: random.Random) -> str:
    place = dice.choice(("一座灰蓝色的海边小镇", "一个总是起雾的山谷", "大城市最后一条小巷"))
    helper = dice.choice(("一位修钟表的老人", "一个手指沾着墨水的女孩", "一只白耳朵的小狗"))
    sound = dice.choice(("一阵低低的嗡鸣", "慢慢的三下敲门声", "一个像风又不像风的声音"))
    found = dice.choice(("一把小小的铜钥匙", "一封没有署名的信", "一张孩子画的地图"))
    end = dice.choice(
        (
            "{hero}想，有些东西一直在等，只等有人来问一句。",
            "如果你在安静的傍晚路过那里，还能看见那道光。",
            "镇上没有人相信这件事，{hero}一点也不在意。",
        )
    )
    return (
        f"**路尽头的{topic}**\n\n"
        f"在{place}，住着一个叫{hero}的人，心里从来放不下疑问。"
        f"最近的疑问是关于{topic}的：人人都知道它，"
        "人人都路过它，却没有人说得出它为什么在那里。\n\n"
        f"一天夜里，{hero}听见{sound}，毫无疑问，是从{topic}那边传来的。{hero}披上外套，提起灯，"
        "走进了夜色。夜很凉，带着雨的味道。\n\n"
        f"走到半路，{hero}遇见了{helper}。“你也听见了？”{hero}问。“每年的今夜都有，"
        f"可我一个人从来不敢去。”"
        "于是他们结伴同行，路一下子短了一半。\n\n"
        f"在{topic}的后面，他们找到了{found}。它很旧，却是温热的，好像刚刚还有人握着。"
        f"他们把它捧起来的那一刻，"
        "声音停了。随之而来的安静，是他们听过的最友善的安静。\n\n"
        f"他们把它带回了家。从那以后，那里的每一扇门都变得好开了一点。{end.format(hero=hero)}"
    )


def _poem_en(topic: str, dice: random.Random) -> str:
    first = dice.choice(
        (
            f"I asked the night for {topic},\nit gave me half a sky;",
            f"There is a place for {topic}\nbetween the wind and me;",
        )
    )
    middle = dice.choice(
        (
            "the other half was sleeping\nand would not tell me why.",
            "it has no door, no number,\nbut every child can see.",
        )
    )
    last = dice.choice(
        (
            f"So I wrote down: {topic},\nand underlined it twice,\nand kept it in my "
            f"pocket\nlike warm and folded light.",
            f"And when the days grow heavy\nI say it soft: {topic}.\nThe words go round "
            f"the kitchen\nand make the silence sing.",
        )
    )
    return f"{first}\n{middle}\n\n{last}"


def _poem_zh(topic: str, dice: random.Random) -> str:
    first = dice.choice(
        (f"我向远山借一点{topic}，\n它只给了我半片云。", f"风和我之间，\n留着一个{topic}的位置。")
    )
    middle = dice.choice(
        ("另外半片还在睡，\n不肯告诉我缘由。", "没有门，也没有号码，\n每个孩子却都看得见。")
    )
    last = dice.choice(
        (
            f"于是我轻轻写下“{topic}”，\n折好，放进口袋，\n像一小块温热的光。",
            f"日子变沉的时候，\n我就低声念一遍{topic}，\n让它绕过灯，绕过窗，\n让安静也开始歌唱。",
        )
    )
    return f"{first}\n{middle}\n\n{last}"


def _list_en(topic: str, count: int, dice: random.Random) -> str:
    items = [
        "Begin small: ten minutes today beat a perfect plan for next month.",
        f"Ask one person who knows {topic} well what they would do differently.",
        "Write down what you want from it, in one sentence, and keep it where you see it.",
        "Do the part you fear first, while you are fresh.",
        "Leave out one thing that everybody says is necessary, and see if you miss it.",
        "Take somebody along: shared things last longer.",
        "Keep a note of what worked; your later self will thank you.",
        "Fix an hour for it and guard that hour.",
        "Stop while it is still fun, so that you want to come back.",
        "Look at it again after a week, with a cup of tea and without mercy.",
    ]
    chosen = dice.sample(items, count)
    lines = "\n".join(f"{number}. {item}" for number, item in enumerate(chosen, 1))
    return f"Here you are, {count} thoughts on {topic}:\n\n{lines}\n\nWhich one fits you best?"


def _list_zh(topic: str, count: int, dice: random.Random) -> str:
    items = [
        "从小处开始：今天的十分钟，胜过下个月的完美计划。",
        f"找一个懂{topic}的人，问问他重来一次会怎么做。",
        "用一句话写下你想得到什么，贴在看得见的地方。",
        "趁精神好，先做最怕的那一步。",
        "试着去掉一件大家都说必要的事，看看会不会想念它。",
        "拉上一个伙伴，一起做的事更容易坚持。",
        "记下哪些办法有效，以后的你会感谢现在的你。",
        "固定一个时间，并且守住它。",
        "在还觉得有趣的时候停下，这样才会想回来。",
        "一周以后，泡杯茶，再不留情面地看一遍。",
    ]
    chosen = dice.sample(items, count)
    lines = "\n".join(f"{number}. {item}" for number, item in enumerate(chosen, 1))
    return f"关于{topic}，这里有 {count} 点想法：\n\n{lines}\n\n哪一条最适合你？"
