"""What can be wrong with settings that are each correct by themselves."""

import datetime
import ipaddress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from protocol.handshake import OriginPolicy
from server.config_sections import AiConfig, Config, KeyConfig

_MIN_HS256_BYTES: Final = 32  # RFC 7518 §3.2
_RENEW_BEFORE_DAYS: Final = 14


class Problem(NamedTuple):
    """One thing that is wrong; the server does not start when it is fatal."""

    key: str
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach host."""
    if host in ("localhost", "localhost.localdomain"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").split("%")[0]).is_loopback
    except ValueError:
        return False


def check(config: Config) -> list[Problem]:
    """Return what is wrong, worst first. Reads the files that are named, nothing else."""
    problems = [
        *_check_listener(config),
        *_check_origins(config),
        *_check_limits(config),
        *_check_storage(config),
        *_check_keys(config),
        *_check_providers(config),
        *_check_moderation(config),
        *_check_alerts(config),
    ]
    return sorted(problems, key=lambda problem: not problem.fatal)


def _check_listener(config: Config) -> list[Problem]:
    server = config.server
    found = []
    if bool(server.tls_cert) != bool(server.tls_key):
        missing, given = ("tls_key", "tls_cert") if server.tls_cert else ("tls_cert", "tls_key")
        found.append(Problem(f"server.{missing}", f"is needed together with server.{given}"))
    for name in ("tls_cert", "tls_key"):
        path = getattr(server, name)
        if path and not Path(path).is_file():
            found.append(Problem(f"server.{name}", f"there is no file {path}"))
    if server.tls_cert and not found:
        found += _check_certificate(server.tls_cert, server.tls_key)
    if not is_loopback(server.host) and not server.tls_cert and not server.allow_cleartext:
        found.append(
            Problem(
                "server.host",
                f"{server.host} can be reached from other machines, and passwords would travel "
                "unencrypted. Set server.tls_cert and server.tls_key; or, when something in front "
                "encrypts, server.allow_cleartext = true",
            )
        )
    if config.auth.guests and config.auth.registration and not is_loopback(server.host):
        found.append(
            Problem("auth.registration", "anybody who reaches this address may sign up", False)
        )
    return found


def _check_certificate(cert: str, key: str) -> list[Problem]:
    # Only here: most commands need no TLS, and it takes a while to load.
    from server.tls import UnusableCertificate, load_context, valid_until

    try:
        load_context(cert, key)
    except UnusableCertificate as error:
        return [Problem("server.tls_cert", str(error))]
    end = valid_until(cert)
    left = end - datetime.datetime.now(datetime.UTC)
    if left < datetime.timedelta(0):
        text = f"the certificate ended on {end:%Y-%m-%d}; clients will refuse it"
    elif left.days < _RENEW_BEFORE_DAYS:
        text = f"the certificate ends on {end:%Y-%m-%d}; renew it"
    else:
        return []
    return [Problem("server.tls_cert", text, False)]


def _check_origins(config: Config) -> list[Problem]:
    found = []
    for origin in config.websocket.origins:
        try:
            OriginPolicy([origin])
        except ValueError:
            text = f"{origin!r} is not an origin; write it like https://chat.example.org"
            found.append(Problem("websocket.origins", text))
        if origin == "null":
            text = "'null' lets every sandboxed page call this server"
            found.append(Problem("websocket.origins", text, False))
    return found


def _check_limits(config: Config) -> list[Problem]:
    limits = config.limits
    pairs = (
        ("heartbeat_min_s", "heartbeat_s"),
        ("heartbeat_s", "heartbeat_max_s"),
        ("outbox_soft_bytes", "outbox_hard_bytes"),
        ("first_byte_s", "hello_s"),
        ("rate_pause_s", "rate_close_s"),
        ("unauthenticated_per_ip", "unauthenticated"),
        ("frame_bytes", "bytes_burst"),
    )
    found = [
        Problem(f"limits.{low}", f"must not be above limits.{high}")
        for low, high in pairs
        if getattr(limits, low) > getattr(limits, high)
    ]
    if limits.outbox_total_bytes and limits.outbox_total_bytes < limits.outbox_hard_bytes:
        found.append(
            Problem("limits.outbox_total_bytes", "must not be below limits.outbox_hard_bytes")
        )
    return found


def _check_storage(config: Config) -> list[Problem]:
    storage = config.storage
    found = []
    url = storage.url.reveal()
    if url and not url.startswith(("sqlite:///", "mysql://", "mariadb://")):
        found.append(
            Problem(
                "storage.url",
                "expected mysql://user:password@host:3306/database or sqlite:////path/to/file.db",
            )
        )
    if storage.batch_bytes > storage.queue_bytes:
        found.append(Problem("storage.batch_bytes", "must not be above storage.queue_bytes"))
    if storage.batch_rows > storage.queue_rows:
        found.append(Problem("storage.batch_rows", "must not be above storage.queue_rows"))
    if storage.allow_weak_durability:
        found.append(
            Problem(
                "storage.allow_weak_durability",
                "messages that were acknowledged may be lost when the machine loses power",
                False,
            )
        )
    return found


def _check_keys(config: Config) -> list[Problem]:
    keys = config.auth.keys
    found = [problem for key in keys for problem in _check_key(key)]
    twice = _repeated([key.kid for key in keys])
    found += [Problem("auth.keys", f"two keys have the kid {kid!r}") for kid in twice]
    if keys and not any(key.secret for key in keys):
        found.append(
            Problem("auth.keys", "no key can sign: accounts here cannot sign in", fatal=False)
        )
    return found


def _check_key(key: KeyConfig) -> list[Problem]:
    where = f"auth.keys[{key.kid}]"
    if key.alg == "HS256":
        if len(key.secret.reveal().encode()) < _MIN_HS256_BYTES:
            return [Problem(where, f"HS256 needs a secret of {_MIN_HS256_BYTES} bytes or more")]
        if key.public_key:
            return [Problem(where, "HS256 has no public_key")]
    elif not key.secret and not key.public_key:
        return [Problem(where, f"{key.alg} needs a public_key to check, or a secret to sign too")]
    return []


def _check_providers(config: Config) -> list[Problem]:
    twice = _repeated([provider.name for provider in config.ai.providers])
    found = [Problem("ai.providers", f"two providers are called {name!r}") for name in twice]
    found += _check_tools(config.ai)
    for provider in config.ai.providers:
        where = f"ai.providers[{provider.name}]"
        if provider.kind == "openai_chat" and not provider.base_url:
            found.append(Problem(where, "base_url is missing, such as http://127.0.0.1:11434/v1"))
        elif provider.base_url and urlsplit(provider.base_url).scheme not in ("http", "https"):
            found.append(Problem(where, "base_url must begin with http:// or https://"))
        found += _check_quirks(where, provider.quirks)
    if config.ai.engine == "mem0_proxy" and not config.ai.mem0_url.startswith("http"):
        found.append(
            Problem("ai.mem0_url", "the engine mem0_proxy needs it, with http:// or https://")
        )
    return found + _check_routes(config) + _check_services(config)


def _check_tools(ai: AiConfig) -> list[Problem]:
    if not (ai.tools or ai.tool_lists or ai.mcp):
        return []
    from ai_bridge.tools.builtin import BUILTIN_NAMES
    from ai_bridge.tools.mcp import check_url
    from server.mcp_servers import to_mcp

    names = [server.name for server in ai.mcp]
    twice = _repeated([*BUILTIN_NAMES, *names])
    found = [Problem("ai.mcp", f"two sources of tools are called {name!r}") for name in twice]
    for server in ai.mcp:
        where = f"ai.mcp[{server.name}]"
        try:
            check_url(to_mcp(server))
        except ValueError as error:
            found.append(Problem(where, str(error)))
        if server.api_key and "authorization" in map(str.lower, server.headers):
            found.append(Problem(where, "give api_key or a header authorization, not both"))
    lists = {"ai.tools": ai.tools}
    for one in ai.tool_lists:
        where = f"ai.tool_lists[{one.tenant}, {one.persona}]"
        if where in lists:
            found.append(Problem(where, "there are two lists for the same"))
        lists[where] = one.tools
    for where, tools in lists.items():
        for tool in tools:
            if tool not in (*BUILTIN_NAMES, *names) and not _of_server(tool, names):
                known = ", ".join((*BUILTIN_NAMES, *names))
                found.append(Problem(where, f"there is no tool {tool!r}; there are {known}"))
    used = {tool for tools in lists.values() for tool in tools}
    for name in names:
        if name not in used and not any(_of_server(tool, [name]) for tool in used):
            text = "no list of tools names it, so nobody can use it: add it to ai.tools"
            found.append(Problem(f"ai.mcp[{name}]", text, False))
    return found


def _of_server(tool: str, names: list[str]) -> bool:
    return any(tool.startswith(f"{name}_") for name in names)


def _check_routes(config: Config) -> list[Problem]:
    known = {provider.name for provider in config.ai.providers}
    found = []
    for name, places in config.ai.routes.items():
        where = f"ai.routes.{name}"
        if not places:
            found.append(Problem(where, "it leads nowhere; name a place such as openai/gpt-4o"))
        for place in places:
            provider, slash, model = place.partition("/")
            if not slash or not model:
                found.append(Problem(where, f"{place!r} is not `provider/model`"))
            elif provider not in known:
                found.append(Problem(where, f"there is no provider called {provider!r}"))
    return found


def _check_services(config: Config) -> list[Problem]:
    """Look at who writes recordings down and who makes vectors."""
    ai = config.ai
    kinds = {provider.name: provider.kind for provider in ai.providers}
    found = []
    for where, service in (("ai.speech", ai.speech), ("ai.embeddings", ai.embeddings)):
        if service.base_url:
            if urlsplit(service.base_url).scheme not in ("http", "https"):
                text = "base_url must begin with http:// or https://"
                found.append(Problem(where, text))
        elif service.provider in kinds:
            if not kinds[service.provider].startswith("openai"):
                text = f"the provider {service.provider!r} has no OpenAI-shaped interface"
                found.append(Problem(where, text))
        elif service.provider:
            text = f"there is no provider called {service.provider!r} here; it may come by command"
            found.append(Problem(where, text, False))
    embeddings = ai.embeddings
    if (embeddings.provider or embeddings.base_url) and not embeddings.model:
        found.append(Problem("ai.embeddings", "model is missing, such as text-embedding-3-small"))
    return found


def _check_moderation(config: Config) -> list[Problem]:
    from ai_bridge.moderators import WordCheck

    given = config.ai.moderation
    kinds = {provider.name: provider.kind for provider in config.ai.providers}
    where, found = "ai.moderation", []
    try:
        WordCheck(given.words)
    except ValueError as error:
        found.append(Problem(f"{where}.words", str(error)))
    if given.provider in kinds:
        if not kinds[given.provider].startswith("openai"):
            text = f"the provider {given.provider!r} has no OpenAI-shaped interface"
            found.append(Problem(f"{where}.provider", text))
    elif given.provider:
        text = f"there is no provider called {given.provider!r} here; it may come by command"
        found.append(Problem(f"{where}.provider", text, False))
    if (given.words or given.provider) and not given.stages:
        text = "nothing is checked: name input, output or both"
        found.append(Problem(f"{where}.stages", text, False))
    return found


def _check_alerts(config: Config) -> list[Problem]:
    alerts = config.metrics.alerts
    if not alerts:
        return []
    from server.alerts import check_rule

    twice = _repeated([rule.name for rule in alerts])
    found = [Problem("metrics.alerts", f"two rules are called {name!r}") for name in twice]
    return found + [
        Problem(f"metrics.alerts[{rule.name}]", complaint)
        for rule in alerts
        if (complaint := check_rule(rule))
    ]


def _check_quirks(where: str, given: dict[str, str | int | float | bool]) -> list[Problem]:
    from ai_bridge.config import Quirks

    try:
        msgspec.convert(given, Quirks)
    except msgspec.ValidationError as error:
        names = ", ".join(Quirks.__struct_fields__)
        return [Problem(where, f"quirks: {error}; there are {names}")]
    return []


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
