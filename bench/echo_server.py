"""A bare uvloop echo: the ceiling that `bench.pingpong` measures the whole server against.

    python -m bench.echo_server [--port PORT]

Prints the port once it listens. It does nothing but return each read with one write, so what it
costs is the loop, the two system calls and the call into Python.
"""

import argparse
import asyncio
from typing import cast

import uvloop


class Echo(asyncio.Protocol):
    """Returns what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._write = cast(asyncio.Transport, transport).write

    def data_received(self, data: bytes) -> None:
        self._write(data)


async def serve(port: int) -> None:
    """Listen on the loopback address until cancelled."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    formatter = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--port", type=int, default=0, help="0: any free one (default)")
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
