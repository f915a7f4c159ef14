"""Many publishers, one writer: those who publish while an append is under way share the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Row = TypeVar("Row")


class Batch(Generic[Row]):
    """What one call of `publish` wants in the log.

    Args:
        rows: its messages, ready to be written.
        sync: whether they must survive a loss of power.
    """

    __slots__ = ("done", "rows", "sync")

    def __init__(self, rows: list[Row], sync: bool) -> None:
        self.rows = rows
        self.sync = sync
        self.done: asyncio.Future[int] | None = None


class Batcher(Generic[Row]):
    """One writer of one event loop. A log with one writer gives its offsets in the order of its commits.

    A batch is appended whole and in the order of the calls. What an append raises is raised for every batch in it, and
    then none of them may be in the log. A publisher that is cancelled leaves its batch wholly in the log or out of it.

    Args:
        append: writes batches, all or nothing, and returns for each the offset of its last message.
        most: rows of one append; a larger batch goes alone.
    """

    def __init__(self, append: Callable[[list[Batch[Row]]], Awaitable[list[int]]], *, most: int = 1_000) -> None:
        self._append = append
        self._most = most
        self._waiting: deque[Batch[Row]] = deque()
        self._writer: asyncio.Task[None] | None = None

    async def put(self, rows: list[Row], sync: bool = True) -> int:
        """Append rows; return the offset of the last."""
        batch = Batch(rows, sync)
        batch.done = asyncio.get_running_loop().create_future()
        self._waiting.append(batch)
        if self._writer is None:
            self._writer = asyncio.ensure_future(self._write())
        return await batch.done  # cancelled, it is still written, or not taken up any more

    async def _write(self) -> None:
        try:
            while group := self._next():
                try:
                    offsets = await self._append(group)
                except BaseException as error:
                    for batch in group:
                        if batch.done is not None and not batch.done.done():
                            batch.done.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                    if not isinstance(error, Exception):
                        raise
                else:
                    for batch, offset in zip(group, offsets, strict=True):
                        if batch.done is not None and not batch.done.done():
                            batch.done.set_result(offset)
        finally:
            self._writer = None

    def _next(self) -> list[Batch[Row]]:
        group: list[Batch[Row]] = []
        size = 0
        while self._waiting and (not group or size + len(self._waiting[0].rows) <= self._most):
            batch = self._waiting.popleft()
            if batch.done is not None and batch.done.cancelled():
                continue
            group.append(batch)
            size += len(batch.rows)
        return group
