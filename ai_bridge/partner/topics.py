"""What a sentence is about, and the sentence seen from the other side ("my" becomes "your")."""

from __future__ import annotations

import re

_EN_STOP = frozenset(
    "a about after again all also am an and any are as at be because been before being but by can "
    "could did do does doing done for from get go goes going gone got had has have having he her "
    "here him his how i if i'd i'll i'm i've in into is it it's its just know let like little lot "
    "lots made make many maybe me more most much my need new no not now of off ok okay on one only "
    "or other our out over please quite really right said say see she should so some something "
    "still such take tell than that that's the their them then there these they thing things think "
    "this those to today tomorrow too try up us use very want was way we well went were what when "
    "where which while who why will with would yes yesterday yet you you'd you're your yeah hi "
    "hello hey thanks thank good bad nice great talk feel felt feeling love enjoy hate day time "
    "don't didn't can't won't isn't wasn't first last next every always never often sometimes bit "
    "looking trying working thinking write give show explain describe help anything everything "
    "nothing someone people week weekend morning evening night currently recently actually "
    "interesting best favorite favourite does your's mine ours live lives work works".split()
)
_EN_OWN = re.compile(r"\b(?:my|our) ((?:[a-z'-]+ )?[a-z'-]+)", re.I)
_EN_WORD = re.compile(r"[A-Za-z][A-Za-z'-]+")
_EN_SWAPS = {
    "i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself", "am": "are",
    "i'm": "you're", "i've": "you've", "i'll": "you'll", "i'd": "you'd", "we": "you", "us": "you",
    "our": "your", "you": "me", "your": "my", "yours": "mine", "yourself": "myself",
}  # fmt: skip

_ZH_SPLIT = re.compile(
    r"[^\u4e00-\u9fffA-Za-z0-9]+|我们|你们|他们|她们|咱们|自己|昨天|今天|明天|后天|前天|刚才|现在|"
    r"最近|以前|周末|早上|晚上|下午|中午|觉得|认为|知道|喜欢|讨厌|希望|准备|打算|想要|可以|应该|能够|"
    r"什么|怎么|怎样|为什么|哪里|哪个|多少|一个|一些|一下|一点|一起|很多|非常|特别|比较|有点|有些|真的|"
    r"还是|但是|因为|所以|如果|虽然|而且|或者|然后|已经|正在|一直|总是|经常|没有|不是|就是|这个|那个|"
    r"这些|那些|这样|那样|这里|那里|关于|告诉|帮我|请问|谢谢|看看|聊聊|说说|觉|得|"
    r"[我你您他她它的了在是有和与跟就都也很吗呢吧啊呀哦嘛要想去来会能把被给让从到对向为着过再还又才"
    r"不没别这那哪谁几个只条位件次看吃喝做玩买学写听读拍说讲聊用]"
)
_ZH_SWAP = str.maketrans({"我": "你", "你": "我", "您": "我"})


def topic_en(text: str) -> str:
    """Return a noun phrase to speak about, "" if none stands out."""
    own = _EN_OWN.search(text)
    if own:
        words = [word for word in own[1].split() if word.lower() not in _EN_STOP]
        if words:
            return "your " + " ".join(words).lower()
    words = [word for word in _EN_WORD.findall(text) if word.lower() not in _EN_STOP]
    words = [word for word in words if len(word) > 3 and not word.endswith(("ly", "ed"))]
    return words[-1] if words else ""


def topic_zh(text: str) -> str:
    """Return the last telling piece of a Chinese sentence, "" if none stands out.

    Without a dictionary: function words and common verbs cut the sentence, what is left between
    them is mostly nouns.
    """
    pieces = [piece for piece in _ZH_SPLIT.split(text) if piece and 2 <= len(piece) <= 8]
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
