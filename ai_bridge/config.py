"""Settings of the bridge. Defaults suit one process; every unit is in the name."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from ai_bridge.secrets import Secret

ProviderKind = Literal["openai_chat", "openai_responses", "anthropic", "gemini", "demo"]
LimitKind = Literal["auto", "aimd", "gradient", "fixed"]


class Quirks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one service differs from the plain dialect; data, so no code branches.

    None takes what is known of the service (providers/services.py), else the plain dialect.
    """

    include_usage: bool | None = None
    """Ask for token figures with `stream_options`; some old servers refuse the field."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    reasoning_field: str | None = None
    """Delta field with the thoughts; empty: `reasoning_content`, `reasoning` and `thinking`."""
    system_role: Literal["system", "developer", "user"] | None = None
    sampling: bool | None = None
    """Send temperature and top_p; reasoning models of some services refuse them."""
    think_tags: bool | None = None
    """Move a leading `<think>...</think>` of the answer to the reasoning part."""
    max_stop: int | None = None
    """How many stop sequences the service takes; further ones are left out."""
    tool_id_chars: int | None = None
    """Length of the ids of tool calls if the service insists on one (Mistral: 9), 0: any."""
    ask_reasoning: bool | None = None
    """Ask for the model's thoughts where that takes a field (Gemini, OpenAI responses)."""
    call_signature: str | None = None
    """What Gemini is shown as the signature of an earlier tool call; empty: nothing."""
    embedding_size: bool | None = None
    """The service shortens embeddings on request (`dimensions`)."""
    tool_choice_none: bool | None = None
    """The service takes `tool_choice` "none"; else the tools are left out of a last call, and it
    is told of no other choice either."""
    strict_tools: bool | None = None
    """The service can hold the arguments of tools to their schema (`strict`)."""
    one_call: bool | None = None
    """The service can be told to call one tool at a time (`parallel_tool_calls`)."""
    answer_format: Literal["schema", "object", "none"] | None = None
    """What the service can hold an answer to: JSON by a schema, any JSON object, or neither."""
    image_urls: bool | None = None
    """The service fetches pictures itself; else they have to come with the request."""
    seed_field: str | None = None
    """What the seed of the dice is called; empty: the service knows none."""
    penalties: bool | None = None
    """Send frequency_penalty and presence_penalty; some models refuse them."""


class ProviderConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One AI service.

    `base_url` ends before `/chat/completions` (for OpenAI: https://api.openai.com/v1). The kinds
    openai_responses, anthropic and gemini know their vendor's address and may leave it empty.
    An empty `models` list is filled from the service's own list on start; if the service does
    not tell, every model name is accepted and `default_model` should be set.
    """

    name: str
    kind: ProviderKind = "openai_chat"
    base_url: str = ""
    api_key: Secret = field(default_factory=Secret)
    api_keys: tuple[Secret, ...] = ()
    """Several keys of the same service, each with limits of its own; used besides `api_key`."""
    models: tuple[str, ...] = ()
    headers: dict[str, str] = {}
    quirks: Quirks = Quirks()
    tier: int = 0
    """Providers of a lower tier are asked first; those of one tier share the load."""
    transport: Literal["aio", "raw"] = "aio"
    """The HTTP client: aiohttp, or our own, which carries about twice the streams."""
    max_streams: int = 0
    """Streams at a time per key and model, 0: as many as the bridge carries."""
    limit: LimitKind = "auto"
    """How the streams at a time are found below `max_streams`: "aimd" by refusals, for services
    that many share; "gradient" by the time to the first text, for a machine of one's own;
    "fixed": `max_streams` always. "auto" takes gradient for private addresses, else aimd."""
    window_tokens: int = 0
    """Context window of its models, 0: the bridge's default."""
    ttft_s: float = 0.0
    """Longest wait for the first text, 0: the bridge's default. Reasoning services need 90."""


class Target(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place where a route leads.

    Targets are asked in order. Neighbours with a `weight` form one step and share the load in
    that proportion; one without is a step of its own.
    """

    provider: str
    model: str
    weight: float = 0.0


class Route(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model name of our own and where it leads; it wins over a real model of that name."""

    name: str
    targets: tuple[Target, ...]


class TenantShare(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant gets when others want more too. A weight of 2 gets twice that of 1."""

    tenant: int
    weight: float = 1.0
    max_streams: int = 0
    """Answers at a time, 0: no limit of its own."""


class BridgeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole bridge. Without providers the built-in demo partner answers."""

    providers: tuple[ProviderConfig, ...] = ()
    detect: bool = False
    """On start, look for a local Ollama and for keys in the environment, if no provider is set."""
    default_model: str = ""
    """Model of turns that name none; empty: the first model of the first provider."""
    rules: str = ""
    """Stands before the prompt of every persona; models that are asked as such do not see it."""
    routes: tuple[Route, ...] = ()
    max_streams: int = 800
    tenants: tuple[TenantShare, ...] = ()
    """Tenants that are not named here have weight 1 and no limit."""
    user_running: int = 2
    user_queued: int = 4
    facade_running: int = 64
    """As `user_running` for programs that use the HTTP interface: one often serves many people."""
    facade_queued: int = 256
    queue: int = 2_000
    """Turns that may wait. One tenant gets at most four fifths, so that others find room."""
    queue_wait_s: float = 10.0
    """A turn whose estimated wait is longer is refused instead of queued."""
    ttft_s: float = 20.0
    gap_s: float = 30.0
    """Longest silence within an answer; keep-alive comments do not count as text."""
    total_s: float = 300.0
    reasoning_tokens: int = 32_000
    """Thoughts before the first word of the answer; a model that thinks longer is stopped."""
    max_retries: int = 2
    """Repeats at a provider that failed, per answer; other providers come first and are free."""
    retry_base_s: float = 0.5
    retry_max_s: float = 8.0
    """Longest pause of our own choice: before a repeat, or of a provider that gave no time."""
    reopen_s: float = 20.0
    """Longest wait for a provider that asked to be left alone; beyond, the answer ends at once."""
    window_tokens: int = 16_000
    answer_tokens: int = 2_048
    """Part of the window that is kept free for the answer when the turn does not say."""
    history_messages: int = 20
    demo_words_per_s: float = 12.0
    """Speed of the demo partner (Chinese characters go at the matching pace); 0: at once."""
    keep_s: float = 120.0
    """How long an ended turn can still be read."""
