"""Texts that are too long for the room they have: head and tail stay, the middle goes."""

from __future__ import annotations

from ai_bridge.tokens import PER_MESSAGE_TOKENS, estimate_tokens

CUT_MARK = "\n[...]\n"


def cut_middle(text: str, limit_tokens: int) -> str:
    """Keep head and tail of a message's text so that the message costs `limit_tokens` at most.

    The head gets two thirds: it says what the text is, the tail what is asked of it. Below about
    12 tokens there is nothing left to cut, and the result may cost that much.
    """
    limit = max(1, limit_tokens - PER_MESSAGE_TOKENS - estimate_tokens(CUT_MARK))
    cost = estimate_tokens(text)
    if cost <= limit_tokens - PER_MESSAGE_TOKENS:
        return text
    keep = len(text)
    result = text
    while cost > limit and keep > 2:
        # Chinese and Latin parts cost differently, so what is kept may cost more than its share.
        keep = min(keep - 1, int(keep * limit / cost * 0.98))
        head = max(1, keep * 2 // 3)
        tail = max(1, keep - head)
        result = text[:head] + CUT_MARK + text[-tail:]
        cost = estimate_tokens(text[:head]) + estimate_tokens(text[-tail:])
    return result
