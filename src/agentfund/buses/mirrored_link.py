"""One event loop's way to a log of frames: it follows the log into the mirror, and writes what the loop wants in it."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from agentfund.buses.frames import LARGEST, Opened, micros, open_frame, pieces, seal
from agentfund.buses.wants import Sent, Want, reject
from agentfund.errors import BusError, BusUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence

    from agentfund.buses.mirror import Mirror
    from agentfund.buses.ordered import Frame, Ordered
    from agentfund.protocols import Clock

_RETRY_S = 0.05  # how soon to follow again after the broker was gone
_LINGER_S = 2.0  # how long to follow on when nothing of others comes and nobody waits
_SETTLE_S = 0.002  # how long a frame of our own may wait to be folded: the broker's answers come first
_FRAMES = 256  # folded in one transaction at most
_BYTES = 4_000_000


class Link:
    """The follower and the writer of one event loop; made and used there.

    Who writes alone follows nothing: its own frames need not come back to it. The log is followed as long as somebody
    consumes or waits, or frames of others come. The writer has one frame under way at a time and numbers them, so a frame
    that lies in the log twice, or comes to lie there after a later one of the same writer, is passed over by every fold.

    Args:
        log: the broker.
        mirror: where frames are folded.
        fold: folds frames, tells all links what came of it, and returns whether some are another's; a frame that was
            written here may be folded a little later.
        clock: times frames.
        timeout_s: how long a frame may take from the acknowledgement to the mirror.
    """

    def __init__(
        self, log: Ordered, mirror: Mirror, fold: Callable[[Sequence[Opened], bool], bool], clock: Clock, timeout_s: float
    ) -> None:
        self.writer = uuid.uuid4().hex
        self.failure: BusError | None = None
        self._log = log
        self._mirror = mirror
        self._fold = fold
        self._clock = clock
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._busy = False
        self._waiting: deque[Want] = deque()
        self._sent: dict[int, Sent] = {}
        self._moved: asyncio.Future[None] | None = None
        self._buffer: list[Frame] = []
        self._buffered = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._follower: asyncio.Task[None] | None = None
        self._following = 0
        self._needed = 0.0
        self._settling: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._keep(self._end_with_the_loop())
        self._need()

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow the log as long as the block lasts."""
        self._following += 1
        self._need()
        try:
            yield
        finally:
            self._following -= 1

    async def stop(self, error: BusError) -> None:
        """End the follower and the writer; what waits is told why."""
        self._fail(error)
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop_soon(self, error: BusError) -> None:
        """End it from another thread or loop."""
        with suppress(RuntimeError):  # its loop has ended, and so has it
            self._loop.call_soon_threadsafe(lambda: self._keep(self.stop(error)))

    def check(self) -> None:
        """Raise what ended the follower, if anything did."""
        if self.failure is not None:
            raise self.failure

    async def put(self, want: Want) -> Any:
        """Write it; return what it came to once it is durable and folded here.

        A lone caller writes it in its own task, those who come meanwhile share the next frame. A caller that is cancelled
        leaves it wholly in the log or out of it.

        Raises:
            BusUnavailable: nobody knows whether it is in the log.
        """
        self.check()
        if self._busy:
            return await self.enqueue(want)
        self._busy = True
        try:
            await self._send([want])
        finally:
            self._go_on()
        return want.result if want.done is None else await want.done

    def enqueue(self, want: Want) -> asyncio.Future[Any]:
        """Let it be written with the next frame; return the future of what it comes to."""
        done = want.promise(self._loop)
        if self.failure is not None:
            done.set_exception(self.failure)
            return done
        self._waiting.append(want)
        if not self._busy:
            self._busy = True
            self._go_on()
        return done

    async def reach(self, place: int) -> None:
        """Wait until the mirror has all frames up to a place.

        Raises:
            BusError: the log cannot be followed.
            BusUnavailable: nothing came for so long that the broker must be gone.
        """
        while True:
            self._flush()
            self.check()
            at = self._mirror.place
            if at >= place:
                return
            if self._moved is None:
                self._moved = self._loop.create_future()
            try:
                with self.following():
                    async with asyncio.timeout(self._timeout_s):
                        await asyncio.shield(self._moved)
            except TimeoutError:
                if self._mirror.place == at:
                    raise BusUnavailable(
                        f"{self._log.home}: nothing was read for {self._timeout_s:g} s although more is there: "
                        "check that the broker is up and reachable"
                    ) from None

    def folded(self, number: int, results: list[Any]) -> None:
        """Take note of what one of this writer's frames came to; any thread may tell, with the mirror locked."""
        sent = self._sent.pop(number, None)
        for other in tuple(self._sent):
            if other < number and not self._sent[other].acknowledged:
                del self._sent[other]  # it was given up, and will count no more even if it comes
        if sent is None:
            return
        for want, result in zip(sent.wants, results, strict=True):
            want.result = result
        sent.folded = True
        if sent.acknowledged:
            self._soon(sent.resolve)

    def moved(self) -> None:
        """Wake those who wait for a place; any thread may tell."""
        if self._moved is not None:
            self._soon(self._wake)

    def _soon(self, work: Callable[..., None], *args: Any) -> None:
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            work(*args)
        else:
            with suppress(RuntimeError):  # its loop has ended
                self._loop.call_soon_threadsafe(work, *args)

    def _wake(self) -> None:
        moved, self._moved = self._moved, None
        if moved is not None and not moved.done():
            moved.set_result(None)

    def _go_on(self) -> None:
        """Write what came while a frame was under way."""
        if self._waiting:
            self._keep(self._write())
        else:
            self._busy = False

    async def _write(self) -> None:
        try:
            while wants := self._next():
                try:
                    await self._send(wants)
                except BusError as error:
                    reject(wants, error)
                except BaseException:
                    reject(wants, BusUnavailable(f"{self._log.home}: the event loop ended before this was written"))
                    raise
        finally:
            self._busy = False

    def _next(self) -> list[Want]:
        wants: list[Want] = []
        size = 0
        while self._waiting and (not wants or size + self._waiting[0].size <= LARGEST):
            want = self._waiting.popleft()
            if want.done is not None and not want.done.cancelled():
                wants.append(want)
                size += want.size
        return wants

    async def _send(self, wants: list[Want]) -> None:
        """Append one frame, and fold it where it is the next; returns when it is acknowledged."""
        self._number = number = self._number + 1
        time = micros(self._clock.now())
        parts = [want.part for want in wants]
        data = seal(self.writer, number, time, parts)
        sent = self._sent[number] = Sent(wants)
        if len(data) <= LARGEST:
            place = await self._log.append(data)
            if place is not None:
                self._take_in(Opened(place, self.writer, number, time, [part.opened for part in parts], None), sent)
        else:
            for piece in pieces(self.writer, number, time, data):
                await self._log.append(piece)
        with self._mirror.lock:
            sent.acknowledged = True
            if not sent.folded:
                self.check()  # nobody would read it back
                self._need()
                for want in wants:
                    want.promise(self._loop)
                sent.timer = self._loop.call_later(self._timeout_s, self._late, number, sent, self._mirror.place)
                return
        sent.resolve()

    def _take_in(self, frame: Opened, sent: Sent) -> None:
        """Fold a frame of our own at once where nothing lies between it and the mirror."""
        self._flush()
        with self._mirror.lock:
            if self._mirror.place == frame.place - 1:
                self._fold((frame,), True)
                if self._mirror.behind and self._settling is None:
                    self._settling = self._loop.call_later(_SETTLE_S, self._settle)
            elif frame.place <= self._mirror.place and not sent.folded and self.failure is None:
                raise anew(self._log.home)

    def _settle(self) -> None:
        self._settling = None
        with suppress(BusError):  # the next who needs it is told
            self._mirror.fold(())

    def _late(self, number: int, sent: Sent, place: int) -> None:
        with self._mirror.lock:
            if not sent.folded and self._mirror.place > place:  # it comes nearer
                sent.timer = self._loop.call_later(self._timeout_s, self._late, number, sent, self._mirror.place)
                return
            self._sent.pop(number, None)
        home = self._log.home
        error = BusUnavailable(f"{home}: written, but not read back in {self._timeout_s:g} s: check that the broker is up")
        reject(sent.wants, error)

    def _need(self) -> None:
        """Follow the log for a while."""
        self._needed = self._loop.time() + _LINGER_S
        if self._follower is None and self.failure is None:
            self._follower = self._keep(self._follow())
            self._loop.call_later(_LINGER_S, self._rest)

    def _rest(self) -> None:
        """End the follower where nobody needs it."""
        if self._follower is None:
            return
        waited_for = self._following or any(sent.acknowledged for sent in tuple(self._sent.values()))
        left = _LINGER_S if waited_for else self._needed - self._loop.time()
        if left > 0 and self.failure is None:
            self._loop.call_later(left, self._rest)
        else:
            follower, self._follower = self._follower, None
            follower.cancel()
            self._flush()

    async def _follow(self) -> None:
        try:
            while True:
                with suppress(BusUnavailable):
                    async with following(self._log, self._mirror) as frames:
                        async for frame in frames:
                            if not self._buffer:
                                self._loop.call_soon(self._flush)
                            self._buffer.append(frame)
                            self._buffered += len(frame.data)
                            if len(self._buffer) >= _FRAMES or self._buffered >= _BYTES:
                                self._flush()
                                await asyncio.sleep(0)
                            self.check()
                self._flush()
                self.check()
                await asyncio.sleep(_RETRY_S)
        except BusError as error:
            self._fail(error)

    async def _end_with_the_loop(self) -> None:
        """Let go of the connection when the event loop ends without `close`."""
        try:
            await self._loop.create_future()
        finally:
            if self.failure is None:
                self._fail(BusUnavailable(f"{self._log.home}: the event loop that used it has ended"))
            with suppress(Exception):
                await self._log.close()

    def _flush(self) -> None:
        """Fold what the follower has brought."""
        if not self._buffer or self.failure is not None:
            return
        frames, self._buffer, self._buffered = self._buffer, [], 0
        opened: list[Opened] = []
        others = False
        try:
            try:
                for frame in frames:
                    opened.append(open_frame(frame, self._log.home))  # noqa: PERF401 - one that fails keeps the others
                others = self._fold(opened, False)
            except BusUnavailable:
                raise
            except BusError:
                for one in opened:  # what lies before the one that cannot be understood counts
                    self._fold((one,), False)
                raise
        except BusUnavailable:  # the mirror cannot be written now: the same frames again in a while
            if self._follower is not None:
                self._follower.cancel()
                self._follower = None
            self._loop.call_later(_RETRY_S, self._need)
        except BusError as error:
            self._fail(error)
        if others:
            self._need()

    def _fail(self, error: BusError) -> None:
        if self.failure is None:
            self.failure = error
        waiting, self._waiting = list(self._waiting), deque()
        reject(waiting, error)
        with self._mirror.lock:
            sents = list(self._sent.values())
            self._sent.clear()
        for sent in sents:
            if sent.timer is not None:
                sent.timer.cancel()
            reject(sent.wants, error)
        self._wake()

    def _keep(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@asynccontextmanager
async def following(log: Ordered, mirror: Mirror) -> AsyncIterator[AsyncIterator[Frame]]:
    """Follow a log from where its mirror stands, having seen that the frame that lies there is the one that was folded.

    Raises:
        BusError: it is another, so what follows it belongs to another log, or to one that lost its end and went on.
    """
    with mirror.lock:
        place, tip = mirror.place, mirror.tip
    async with aclosing(cast("AsyncGenerator[Frame, None]", log.follow(max(place - 1, -1)))) as frames:
        if tip:
            first = await anext(frames, None)
            if first is None:
                raise BusUnavailable(f"{log.home}: the broker sends nothing")
            if first.place != place or open_frame(first, log.home).name != tip:
                raise anew(log.home)
        yield frames


def anew(home: str) -> BusError:
    """Return the error for a log that ends before the place where its mirror stands."""
    return BusError(
        f"{home} was deleted or cut off and begun anew while in use: restore it, or start all processes that use it anew"
    )
