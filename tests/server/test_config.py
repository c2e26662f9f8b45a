"""Settings: three sources, nothing unknown, nothing secret shown."""

from pathlib import Path

import pytest

from server.ai_setup import bridge_config, make_bridge, make_prices
from server.config import (
    Config,
    ConfigError,
    Secret,
    check,
    explain,
    gather,
    load,
    parse_overrides,
    storage_url,
)


def problems_of(
    path: Path | None = None,
    env: dict[str, str] | None = None,
    overrides: dict[str, object] | None = None,
) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(path, env or {}, overrides)
    return caught.value.problems


def write(folder: Path, text: str) -> Path:
    path = folder / "parlance.toml"
    path.write_text(text)
    return path


def test_defaults_may_start() -> None:
    config = load(None, {})
    assert config.server.port == 8420
    assert config.websocket.origins == ["same-origin"]
    assert [problem for problem in check(config) if problem.fatal] == []


def test_the_environment_beats_the_file_and_flags_beat_both(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nport = 1001\nbacklog = 100\nnode = 'a'\n")
    env = {"PARLANCE_SERVER_PORT": "1002", "PARLANCE_SERVER_BACKLOG": "200"}
    loaded = gather(path, env, {"server.port": "1003"})
    server = loaded.config.server
    assert (server.port, server.backlog, server.node) == (1003, 200, "a")
    assert loaded.sources["server.backlog"] == "environment PARLANCE_SERVER_BACKLOG"
    assert loaded.sources["server.node"] == str(path)


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nport = 1001\n")
    assert load(None, {"PARLANCE_CONFIG": str(path)}).server.port == 1001


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    assert problems_of(path) == (f"there is no configuration file {path}",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprot = 1", "server.prot in {}: no such setting; did you mean server.port?"),
        ("[limit]\nrate = 1", "[limit] in {}: no such section; did you mean [limits]?"),
        ("[server]\nrate = 1", "server.rate in {}: no such setting; did you mean limits.rate?"),
        ("server = 1", "server in {}: expected a table, write [server] above it"),
        (
            "[server]\nport = '1'",
            "",
        ),
        (
            "[server]\nport = 99999",
            "server.port in {}: expected a whole number from 0 to 65535, got 99999",
        ),
        ("[log]\nlevel = 'loud'", "log.level in {}: expected one of debug, error, info, warning"),
        (
            "[[ai.providers]]\nname = 'a'\nbse_url = 'x'",
            "ai.providers in {}: no such key 'bse_url'; did you mean base_url?",
        ),
    ],
)
def test_a_bad_file_is_explained(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    if not said:
        assert load(path, {}).server.port == 1
    else:
        assert any(line.startswith(said.format(path)) for line in problems_of(path))


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "[server\n")
    assert problems_of(path)[0].startswith(f"{path}: is not TOML")


def test_unknown_environment_names_are_refused_but_not_those_of_others() -> None:
    env = {"PARLANCE_SERVER_PRT": "1", "PARLANCE_TEST_MYSQL_URL": "x", "OTHER": "y"}
    assert problems_of(env=env) == (
        "PARLANCE_SERVER_PRT in the environment: no such setting; "
        "did you mean PARLANCE_SERVER_PORT?",
    )


def test_every_problem_is_told_at_once() -> None:
    env = {"PARLANCE_SERVER_PORT": "x", "PARLANCE_SERVER_GC_FREEZE": "perhaps"}
    assert len(problems_of(env=env)) == 2


def test_lists_come_as_words_or_json() -> None:
    env = {
        "PARLANCE_WEBSOCKET_ORIGINS": "same-origin, https://a.example",
        "PARLANCE_AI_PROVIDERS": '[{"name": "o", "base_url": "http://x/v1", "api_key": "k"}]',
    }
    config = load(None, env)
    assert config.websocket.origins == ["same-origin", "https://a.example"]
    assert config.ai.providers[0].api_key == Secret("k")


def test_words_of_the_environment_are_read_leniently() -> None:
    env = {"PARLANCE_LOG_LEVEL": "DEBUG", "PARLANCE_WEBSOCKET_JSON": "true"}
    config = load(None, env)
    assert (config.log.level, config.websocket.json) == ("debug", True)


def test_secrets_come_from_the_environment_and_from_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from a file\n")
    text = "[storage]\nurl = 'env:DB'\n[[ai.providers]]\nname = 'a'\nbase_url = 'http://x'\n"
    path = write(tmp_path, text + "api_key = 'file:key'\n")
    config = load(path, {"DB": "mysql://u:p@h/d"})
    assert config.storage.url.reveal() == "mysql://u:p@h/d"
    assert config.ai.providers[0].api_key.reveal() == "from a file"


def test_a_secret_that_points_nowhere_is_an_error() -> None:
    said = problems_of(env={"PARLANCE_STORAGE_URL": "env:NOPE"})
    assert said[0].endswith("the environment variable NOPE is not set")


def test_secrets_are_never_shown() -> None:
    env = {
        "PARLANCE_STORAGE_URL": "mysql://u:geheim@h/d",
        "PARLANCE_AUTH_KEYS": '[{"kid": "a", "secret": "geheimgeheimgeheimgeheimgeheimgeheim"}]',
        "PARLANCE_AI_PROVIDERS": (
            '[{"name": "o", "base_url": "http://x", "api_key": "geheim", '
            '"headers": {"X-Key": "geheim"}}]'
        ),
    }
    loaded = gather(None, env)
    shown = "\n".join(str(setting) for setting in explain(loaded))
    assert "geheim" not in shown + repr(loaded.config) + str(loaded.config.storage.url)
    assert "(set)" in shown


def test_a_bad_secret_is_not_quoted() -> None:
    said = problems_of(overrides={"storage.url": ["geheim"]})
    assert "geheim" not in said[0]


def test_an_open_address_needs_tls_or_a_decision() -> None:
    said = problems_of(overrides={"server.host": "0.0.0.0"})
    assert "server.allow_cleartext = true" in said[0]
    load(None, {}, {"server.host": "0.0.0.0", "server.allow_cleartext": "true"})
    load(None, {}, {"server.host": "::1"})


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"server.tls_cert": "/nowhere.pem"}, "server.tls_key"),
        ({"limits.heartbeat_s": "10"}, "limits.heartbeat_min_s"),
        ({"limits.outbox_soft_bytes": "2000000"}, "limits.outbox_soft_bytes"),
        ({"limits.outbox_total_bytes": "1"}, "limits.outbox_total_bytes"),
        ({"websocket.origins": "https://a.example/path"}, "websocket.origins"),
        ({"storage.url": "postgres://x"}, "storage.url"),
        ({"storage.batch_rows": "9999", "storage.queue_rows": "10"}, "storage.batch_rows"),
        ({"auth.keys": '[{"kid": "a", "secret": "short"}]'}, "auth.keys[a]"),
        ({"auth.keys": '[{"kid": "a", "alg": "EdDSA"}]'}, "auth.keys[a]"),
        ({"ai.providers": '[{"name": "a"}]'}, "ai.providers[a]"),
        (
            {"ai.providers": '[{"name": "a", "base_url": "http://x", "quirks": {"nope": 1}}]'},
            "ai.providers[a]",
        ),
        (
            {"ai.providers": '[{"name": "a", "kind": "demo"}, {"name": "a", "kind": "demo"}]'},
            "ai.providers",
        ),
        ({"ai.routes": '{"fast": ["nobody/model"]}'}, "ai.routes.fast"),
        ({"ai.routes": '{"fast": ["model"]}'}, "ai.routes.fast"),
        ({"ai.routes": '{"fast": []}'}, "ai.routes.fast"),
        ({"ai.speech": '{"base_url": "ftp://x"}'}, "ai.speech"),
        ({"ai.embeddings": '{"base_url": "http://x/v1"}'}, "ai.embeddings"),
        (
            {"ai.providers": '[{"name": "a", "kind": "gemini"}]', "ai.speech": '{"provider": "a"}'},
            "ai.speech",
        ),
        (
            {
                "ai.providers": '[{"name": "a", "kind": "gemini"}]',
                "ai.moderation": '{"provider": "a"}',
            },
            "ai.moderation.provider",
        ),
        ({"ai.moderation": '{"words": ["\\u200b"]}'}, "ai.moderation.words"),
        ({"ai.moderation": '{"words": ["x"], "stages": ["thoughts"]}'}, "ai.moderation in a flag"),
        ({"ai.moderation": '{"thresholds": {"hate": 2}}'}, "ai.moderation in a flag"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    overrides: dict[str, object], key: str
) -> None:
    assert any(line.startswith(f"{key}: ") for line in problems_of(overrides=overrides))


def test_routes_prices_and_shares_of_answers_are_read(tmp_path: Path) -> None:
    text = """
[ai]
user_day_usd = 0.5

[[ai.providers]]
name = "a"
kind = "demo"

[ai.routes]
fast = ["a/demo"]

[ai.prices]
"a/demo" = { input = 1.5, output = 3 }

[[ai.tenants]]
tenant = 2
weight = 3
"""
    ai = load(write(tmp_path, text), {}).ai
    bridge = bridge_config(ai)
    assert bridge.routes[0].targets[0].provider == "a"
    assert bridge.tenants[0].weight == 3
    price = make_prices(ai).find("a/demo")
    assert price is not None
    assert (price.input, price.output, price.cached) == (1.5, 3, None)


async def test_moderation_and_rules_are_made_from_the_settings(tmp_path: Path) -> None:
    text = """
[ai]
rules = "不谈政治。"

[ai.moderation]
words = ["坏话"]
provider = "later"
stages = ["output"]
"""
    config = load(write(tmp_path, text), {})
    found = [str(problem) for problem in check(config) if "moderation" in problem.key]
    assert len(found) == 1
    assert "may come by command" in found[0]
    assert bridge_config(config.ai).rules == "不谈政治。"
    bridge = make_bridge(config.ai, None)
    assert bridge.moderation is not None
    assert bridge.moderation.stages == {"output"}
    assert make_bridge(load(None, {}).ai, None).moderation is None
    await bridge.aclose()


def test_flags_have_a_shape() -> None:
    assert parse_overrides(["limits.rate=50", "server.node=a=b"]) == {
        "limits.rate": "50",
        "server.node": "a=b",
    }
    with pytest.raises(ConfigError):
        parse_overrides(["limits.rate"])


def test_without_a_url_the_database_is_a_file_in_the_data_folder(tmp_path: Path) -> None:
    config = load(None, {}, {"server.data_dir": str(tmp_path / "a b")})
    assert storage_url(config) == f"sqlite:///{tmp_path}/a%20b/parlance.db"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Config().server.port = 1  # type: ignore[misc]  # that is the point


def test_a_table_within_a_section_is_read_and_its_secret_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-deep-secret\n")
    file = tmp_path / "parlance.toml"
    file.write_text('[ai.speech]\nbase_url = "http://s/v1"\napi_key = "file:key"\nmax_s = 60\n')
    speech = load(file, {}).ai.speech
    assert (speech.max_s, speech.api_key.reveal()) == (60, "sk-deep-secret")
    assert "sk-deep-secret" not in str(explain(gather(file, {})))
    for wrong, why in (("max_s = 601", "max_s"), ("maxs = 1", "did you mean max_s")):
        file.write_text(f'[ai.speech]\napi_key = "sk-deep-secret"\n{wrong}\n')
        with pytest.raises(ConfigError) as caught:
            load(file, {})
        assert why in str(caught.value)
        assert "sk-deep-secret" not in str(caught.value)
