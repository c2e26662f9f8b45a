"""What `parlance doctor` looks at: one finding per thing the server needs."""

import os
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple

from server.config import Config, check

_WANTED_FILES: Final = 10_000
_WANTED_DISK_BYTES: Final = 1 << 30
_PROVIDER_S: Final = 5.0
_SKEW_WARN_S: Final = 30.0


class Finding(NamedTuple):
    """One thing that was looked at, and what to do about it."""

    level: Literal["ok", "warn", "fail"]
    text: str
    advice: str = ""


async def examine(config: Config) -> AsyncIterator[Finding]:
    """Yield findings one by one; nothing is changed but the data folder, which is made."""
    yield _python()
    for finding in _settings(config):
        yield finding
    yield _port(config)
    for finding in _data_dir(config):
        yield finding
    yield _files()
    database = await _database(config)
    for finding in database:
        yield finding
    async for finding in _providers(config):
        yield finding
    yield await _clock(config)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("ok", f"Python {version}")


def _settings(config: Config) -> Iterator[Finding]:
    problems = check(config)
    for problem in problems:
        yield Finding("fail" if problem.fatal else "warn", f"settings: {problem}")
    if not problems:
        yield Finding("ok", "settings")


def _port(config: Config) -> Finding:
    host, port = config.server.host, config.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            return Finding(
                "warn",
                f"port {port} on {host}: {reason}",
                "If it is not your running server, choose another: --port or server.port.",
            )
    return Finding("ok", f"port {port} on {host} is free")


def _data_dir(config: Config) -> Iterator[Finding]:
    folder = Path(config.server.data_dir).expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            took_ms = (time.perf_counter() - started) * 1000
    except OSError as error:
        yield Finding("fail", f"{folder}: {error.strerror}", "Choose another: --data-dir.")
        return
    yield Finding("ok", f"{folder} can be written; the disk confirms in {took_ms:.1f} ms")
    free = shutil.disk_usage(folder).free
    if free < _WANTED_DISK_BYTES:
        yield Finding("warn", f"only {free >> 20} MiB free there", "Make room, or move it.")


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = hard == resource.RLIM_INFINITY
    if soft >= _WANTED_FILES + 500:
        return Finding("ok", f"{soft} open files allowed")
    can = "ulimit -n 65536" if infinite or hard >= 65_536 else f"ulimit -n {hard}"
    return Finding(
        "warn",
        f"{soft} open files allowed: enough for about {max(0, soft - 200)} connections",
        f"Before the start: {can}; as a service: LimitNOFILE=65536.",
    )


async def _database(config: Config) -> list[Finding]:
    import msgspec

    from server.app import store_options
    from storage.errors import OpenFailed
    from storage.store import Store

    options = msgspec.structs.replace(store_options(config), allow_weak_durability=True)
    try:
        store = await Store.open(options)
    except OpenFailed as error:
        return [Finding("fail", f"database: {error}")]
    try:
        health = await store.health()
    finally:
        await store.close()
    found = [Finding("ok" if health.ok else "fail", f"{health.engine} {health.version}")]
    if not health.durable:
        found.append(
            Finding(
                "warn" if config.storage.allow_weak_durability else "fail",
                "the database confirms what it may still lose",
                "On MySQL set innodb_flush_log_at_trx_commit = 1.",
            )
        )
    return found


async def _providers(config: Config) -> AsyncIterator[Finding]:
    if not config.ai.providers:
        text = "no AI service is set"
        if config.ai.detect:
            text += "; the start looks for keys in the environment and for a local Ollama"
        yield Finding("ok", text, "Otherwise the built-in demo answers. See [[ai.providers]].")
    for provider in config.ai.providers:
        if provider.kind != "demo":
            headers = {name: value.reveal() for name, value in provider.headers.items()}
            if provider.api_key:
                headers["Authorization"] = f"Bearer {provider.api_key.reveal()}"
            yield await _provider(provider.name, provider.base_url, headers)


async def _provider(name: str, base_url: str, headers: dict[str, str]) -> Finding:
    import aiohttp

    url = base_url.rstrip("/") + "/models"
    timeout = aiohttp.ClientTimeout(total=_PROVIDER_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers=headers) as response,
        ):
            status = response.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Finding(
            "fail", f"AI {name}: cannot be reached ({type(error).__name__})", "Check base_url."
        )
    if status in (401, 403):
        return Finding("fail", f"AI {name}: refuses the key ({status})", "Check api_key.")
    if status >= 500:
        return Finding("warn", f"AI {name}: answers {status}", "It has a problem of its own.")
    # 404: some services list no models and answer all the same.
    return Finding("ok", f"AI {name} can be reached")


async def _clock(config: Config) -> Finding:
    """Compare with the Date of a provider; nobody else is asked."""
    import aiohttp

    if time.time() < 1_735_689_600:
        return Finding("fail", "the clock is before 2025", "Set the clock; tokens depend on it.")
    for provider in config.ai.providers:
        if not provider.base_url:
            continue
        timeout = aiohttp.ClientTimeout(total=_PROVIDER_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.head(provider.base_url) as response,
            ):
                date = parsedate_to_datetime(response.headers["Date"])
        except (TimeoutError, aiohttp.ClientError, OSError, KeyError, ValueError):
            continue
        skew_s = abs(time.time() - date.timestamp())
        if skew_s > _SKEW_WARN_S:
            return Finding("warn", f"the clock is off by {skew_s:.0f} s", "Set it by NTP.")
        return Finding("ok", "the clock agrees with others")
    return Finding("ok", "the clock is plausible")
