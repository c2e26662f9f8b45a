"""The rule-based partner: from a talk so far to the next answer.

Skills are asked in order; the first that has something to say wins. Everything is a function of
the request and the time, so the same talk always goes the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from types import ModuleType

from msgspec import structs

from ai_bridge.partner import chinese, english
from ai_bridge.partner.arithmetic import solve
from ai_bridge.partner.creations import create
from ai_bridge.partner.facts import Facts, learn
from ai_bridge.partner.language import Lang, language_of
from ai_bridge.partner.recall import recall
from ai_bridge.partner.topics import reflect_en, reflect_zh, topic_en, topic_zh
from ai_bridge.partner.voice import Voice, trade_of
from ai_bridge.types import Role, TurnRequest

MAX_READ_CHARS = 600
"""Rules read this much of a message: nobody says their name after that."""
MAX_READ_MESSAGES = 60

_TIME = re.compile(
    r"what(?:'s| is) the time|what time is it|current time|几点|什么时间|什么时候了", re.I
)
_DATE = re.compile(
    r"what(?:'s| is) (?:the date|today)|what (?:day|date) is|today'?s date|"
    r"今天(?:是)?(?:几号|星期几|周几|礼拜几|什么日子|多少号)|几月几号|日期",
    re.I,
)
_WEEKDAYS_ZH = "一二三四五六日"


class Talk:
    """What the skills look at: the last words, what is known, and the voice to answer in."""

    def __init__(self, request: TurnRequest, now: datetime) -> None:
        asker = request.history[-1].name if request.history else None
        self.said = [
            message.text[:MAX_READ_CHARS].strip()
            for message in request.history
            if message.role is Role.USER and message.name == asker
        ][-MAX_READ_MESSAGES:]
        self.text = self.said[-1] if self.said else ""
        self.lang: Lang = language_of(self.said, request.lang)
        self.now = now
        self.request = request
        self.before = learn(self.said[:-1])
        self.facts = learn(self.said[-1:], self.before)
        answers = [message.text for message in request.history if message.role is Role.ASSISTANT]
        seed = f"{request.conv}:{request.persona.id}:{len(self.said)}:{self.text}"
        self.voice = Voice(self.lang, request.persona, answers, seed)
        self.words: ModuleType = chinese if self.lang == "zh" else english

    @property
    def is_first(self) -> bool:
        return len(self.said) <= 1

    def say(self, key: str, **values: str) -> str:
        return self.voice.pick(self.words.SAYINGS[key], user=self._user(), **values)

    def matches(self, name: str) -> bool:
        """Tell whether the text fits one of the language's patterns ("GREETING", "YES", ...)."""
        pattern: re.Pattern[str] = getattr(self.words, name)
        return pattern.search(self.text) is not None

    def topic(self) -> str:
        return topic_zh(self.text) if self.lang == "zh" else topic_en(self.text)

    def _user(self) -> str:
        """Address the person by name now and then, not in every sentence."""
        name = self.before.name
        if not name or self.voice.dice.random() < 0.4:
            return ""
        return f"{name}，" if self.lang == "zh" else f", {name}"


def answer(request: TurnRequest, *, now: datetime) -> str:
    """Return the whole answer. The first one of a talk tells that this is a demo."""
    talk = Talk(request, now)
    text = next(reply for skill in _SKILLS if (reply := skill(talk)))
    if talk.is_first:
        return f"{text}\n\n{talk.words.NOTE}"
    return text


# --- skills: return None to pass on ------------------------------------------------------------


def _empty(talk: Talk) -> str | None:
    return talk.say("empty") if not talk.text else None


def _continue(talk: Talk) -> str | None:
    """Say the rest of an answer that was cut off."""
    if not talk.matches("CONTINUE"):
        return None
    history = talk.request.history
    if len(history) >= 3 and history[-2].role is Role.ASSISTANT:
        # The same talk goes the same way, so the whole answer can be made again.
        earlier = structs.replace(talk.request, history=history[:-2])
        whole, part = answer(earlier, now=talk.now), history[-2].text
        if whole.startswith(part) and len(whole) > len(part):
            return whole[len(part) :].lstrip()
    return talk.say("continue")


def _recall(talk: Talk) -> str | None:
    reply = recall(talk.text, talk.lang, talk.facts)
    return talk.voice.signed(reply) if reply else None


def _calculate(talk: Talk) -> str | None:
    found = solve(talk.text)
    if found is None:
        return None
    shown, result = found
    return talk.say("sum", sum=shown, result=result) if result else talk.say("sum_zero")


def _clock(talk: Talk) -> str | None:
    if _TIME.search(talk.text):
        return talk.say("time", time=talk.now.strftime("%H:%M"))
    if _DATE.search(talk.text):
        return talk.say("date", date=_date(talk.now, talk.lang))
    return None


def _date(now: datetime, lang: Lang) -> str:
    if lang == "zh":
        return f"{now.year}年{now.month}月{now.day}日，星期{_WEEKDAYS_ZH[now.weekday()]}"
    return f"{now:%A}, {now.day} {now:%B} {now.year}"


def _create(talk: Talk) -> str | None:
    return create(talk.text, talk.lang, talk.facts.name, talk.voice.dice)


def _small_talk(talk: Talk) -> str | None:
    for key, pattern in talk.words.SMALL_TALK:
        if pattern.search(talk.text):
            return talk.voice.signed(talk.say(key))
    return None


def _learnt(talk: Talk) -> str | None:
    """Take up the most telling thing that this message added to what is known."""
    slot, value, thing = _newest(talk.before, talk.facts)
    if not slot:
        return None
    return talk.voice.signed(talk.say(f"learnt_{slot}", value=_turned(talk, value), thing=thing))


def _newest(before: Facts, after: Facts) -> tuple[str, str, str]:
    if after.name != before.name:
        return "name", after.name, ""
    for thing, value in reversed(after.own.items()):
        if before.own.get(thing) != value:
            return "own", value, thing
    for slot, known, now_known in (
        ("dislike", before.dislikes, after.dislikes),
        ("like", before.likes, after.likes),
    ):
        if now_known and now_known[-1] not in known:
            return slot, now_known[-1], ""
    for slot in ("home", "job", "plan", "age"):
        value = getattr(after, slot)
        if value != getattr(before, slot):
            return slot, value, ""
    return "", "", ""


def _turned(talk: Talk, value: str) -> str:
    """Turn "visit my aunt" into "visit your aunt"."""
    if talk.lang == "zh":
        return value.replace("我", "你")
    return re.sub(r"\bmy\b", "your", re.sub(r"\bour\b", "your", value))


def _greeting(talk: Talk) -> str | None:
    if not talk.matches("GREETING") or len(talk.text) > 60:
        return None
    if not talk.is_first:
        return talk.voice.signed(talk.say("hello_again"))
    trade = trade_of(talk.request.persona)
    if trade is None:
        return talk.voice.signed(talk.say("hello"))
    joint = "" if talk.lang == "zh" else " "
    offer: str = talk.words.OFFERS[trade][0]
    return talk.voice.signed(talk.say("hello_trade") + joint + offer)


def _offered(talk: Talk) -> str | None:
    """Keep an offer that was just made, if the person says yes to it."""
    history = talk.request.history
    if len(history) < 2 or len(talk.text) > 30 or not talk.matches("YES"):
        return None
    for offer, wish in talk.words.OFFERS.values():
        if wish and offer in history[-2].text:
            return create(wish, talk.lang, talk.facts.name, talk.voice.dice)
    return None


def _question(talk: Talk) -> str | None:
    if not talk.matches("QUESTION"):
        return None
    topic = talk.topic()
    if not topic:
        return talk.say("question_plain")
    return talk.say("opinion" if talk.matches("OPINION") else "question", topic=topic)


def _short_answer(talk: Talk) -> str | None:
    if len(talk.text) > (12 if talk.lang == "zh" else 30):
        return None
    for name in ("UNSURE", "NO", "YES"):
        if talk.matches(name):
            return talk.say(name.lower())
    return None


def _chat(talk: Talk) -> str:
    """Take the thread up: the statement seen from the other side, then a question about it."""
    voice = talk.voice
    turned = reflect_zh(talk.text) if talk.lang == "zh" else reflect_en(talk.text)
    parts = []
    if turned and voice.tone != "brief" and voice.dice.random() < 0.6:
        opening = talk.say("opener", turned=turned)
        parts.append(opening[:1].upper() + opening[1:])
    parts.append(_follow_up(talk))
    joint = "" if talk.lang == "zh" else " "
    return voice.signed(joint.join(parts))


def _follow_up(talk: Talk) -> str:
    dice = talk.voice.dice
    before = talk.before
    if before.likes and dice.random() < 0.2:
        return talk.say("recall_like", value=_turned(talk, dice.choice(before.likes)))
    if before.plan and dice.random() < 0.15:
        return talk.say("recall_plan", value=_turned(talk, before.plan))
    topic = talk.topic()
    return talk.say("chat_topic", topic=topic) if topic else talk.say("chat_plain")


_SKILLS: tuple[Callable[[Talk], str | None], ...] = (
    _empty,
    _continue,
    _offered,
    _recall,
    _calculate,
    _clock,
    _create,
    _small_talk,
    _learnt,
    _greeting,
    _question,
    _short_answer,
    _chat,
)
