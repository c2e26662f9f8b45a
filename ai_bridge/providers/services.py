"""How well-known AI services differ from the plain dialects: a table, so that no code branches.

Read from the services' own interface documents; what the operator configures (config.Quirks)
wins over every row. A service is known by the host of its address, a model by its name.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import urlsplit

from msgspec import Struct, structs

from ai_bridge.config import ProviderConfig, Quirks
from ai_bridge.secrets import Secret


class Traits(Struct, frozen=True, kw_only=True):
    """How one service takes requests and answers; the defaults are the plain dialect.

    The fields are those of config.Quirks, each with a value.
    """

    include_usage: bool = True
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    reasoning_field: str = ""
    system_role: Literal["system", "developer", "user"] = "system"
    sampling: bool = True
    think_tags: bool = True
    max_stop: int = 4
    tool_id_chars: int = 0
    ask_reasoning: bool = False
    call_signature: str = ""
    embedding_size: bool = False
    tool_choice_none: bool = True
    strict_tools: bool = False
    one_call: bool = False
    answer_format: Literal["schema", "object", "none"] = "schema"
    image_urls: bool = True
    seed_field: str = "seed"
    penalties: bool = True


Row = dict[str, Any]

_OPENAI: Row = {"max_tokens_field": "max_completion_tokens", "think_tags": False,
                "strict_tools": True, "one_call": True}  # fmt: skip
_OPENAI_REASONING: Row = {"sampling": False, "max_stop": 0, "system_role": "developer"}
_PLAIN_THOUGHTS: Row = {"think_tags": False}
# docs.bigmodel.cn and docs.z.ai: "tool_choice" takes "auto" only, all else is refused (400).
_GLM: Row = {"tool_choice_none": False}
# platform.openai.com/docs/api-reference/chat: "not supported with latest reasoning models".
_OPENAI_MODELS = (
    (r"(o\d|gpt-5)", _OPENAI_REASONING),
    (r"o\d", {"one_call": False}),
    (r"text-embedding-3", {"embedding_size": True}),
)
# ai.google.dev/gemini-api/docs/thought-signatures: what stands for the signature of a call that
# is replayed without one; from Gemini 3 on a call without any is refused.
_GEMINI_MODELS = (
    (r"gemini-(2\.5|[3-9])", {"ask_reasoning": True, "penalties": False}),
    (r"gemini-[3-9]", {"call_signature": "skip_thought_signature_validator"}),
)


class Service(Struct, frozen=True):
    """One service: how it differs, and how models of it (by the start of the name) do."""

    hosts: tuple[str, ...]
    """Ends of host names, with the port where only that tells the service."""
    traits: Row = {}
    models: tuple[tuple[str, Row], ...] = ()


SERVICES: tuple[Service, ...] = (
    Service(("api.openai.com",), _OPENAI, _OPENAI_MODELS),
    Service((".openai.azure.com", ".services.ai.azure.com"), _OPENAI, _OPENAI_MODELS),
    # platform.claude.com/docs/en/build-with-claude/structured-outputs: from the models 4.5 on.
    Service(("api.anthropic.com",), {"max_stop": 16, "answer_format": "none"},
            ((r"claude-[a-z]+-(4-[5-9]|[5-9])(?!\d)", {"answer_format": "schema"}),)),
    Service(("generativelanguage.googleapis.com",), {"max_stop": 5}, _GEMINI_MODELS),
    Service(("api.deepseek.com",), {"max_stop": 16, "reasoning_field": "reasoning_content",
                                    "think_tags": False, "answer_format": "object",
                                    "seed_field": ""},
            (("deepseek-reasoner", {"sampling": False}),)),
    Service(("openrouter.ai",), {"reasoning_field": "reasoning", "think_tags": False,
                                 "one_call": True},
            (("glm-", _GLM),)),
    Service(("api.groq.com",), {"max_tokens_field": "max_completion_tokens", "one_call": True}),
    # A field that it does not know is refused (422); its figures come unasked.
    Service(("api.mistral.ai",), {"include_usage": False, "max_stop": 16, "tool_id_chars": 9,
                                  "think_tags": False, "one_call": True,
                                  "seed_field": "random_seed"}),
    Service(("api.moonshot.cn", "api.moonshot.ai"), {"max_stop": 5, "answer_format": "object",
                                                     **_PLAIN_THOUGHTS}),
    Service(("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com",
             "dashscope-us.aliyuncs.com"), {"max_stop": 16, **_PLAIN_THOUGHTS}),
    # docs.bigmodel.cn: one stop word.
    Service(("open.bigmodel.cn", "api.z.ai"), {"max_stop": 1, "answer_format": "object",
                                                **_GLM, **_PLAIN_THOUGHTS}),
    Service((".volces.com",), _PLAIN_THOUGHTS),
    Service(("api.x.ai",), {"max_tokens_field": "max_completion_tokens", "one_call": True,
                            **_PLAIN_THOUGHTS},
            (("grok-(3-mini|4)", {"max_stop": 0, "penalties": False}),)),
    # Nothing known that differs.
    Service(("api.siliconflow.cn", "api.siliconflow.com", "api.together.xyz",
             "api.fireworks.ai")),
    # On their usual ports; stop words without a bound. Ollama does not read `tool_choice`
    # (github.com/ollama/ollama, issue 17921).
    Service((":11434", "ollama.com"), {"max_stop": 16, "tool_choice_none": False,
                                       "image_urls": False}),
    # vLLM, llama.cpp and SGLang.
    Service((":8000", ":8080", ":30000"), {"max_stop": 16}),
)  # fmt: skip


BASE_URLS = {
    "openai_responses": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
}
"""Where a kind is spoken to if the operator names no address."""


def base_url_of(config: ProviderConfig) -> str:
    """Return the address before the dialect's own paths, without a slash at its end."""
    return (config.base_url or BASE_URLS.get(config.kind, "")).rstrip("/")


def first_key(config: ProviderConfig) -> Secret:
    """Return the key of calls that need no share of the limits of several."""
    return config.api_key or next(iter(config.api_keys), config.api_key)


def traits_of(config: ProviderConfig, model: str = "") -> Traits:
    """Return how to speak to this service about this model."""
    return _traits(base_url_of(config), config.quirks, model)


@lru_cache(maxsize=1024)
def _traits(base_url: str, quirks: Quirks, model: str) -> Traits:
    row: Row = {}
    service = _service_at(base_url)
    if service is not None:
        row.update(service.traits)
        for pattern, differences in service.models:
            if re.match(pattern, _bare(model)):
                row.update(differences)
    said = structs.asdict(quirks)
    row.update((name, value) for name, value in said.items() if value is not None)
    return Traits(**row)


def _service_at(base_url: str) -> Service | None:
    try:
        address = urlsplit(base_url)
        host = address.hostname or ""
        places = (host, f"{host}:{address.port}") if address.port else (host,)
    except ValueError:
        return None
    for service in SERVICES:
        if any(_is_at(place, end) for place in places for end in service.hosts):
            return service
    return None


def _is_at(place: str, end: str) -> bool:
    """Whether `place` is `end` or, where `end` begins with a mark, ends with it."""
    return place.endswith(end) if end[0] in ".:" else place == end or place.endswith("." + end)


def _bare(model: str) -> str:
    """Return the model's name without the folder that some services put before it."""
    return model.rpartition("/")[2].lower()
