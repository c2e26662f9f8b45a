"""Vectors from a service that is paid: as configured, charged to whom they are made for."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from ai_bridge.account import Reservation
from ai_bridge.billing import MARGIN, Billing
from ai_bridge.config import ProviderConfig
from ai_bridge.embeddings import DEADLINE_S, MAX_TEXT_CHARS, HttpEmbedder
from ai_bridge.errors import ProviderFailure
from ai_bridge.prices import FREE, Price
from ai_bridge.renewed import Renewed
from ai_bridge.secrets import Secret
from ai_bridge.tokens import estimate_tokens
from ai_bridge.types import Usage
from server.config_sections import EmbeddingsConfig
from server.memory_vectors import Payer
from server.metrics import Figure
from server.usage_sums import UsageSums

if TYPE_CHECKING:
    from server.core import Core

MAX_LATE: Final = 8
"""Calls that go on after nobody waits any more."""
OWN_NAME: Final = "embeddings"


class ServiceEmbedder:
    """Asks the configured service over connections of its own.

    What a call can cost is set aside before it, what it did cost is booked after it. Whoever gives
    up waiting does not stop it: the service counts it anyway, and a connection that is cut while
    it is opened would be late the next time as well. `MAX_LATE` such calls run on at a time, to
    the deadline of the client (30 s).

    Args:
        provider, name: of the model, for its price and for what is used.

    Attributes:
        left: calls that nobody waited for to the end.
    """

    def __init__(
        self,
        service: Renewed[HttpEmbedder],
        provider: str,
        name: str,
        billing: Billing | None,
        usage: UsageSums,
        now_ms: Callable[[], int],
    ) -> None:
        self._service = service
        self._provider = provider
        self._name = name
        self._billing = billing
        self._usage = usage
        self._now_ms = now_ms
        self._running: set[asyncio.Task[list[bytes]]] = set()
        self._late: set[asyncio.Task[list[bytes]]] = set()
        self.left = 0

    @property
    def model(self) -> str:
        """See `PayingEmbedder`."""
        client = self._service.present
        return client.model if client is not None else ""

    async def embed_for(self, payer: Payer, texts: Sequence[str]) -> list[bytes]:
        """See `PayingEmbedder`.

        Raises:
            BudgetExceeded: the account does not cover it; nobody was asked.
            ProviderFailure: the service has no vectors now.
        """
        work = asyncio.ensure_future(self._embed(payer, texts))
        self._running.add(work)
        work.add_done_callback(self._ended)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self.left += 1
            if len(self._late) < MAX_LATE and not work.done():
                self._late.add(work)
            else:
                work.cancel()
            raise

    async def aclose(self) -> None:
        """End the calls under way and close the connections."""
        running = list(self._running)
        for work in running:
            work.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._service.aclose()

    def figures(self) -> Iterator[Figure]:
        """Yield what the metrics page shows of this."""
        yield Figure("gauge", "embeddings_running", "Calls for vectors.", len(self._running))
        yield Figure("counter", "embeddings_left", "Calls nobody waited for.", self.left)

    def _ended(self, work: "asyncio.Task[list[bytes]]") -> None:
        self._running.discard(work)
        self._late.discard(work)
        if not work.cancelled():
            work.exception()  # whoever waited has it

    async def _embed(self, payer: Payer, texts: Sequence[str]) -> list[bytes]:
        estimated = sum(estimate_tokens(text[:MAX_TEXT_CHARS]) + 1 for text in texts)
        price = self._price()
        async with self._service.use() as (_, client):
            reservation = self._reserve(payer, price, round(estimated * MARGIN))
            tokens = estimated  # if it is cancelled from here on
            try:
                vectors, counted = await client.embed_counted(texts, payer.tenant, payer.user)
                tokens = counted or estimated
            except ProviderFailure:
                tokens = 0
                raise
            finally:
                self._book(payer, reservation, tokens, price.cost_micro(Usage(prompt=tokens)))
            return vectors

    def _price(self) -> Price:
        """Return the price; a model without one is counted and free."""
        if self._billing is None:
            return FREE
        price = self._billing.prices.find(f"{self._provider}/{self._name}")
        if price is None:
            self._billing.unpriced += 1
        return price or FREE

    def _reserve(self, payer: Payer, price: Price, tokens: int) -> Reservation | None:
        if self._billing is None:
            return None
        most = price.cost_micro(Usage(prompt=tokens))
        return self._billing.ledger.reserve(payer.tenant, payer.user, most, DEADLINE_S)

    def _book(
        self, payer: Payer, reservation: Reservation | None, tokens: int, cost_micro: int
    ) -> None:
        if reservation is not None and self._billing is not None:
            self._billing.ledger.settle(reservation, cost_micro)
        if tokens:
            self._usage.add(self._now_ms(), *payer, self._name, tokens, cost_micro)


def service_embedder(core: "Core", usage: UsageSums) -> ServiceEmbedder | None:
    """Return the embedder of the configured service, None without one."""
    given = core.config.ai.embeddings
    if not (given.provider or given.base_url):
        return None
    name = given.provider or OWN_NAME
    find = partial(_own, given) if given.base_url else partial(core.bridge.provider, name)

    def make(provider: ProviderConfig) -> HttpEmbedder:
        return HttpEmbedder(provider, given.model, dimensions=given.dimensions)

    return ServiceEmbedder(
        Renewed(find, make), name, given.model, core.bridge.billing, usage, core.now_ms
    )


def _own(given: EmbeddingsConfig) -> ProviderConfig:
    return ProviderConfig(
        name=given.provider or OWN_NAME,
        base_url=given.base_url,
        api_key=Secret(given.api_key.reveal()),
    )
