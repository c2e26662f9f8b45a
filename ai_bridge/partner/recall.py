"""Questions about what was told before: "what is my name?", "我住哪里？"."""

from __future__ import annotations

import re
from collections.abc import Callable

from ai_bridge.partner.facts import Facts
from ai_bridge.partner.language import Lang

_Slot = tuple[str, re.Pattern[str]]

_EN: tuple[_Slot, ...] = tuple(
    (slot, re.compile(pattern, re.I))
    for slot, pattern in (
        (
            "all",
            r"what (?:else )?(?:do|did) you (?:know|remember|learn) (?:about|of) me|"
            r"what have i told you|do you remember me|tell me about me\b",
        ),
        (
            "name",
            r"what(?:'s| is| was) my name|who am i\b|(?:know|remember|forg[eo]t(?:ten)?) "
            r"my name|say my name",
        ),
        ("age", r"how old am i|(?:what(?:'s| is)|remember) my age"),
        ("home", r"where (?:do|did) i (?:live|come from)|where am i from|where(?:'s| is) my home"),
        (
            "job",
            r"what do i do(?: for (?:a living|work))?\s*\?|what(?:'s| is) my (?:job|work|"
            r"profession)|where do i work",
        ),
        ("dislikes", r"what (?:do|did) i (?:hate|dislike|not like)|what don'?t i like"),
        (
            "likes",
            r"what (?:do|did|else do) i (?:say i )?(?:like|love|enjoy)|what(?:'s| is| are) "
            r"my (?:hobb\w+|interests?|likes)",
        ),
        (
            "plan",
            r"what (?:am i|was i) (?:planning|going to)|what(?:'s| is| are) my plans?|what "
            r"do i (?:plan|want) to do|(?:remember|know) my plans?",
        ),
    )
)
_EN_OWN = re.compile(
    r"(?:what|who)(?:'s| is| are| was) my ((?:favou?rite )?[a-z]+(?: "
    r"[a-z]+)?)(?:'s name| called)?\s*\??\s*$|"
    r"(?:know|remember) (?:what|who)? ?my ((?:favou?rite )?[a-z]+)(?:'s name)?(?: "
    r"is)?(?: called)?\s*\??\s*$",
    re.I,
)
_ZH: tuple[_Slot, ...] = tuple(
    (slot, re.compile(pattern))
    for slot, pattern in (
        (
            "all",
            r"(?:记得|知道|了解)(?:关于)?我(?:什么|哪些|多少|的(?:什么|哪些|事))|"
            r"我(?:都)?(?:跟|和|对)?你?说过(?:什么|哪些)|(?:还)?记得我吗|关于我[，,]?你",
        ),
        (
            "name",
            r"我(?:的名字)?叫(?:什么|啥)|我是谁|我的名字(?:是什么|吗|呢)|(?:记得|知道|"
            r"忘了?)我(?:的名字|叫)|我姓什么",
        ),
        ("age", r"我(?:今年)?(?:多大|几岁|多少岁)"),
        ("home", r"我(?:现在)?(?:住|家)在?(?:哪|什么地方)|我(?:是|从|来自)(?:哪里|哪儿|什么地方)"),
        (
            "job",
            r"我(?:的(?:工作|职业)是什么|是做什么(?:工作)?的|做什么工作|在哪(?:里|"
            r"儿)?(?:上班|工作|上学))",
        ),
        ("dislikes", r"我(?:不喜欢|讨厌)(?:什么|哪)"),
        (
            "likes",
            r"我(?:都)?(?:喜欢|爱)(?:做|吃|玩|看)?(?:什么|哪|啥)|我(?:有)?(?:什么|"
            r"哪些)?(?:爱好|兴趣)(?:是什么|有哪些|吗)?[？?]?$",
        ),
        (
            "plan",
            r"我(?:的)?(?:计划|打算|安排)(?:是什么|做什么|去哪|干什么|是啥|呢)|我(?:打算|"
            r"准备|计划|想|要)(?:做|干|去|学)?(?:什么|哪|啥)",
        ),
    )
)
_ZH_OWN = re.compile(
    r"我(?:的|家的?|最喜欢的)([\u4e00-\u9fff]{1,6}?)(?:的名字)?(?:叫|是)(?:什么|谁|啥)"
)

_EN_KNOWN = {
    "name": "Your name is {}.",
    "age": "You are {}, you said.",
    "home": "Home, for you, is {}.",
    "job": "Your work: {}.",
    "dislikes": "You don't like {}.",
    "likes": "You like {}.",
    "plan": "You want to {}.",
}
_EN_UNKNOWN = {
    "all": "Nothing yet, to be honest. Tell me your name, or something you like!",
    "name": "You haven't told me your name yet. What is it?",
    "age": "You never mentioned your age. How old are you?",
    "home": "You haven't said where you live. Where is it?",
    "job": "You haven't told me what you do. What is your work?",
    "dislikes": "So far you haven't complained about anything. What can't you stand?",
    "likes": "You haven't told me yet. What do you like?",
    "plan": "You haven't mentioned any plans. Do you have some?",
}
_ZH_KNOWN = {
    "name": "你叫{}。",
    "age": "你说过，你{}岁。",
    "home": "你说过，{}是你的家。",
    "job": "你的工作：{}。",
    "dislikes": "你不喜欢{}。",
    "likes": "你喜欢{}。",
    "plan": "你{}。",
}
_ZH_UNKNOWN = {
    "all": "老实说，还什么都不知道呢。告诉我你的名字，或者你喜欢什么吧！",
    "name": "你还没告诉我你的名字呢。怎么称呼你？",
    "age": "你没说过年龄。你多大了？",
    "home": "你还没说过住在哪里。是哪儿呢？",
    "job": "你还没说过你做什么工作。是什么呢？",
    "dislikes": "到现在为止你还没抱怨过什么。有什么受不了的吗？",
    "likes": "你还没说过呢。你喜欢什么？",
    "plan": "你还没提过什么计划。有吗？",
}


def recall(text: str, lang: Lang, facts: Facts) -> str | None:
    """Answer a question about the person; None if the text is not one."""
    slots, own = (_ZH, _ZH_OWN) if lang == "zh" else (_EN, _EN_OWN)
    plain = text.replace("\u2019", "'")
    for slot, pattern in slots:
        if pattern.search(plain):
            return _everything(lang, facts) if slot == "all" else _one(slot, lang, facts)
    match = own.search(plain)
    if match is None:
        return None
    thing = next(group for group in match.groups() if group)
    return _thing(thing, lang, facts)


def _one(slot: str, lang: Lang, facts: Facts) -> str:
    value = _value(slot, lang, facts)
    if not value:
        return (_ZH_UNKNOWN if lang == "zh" else _EN_UNKNOWN)[slot]
    return (_ZH_KNOWN if lang == "zh" else _EN_KNOWN)[slot].format(value)


def _value(slot: str, lang: Lang, facts: Facts) -> str:
    value = getattr(facts, slot)
    if isinstance(value, list):
        return _joined(value, lang)
    text = str(value)
    if slot == "plan" and lang == "zh" and not re.search("打算|准备|计划|想|要", text):
        return "打算" + text  # it was told in English
    return text


def _joined(things: list[str], lang: Lang) -> str:
    if lang == "zh":
        return "、".join(things)
    return (
        things[0]
        if len(things) == 1
        else ", ".join(things[:-1]) + " and " + things[-1]
        if things
        else ""
    )


def _thing(thing: str, lang: Lang, facts: Facts) -> str:
    thing = re.sub(r" (?:name|named|called)$", "", thing, flags=re.I)
    key = thing.lower().replace("favourite", "favorite")
    value = facts.own.get(key)
    if lang == "zh":
        return f"你的{thing}是{value}。" if value else f"你还没跟我说过你的{thing}呢，说说看？"
    if value:
        return f"Your {thing} is {value}."
    return f"You haven't told me about your {thing} yet. What is it?"


def _everything(lang: Lang, facts: Facts) -> str:
    if not facts:
        return (_ZH_UNKNOWN if lang == "zh" else _EN_UNKNOWN)["all"]
    known = _ZH_KNOWN if lang == "zh" else _EN_KNOWN
    lines = [known[slot].format(value) for slot in known if (value := _value(slot, lang, facts))]
    say: Callable[[str, str], str] = (
        (lambda thing, value: f"你的{thing}是{value}。")
        if lang == "zh"
        else (lambda thing, value: f"Your {thing} is {value}.")
    )
    lines += [say(thing, value) for thing, value in facts.own.items()]
    head = "你告诉过我这些：" if lang == "zh" else "This is what you told me:"
    return head + "\n\n" + "\n".join(f"- {line}" for line in lines)
