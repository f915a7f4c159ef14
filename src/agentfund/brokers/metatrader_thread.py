"""One thread that calls the terminal: calls go one after the other, and a call that hangs is never joined by a second one."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from agentfund.errors import BrokerUnavailable

Answer = TypeVar("Answer")


class Errand:
    """A piece of work in the thread, which may have been given up by whoever waited for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abandoned = self._committed = False

    def commit(self) -> None:
        """Go on to what cannot be undone.

        Raises:
            BrokerUnavailable: nobody waits any more: an order must not leave minutes after it was meant to.
        """
        with self._lock:
            if self._abandoned:
                raise BrokerUnavailable("the terminal answered too late; the order was not sent")
            self._committed = True

    def abandon(self) -> bool:
        """Give it up; return whether it had gone on to what cannot be undone."""
        with self._lock:
            self._abandoned = True
            return self._committed


class Booth:
    """The thread, and the deadline of what is done in it.

    Args:
        timeout_s: how long a piece of work may take.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._hangs = ""
        self._lock = asyncio.Lock()

    @property
    def hangs(self) -> str:
        """What has not returned in time, and still has not; empty where nothing hangs."""
        return self._hangs

    async def run(self, what: str, work: Callable[[Errand], Answer]) -> Answer:
        """Do something in the thread.

        Raises:
            BrokerUnavailable: it did not return in time, or something before it still hangs.
        """
        async with self._lock:
            if self._hangs:
                raise BrokerUnavailable(f"the MetaTrader terminal hangs at {self._hangs}; restart it")
            errand, done = Errand(), Future[Answer]()
            if self._thread is None:
                # A daemon, so that a terminal that hangs does not keep the process from ending.
                self._thread = threading.Thread(target=self._run, name="metatrader", daemon=True)
                self._thread.start()
            self._work.put((done, lambda: work(errand)))
            waiting = asyncio.wrap_future(done)
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await asyncio.shield(waiting)
            except (TimeoutError, asyncio.CancelledError) as error:
                if done.done() and isinstance(error, TimeoutError):
                    return done.result()
                if not done.done():
                    sent = errand.abandon()
                    self._hangs = what
                    done.add_done_callback(self._returned)
                    waiting.add_done_callback(lambda late: late.cancelled() or late.exception())
                    if isinstance(error, TimeoutError):
                        fate = "it may have been carried out" if sent else "no order was sent"
                        raise BrokerUnavailable(
                            f"the MetaTrader terminal gave no answer to {what} within {self._timeout_s:g} s; {fate}"
                        ) from None
                raise

    def close(self) -> None:
        """End the thread once it has returned."""
        if self._thread is not None:
            self._work.put(None)
            self._thread = None

    def _returned(self, _: Future[Any]) -> None:
        self._hangs = ""

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            done, work = item
            try:
                answer = work()
            except BaseException as error:
                _settle(done, error=error)
            else:
                _settle(done, answer)


def _settle(done: Future[Any], answer: Any = None, error: BaseException | None = None) -> None:
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(answer)
