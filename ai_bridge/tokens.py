"""How many tokens a text is, near enough to fit a window, without any vendor's vocabulary.

Against OpenAI's cl100k vocabulary: English 1.1 times the true number, Chinese about 0.95, code
and emoji 0.6 to 0.7. Who needs a bound adds a margin (context.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ai_bridge.types import ChatMessage

PER_MESSAGE_TOKENS = 4
"""Role and separators around each message in the chat templates of the big vendors."""
PER_CALL_TOKENS = 8
"""Id and separators around each tool call."""
IMAGE_TOKENS = 1_200
"""A picture, whatever its size: OpenAI's tiles cost 85 to 1,105 and Gemini's 258 each, Anthropic
takes 1,600 at most and less below a megapixel."""

MIN_RATIO = 0.5
MAX_RATIO = 2.0
WEIGHT = 0.2
"""Of a new report in the moving average."""
MIN_TAUGHT_TOKENS = 50
"""Below, the fixed overhead of a chat template outweighs the text."""

_NARROW_PER_TOKEN = 4
_TOKENS_PER_WIDE = 1.15


def estimate_tokens(text: str) -> int:
    """Return the estimate for a text; 0 only for the empty one."""
    chars = len(text)
    if text.isascii():
        # Rounded up: many short messages must not add up to more than was thought.
        return (chars + _NARROW_PER_TOKEN - 1) // _NARROW_PER_TOKEN
    # Characters of Chinese, Japanese and Korean take three bytes: two more than narrow ones.
    wide = (len(text.encode("utf-8", "replace")) - chars) / 2
    narrow = max(0.0, chars - wide)
    return max(1, round(narrow / _NARROW_PER_TOKEN + wide * _TOKENS_PER_WIDE))


def message_tokens(message: ChatMessage) -> int:
    """Return the estimate for one message of a request."""
    cost = PER_MESSAGE_TOKENS + estimate_tokens(message.text)
    if message.images:
        cost += IMAGE_TOKENS * len(message.images)
    if not message.calls:
        return cost
    for call in message.calls:
        cost += PER_CALL_TOKENS + estimate_tokens(call.name) + estimate_tokens(call.args)
    return cost


def estimate_prompt(messages: Iterable[ChatMessage]) -> int:
    """Return the estimate for a whole request, with the overhead of each message."""
    return sum(map(message_tokens, messages))


class TokenRatios:
    """How far the estimate is off for each model, learnt from what providers report.

    A moving average of reported ÷ estimated prompt tokens: the first report counts whole, each
    later one a fifth. Never below a half nor above two, so that no provider's odd figures can
    empty a context or burst a window. Knows the models used last, `models` of them at most.

    Attributes:
        forgotten: models that had to make room for others.
    """

    def __init__(self, models: int = 256) -> None:
        self._models = models
        self._ratios: OrderedDict[str, float] = OrderedDict()
        self.forgotten = 0

    def get(self, model: str) -> float:
        """Return what an estimate for model is multiplied by; 1.0 for one never heard of."""
        return self._ratios.get(model, 1.0)

    def learn(self, model: str, estimated: int, reported: int) -> None:
        """Take the figures of one answered request; short prompts teach nothing and are ignored."""
        if estimated < MIN_TAUGHT_TOKENS or reported <= 0:
            return
        seen = min(MAX_RATIO, max(MIN_RATIO, reported / estimated))
        known = self._ratios.pop(model, None)
        self._ratios[model] = seen if known is None else known + WEIGHT * (seen - known)
        while len(self._ratios) > self._models:
            self._ratios.popitem(last=False)
            self.forgotten += 1

    def items(self) -> list[tuple[str, float]]:
        """Return model and ratio, for the metric `estimate_error`."""
        return list(self._ratios.items())
