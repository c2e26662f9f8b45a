"""One real port with a certificate: TLS and cleartext side by side, and an orderly end."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from clients.auth import Account
from tests.e2e.harness import PASSWORD, Process, group, rows
from tests.server.test_tls import HELLO, make_certificate, trusting
from tests.support.eventually import eventually


@pytest.fixture
def encrypted(tmp_path: Path) -> Process:
    """A server with a certificate in its folder, not started yet."""
    cert, key = make_certificate(tmp_path)
    process = Process(tmp_path)
    settings = f'[server]\ntls_cert = "{cert}"\ntls_key = "{key}"\n'
    process.template = process.template.replace("[server]\n", settings)
    return process


async def test_every_door_is_open_with_and_without_tls_on_one_port(encrypted: Process) -> None:
    server = encrypted
    await asyncio.to_thread(server.start)
    trust = trusting(server.folder / "cert.pem")
    secure = f"parlances://127.0.0.1:{server.port}"
    with contextlib.ExitStack() as strangers:
        try:
            account = Account(secure, tls=trust)
            await account.register("Anna", PASSWORD)
            assert await account.token(renew=True)
            plain = server.online(door="json")
            tcp = server.online(account, url=secure, tls=trust)
            ws = server.online(account, url=f"wss://127.0.0.1:{server.port}/ws", tls=trust)
            async with plain as friend, tcp as phone, ws as laptop:
                conv = await group(phone, friend.user)
                await friend.send(conv, "in clear")
                await laptop.send(conv, "encrypted " + "界" * 4000)
                for client in (friend, phone, laptop):
                    await eventually(lambda c=client: len(rows(c, conv)) == 2)  # type: ignore[misc]
            for first in (HELLO, b"\x16", b"\x16\x03"):
                peer = strangers.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                peer.sendall(first)
            await asyncio.sleep(0.1)
            began_s = asyncio.get_running_loop().time()
            assert await asyncio.to_thread(server.stop) == 0
            assert asyncio.get_running_loop().time() - began_s < 4
        finally:
            await asyncio.to_thread(server.kill)
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "never retrieved" not in log
