"""Commands find the server of their data folder, whichever port it has."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from server.app import App
from server.commands.context import is_serving
from server.config_sections import AiConfig, Config, ServerConfig
from server.listening import NAME, Address, drop_address, note_address, noted_address


def settings(folder: Path, port: int = 0) -> Config:
    return Config(server=ServerConfig(data_dir=str(folder), port=port))


@pytest.fixture
def address() -> Iterator[Address]:
    """Where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Address("127.0.0.1", server.getsockname()[1])


async def test_a_server_whose_port_the_system_chose_is_found_while_it_runs(tmp_path: Path) -> None:
    config = replace(settings(tmp_path), ai=AiConfig(detect=False))
    assert not is_serving(config)
    app = App(config)
    try:
        await app.start()
        assert noted_address(tmp_path) == Address(config.server.host, app.port)
        assert is_serving(config)
    finally:
        await app.stop()
    assert not is_serving(config)
    assert noted_address(tmp_path) is None


def test_a_port_that_only_the_server_was_told_is_found(tmp_path: Path, address: Address) -> None:
    assert not is_serving(settings(tmp_path, 1))
    note_address(tmp_path, address._replace(host="0.0.0.0"))
    assert is_serving(settings(tmp_path, 1))


def test_a_note_of_a_killed_server_does_not_hide_the_one_that_runs(
    tmp_path: Path, address: Address
) -> None:
    note_address(tmp_path, Address("127.0.0.1", 1))
    assert not is_serving(settings(tmp_path))
    assert is_serving(settings(tmp_path, address.port))


@pytest.mark.parametrize(
    "text", [b"", b"localhost", b"a b c", b"h 70000", b"h 0", b"h \xff", b"h x"]
)
def test_a_damaged_note_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / NAME).write_bytes(text)
    assert noted_address(tmp_path) is None
    assert not is_serving(settings(tmp_path))


def test_the_note_of_another_server_stays(tmp_path: Path) -> None:
    mine, other = Address("::1", 8420), Address("::1", 8421)
    note_address(tmp_path, mine)
    note_address(tmp_path, other)
    drop_address(tmp_path, mine)
    assert noted_address(tmp_path) == other
    drop_address(tmp_path, other)
    assert list(tmp_path.iterdir()) == []


async def test_a_server_runs_where_it_cannot_be_noted(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    app = App(replace(settings(tmp_path), ai=AiConfig(detect=False)))
    try:
        await app.start()
        assert is_serving(settings(tmp_path, app.port))
    finally:
        await app.stop()
