"""Run the fake AI service: `python -m bench.provider --port 9100`."""

from __future__ import annotations

import argparse
import asyncio
import signal

import uvloop

from bench.provider.server import ScriptedProvider


async def serve(host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    provider = ScriptedProvider()
    await provider.start(port, host)
    print(f"scripted provider at http://{host}:{provider.port}/v1 (figures: /stats)", flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await provider.aclose()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9100, help="0 takes a free one")
    args = parser.parse_args()
    uvloop.run(serve(args.host, args.port))


if __name__ == "__main__":
    main()
