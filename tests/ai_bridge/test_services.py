"""What is known of services, and who may say otherwise."""

from __future__ import annotations

import pytest

from ai_bridge.config import ProviderConfig, Quirks
from ai_bridge.providers.services import SERVICES, Traits, base_url_of, traits_of


def traits(base_url: str, model: str = "", quirks: Quirks | None = None) -> Traits:
    config = ProviderConfig(name="x", base_url=base_url, quirks=quirks or Quirks())
    return traits_of(config, model)


def test_every_trait_can_be_configured() -> None:
    assert Traits.__struct_fields__ == Quirks.__struct_fields__


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: one.hosts[0])
def test_every_row_of_the_table_is_readable(service: object) -> None:
    for row in (service.traits, *(row for _, row in service.models)):  # type: ignore[attr-defined]
        Traits(**row)


@pytest.mark.parametrize(
    ("base_url", "trait", "value"),
    [
        ("https://api.openai.com/v1", "max_tokens_field", "max_completion_tokens"),
        ("https://me.openai.azure.com/openai/v1", "max_tokens_field", "max_completion_tokens"),
        ("https://api.deepseek.com", "reasoning_field", "reasoning_content"),
        ("https://openrouter.ai/api/v1", "reasoning_field", "reasoning"),
        ("https://api.mistral.ai/v1", "tool_id_chars", 9),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", "max_stop", 16),
        ("https://open.bigmodel.cn/api/paas/v4", "max_stop", 1),
        ("http://127.0.0.1:11434/v1", "max_stop", 16),
        ("http://gpu.lan:8000/v1", "max_stop", 16),
    ],
)
def test_a_service_is_known_by_its_host(base_url: str, trait: str, value: object) -> None:
    assert getattr(traits(base_url), trait) == value


@pytest.mark.parametrize(
    "base_url",
    [
        "http://gateway.internal/v1",
        "https://api.openai.com.evil.example/v1",
        "https://notopenrouter.ai/v1",
        "http://[broken",
        "http://x:port/v1",
    ],
)
def test_an_unknown_service_speaks_the_plain_dialect(base_url: str) -> None:
    assert traits(base_url) == Traits()


@pytest.mark.parametrize("model", ["o3-mini", "gpt-5", "openai/gpt-5-mini", "O1"])
def test_a_model_is_known_by_its_name(model: str) -> None:
    assert traits("https://api.openai.com/v1", model).sampling is False
    assert traits("http://x", model).sampling is True


def test_what_is_configured_wins_also_with_the_plain_value() -> None:
    quirks = Quirks(max_tokens_field="max_tokens", sampling=True, max_stop=0)
    found = traits("https://api.openai.com/v1", "o3", quirks)
    assert (found.max_tokens_field, found.sampling, found.max_stop) == ("max_tokens", True, 0)
    assert found.system_role == "developer"


def test_a_kind_knows_its_vendors_address() -> None:
    own = ProviderConfig(name="x", kind="anthropic", base_url="http://proxy/v1/")
    assert base_url_of(own) == "http://proxy/v1"
    assert base_url_of(ProviderConfig(name="x", kind="anthropic")) == "https://api.anthropic.com/v1"
    assert base_url_of(ProviderConfig(name="x")) == ""
    assert traits_of(ProviderConfig(name="x", kind="gemini"), "gemini-2.5-pro").ask_reasoning


@pytest.mark.parametrize(
    ("base_url", "model", "answer_format"),
    [
        ("https://api.anthropic.com/v1", "claude-3-5-sonnet-20241022", "none"),
        ("https://api.anthropic.com/v1", "claude-sonnet-4-20250514", "none"),
        ("https://api.anthropic.com/v1", "claude-sonnet-4-5-20250929", "schema"),
        ("https://api.anthropic.com/v1", "claude-opus-4-6", "schema"),
        ("https://api.deepseek.com", "deepseek-chat", "object"),
        ("https://api.openai.com/v1", "gpt-4o", "schema"),
    ],
)
def test_it_is_known_who_can_be_held_to_json(base_url: str, model: str, answer_format: str) -> None:
    assert traits(base_url, model).answer_format == answer_format


def test_what_models_refuse_is_known_by_their_names() -> None:
    openai = "https://api.openai.com/v1"
    assert traits(openai, "gpt-5").one_call
    assert not traits(openai, "o3-mini").one_call
    assert not traits("https://api.x.ai/v1", "grok-4").penalties
    assert not traits(
        "https://generativelanguage.googleapis.com/v1beta", "gemini-2.5-pro"
    ).penalties
    assert traits("https://api.mistral.ai/v1").seed_field == "random_seed"
    assert not traits("http://127.0.0.1:11434/v1").image_urls
