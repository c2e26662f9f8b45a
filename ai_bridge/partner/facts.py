"""What a person told about themselves, picked out of their own sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy

from msgspec import Struct, field

MAX_LIKES = 6
MAX_FACT_CHARS = 60


class Facts(Struct):
    """Everything known; later statements replace earlier ones. `own` holds "my X is Y"."""

    name: str = ""
    home: str = ""
    job: str = ""
    age: str = ""
    plan: str = ""
    likes: list[str] = field(default_factory=list)
    dislikes: list[str] = field(default_factory=list)
    own: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        singles = (self.name, self.home, self.job, self.age, self.plan)
        return any(singles) or bool(self.likes or self.dislikes or self.own)


_EN_END = r"(?=[.,;!?\n]|\s+(?:and i|but|because|since|so|when|while|though|what|do you)\b|$)"
_EN_NO_NAME_WORDS = """
a afraid an angry at back bored done feeling fine from glad going good happy here home hungry
in just lonely looking new not ok okay on really sad so sorry sure the thinking tired trying
very working you your
"""
_EN_NOT_NAMES = frozenset(_EN_NO_NAME_WORDS.split())
_EN_JOB = (
    r"(?:[a-z-]+\s){0,2}(?:[a-z]+(?:er|or|ist|ian|ant|eer)|nurse|student|chef|cook|artist|"
    r"scientist|pilot|vet|judge|architect|athlete|coach|clerk|dentist|surgeon|parent|poet)"
)
_EN = {
    "name": re.compile(r"\b(?:my name(?:'s| is)|call me|i go by)\s+([^\W\d][\w'-]*)", re.I),
    "name_am": re.compile(r"\b[Ii](?:'m| am) ([A-Z][\w'-]+)(?=[.,;!?\n]|\s+and\b|$)"),
    "home": re.compile(
        rf"\bi (?:live|am living|moved|come|am) (?:in|to|from) ([\w' -]+?){_EN_END}|"
        rf"\bi'm (?:living in|from) ([\w' -]+?){_EN_END}",
        re.I,
    ),
    "job": re.compile(
        rf"\bi(?:'m| am| work as) an? ({_EN_JOB})\b|"
        rf"\bi work ((?:at|for|in|with) [\w' -]+?){_EN_END}",
        re.I,
    ),
    "age": re.compile(r"\bi(?:'m| am) (\d{1,3})(?: years old)?(?=[.,;!?\n]|\s+and\b|$)", re.I),
    "plan": re.compile(
        r"\bi(?:'m| am) (?:going to|planning to|about to|planning) ([\w' -]+?)(?=[.,;!?\n]|$)|"
        r"\bi (?:plan to|want to|hope to|will) ([\w' -]+?)(?=[.,;!?\n]|$)|"
        r"\bi'll ([\w' -]+?)(?=[.,;!?\n]|$)|"
        r"\bi'd (?:like|love) to ([\w' -]+?)(?=[.,;!?\n]|$)",
        re.I,
    ),
    "like": re.compile(
        rf"\bi (?:really |also |just |absolutely )?(?:like|love|enjoy|adore) ([\w' -]+?){_EN_END}",
        re.I,
    ),
    "dislike": re.compile(
        rf"\bi (?:really )?(?:don't like|do not like|hate|dislike|can't stand) ([\w' "
        rf"-]+?){_EN_END}",
        re.I,
    ),
    "own": re.compile(
        r"\bmy ((?:favou?rite )?[a-z]+(?: [a-z]+)?)(?:'s name)? (?:is|are|was)"
        r"(?: called| named)? ([\w' -]+?)(?=[.,;!?\n]|\s+and\b|\s+but\b|$)",
        re.I,
    ),
    "pet": re.compile(
        r"\bi have an? (?:[a-z]+ )?([a-z]+)(?: who is| that is)? (?:named|called) ([\w'-]+)", re.I
    ),
}
_EN_EMPTY = re.compile(
    r"^(?:it|that|this|you|them|him|her|to know|know|ask|say|see|talk|hear|be|do it|so)\b", re.I
)

_ZH_END = r"(?=[，。！？；、,.!?;\s]|但|因为|所以|不过|$)"
_ZH_ASKS = re.compile(r"什么|谁|哪|几[岁点个]|多少|多大|吗|啥|怎么|呢")
_SURNAMES = (
    "赵钱孙李周吴郑王冯陈蒋沈韩杨朱秦许何吕张孔曹严华金魏陶姜谢邹喻苏潘葛范彭鲁韦马"
    "方俞任袁柳史唐薛雷贺罗毕郝安常傅康余顾孟黄萧尹姚邵汪毛米戴宋庞熊纪舒项祝董梁杜"
    "阮蓝贾江童颜郭梅林徐邱高夏蔡田胡霍万卢莫房丁邓洪石崔龚程陆段侯武刘龙叶白蒲温庄"
    "曾关易廖"
)
_ZH = {
    "name": re.compile(
        r"(?:我(?:的名字)?叫(?:做)?|我的名字是|(?:你)?(?:可以|就)?叫我)"
        r"([\u4e00-\u9fff·]{1,4}|[A-Za-z][\w-]*)(?:吧|哦|呀|啊)?(?=[，。！？；、,.!?;\s]|$)"
    ),
    "name_am": re.compile(
        rf"我是((?:[小阿老]|[{_SURNAMES}])[\u4e00-\u9fff]{{1,2}}|[A-Z][a-z]+)(?=[，。！？"
        rf"；、,.!?;\s]|$)"
    ),
    "home": re.compile(
        r"(?:我|[，,。！!\s]|并且|也)(?:现在|目前|一直)?(?:住在|家在|来自)"
        rf"([\u4e00-\u9fffA-Za-z ]{{2,12}}?){_ZH_END}|"
        r"我是([\u4e00-\u9fff]{2,5})人(?=[，。！？；、,.!?;\s]|$)"
    ),
    "job": re.compile(
        r"我(?:是|当)(?:一?[个名位])?([\u4e00-\u9fff]{0,6}(?:师|学生|研究生|程序员|医生|护士|教授|"
        r"律师|会计|司机|演员|作家|画家|经理|公务员|店员|警察|记者|编辑|老板))"
        rf"|我在([\u4e00-\u9fffA-Za-z ]{{1,12}}?(?:上班|工作|上学|读书|实习)){_ZH_END}"
    ),
    "age": re.compile(r"我(?:今年|已经)?([0-9]{1,3}|[一二三四五六七八九十]{1,3})岁"),
    "plan": re.compile(
        r"我((?:明天|后天|今晚|周末|这个?周末|下周|下个?月|明年|以后|将来)?"
        r"(?:打算|准备|计划|要去|想去|想学|想要?)[^，。！？；,.!?;\n]{1,20})"
        r"|((?:明天|后天|今晚|周末|这个?周末|下周|下个?月|明年)我?(?:打算|准备|计划|要|想|会)"
        r"[^，。！？；,.!?;\n]{1,20})"
    ),
    "like": re.compile(
        rf"我(?:很|最|特别|非常|比较|也|超级?|都|一直|还)*(?:喜欢|热爱|爱)([^，。！？；"
        rf",.!?;\n]{{1,14}}?){_ZH_END}"
    ),
    "dislike": re.compile(
        rf"我(?:很|最|特别|非常|真的)*(?:不喜欢|讨厌|不爱)([^，。！？；,.!?;\n]{{1,14}}?){_ZH_END}"
    ),
    "own": re.compile(
        r"我(?:的|家的?|最喜欢的)([\u4e00-\u9fff]{1,6}?)(?:的名字)?(?:叫做?|是)"
        r"([^，。！？；,.!?;\n]{1,12}?)(?=[，。！？；,.!?;\s]|$)"
    ),
    "pet": re.compile(
        r"我(?:家)?(?:有|养了?)(?:一)?[只条个]([\u4e00-\u9fff]{1,4}?)[，,]?(?:它|名字)?叫"
        r"([\u4e00-\u9fffA-Za-z]{1,8})"
    ),
}
_ZH_EMPTY = re.compile(r"^(?:你|它|他|她|这|那|问|知道|说|看看你|聊天$)")


def learn(sentences: Iterable[str], known: Facts | None = None) -> Facts:
    """Collect the facts of one person's messages, oldest first, on top of what is known."""
    facts = Facts() if known is None else deepcopy(known)
    for text in sentences:
        _learn_english(facts, text)
        _learn_chinese(facts, text)
    return facts


def _learn_english(facts: Facts, text: str) -> None:
    text = text.replace("\u2019", "'")
    sentences = re.split(r"(?<=[.!?\n])\s+", text)
    statements = " ".join(sentence for sentence in sentences if "?" not in sentence)
    if match := _EN["name"].search(statements):
        facts.name = _as_name(match[1])
    elif (match := _EN["name_am"].search(statements)) and match[1].lower() not in _EN_NOT_NAMES:
        facts.name = match[1]
    for slot in ("home", "job", "age", "plan"):
        value = _first(_EN[slot], statements)
        if value and not _EN_EMPTY.match(value):
            setattr(facts, slot, value)
    for found in _EN["dislike"].findall(statements):
        _add(facts.dislikes, found, _EN_EMPTY)
    for found in _EN["like"].findall(statements):
        _add(facts.likes, found, _EN_EMPTY)
    for thing, value in _EN["own"].findall(statements) + _EN["pet"].findall(statements):
        if thing.lower() != "name":
            facts.own[thing.lower().replace("favourite", "favorite")] = value.strip()


def _learn_chinese(facts: Facts, text: str) -> None:
    clauses = [part for part in re.split(r"(?<=[。！？!?\n])", text) if not _ZH_ASKS.search(part)]
    statements = "".join(clauses)
    if not statements:
        return
    match = _ZH["name"].search(statements)
    if match is None and not _ZH["job"].search(statements):  # "我是老师" is no name
        match = _ZH["name_am"].search(statements)
    if match:
        facts.name = match[1].rstrip("吧哦呀啊")
    for slot in ("home", "job", "age", "plan"):
        value = _first(_ZH[slot], statements)
        if value and not re.search(r"想(?:问|知道|说|请|让你)", value):
            setattr(facts, slot, value)
    for found in _ZH["dislike"].findall(statements):
        _add(facts.dislikes, found, _ZH_EMPTY)
    for found in _ZH["like"].findall(statements):
        _add(facts.likes, found.rstrip("了啊呀哦"), _ZH_EMPTY)
    for thing, value in _ZH["own"].findall(statements) + _ZH["pet"].findall(statements):
        if thing != "名字":
            facts.own[thing] = value.strip()


def _first(pattern: re.Pattern[str], text: str) -> str:
    """Return the last match's first filled group: who corrects themselves does it at the end."""
    value = ""
    for match in pattern.finditer(text):
        value = next((group for group in match.groups() if group), "").strip()
    return value[:MAX_FACT_CHARS]


def _add(known: list[str], found: str, empty: re.Pattern[str]) -> None:
    thing = found.strip()[:MAX_FACT_CHARS]
    if thing and not empty.match(thing):
        if thing in known:
            known.remove(thing)
        known.append(thing)
        del known[:-MAX_LIKES]


def _as_name(word: str) -> str:
    return word if word[:1].isupper() else word.capitalize()
