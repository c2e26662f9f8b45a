"""Run the bridge alone: `python -m ai_bridge`. See `python -m ai_bridge --help`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop
from aiohttp import web

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig
from ai_bridge.http.guard import MAX_CONNECTIONS, Connections
from ai_bridge.http.hosts import is_local_name
from ai_bridge.http.settings import (
    KEYS_VARIABLE,
    Keys,
    SettingsError,
    StandalonePersona,
    read_config,
    read_personas,
    read_speech,
)
from ai_bridge.http.standalone import Standalone
from ai_bridge.speech import SpeechConfig

GRACE_S = 10.0
EPILOG = f"""\
doors:
  POST /v1/chat/completions   as OpenAI's, whole or streamed; model: a persona's id, a model's
                              name, or provider/model
  POST /v1/audio/transcriptions   recordings to text, as OpenAI's; needs [speech] in the file
  GET  /v1/models             what may be asked for
  GET  /health                how the providers are
  GET  /metrics               counters, for Prometheus

try it, without any setting (the built-in demo answers when no AI service is found):
  python -m ai_bridge
  curl http://127.0.0.1:8430/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "demo", "messages": [{{"role": "user", "content": "hello"}}]}}'

callers' keys come from {KEYS_VARIABLE}, between commas. Without one only this machine is served.

a file with providers (all names: ai_bridge/config.py):
  default_model = "deepseek-chat"
  [[providers]]
  name = "deepseek"
  base_url = "https://api.deepseek.com/v1"
  api_key = "env:DEEPSEEK_API_KEY"
  models = ["deepseek-chat"]
  [speech]                    # all names: ai_bridge/speech.py
  base_url = "http://127.0.0.1:8000/v1"
  model = "whisper-large-v3"

a persona, one JSON file each in the folder of --personas:
  {{"id": "ada", "name": "Ada", "prompt": "You are Ada, ...", "temperature": 0.7}}
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(
        prog="python -m ai_bridge",
        description="Answers OpenAI clients with your AI providers: fair, bounded, cancellable.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the providers")
    found.add_argument("--personas", type=Path, metavar="FOLDER", help="JSON files, one a persona")
    found.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    found.add_argument("--port", type=int, default=8430, help="0 takes a free one (%(default)s)")
    found.add_argument(
        "--max-connections", type=int, default=MAX_CONNECTIONS, metavar="N",
        help="connections at a time; those beyond are told 503 (%(default)s)",
    )  # fmt: skip
    found.add_argument(
        "--log-level", default="warning", choices=("debug", "info", "warning", "error"),
        help="least important line written to standard error (%(default)s)",
    )  # fmt: skip
    return found


async def serve(
    config: BridgeConfig,
    personas: dict[str, StandalonePersona],
    keys: Keys,
    host: str,
    port: int,
    max_connections: int = MAX_CONNECTIONS,
    speech: SpeechConfig | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then let answers end for ten seconds."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    bridge = Bridge(config)
    await bridge.start()
    standalone = Standalone(bridge, personas, keys, Connections(max_connections), speech)
    runner = web.AppRunner(standalone.application(), access_log=None, shutdown_timeout=GRACE_S)
    await runner.setup()
    try:
        server = await asyncio.get_running_loop().create_server(
            standalone.connections.factory(runner.server), host, port, backlog=1024
        )
        print(
            f"bridge at http://{_shown(host)}:{server.sockets[0].getsockname()[1]}/v1", flush=True
        )
        await stopped.wait()
        server.close()
    finally:
        await bridge.aclose(GRACE_S)
        await standalone.aclose()
        await runner.cleanup()


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def main(words: Sequence[str] | None = None) -> int:
    """Read the command line and serve; return the exit code."""
    args = parser().parse_args(words)
    logging.basicConfig(level=args.log_level.upper(), stream=sys.stderr)
    try:
        config = read_config(args.config)
        speech = read_speech(args.config)
        personas = read_personas(args.personas)
        if args.max_connections < 1:
            raise SettingsError("--max-connections must be 1 or more")
        keys = Keys(os.environ.get(KEYS_VARIABLE, ""))
        if not len(keys) and not is_local_name(args.host):
            raise SettingsError(
                f"{args.host} can be reached from other machines: set {KEYS_VARIABLE} first"
            )
        uvloop.run(
            serve(config, personas, keys, args.host, args.port, args.max_connections, speech)
        )
    except SettingsError as error:
        print(f"ai_bridge: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"ai_bridge: cannot start: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
