"""The socket of the local Trader Workstation, in a thread of its own, and the ways in which it fails."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

from agentfund.testing.tws import wire
from agentfund.testing.tws.house import Deal, House, Slip

_PLACE, _CANCEL = 3, 4


class FakeTWS:
    """A local Trader Workstation.

    Every method may be called from any thread; what it does is finished when it returns. Use it as a context manager.

    Args:
        house: the brokerage behind it; one with the contract TEST and 100,000 in cash where none is given.

    Attributes:
        port: where it listens on 127.0.0.1.
        mute: numbers of messages that are read and never answered, such as 99 (completed orders).
        lose_orders: how many of the next orders are read and dropped without a word.
        cut_at: cuts the connection at the nth order from now: (n, "before") before it is taken in, (n, "silent") after it was
            taken in and before that is told, (n, "after") after that was told.
        die_after: after how many messages that write (orders, changes, cancellations) the client is cut off, as if its process
            had ended: what it sends then is not read. 0: never.
        open: whether connections are taken.
    """

    def __init__(self, house: House | None = None) -> None:
        self.house = house or House()
        self.house.told = self._told
        self.mute: set[int] = set()
        self.lose_orders = 0
        self.cut_at: tuple[int, str] | None = None
        self.die_after = 0
        self.open = True
        self.port = 0
        self.received: list[list[str]] = []
        self._refusals: list[tuple[str, int, str]] = []
        self._sessions: dict[int, _Session] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake-tws", daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def __enter__(self) -> FakeTWS:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def do(self, act: Callable[[], Any]) -> Any:
        """Call something in the server's thread and return what it returns."""
        done: list[Any] = []
        called = threading.Event()

        def run() -> None:
            try:
                done.append(act())
            finally:
                called.set()

        self._loop.call_soon_threadsafe(run)
        if not called.wait(10) or not done:
            raise RuntimeError("the local server did not do what it was told")
        return done[0]

    def move(self, symbol: str, price: Decimal) -> None:
        """Let the market trade at a price."""
        self.do(lambda: self.house.move(symbol, price))

    def refuse(self, code: int, text: str, kind: str = "") -> None:
        """Answer the next order, or the next of a kind such as STP, with an error; it does not exist then."""
        self._refusals.append((kind, code, text))

    def say(self, code: int, text: str, request: int = -1) -> None:
        """Tell every client an error code."""
        self.do(lambda: self._all(lambda session: session.send(wire.error(request, code, text))))

    def cut(self) -> None:
        """Cut all connections; new ones are taken."""
        self.do(lambda: self._all(lambda session: session.cut()))

    def shut(self) -> None:
        """Cut all connections and take no new ones."""
        self.open = False
        self.cut()

    def stop(self) -> None:
        """End the server."""
        if self._thread.is_alive():
            self.shut()
            self._loop.call_soon_threadsafe(self._halt.set)
            self._thread.join(10)

    def _all(self, act: Callable[[_Session], None]) -> None:
        for session in list(self._sessions.values()):
            act(session)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._halt = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._halt.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _Session(self, reader, writer)
        try:
            if self.open:
                await session.run()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            if self._sessions.get(session.client) is session:
                del self._sessions[session.client]
            session.cut()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def _told(self, kind: str, thing: Slip | Deal) -> None:
        slip = thing if isinstance(thing, Slip) else thing.slip
        session = self._sessions.get(slip.client)
        if session is None:
            return
        if isinstance(thing, Slip):
            session.send(wire.open_order(thing))
            session.send(wire.order_status(thing))
        elif kind == "deal":
            session.send(wire.execution(-1, thing))
        else:
            session.send(wire.commission(thing, self.house.currency))

    def refusal(self, kind: str) -> tuple[int, str] | None:
        """Return how the next order of a kind is refused, once."""
        for at, (only, code, text) in enumerate(self._refusals):
            if only in ("", kind):
                del self._refusals[at]
                return code, text
        return None

    def join(self, session: _Session) -> bool:
        """Let a client in; no two have one client id."""
        if session.client in self._sessions:
            session.send(wire.error(-1, 326, "Unable to connect as the client id is already in use."))
            return False
        self._sessions[session.client] = session
        return True


class _Session:
    """One client's connection."""

    def __init__(self, tws: FakeTWS, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tws, self.house, self.client = tws, tws.house, -1
        self._reader, self._writer = reader, writer
        self._handlers: dict[int, Callable[[list[str]], None]] = {
            3: self._place,
            4: self._cancel,
            5: lambda _: self._open(mine=True),
            6: self._updates,
            7: self._executions,
            9: self._details,
            16: lambda _: self._open(mine=False),
            49: lambda _: self.send([49, 1, int(self.house.clock.now().timestamp())]),
            61: lambda _: self._positions(),
            62: lambda f: self.send([64, 1, f[2]]),
            76: self._values,
            99: lambda _: self._completed(),
        }

    def send(self, fields: list[wire.Field]) -> None:
        if not self._writer.is_closing():
            self._writer.write(wire.frame(fields))

    def cut(self) -> None:
        self._writer.transport.abort()

    async def run(self) -> None:
        await self._reader.readexactly(4)
        await self._message()
        self.send([wire.VERSION, "20260102 15:00:00 UTC"])
        start = await self._message()
        self.client = int(start[2])
        if not self.tws.join(self):
            await self._writer.drain()
            self._writer.close()
            return
        highest = max((slip.order_id for slip in self.house.slips if slip.client == self.client), default=0)
        self.send([15, 1, self.house.account])
        self.send([9, 1, highest + 1])
        while True:
            fields = await self._message()
            self.tws.received.append(fields)
            number = int(fields[0])
            if number not in self.tws.mute and number in self._handlers:
                self._handlers[number](fields)
                if number in (_PLACE, _CANCEL) and self.tws.die_after:
                    self.tws.die_after -= 1
                    if not self.tws.die_after:
                        raise ConnectionResetError

    async def _message(self) -> list[str]:
        size = struct.unpack(">I", await self._reader.readexactly(4))[0]
        return (await self._reader.readexactly(size)).decode().split("\0")[:-1]

    def _due(self, when: str) -> bool:
        if self.tws.cut_at is None or self.tws.cut_at[1] != when:
            return False
        left = self.tws.cut_at[0] - 1
        self.tws.cut_at = (left, when) if left else None
        if not left:
            self.cut()
            self.tws._sessions.pop(self.client, None)
        return not left

    def _place(self, f: list[str]) -> None:
        if self._due("before"):
            raise ConnectionResetError
        silent = self._due("silent")
        if self.tws.lose_orders:
            self.tws.lose_orders -= 1
            return
        order_id, kind = int(f[1]), f[18]
        old = self.house.find(self.client, order_id)
        refused = self.tws.refusal(kind)
        listed = next((one for one in self.house.listed if str(one.con_id) == f[2]), None)
        if refused is not None:
            self.send(wire.error(order_id, *refused))
        elif old is not None and old.done:
            self.send(wire.error(order_id, 103, "Duplicate order id"))
        elif listed is None:
            self.send(wire.error(order_id, 200, "No security definition has been found for the request"))
        elif old is not None:
            self.house.change(old, Decimal(f[17]), Decimal(f[19] or 0), Decimal(f[20] or 0))
        elif f[28] != "0" and self.house.find(self.client, int(f[28])) is None:
            self.send(wire.error(order_id, 135, "Can't find order with id = " + f[28]))
        else:
            prices = Decimal(f[19] or 0), Decimal(f[20] or 0)
            perm = 1_800_000_000 + self.house.number()
            slip = Slip(order_id, self.client, perm, listed, f[16], Decimal(f[17]), kind, *prices, oca=f[22])
            slip.oca_type, slip.ref, slip.parent, slip.account, slip.tif = int(f[46] or 0), f[26], int(f[28]), f[23], f[21]
            self.house.place(slip, transmit=f[27] == "1")
        if silent or self._due("after"):
            raise ConnectionResetError

    def _cancel(self, f: list[str]) -> None:
        order_id = int(f[2])
        slip = self.house.find(self.client, order_id)
        if slip is None:
            self.send(wire.error(order_id, 10147, f"OrderId {order_id} that needs to be cancelled is not found."))
        elif slip.done:
            text = f"OrderId {order_id} that needs to be cancelled cannot be cancelled, state: {slip.status}."
            self.send(wire.error(order_id, 10148, text))
        else:
            self.house.cancel(slip)
            self.send(wire.error(order_id, 202, "Order Canceled - reason:"))

    def _open(self, *, mine: bool) -> None:
        for slip in self.house.slips:
            if slip.done and not self._idle(slip):
                continue
            if slip.ref not in self.house.unlisted and (not mine or slip.client == self.client):
                self.send(wire.open_order(slip))
                self.send(wire.order_status(slip))
        self.send([53, 1])

    def _idle(self, slip: Slip) -> bool:
        return self.house.lists_refused and slip.status == "Inactive"

    def _completed(self) -> None:
        for slip in self.house.slips:
            if slip.done and not self._idle(slip):
                self.send(wire.completed_order(slip))
        self.send([102])

    def _executions(self, f: list[str]) -> None:
        for deal in self.house.deals:
            self.send(wire.execution(int(f[2]), deal))
            if deal.exec_id in self.house.fees_told:
                self.send(wire.commission(deal, self.house.currency))
        self.send([55, 1, f[2]])

    def _positions(self) -> None:
        for listed in self.house.listed:
            held = self.house.positions.get(listed.con_id, Decimal(0))
            if held:
                self.send(wire.position(self.house.account, listed, held))
        self.send([62, 1])

    def _values(self, f: list[str]) -> None:
        for line in wire.account_value(self.house, int(f[2])):
            self.send(line)
        self.send([74, 1, f[2]])

    def _updates(self, f: list[str]) -> None:
        if f[2] == "1":
            for line in wire.account_value(self.house, None):
                self.send(line)
            self.send([54, 1, self.house.account])

    def _details(self, f: list[str]) -> None:
        con_id, symbol, kind, currency = f[3], f[4], f[5], f[12]
        found = [
            listed
            for listed in self.house.listed
            if con_id == str(listed.con_id)
            or (con_id in ("", "0") and (symbol, kind, currency) == (listed.symbol, listed.kind, listed.currency))
        ]
        if not found:
            self.send(wire.error(int(f[2]), 200, "No security definition has been found for the request"))
        for listed in found:
            self.send(wire.contract_details(int(f[2]), listed))
        if found:
            self.send([52, 1, f[2]])
