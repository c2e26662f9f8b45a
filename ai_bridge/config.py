"""Settings of the bridge. Defaults suit one process; every unit is in the name."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from ai_bridge.secrets import Secret

ProviderKind = Literal["openai_chat", "openai_responses", "anthropic", "gemini", "demo"]


class Quirks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one service differs from the plain OpenAI chat dialect; data, so no code branches."""

    include_usage: bool = True
    """Ask for token figures with `stream_options`; some old servers refuse the field."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    reasoning_field: str = ""
    """Delta field with the thoughts; empty: `reasoning_content`, `reasoning` and `thinking`."""
    system_role: Literal["system", "developer", "user"] = "system"
    sampling: bool = True
    """Send temperature and top_p; reasoning models of some services refuse them."""
    think_tags: bool = True
    """Move a leading `<think>...</think>` of the answer to the reasoning part."""


class ProviderConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One AI service.

    `base_url` ends before `/chat/completions` (for OpenAI: https://api.openai.com/v1).
    An empty `models` list is filled from the service's own list on start; if the service does
    not tell, every model name is accepted and `default_model` should be set.
    """

    name: str
    kind: ProviderKind = "openai_chat"
    base_url: str = ""
    api_key: Secret = field(default_factory=Secret)
    models: tuple[str, ...] = ()
    headers: dict[str, str] = {}
    quirks: Quirks = Quirks()
    tier: int = 0
    """Providers of a lower tier are asked first; those of one tier share the load."""
    transport: Literal["aio", "raw"] = "aio"
    """The HTTP client: aiohttp, or our own, which carries about twice the streams."""
    max_streams: int = 0
    """Streams at a time, 0: no limit of its own."""
    window_tokens: int = 0
    """Context window of its models, 0: the bridge's default."""
    ttft_s: float = 0.0
    """Longest wait for the first text, 0: the bridge's default. Reasoning services need 90."""


class BridgeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole bridge. Without providers the built-in demo partner answers."""

    providers: tuple[ProviderConfig, ...] = ()
    detect: bool = False
    """On start, look for a local Ollama and for keys in the environment, if no provider is set."""
    default_model: str = ""
    """Model of turns that name none; empty: the first model of the first provider."""
    max_streams: int = 800
    user_running: int = 2
    user_queued: int = 4
    queue: int = 2_000
    """Turns that may wait. One tenant gets at most four fifths, so that others find room."""
    queue_wait_s: float = 10.0
    """A turn whose estimated wait is longer is refused instead of queued."""
    ttft_s: float = 20.0
    gap_s: float = 30.0
    """Longest silence within an answer; keep-alive comments do not count as text."""
    total_s: float = 300.0
    max_retries: int = 2
    retry_base_s: float = 0.5
    retry_max_s: float = 8.0
    """Longest pause before a retry; a provider that asks for more gets no retry."""
    window_tokens: int = 16_000
    answer_tokens: int = 2_048
    """Part of the window that is kept free for the answer when the turn does not say."""
    history_messages: int = 20
    demo_words_per_s: float = 12.0
    """Speed of the demo partner (Chinese characters go at the matching pace); 0: at once."""
    keep_s: float = 120.0
    """How long an ended turn can still be read."""
