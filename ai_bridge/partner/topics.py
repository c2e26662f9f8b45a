"""What a sentence is about, and the sentence seen from the other side ("my" becomes "your")."""

from __future__ import annotations

import re

_EN_STOP_WORDS = """
a about actually after again all also always am an and any anything are as at bad be because
been before being best bit but by can can't could currently day describe did didn't do does
doing don't done enjoy evening every everything explain favorite favourite feel feeling felt
first for from get give go goes going gone good got great had has hate have having he hello
help her here hey hi him his how i i'd i'll i'm i've if in interesting into is isn't it it's
its just know last let like little live lives looking lot lots love made make many maybe me
mine more morning most much my need never new next nice night no not nothing now of off often
ok okay on one only or other our ours out over people please quite really recently right said
say see she should show so some someone something sometimes still such take talk tell than
thank thanks that that's the their them then there these they thing things think thinking this
those time to today tomorrow too try trying up us use very want was wasn't way we week weekend
well went were what when where which while who why will with won't work working works would
write yeah yes yesterday yet you you'd you're your your's
"""
_EN_STOP = frozenset(_EN_STOP_WORDS.split())
_EN_OWN = re.compile(r"\b(?:my|our) ((?:[a-z'-]+ )?[a-z'-]+)", re.I)
_EN_WORD = re.compile(r"[A-Za-z][A-Za-z'-]+")
_EN_PREDICATE = re.compile(  # "it was windy": nothing to ask about
    r"\b(?:is|was|are|were|be|feels?|felt|so|too|very|quite|pretty|rather)"
    r"(?: (?:so|too|very|quite|pretty|rather|a bit))? [a-z]+\b(?=[.,;!?\n]|$)",
    re.I,
)
_EN_SWAPS = {
    "i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself", "am": "are",
    "i'm": "you're", "i've": "you've", "i'll": "you'll", "i'd": "you'd", "we": "you", "us": "you",
    "our": "your", "you": "me", "your": "my", "yours": "mine", "yourself": "myself",
}  # fmt: skip

_ZH_KEPT = (  # words that contain a character at which sentences are cut
    "作用|应用|费用|信用|用户|大学|学校|学生|同学|数学|科学|文学|化学|哲学|小说|梦想|理想|思想|想法|"
    "机会|社会|会议|音乐会|演唱会|功能|能力|能源|智能|小吃|玩具|做法|写作|读书|看法|家具|工具|对象|"
    "方向|过程|过年|目的|重要|主要|个人|个性|条件|位置|件事|买卖|听力|传说|电话|聊天|可能|回来|将来|"
    "未来|来源|去年|分别|特点|经过|学习|练习"
)
_ZH_CUT = (
    r"[^\u4e00-\u9fffA-Za-z0-9]+|我们|你们|他们|她们|咱们|自己|昨天|今天|明天|后天|前天|刚才|现在|"
    r"最近|以前|周末|早上|晚上|下午|中午|觉得|认为|知道|喜欢|讨厌|希望|准备|打算|"
    r"想要|可以|应该|能够|"
    r"什么|怎么回事|怎么|怎样|为什么|哪里|哪个|多少|一个|一些|一下|一点|一起|很多|非常|特别|"
    r"比较|有点|有些|真的|"
    r"还是|但是|因为|所以|如果|虽然|而且|或者|然后|已经|正在|一直|总是|经常|没有|"
    r"不是|就是|这个|那个|"
    r"这些|那些|这样|那样|这里|那里|关于|告诉|帮我|请问|谢谢|看看|聊聊|说说|觉|得|"
    r"[我你您他她它的了在是有和与跟就都也很吗呢吧啊呀哦嘛要想去来会能把被给让从到对向为着过再还又才"
    r"不没别这那哪谁几个只条位件次看吃喝做玩买学写听读拍说讲聊用]"
)
_ZH_WORD = re.compile(rf"({_ZH_KEPT})|({_ZH_CUT})|(.)", re.S)
_ZH_SWAP = str.maketrans({"我": "你", "你": "我", "您": "我"})


def topic_en(text: str) -> str:
    """Return a noun phrase to speak about, "" if none stands out."""
    own = _EN_OWN.search(text)
    if own:
        words = [word for word in own[1].split() if word.lower() not in _EN_STOP]
        if words:
            return "your " + " ".join(words).lower()
    nouns = _EN_PREDICATE.sub(" ", text)
    words = [word for word in _EN_WORD.findall(nouns) if word.lower() not in _EN_STOP]
    words = [word for word in words if len(word) > 3 and not word.endswith(("ly", "ed"))]
    return words[-1] if words else ""


def topic_zh(text: str) -> str:
    """Return the last telling piece of a Chinese sentence, "" if none stands out.

    Without a dictionary: function words and common verbs cut the sentence, what is left between
    them is mostly nouns.
    """
    pieces = [""]
    for kept, cut, char in _ZH_WORD.findall(text):
        if cut:
            pieces.append("")
        else:
            pieces[-1] += kept or char
    pieces = [piece for piece in pieces if 2 <= len(piece) <= 8]
    return pieces[-1] if pieces else ""


def reflect_en(text: str) -> str:
    """Turn a short statement about the speaker around: "I miss my dog" -> "you miss your dog"."""
    first = re.split(r"[.!?\n]", text.strip())[0].strip()
    words = first.replace("\u2019", "'").split()
    if not 3 <= len(words) <= 14 or words[0].lower() not in ("i", "i'm", "i've", "my", "we", "our"):
        return ""
    turned = [_EN_SWAPS.get(word.lower().rstrip(","), word) for word in words]
    for at in range(len(turned) - 1):
        if turned[at] == "you" and turned[at + 1].lower() == "was":
            turned[at + 1] = "were"
    return " ".join(turned)


def reflect_zh(text: str) -> str:
    """Turn a short Chinese statement about the speaker around."""
    first = re.split(r"[。！？!?\n]", text.strip())[0].strip("，, ")
    if not 4 <= len(first) <= 24 or "我" not in first or re.search(r"[吗呢吧]$|什么|怎么", first):
        return ""
    return first.translate(_ZH_SWAP)
