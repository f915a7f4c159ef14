"""The line to Alpaca's REST API: threads, deadlines, reads that are tried again, and writes that never are."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentfund.brokers.alpaca_sdk import Told
from agentfund.errors import BrokerUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from agentfund.brokers.alpaca_sdk import Sdk
    from agentfund.protocols import Clock

NOT_FOUND = 40410000
_AGAIN = frozenset({0, 408, 425, 429, 500, 502, 503, 504})


class Line:
    """Sends requests of one account.

    Args:
        sdk: alpaca-py.
        timeout_s: how long a read may take, all its tries together; a write takes as long at most.
        workers: how many requests may run at once.
        clock: where the time comes from.

    Attributes:
        time: Alpaca's clock by the newest answer, aware UTC; None before the first.
    """

    def __init__(self, sdk: Sdk, timeout_s: float, workers: int, clock: Clock) -> None:
        self._sdk, self._timeout_s, self._clock = sdk, timeout_s, clock
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="agentfund-alpaca")
        self._running: set[asyncio.Future[Told]] = set()
        self._closed = False
        self.time: datetime | None = None

    async def ask(self, path: str, kind: type = dict, **parameters: str) -> Any:
        """Read something.

        Args:
            path: below the version.
            kind: what the answer must be, dict or list.
            **parameters: of the query.

        Raises:
            BrokerUnavailable: there is no answer that can be believed.
        """
        found = await self.find(path, kind, **parameters)
        if found is None:
            raise BrokerUnavailable(f"Alpaca has no {path}; check the url of the adapter")
        return found

    async def find(self, path: str, kind: type = dict, **parameters: str) -> Any | None:
        """Read something that may not exist; None only where Alpaca itself says that it does not.

        Raises:
            BrokerUnavailable: there is no answer that can be believed.
        """
        from tenacity import AsyncRetrying, retry_if_result, stop_never, wait_random_exponential

        end = self._clock.monotonic() + self._timeout_s
        again = AsyncRetrying(
            retry=retry_if_result(lambda told: _worth_another(told, kind) and self._clock.monotonic() < end),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            stop=stop_never,
            sleep=lambda seconds: self._clock.sleep(min(seconds, max(0.0, end - self._clock.monotonic()))),
        )
        heard: list[Told] = []

        async def once() -> Told:
            told = await self._once("GET", path, parameters, end)
            heard.extend([told] if told.status else [])
            return told

        told: Told = await again(once)
        if not told.status and heard:
            told = heard[-1]  # says more than that the time is over
        body = told.json()
        if told.status == 200 and isinstance(body, kind):
            return body
        if told.status == 404 and told.code == NOT_FOUND:
            return None
        raise BrokerUnavailable(f"Alpaca does not answer GET {path}: {_explained(told)}")

    async def send(self, method: str, path: str, data: dict[str, Any] | None = None) -> Told:
        """Write something, once; whatever becomes of it is returned."""
        return await self._once(method, path, data, self._clock.monotonic() + self._timeout_s)

    async def close(self) -> None:
        """Wait for what is under way, at most for its time limit, and let go of threads and connections."""
        self._closed = True
        if self._running:
            await asyncio.wait(self._running, timeout=self._timeout_s)
        self._sdk.close()
        self._threads.shutdown(wait=not self._running, cancel_futures=True)

    async def _once(self, method: str, path: str, data: dict[str, Any] | None, end: float) -> Told:
        if self._closed:
            raise BrokerUnavailable("this adapter is closed; build another one")
        work = self._threads.submit(self._sdk.send, method, path, data)
        future = asyncio.wrap_future(work)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        left = max(0.001, end - self._clock.monotonic())
        try:
            done, _ = await asyncio.wait({future}, timeout=left)
        except asyncio.CancelledError:
            work.cancel()
            raise
        if not done:
            # What waits for a thread is never sent: nobody would expect it any more. A thread that is under way has a
            # deadline of its own and ends by itself, as nobody can stop a thread.
            work.cancel()
            return Told(0, why=f"no answer within {self._timeout_s:g} s")
        told = future.result()
        if told.time is not None:
            self.time = told.time
        return told


def _worth_another(told: Told, kind: type) -> bool:
    return told.status in _AGAIN or (told.status == 200 and not isinstance(told.json(), kind))


def _explained(told: Told) -> str:
    if told.status in (401, 403):
        return f"{told}; check the keys, and that paper keys go with paper=True and live keys with paper=False"
    if 300 <= told.status < 400:
        return f"HTTP {told.status}: it redirects, which is refused; check the url of the adapter"
    if told.status == 200:
        return "its answer cannot be read"
    return str(told)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever is wrong with an answer's fields into `BrokerUnavailable`.

    Raises:
        BrokerUnavailable: a field is missing or is not what it should be.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise BrokerUnavailable(f"Alpaca's {what} cannot be read: {type(error).__name__}: {error}") from error
