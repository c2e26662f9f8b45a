"""How commands see an erasure through: by the server that runs, or by themselves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import typer

from server.commands.context import is_serving

if TYPE_CHECKING:
    from server.config import Config
    from storage.erasure import Erasure
    from storage.store import Store

LOOK_S: Final = 0.3
PATIENCE_S: Final = 20.0
"""How long a server may show no progress before it is taken to be none."""
ELSEWHERE_S: Final = 8.0
"""How long a server on another machine gets to begin; they look every five seconds."""

Show = Callable[["Erasure"], None]


async def carry_out(store: "Store", config: "Config", job: "Erasure") -> None:
    """Wait until an erasure is done, with a bar; where no server does it, do it here."""
    from rich.progress import Progress

    with Progress(transient=True) as progress:
        bar = progress.add_task("Erasing", total=max(1, job.total))

        def show(now: "Erasure") -> None:
            progress.update(bar, completed=now.done)

        patience_s = _patience(config)
        if patience_s and await follow(store, job, show, patience_s):
            return
        if patience_s == PATIENCE_S:
            typer.echo("The server does not take it up, so it is done here; restart the server.")
        await do_here(store, job, show)


async def do_here(store: "Store", job: "Erasure", show: Show = lambda job: None) -> None:
    """Carry out an erasure in this process."""
    from server.erasure import Audience, Eraser
    from storage.erasure import get_erasure

    now = await store.read(get_erasure(job.kind, job.target))
    if now is not None and not now.finished:
        await Eraser(store, Audience(), show).run(now)


def _patience(config: "Config") -> float:
    from server.config import storage_url

    if is_serving(config):
        return PATIENCE_S
    return 0.0 if storage_url(config).startswith("sqlite:") else ELSEWHERE_S


async def follow(
    store: "Store",
    job: "Erasure",
    show: Show,
    patience_s: float,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> bool:
    """Look on while a server erases; return whether it has, False if it stands still."""
    from storage.erasure import get_erasure

    last, still_s = job, 0.0
    while still_s < patience_s:
        now = await store.read(get_erasure(job.kind, job.target))
        if now is None or now.finished:
            return True
        still_s = 0.0 if now != last else still_s + LOOK_S
        last = now
        show(now)
        await sleep(LOOK_S)
    return False
