"""The offline partner: honest about itself, listens, remembers, and streams like a person."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig
from ai_bridge.partner.arithmetic import solve
from ai_bridge.partner.language import language_of
from ai_bridge.partner.partner import answer
from ai_bridge.partner.topics import reflect_en, reflect_zh, topic_en, topic_zh
from ai_bridge.types import ChatMessage, PersonaSpec, Role, TurnRequest
from protocol.codes import EndReason
from tests.ai_bridge.conftest import MakeRig
from tests.ai_bridge.fakes import Watcher, request
from tests.ai_bridge.fakes import answer as answer_of

NOW = datetime(2026, 3, 5, 14, 7, tzinfo=UTC)
MIRA = PersonaSpec(1, "Mira")


class Talk:
    """A conversation with the partner, message after message."""

    def __init__(self, persona: PersonaSpec = MIRA, conv: int = 7) -> None:
        self.persona = persona
        self.conv = conv
        self.history: list[ChatMessage] = []

    def say(self, text: str) -> str:
        self.history.append(ChatMessage(Role.USER, text))
        asked = TurnRequest(
            turn_id=len(self.history), tenant=1, user=1, conv=self.conv, persona=self.persona,
            history=tuple(self.history),
        )  # fmt: skip
        reply = answer(asked, now=NOW)
        self.history.append(ChatMessage(Role.ASSISTANT, reply))
        return reply


@pytest.mark.parametrize(
    ("first", "words"), [("Hi!", ("demo", "AI model")), ("你好", ("演示", "大模型"))]
)
def test_the_first_answer_tells_that_it_is_a_demo_and_how_to_change_that(
    first: str, words: tuple[str, str]
) -> None:
    talk = Talk()
    reply = talk.say(first)
    assert "Mira" in reply
    for word in (*words, "Ollama", "OPENAI_API_KEY", "ai.providers"):
        assert word in reply
    assert "OPENAI_API_KEY" not in talk.say(first)


@pytest.mark.parametrize(
    ("told", "asked", "expected"),
    [
        ("My name is tom", "What is my name?", "Tom"),
        ("Hello, I'm Ada and I work as a teacher.", "do you remember my name?", "Ada"),
        ("call me Zed please", "who am I?", "Zed"),
        ("I live in New York, it's loud", "where do I live?", "New York"),
        ("I'm from Leeds.", "Where am I from?", "Leeds"),
        ("I work as a nurse", "what do I do for a living?", "nurse"),
        ("I'm a software engineer", "what is my job?", "software engineer"),
        ("I am 34 years old", "how old am I", "34"),
        ("I really love sailing and chess", "What do I like?", "sailing and chess"),
        ("I can't stand loud music", "what do I hate?", "loud music"),
        ("I'm going to visit my aunt tomorrow", "what are my plans?", "visit my aunt"),
        ("my sister is called Anna", "what's my sister's name?", "Anna"),
        ("My favourite colour is green", "what is my favorite colour?", "green"),
        ("I have a dog named Rex", "what is my dog called?", "Rex"),
        ("我叫小明", "我叫什么？", "小明"),
        ("你好，我是李雷", "你还记得我的名字吗", "李雷"),
        ("叫我阿强吧", "我是谁？", "阿强"),
        ("我叫小红，住在杭州", "我住哪里？", "杭州"),
        ("我来自成都", "我是哪里人？我从哪里来", "成都"),
        ("我是一名小学老师", "我的工作是什么？", "小学老师"),
        ("我今年28岁", "我多大了", "28"),
        ("我特别喜欢爬山和摄影", "我喜欢什么？", "爬山和摄影"),
        ("我讨厌香菜", "我讨厌什么", "香菜"),
        ("我打算明年去西藏", "我有什么计划？我的计划是什么", "西藏"),
        ("我的猫叫咪咪", "我的猫叫什么？", "咪咪"),
        ("我养了一只狗叫旺财", "我的狗叫什么", "旺财"),
        # across the languages
        ("My name is Tom", "我叫什么名字？", "Tom"),
        ("我叫小明", "what's my name?", "小明"),
    ],
)
def test_what_was_told_is_remembered(told: str, asked: str, expected: str) -> None:
    talk = Talk()
    talk.say(told)
    talk.say("The weather is fine." if told.isascii() else "天气不错。")
    assert expected in talk.say(asked)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("What's my name?", "haven't told me"),
        ("what is my cat's name?", "haven't told me"),
        ("我叫什么？", "还没告诉我"),
        ("我的狗叫什么", "还没跟我说过"),
        ("what do you know about me", "Nothing yet"),
        ("你记得我什么", "还什么都不知道"),
    ],
)
def test_what_was_not_told_is_not_invented(asked: str, expected: str) -> None:
    assert expected in Talk().say(asked)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, I'm from here", "I'm tired", "I'm so happy", "Do you like my name is what?",
        "我是说真的", "我是认真的", "我是老师", "我叫什么",
    ],
)  # fmt: skip
def test_no_name_is_heard_where_none_was_said(text: str) -> None:
    talk = Talk()
    talk.say(text)
    reply = talk.say("我叫什么名字？")
    assert "还没告诉我" in reply


def test_the_latest_statement_counts() -> None:
    talk = Talk()
    talk.say("My name is Tom and I live in Leeds")
    talk.say("Sorry, my name is Tim. I moved to York")
    reply = talk.say("What do you know about me?")
    assert "Tim" in reply
    assert "York" in reply
    assert "Tom" not in reply
    assert "Leeds" not in reply


def test_everything_known_is_listed() -> None:
    talk = Talk()
    talk.say("我叫小明，住在杭州")
    talk.say("我喜欢爬山。我的猫叫咪咪")
    reply = talk.say("你记得我什么？")
    for fact in ("小明", "杭州", "爬山", "咪咪"):
        assert fact in reply


def test_in_a_group_only_the_askers_facts_are_told() -> None:
    history = (
        ChatMessage(Role.USER, "My name is Ann", "ann"),
        ChatMessage(Role.USER, "My name is Bob", "bob"),
        ChatMessage(Role.USER, "what is my name?", "ann"),
    )
    asked = TurnRequest(
        turn_id=1, tenant=1, user=1, conv=1, persona=PersonaSpec(1, "Mira"), history=history
    )
    assert "Ann" in answer(asked, now=NOW)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("what is 12*7?", "84"),
        ("3 plus 4", "7"),
        ("What's three times five", "15"),
        ("15% of 240", "36"),
        ("(2+3)*4", "20"),
        ("10 / 4", "2.5"),
        ("1/3", "0.333333"),
        ("2 to the power of 10", "1024"),
        ("7 squared = ?", "49"),
        ("1,000 + 1", "1001"),
        ("-2 + 5 is 3? no: 8 - 10", "3"),
        ("三加五等于几", "8"),
        ("23乘以19等于多少？", "437"),
        ("一百减二十", "80"),
        ("十二除以四", "3"),
        ("5 × 6 是多少", "30"),
        ("1 / 0", ""),
    ],
)
def test_sums_are_worked_out(text: str, result: str) -> None:
    found = solve(text)
    assert found is not None
    assert found[1] == result


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I was born in 1990",
        "2024-05-01",
        "call 555 1234",
        "9^9^9",
        "9**99",
        "((((",
        "1+",
        "二月",
    ],
)
def test_what_is_no_sum_is_left_alone(text: str) -> None:
    assert solve(text) is None


def test_time_and_date_are_told() -> None:
    talk = Talk()
    assert "14:07" in talk.say("What time is it?")
    assert "Thursday, 5 March 2026" in talk.say("what's the date today?")
    assert "14:07" in talk.say("现在几点了？")
    assert "2026年3月5日，星期四" in talk.say("今天星期几？")


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("hello there", "en"), ("你好", "zh"), ("我用 Python 写代码", "zh"),
        ("how do I say 你好", "en"), ("please answer in Chinese", "zh"), ("请用英语回答", "en"),
    ],
)  # fmt: skip
def test_the_language_of_the_last_message_is_answered(text: str, lang: str) -> None:
    assert language_of([text]) == lang


def test_a_message_without_words_keeps_the_language() -> None:
    assert language_of(["你好", "123 😀"]) == "zh"
    assert language_of(["😀"], "zh-CN") == "zh"
    assert language_of(["😀"], "en") == "en"


@pytest.mark.parametrize(
    ("asked", "word", "paragraphs"),
    [
        ("Tell me a story about a lighthouse", "lighthouse", 5),
        ("讲一个关于灯塔的故事", "灯塔", 5),
        ("write a poem about rain", "rain", 2),
        ("写一首关于雨的诗", "雨", 2),
    ],
)
def test_longer_pieces_are_long_and_about_the_topic(asked: str, word: str, paragraphs: int) -> None:
    talk = Talk()
    talk.say("ok")
    reply = talk.say(asked)
    assert word in reply.lower()
    assert len(reply.split("\n\n")) >= paragraphs


@pytest.mark.parametrize(
    ("asked", "count"),
    [("give me 3 tips for learning Chinese", 3), ("给我四条学英语的建议", 4), ("列一个旅行清单", 5),
     ("a list of ideas please", 5), ("give me 99 ideas", 10)],
)  # fmt: skip
def test_lists_have_the_length_that_was_asked_for(asked: str, count: int) -> None:
    lines = Talk().say(asked).splitlines()
    assert sum(line[:2].rstrip(".").isdigit() for line in lines) == count


@pytest.mark.parametrize(
    ("asked", "language"),
    [("show me some code", "python"), ("写一段 SQL 代码", "sql"), ("a bash script", "bash"),
     ("write javascript", "javascript"), ("给我一段代码", "python")],
)  # fmt: skip
def test_code_comes_in_a_block(asked: str, language: str) -> None:
    reply = Talk().say(asked)
    assert f"```{language}\n" in reply
    assert reply.count("```") == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I feel so sad today", ("sorry", "hard", "end")),
        ("I'm really tired", ("rest", "slowly", "sleep")),
        ("thanks a lot", ("welcome", "pleasure", "Happy", "Any time")),
        ("goodbye", ("Goodbye", "See you", "Until")),
        ("Who are you?", ("Mira",)),
        ("help", ("story", "name")),
        ("are you a real person?", ("rules",)),
        ("我很难过", ("难过", "好受", "抱抱")),
        ("好累啊", ("歇", "慢慢", "睡")),
        ("谢谢你", ("客气", "应该", "就好", "小事")),
        ("再见", ("再见", "拜拜", "下次")),
        ("你是谁", ("Mira",)),
        ("你能做什么？", ("故事",)),
        ("你是机器人吗", ("规则",)),
    ],
)
def test_small_talk_is_answered_in_kind(text: str, words: tuple[str, ...]) -> None:
    reply = Talk().say(text).split("*(")[0].split("*（")[0]
    assert any(word in reply for word in words)


@pytest.mark.parametrize(
    "lines",
    [
        ["I went sailing with my brother", "We saw a whale", "The whale was near the boat",
         "My brother took photos", "Then the wind came up", "We sailed home", "It rained all night",
         "The harbour was dark", "We drank tea in the kitchen", "My mother laughed"],
        ["我昨天和弟弟去公园拍了很多照片", "我们看到了一只鲸鱼", "鲸鱼离船很近", "弟弟拍了照片",
         "后来起风了", "我们划船回家", "下了一整夜的雨", "码头很黑", "我们在厨房喝茶", "妈妈笑了"],
    ],
)  # fmt: skip
def test_a_longer_talk_does_not_repeat_itself_and_is_no_echo(lines: list[str]) -> None:
    talk = Talk()
    replies = [talk.say(line) for line in lines]
    assert len(set(replies)) == len(replies)
    assert not any(reply.strip(".。") == line for reply, line in zip(replies, lines, strict=True))


def test_the_topic_is_taken_up() -> None:
    replies = [Talk(conv=conv) for conv in range(6)]
    for talk in replies:
        talk.say("hello")
    answers = [talk.say("The new camera arrived, mostly for photography") for talk in replies]
    assert all("photography" in reply for reply in answers)
    assert len(set(answers)) > 1  # talks differ


def test_the_same_talk_goes_the_same_way() -> None:
    lines = ["hi", "I love tea", "tell me a story", "你好"]
    first, second = Talk(), Talk()
    assert [first.say(line) for line in lines] == [second.say(line) for line in lines]


@pytest.mark.parametrize(
    ("asked", "more"), [("tell me a story", "please continue"), ("讲个故事", "继续")]
)
def test_an_answer_that_was_cut_off_is_continued(asked: str, more: str) -> None:
    talk = Talk()
    talk.say("ok")
    whole = talk.say(asked)
    talk.history[-1] = ChatMessage(Role.ASSISTANT, whole[:100])
    assert whole[:100] + talk.say(more) == whole
    assert len(talk.say(more)) < 80  # then there is no more


def test_the_persona_keeps_its_tone() -> None:
    cat = Talk(PersonaSpec(2, "阿喵", "你是一只猫"))
    assert any(sound in cat.say("你好") for sound in ("喵", "尾巴"))
    assert "阿喵" in cat.say("你是谁")


@pytest.mark.parametrize(
    ("prompt", "hello", "offer", "yes", "sign"),
    [
        ("You are a senior software engineer.", "hi", "code", "yes please", "```"),
        ("You are a storyteller.", "hello", "story", "sure", "at the End of the Road"),
        ("你是一位宋代女词人。", "你好", "诗", "好啊", "\n\n"),
        ("你是一位资深工程师", "你好", "代码", "要", "```python"),
    ],
)
def test_a_persona_offers_what_it_is_good_at_and_keeps_its_word(
    prompt: str, hello: str, offer: str, yes: str, sign: str
) -> None:
    talk = Talk(PersonaSpec(3, "Max", prompt))
    assert offer in talk.say(hello)
    assert sign in talk.say(yes)


@pytest.mark.parametrize(
    ("text", "turned"),
    [
        ("I miss my dog.", "you miss your dog"),
        ("I was at home with our friends", "you were at home with your friends"),
        ("My car broke down", "your car broke down"),
        ("The car broke down", ""),
        ("I ran", ""),
    ],
)
def test_statements_are_turned_around(text: str, turned: str) -> None:
    assert reflect_en(text) == turned


def test_chinese_statements_are_turned_around() -> None:
    assert reflect_zh("我昨天去了公园") == "你昨天去了公园"
    assert reflect_zh("我该怎么办") == ""


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("I repaired my old bike", "your old bike"),
        ("It was windy", ""),
        ("Tell me about volcanoes", "volcanoes"),
        ("ok", ""),
    ],
)
def test_english_topics(text: str, topic: str) -> None:
    assert topic_en(text) == topic


@pytest.mark.parametrize(
    ("text", "topic"), [("光合作用是怎么回事？", "光合作用"), ("天气有点冷", "天气"), ("好", "")]
)
def test_chinese_topics(text: str, topic: str) -> None:
    assert topic_zh(text) == topic


@given(st.lists(st.text(max_size=80), min_size=1, max_size=4))
def test_whatever_is_said_gets_an_answer(lines: list[str]) -> None:
    talk = Talk()
    assert all(talk.say(line).strip() for line in lines)


SALAD = """
I you my 我 你 喜欢 like is 叫 what {x} {} {0} 3 + * ( ) ? 。 story 故事 of 9 ^ 1/0 住在 code list
"""


@given(st.lists(st.sampled_from(SALAD.split()), max_size=25))
def test_odd_word_salads_get_an_answer(words: list[str]) -> None:
    talk = Talk()
    talk.say("My name is {x} and I like {user}")
    assert talk.say(" ".join(words)).strip()


# --- as a provider -------------------------------------------------------------------------------


async def test_the_demo_streams_in_pieces(make_rig: MakeRig) -> None:
    rig = await make_rig()
    turn, watcher = rig.ask("tell me a story about a bridge")
    outcome = await watcher.end()
    assert (outcome.reason, outcome.provider, outcome.model) == (EndReason.STOP, "demo", "demo")
    assert watcher.changes > 100
    assert "bridge" in answer_of(turn)
    assert outcome.usage.completion > 100


async def test_the_demo_keeps_to_its_pace_and_can_be_stopped() -> None:
    bridge = Bridge(BridgeConfig(demo_words_per_s=120))
    await bridge.start()
    watcher = Watcher()
    turn = bridge.submit(request(1, "tell me a story"), watcher)
    await watcher.change(10)
    bridge.cancel(turn.id)
    outcome = await watcher.end()
    assert outcome.reason is EndReason.CANCELLED
    assert outcome.duration_ms >= 20
    assert turn.size() < 400
    await bridge.aclose()


async def test_a_limit_on_tokens_is_kept(make_rig: MakeRig) -> None:
    rig = await make_rig()
    turn, watcher = rig.ask("tell me a story", max_tokens=20)
    assert (await watcher.end()).reason is EndReason.LENGTH
    assert turn.size() < 150
