"""Run the fake AI service: `python -m bench.provider --port 9100`."""

from __future__ import annotations

import argparse
import asyncio
import signal

import uvloop

from bench.provider.guide import guide
from bench.provider.measure import measure
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
    """Read the command line; serve, or measure."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n\n{guide()}".replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9100, help="0 takes a free one")
    parser.add_argument("--measure", type=int, metavar="STREAMS", help="play so many and say how")
    parser.add_argument("--rate", type=float, default=30, help="tokens per second when measuring")
    parser.add_argument("--seconds", type=float, default=8, help="of measuring")
    args = parser.parse_args()
    if args.measure:
        print(measure(args.measure, args.rate, args.seconds))
    else:
        uvloop.run(serve(args.host, args.port))


if __name__ == "__main__":
    main()
