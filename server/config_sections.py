"""Every setting of the server: its default, its bounds, its unit and what it is for.

`docs/configuration.md` is made from these descriptions (`parlance config-doc`).
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from ai_bridge.secrets import Secret

_KIB: Final = 1024
_MIB: Final = 1024 * 1024


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all tables of the configuration file."""


def _about(text: str) -> Meta:
    return Meta(description=text)


class ServerConfig(Section, frozen=True):
    """Where the server listens and where it keeps its files."""

    host: Annotated[str, _about("Address to listen on. `0.0.0.0` or `::` is every interface.")] = (
        "127.0.0.1"
    )
    port: Annotated[
        int, Meta(ge=0, le=65535, description="Port for everything. 0 lets the system choose one.")
    ] = 8420
    allow_cleartext: Annotated[
        bool,
        _about(
            "Serve other machines without TLS, beside it or instead of it. Switch it on only when "
            "something in front of the server encrypts, or in a network that you trust."
        ),
    ] = False
    tls_cert: Annotated[
        str,
        _about(
            "File with the certificate chain (PEM), looked at again once a minute. Empty: no TLS. "
            "With it the port speaks TLS, and cleartext with this machine."
        ),
    ] = ""
    tls_key: Annotated[str, _about("File with the private key of the certificate (PEM).")] = ""
    backlog: Annotated[
        int, Meta(ge=16, le=65535, description="Connections the system may keep waiting.")
    ] = 4096
    data_dir: Annotated[
        str, _about("Folder for the database, keys and dead letters. Made when missing.")
    ] = "parlance-data"
    node: Annotated[
        str,
        Meta(
            max_length=64,
            description="Name of this process among several. Empty: made from the machine's name.",
        ),
    ] = ""
    drain_s: Annotated[
        float, Meta(ge=0, le=600, description="Seconds to finish work in after a stop signal.")
    ] = 10
    test_page: Annotated[
        Literal["auto", "on", "off"],
        _about(
            "The page `/test` to try personas on. `auto`: only while `host` is this machine itself "
            "and neither TLS nor `allow_cleartext` is set. From this machine it needs no sign-in, "
            "so switch it off behind a proxy."
        ),
    ] = "auto"
    gc_freeze: Annotated[
        bool,
        _about("Keep what exists after the start out of garbage collection; collect less often."),
    ] = True


class WebSocketConfig(Section, frozen=True):
    """The door for browsers."""

    origins: Annotated[
        list[str],
        _about(
            "Pages that may connect and call the HTTP API: `same-origin`, and others such as "
            "`https://chat.example.org`."
        ),
    ] = field(default_factory=lambda: ["same-origin"])
    json: Annotated[bool, _about("Offer the readable JSON subprotocol, for debugging.")] = False
    echo: Annotated[bool, _about("Offer `/ws/echo`, for conformance suites.")] = False


class LimitsConfig(Section, frozen=True):
    """How much one client, one address and everybody together may ask for."""

    frame_bytes: Annotated[
        int,
        Meta(
            ge=32 * _KIB,
            le=2**24 - 1,
            description="Largest frame from a client; messages need up to 130 KiB.",
        ),
    ] = 160 * _KIB
    inflight: Annotated[
        int, Meta(ge=1, le=1024, description="Unanswered requests of one connection.")
    ] = 32
    rate: Annotated[
        float, Meta(gt=0, description="Requests per second of one connection, on average.")
    ] = 20.0
    burst: Annotated[float, Meta(ge=1, description="Requests that may come at once.")] = 60.0
    bytes_per_s: Annotated[
        int, Meta(ge=1024, description="Bytes per second from one connection, on average.")
    ] = 128 * _KIB
    bytes_burst: Annotated[int, Meta(ge=32 * _KIB, description="Bytes that may come at once.")] = (
        512 * _KIB
    )
    rate_pause_s: Annotated[
        float,
        Meta(ge=0, description="Above the rate, reading pauses; longer than this is refused."),
    ] = 2.0
    rate_close_s: Annotated[
        float, Meta(ge=0, description="So long above the rate, and the connection is closed.")
    ] = 10.0
    first_byte_s: Annotated[
        float, Meta(gt=0, description="Seconds until the first byte of a connection.")
    ] = 5.0
    hello_s: Annotated[
        float, Meta(gt=0, description="Seconds from the accept to a complete `hello`.")
    ] = 10.0
    unauthenticated_per_ip: Annotated[
        int,
        Meta(
            ge=1,
            description="Connections of one address (IPv6: one /64) that are not signed in.",
        ),
    ] = 64
    unauthenticated: Annotated[
        int, Meta(ge=1, description="Connections that are not signed in, all together.")
    ] = 5000
    handshakes_per_s: Annotated[int, Meta(ge=1, description="Sign-ins per second.")] = 500
    handshakes_waiting: Annotated[
        int, Meta(ge=1, description="Sign-ins that wait; beyond it they are sent away.")
    ] = 2000
    user_handshakes_per_min: Annotated[
        int, Meta(ge=1, description="Sign-ins of one user per minute.")
    ] = 10
    devices: Annotated[
        int, Meta(ge=1, le=64, description="Devices of one user; each tab of a browser is one.")
    ] = 32
    members: Annotated[int, Meta(ge=2, le=100_000, description="Members of one conversation.")] = (
        5000
    )
    conversation_per_s: Annotated[
        float, Meta(gt=0, description="Messages per second into one conversation, on average.")
    ] = 20.0
    conversation_burst: Annotated[
        float, Meta(ge=1, description="Messages into one conversation that may come at once.")
    ] = 60.0
    outbox_soft_bytes: Annotated[
        int,
        Meta(
            ge=16 * _KIB,
            description="Backlog of a slow reader above which pushes are dropped (it resyncs).",
        ),
    ] = 256 * _KIB
    outbox_hard_bytes: Annotated[
        int, Meta(ge=64 * _KIB, description="Backlog above which a slow reader is closed.")
    ] = _MIB
    outbox_stall_s: Annotated[
        float, Meta(gt=0, description="So long without taking a byte, and a reader is closed.")
    ] = 20.0
    outbox_total_bytes: Annotated[
        int, Meta(ge=0, description="Backlog of all readers together. 0: a quarter of memory.")
    ] = 0
    lookups_per_min: Annotated[
        int, Meta(ge=1, description="Failed look-ups of ids per minute before a client is closed.")
    ] = 30
    heartbeat_s: Annotated[
        int, Meta(ge=5, le=600, description="Seconds between signs of life, unless asked for.")
    ] = 30
    heartbeat_min_s: Annotated[
        int, Meta(ge=5, le=600, description="Shortest heartbeat a client may ask for.")
    ] = 15
    heartbeat_max_s: Annotated[
        int, Meta(ge=5, le=3600, description="Longest heartbeat a client may ask for.")
    ] = 240
    http_connections: Annotated[
        int, Meta(ge=1, description="HTTP connections at a time; those beyond get 503.")
    ] = 2048
    http_body_bytes: Annotated[
        int, Meta(ge=64 * _KIB, description="Largest body of an HTTP request.")
    ] = 10 * _MIB
    http_header_s: Annotated[
        float, Meta(gt=0, description="Seconds until the headers of an HTTP request are there.")
    ] = 5.0
    http_keepalive_s: Annotated[
        float, Meta(ge=0, description="Seconds an HTTP connection may stay idle.")
    ] = 30.0


class StorageConfig(Section, frozen=True):
    """Where messages are kept."""

    url: Annotated[
        Secret,
        _about(
            "`mysql://user:password@host:3306/database` or `sqlite:////path/to/file.db`. "
            "Empty: an SQLite file in `data_dir`."
        ),
    ] = field(default_factory=Secret)
    batch_rows: Annotated[
        int, Meta(ge=1, le=10_000, description="Rows committed in one transaction at most.")
    ] = 512
    batch_bytes: Annotated[
        int, Meta(ge=64 * _KIB, description="Bytes committed in one transaction at most.")
    ] = 4 * _MIB
    queue_rows: Annotated[
        int, Meta(ge=1, description="Rows that wait for a commit; beyond it sends are refused.")
    ] = 20_000
    queue_bytes: Annotated[int, Meta(ge=64 * _KIB, description="Bytes that wait for a commit.")] = (
        64 * _MIB
    )
    readers: Annotated[
        int, Meta(ge=0, le=256, description="Database connections for reading. 0: by engine.")
    ] = 0
    allow_weak_durability: Annotated[
        bool,
        _about(
            "Start on a database that may lose what it acknowledged when the machine loses power."
        ),
    ] = False
    migrate: Annotated[
        bool, _about("Bring the tables up to date at the start. Otherwise `parlance migrate`.")
    ] = True
    conversations_cached: Annotated[
        int, Meta(ge=100, description="Conversations kept in memory.")
    ] = 20_000


class KeyConfig(Section, frozen=True):
    """One key that signs or checks sign-in tokens. The first one that can sign, signs."""

    kid: Annotated[str, Meta(min_length=1, max_length=64, description="Name of the key.")]
    alg: Annotated[
        Literal["HS256", "RS256", "ES256", "EdDSA"],
        _about("The only algorithm this key is used with."),
    ] = "HS256"
    secret: Annotated[
        Secret, _about("Shared secret (HS256, 32 bytes or more) or private key (PEM).")
    ] = field(default_factory=Secret)
    public_key: Annotated[
        str, _about("Public key (PEM, or `file:path`), for tokens that somebody else signs.")
    ] = ""


class AuthConfig(Section, frozen=True):
    """Who may sign in, and for how long."""

    access_ttl_s: Annotated[
        int, Meta(ge=60, le=86_400, description="Seconds a sign-in token is good for.")
    ] = 3600
    refresh_ttl_s: Annotated[
        int, Meta(ge=3600, description="Seconds without use after which one signs in anew.")
    ] = 2_592_000
    registration: Annotated[bool, _about("Anybody may make an account.")] = True
    guests: Annotated[bool, _about("Anybody may come in without an account.")] = True
    audience: Annotated[
        str, Meta(min_length=1, max_length=256, description="`aud` that tokens must carry.")
    ] = "parlance"
    skew_s: Annotated[int, Meta(ge=0, le=600, description="Seconds that clocks may differ.")] = 60
    hash_workers: Annotated[int, Meta(ge=1, le=64, description="Threads that check passwords.")] = 4
    master_key: Annotated[
        Secret,
        _about(
            "Seals the keys of AI services that are kept in the database: 32 random bytes in "
            "base64 or hexadecimal. Empty: one is made and kept in `data_dir`."
        ),
    ] = field(default_factory=Secret)
    old_master_keys: Annotated[
        list[Secret],
        _about("Master keys of before, until `parlance provider rekey` was run."),
    ] = field(default_factory=list)
    keys: Annotated[
        list[KeyConfig],
        _about("Keys for tokens. Empty: one is made at the first start and kept in `data_dir`."),
    ] = field(default_factory=list)


class ProviderConfig(Section, frozen=True):
    """One AI service."""

    name: Annotated[
        str,
        Meta(pattern="^[A-Za-z0-9_.-]{1,64}$", description="Name; `name/model` picks a model."),
    ]
    kind: Annotated[
        Literal["openai_chat", "openai_responses", "anthropic", "gemini", "demo"],
        _about("Its interface. `openai_chat` fits OpenAI, DeepSeek, Ollama, vLLM and many more."),
    ] = "openai_chat"
    base_url: Annotated[str, _about("Address up to and including `/v1`.")] = ""
    api_key: Annotated[Secret, _about("Key of the service.")] = field(default_factory=Secret)
    api_keys: Annotated[
        list[Secret], _about("More keys: each has limits of its own, so they share the load.")
    ] = field(default_factory=list)
    tier: Annotated[
        int, Meta(ge=0, le=100, description="Services of a lower tier are asked first.")
    ] = 0
    limit: Annotated[
        Literal["auto", "aimd", "gradient", "fixed"],
        _about(
            "How the number of streams below `max_streams` is found: `aimd` by refusals, "
            "`gradient` by the time to the first text, `fixed` not at all."
        ),
    ] = "auto"
    models: Annotated[list[str], _about("Models to offer. Empty: what the service lists.")] = field(
        default_factory=list
    )
    headers: Annotated[dict[str, Secret], _about("Additional request headers.")] = field(
        default_factory=dict
    )
    max_streams: Annotated[
        int, Meta(ge=1, le=10_000, description="Answers that may stream at the same time.")
    ] = 100
    ttft_s: Annotated[
        float,
        Meta(ge=0, description="Seconds until its first text. 0: as in `[ai]`. Reasoning: 90."),
    ] = 0
    window_tokens: Annotated[
        int, Meta(ge=0, description="Context window of its models. 0: as in `[ai]`.")
    ] = 0
    transport: Annotated[
        Literal["aio", "raw"],
        _about("The HTTP client: `aio` (aiohttp), or `raw`, our own, for thousands of streams."),
    ] = "aio"
    quirks: Annotated[
        dict[str, str | int | float | bool],
        _about("Where the service differs from OpenAI's interface."),
    ] = field(default_factory=dict)


class PriceConfig(Section, frozen=True):
    """What a model costs, in US dollars per million tokens."""

    input: Annotated[float, Meta(ge=0, le=1_000_000, description="Of the prompt.")] = 0.0
    output: Annotated[float, Meta(ge=0, le=1_000_000, description="Of the answer.")] = 0.0
    cached: Annotated[
        float | None,
        _about("Of prompt tokens from the service's cache. Unset: as the others."),
    ] = None


class ShareConfig(Section, frozen=True):
    """What a tenant gets when others want more too."""

    tenant: Annotated[int, Meta(ge=1, description="Number of the tenant.")]
    weight: Annotated[float, Meta(gt=0, le=1000, description="2 gets twice as much as 1.")] = 1.0
    max_streams: Annotated[
        int, Meta(ge=0, description="Answers at the same time. 0: no limit of its own.")
    ] = 0


class HelperConfig(Section, frozen=True):
    """Base of what names a service for one purpose beside answering."""

    provider: Annotated[
        str, _about("Name of one of the `ai.providers`, with an OpenAI-shaped interface.")
    ] = ""
    base_url: Annotated[
        str,
        _about("Address of a service for this alone, up to and including `/v1`, in its place."),
    ] = ""
    api_key: Annotated[Secret, _about("Key of the service at `base_url`.")] = field(
        default_factory=Secret
    )


class SpeechConfig(HelperConfig, frozen=True):
    """Who writes recordings down. Without `provider` and `base_url` nobody does."""

    model: Annotated[
        str, Meta(min_length=1, max_length=128, description="Its model for transcriptions.")
    ] = "whisper-1"
    language: Annotated[
        str,
        Meta(max_length=16, description="What people speak (`zh`). Empty: the service guesses."),
    ] = ""
    max_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=25 * _MIB,
            description="Largest recording. `limits.http_body_bytes` does not hold for them.",
        ),
    ] = 25 * _MIB
    max_s: Annotated[
        float, Meta(gt=0, le=600, description="Longest recording in seconds, as far as it tells.")
    ] = 600
    price_per_minute: Annotated[
        float | None,
        _about("Dollars per minute of sound. Unset: as in the price list, where it is known."),
    ] = None
    at_once: Annotated[
        int, Meta(ge=1, le=1000, description="Recordings at the service at the same time.")
    ] = 4
    waiting: Annotated[
        int, Meta(ge=0, le=10_000, description="Recordings that may wait for it, all together.")
    ] = 32
    user_at_once: Annotated[
        int, Meta(ge=1, le=1000, description="Recordings of one user or key, waiting ones too.")
    ] = 4
    held_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            description="Bytes of all recordings held; those at the service count twice in memory.",
        ),
    ] = 64 * _MIB
    deadline_s: Annotated[
        float, Meta(gt=0, le=600, description="Seconds until the service must have answered.")
    ] = 120


class EmbeddingsConfig(HelperConfig, frozen=True):
    """Who makes the vectors that memories are found by. Without one they are found by words."""

    model: Annotated[
        str,
        Meta(
            max_length=100,
            description="Its model for embeddings. Another one: all is embedded again by and by.",
        ),
    ] = ""
    dimensions: Annotated[
        int,
        Meta(
            ge=0,
            le=4096,
            description="Length of the vectors where the model can shorten them. 0: its own.",
        ),
    ] = 0


class McpConfig(Section, frozen=True):
    """One MCP server (streamable HTTP), whose tools models may call."""

    name: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z][A-Za-z0-9_-]{0,31}$",
            description="Name; its tool `rain` is `name_rain` to models and in lists of tools.",
        ),
    ]
    url: Annotated[str, _about("Its address, such as `https://tools.example.org/mcp`.")]
    api_key: Annotated[Secret, _about("Key, sent as `Authorization: Bearer`.")] = field(
        default_factory=Secret
    )
    headers: Annotated[dict[str, Secret], _about("Additional request headers.")] = field(
        default_factory=dict
    )
    timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="Seconds that a call of a tool may take.")
    ] = 20
    allow_private: Annotated[
        bool, _about("It may be on this machine or in a private network, and without TLS.")
    ] = False
    trust_first: Annotated[
        bool,
        _about(
            "Approve the first list of tools that it gives. What changes later waits for "
            "`parlance tools approve` in any case."
        ),
    ] = True
    believe_hints: Annotated[
        bool,
        _about(
            "Believe it when it says that a tool changes nothing (`readOnlyHint`). All other "
            "tools are never repeated, and a person is asked before they run in a tainted answer."
        ),
    ] = True
    read_tools: Annotated[
        list[str], _about("Tools that change nothing, whatever it says about them.")
    ] = field(default_factory=list)


class ToolListConfig(Section, frozen=True):
    """Tools for one tenant, or one of its personas, in place of `tools`."""

    tenant: Annotated[int, Meta(ge=1, description="Number of the tenant.")]
    persona: Annotated[
        int, Meta(ge=0, description="Number of the persona. 0: all; others get no more than these.")
    ] = 0
    tools: Annotated[list[str], _about("As `tools` in `[ai]`. Empty: none.")] = field(
        default_factory=list
    )


class ModerationConfig(Section, frozen=True):
    """What people may ask and models may answer. Nothing is checked without `words` or `provider`.

    Work behind the scenes (summaries, memories) is not checked.
    """

    words: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=64)]],
        Meta(
            max_length=5000,
            description="Words and phrases to look for, in any width and case. Chinese is found "
            "anywhere, words of scripts with spaces only whole.",
        ),
    ] = field(default_factory=list)
    word_action: Annotated[
        Literal["flag", "replace", "block"],
        _about(
            "What follows when one is found: a line in the log; stars in its place (in a question; "
            "an answer is blocked); or the end of the turn."
        ),
    ] = "block"
    provider: Annotated[
        str,
        _about("Name of one of the `ai.providers` with an OpenAI-shaped `/moderations` to ask."),
    ] = ""
    model: Annotated[
        str, Meta(min_length=1, max_length=128, description="Its model for moderation.")
    ] = "omni-moderation-latest"
    thresholds: Annotated[
        dict[str, Annotated[float, Meta(ge=0, le=1)]],
        _about(
            "Score from which a category counts, such as `violence = 0.8`; for categories that are "
            "not named the service's own opinion does."
        ),
    ] = field(default_factory=dict)
    service_action: Annotated[
        Literal["flag", "block"],
        _about("What follows when a category counts: a line in the log, or the end of the turn."),
    ] = "block"
    stages: Annotated[
        list[Literal["input", "output"]],
        _about(
            "`input`: questions, before a service is asked. `output`: answers, every 200 "
            "characters while they come, and the whole at its end."
        ),
    ] = field(default_factory=lambda: ["input", "output"])
    fail_open: Annotated[
        bool, _about("Let pass what nobody could check in time. Otherwise it is held back.")
    ] = True
    timeout_s: Annotated[float, Meta(gt=0, le=30, description="Seconds that a check may take.")] = (
        1.5
    )
    at_once: Annotated[
        int, Meta(ge=1, le=1000, description="Checks at a time; 512 more may wait.")
    ] = 32


class AiConfig(Section, frozen=True):
    """Who answers when a persona is asked."""

    providers: Annotated[list[ProviderConfig], _about("AI services. Empty: see `detect`.")] = field(
        default_factory=list
    )
    default_model: Annotated[
        str, Meta(max_length=128, description="Model for personas that name none.")
    ] = ""
    routes: Annotated[
        dict[str, list[str]],
        _about(
            "Model names of your own and where they lead, in order: "
            '`fast = ["groq/llama-3", "openai/gpt-4o-mini"]`.'
        ),
    ] = field(default_factory=dict)
    tenants: Annotated[
        list[ShareConfig], _about("Tenants that get another share than the others.")
    ] = field(default_factory=list)
    detect: Annotated[
        bool,
        _about(
            "Without providers, look for a known API key in the environment and for a local "
            "Ollama; otherwise the built-in demo answers."
        ),
    ] = True
    max_streams: Annotated[
        int, Meta(ge=1, le=10_000, description="Answers that may stream at the same time.")
    ] = 800
    user_running: Annotated[
        int, Meta(ge=1, le=100, description="Answers one user may have running.")
    ] = 2
    user_queued: Annotated[
        int, Meta(ge=0, le=1000, description="Answers one user may have waiting.")
    ] = 4
    program_running: Annotated[
        int, Meta(ge=1, le=10_000, description="As `user_running`, for programs (API keys).")
    ] = 64
    program_queued: Annotated[
        int, Meta(ge=0, le=100_000, description="As `user_queued`, for programs (API keys).")
    ] = 256
    queue: Annotated[
        int, Meta(ge=0, le=100_000, description="Answers that may wait, all together.")
    ] = 2000
    ttft_s: Annotated[
        float, Meta(gt=0, description="Seconds until the first word of an answer.")
    ] = 20
    gap_s: Annotated[float, Meta(gt=0, description="Seconds of silence within an answer.")] = 30
    total_s: Annotated[float, Meta(gt=0, description="Seconds for a whole answer.")] = 300
    reasoning_tokens: Annotated[
        int, Meta(ge=0, description="Tokens a model may think before its first word.")
    ] = 32_000
    window_tokens: Annotated[
        int, Meta(ge=512, description="Tokens of conversation shown to a model.")
    ] = 16_000
    answer_tokens: Annotated[
        int, Meta(ge=16, description="Tokens of the window that are kept for the answer.")
    ] = 2_048
    tools: Annotated[
        list[str],
        _about(
            "Tools that models may call: `current_time`, `calculate`, the name of an MCP server "
            "for all of its tools, or one of them as `parlance tools list` shows it. Each costs "
            "some tokens of every question."
        ),
    ] = field(default_factory=list)
    tool_lists: Annotated[
        list[ToolListConfig],
        Meta(max_length=1000, description="Tenants and personas with other tools than `tools`."),
    ] = field(default_factory=list)
    mcp: Annotated[
        list[McpConfig],
        Meta(max_length=100, description="MCP servers, used where a list of tools names them."),
    ] = field(default_factory=list)
    summaries: Annotated[
        bool, _about("Talks too long for a model are folded into notes, behind the answers.")
    ] = True
    memory: Annotated[
        bool, _about("Personas remember what people tell them; everybody can see and erase it.")
    ] = True
    engine: Annotated[
        Literal["chat_engine", "mem0_proxy"],
        _about("What makes the answers; `mem0_proxy` keeps memories at a mem0 server."),
    ] = "chat_engine"
    mem0_url: Annotated[str, _about("Address of the mem0 server, for the engine `mem0_proxy`.")] = (
        ""
    )
    mem0_key: Annotated[Secret, _about("Key of the mem0 server.")] = field(default_factory=Secret)
    mem0_api: Annotated[
        Literal["oss", "v1", "v2"],
        _about("Its interface: `oss` of the server one runs oneself, else the platform's."),
    ] = "oss"
    prices: Annotated[
        dict[str, PriceConfig],
        _about(
            "Prices by model, or by `provider/model`; they come before the list that is built in."
        ),
    ] = field(default_factory=dict)
    user_day_usd: Annotated[
        float, Meta(ge=0, description="Dollars that answers may cost one user a day. 0: any.")
    ] = 0.0
    user_month_usd: Annotated[
        float, Meta(ge=0, description="Dollars that answers may cost one user a month. 0: any.")
    ] = 0.0
    demo_words_per_s: Annotated[
        float,
        Meta(
            ge=0, le=10_000, description="Pace of the built-in demo, words per second. 0: at once."
        ),
    ] = 12.0
    history: Annotated[
        int, Meta(ge=0, le=1000, description="Earlier messages shown to a model at most.")
    ] = 20
    speech: Annotated[SpeechConfig, _about("Who writes recordings down: `[ai.speech]`, below.")] = (
        field(default_factory=SpeechConfig)
    )
    rules: Annotated[
        str,
        Meta(
            max_length=8000,
            description="Stands before the prompt of every persona, for every way in: the place "
            "for a company's rules. Models that programs ask by their own name do not see it.",
        ),
    ] = ""
    moderation: Annotated[
        ModerationConfig, _about("What may be asked and answered: `[ai.moderation]`, below.")
    ] = field(default_factory=ModerationConfig)
    embeddings: Annotated[
        EmbeddingsConfig, _about("Who makes the vectors of memories: `[ai.embeddings]`, below.")
    ] = field(default_factory=EmbeddingsConfig)


class MessagesConfig(Section, frozen=True):
    """What may be done with a message after it was sent."""

    recall_window_s: Annotated[
        int, Meta(ge=0, description="Seconds in which a message can be taken back. 0: always.")
    ] = 0
    edit_window_s: Annotated[
        int, Meta(ge=0, description="Seconds in which a message can be changed. 0: always.")
    ] = 0


class LogConfig(Section, frozen=True):
    """What the server tells about its work. Never text of messages, prompts or keys."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], _about("Least important line written.")
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "human"], _about("`auto`: JSON, except on a terminal.")
    ] = "auto"
    file: Annotated[str, _about("Also write JSON lines into this file. Empty: no file.")] = ""
    rotate_bytes: Annotated[
        int, Meta(ge=64 * _KIB, description="Size at which a new file is begun.")
    ] = 10 * _MIB
    rotate_keep: Annotated[int, Meta(ge=1, le=100, description="Old files that are kept.")] = 5


class AlertConfig(Section, frozen=True):
    """A rule: a figure that stays above or below a bound is told to a webhook."""

    name: Annotated[
        str, Meta(pattern="^[A-Za-z0-9_.-]{1,64}$", description="Name, told with the alert.")
    ]
    figure: Annotated[
        str, _about("What is looked at once a second, such as `p95_ms`: docs/operations.md.")
    ]
    above: Annotated[float | None, _about("Alert above this. Needed, unless `below` is.")] = None
    below: Annotated[float | None, _about("Alert below this.")] = None
    seconds: Annotated[
        int,
        Meta(ge=0, le=86_400, description="For so long before it is told, and before it is over."),
    ] = 60
    webhook: Annotated[
        Secret, _about("Address that is told, by POST. Empty: only shown and counted.")
    ] = field(default_factory=Secret)
    allow_private: Annotated[
        bool, _about("It may be on this machine or in a private network, and without TLS.")
    ] = False


class MetricsConfig(Section, frozen=True):
    """Who may read the figures, and what is made known of them."""

    public: Annotated[
        bool, _about("`/metrics` needs no key. From the machine itself it never does.")
    ] = False
    alerts: Annotated[
        list[AlertConfig],
        Meta(max_length=50, description="Rules whose breach is told to a webhook."),
    ] = field(default_factory=list)


class Config(Section, frozen=True):
    """All settings of one server."""

    server: ServerConfig = field(default_factory=ServerConfig)
    websocket: WebSocketConfig = field(default_factory=WebSocketConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    auth: AuthConfig = field(default_factory=AuthConfig)
    ai: AiConfig = field(default_factory=AiConfig)
    messages: MessagesConfig = field(default_factory=MessagesConfig)
    log: LogConfig = field(default_factory=LogConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
