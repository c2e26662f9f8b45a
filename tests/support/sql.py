"""A few SQL statements from code that is not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit


def run_statements(url: str, statements: Sequence[str]) -> list[tuple[object, ...]]:
    """Run statements on one connection to mysql://…; return the rows of the last one.

    Works inside a running event loop too, which it blocks.
    """
    rows: list[tuple[object, ...]] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            rows.extend(asyncio.run(_run(url, statements)))
        except BaseException as error:  # handed to the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=work, name="sql")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return rows


async def _run(url: str, statements: Sequence[str]) -> list[tuple[object, ...]]:
    import asyncmy  # imported late: fetching server programs must work without it

    parts = urlsplit(url)
    connection = await asyncmy.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        db=parts.path.lstrip("/") or None,
        autocommit=True,
    )
    try:
        async with connection.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)
            return list(await cursor.fetchall())
    finally:
        await connection.ensure_closed()
