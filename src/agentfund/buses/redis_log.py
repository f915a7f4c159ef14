"""What a process knows of one log in Redis: its keys, which log it is, how far it went; and its messages as rows."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentfund.buses import wire
from agentfund.buses.redis_link import Ask
from agentfund.buses.wire import moment
from agentfund.errors import BusError
from agentfund.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from agentfund.buses.redis_link import Pool
    from agentfund.buses.redis_scripts import Script

Row = tuple[bytes, bytes, bytes]
Words = Sequence[bytes | int]


class Log:
    """One log, the same object for all event loops that use it.

    Args:
        name: its name on the server.
        home: names it in errors.

    Raises:
        BusError: it cannot have this name.
    """

    def __init__(self, name: str, home: str) -> None:
        if not name or set(name) & set("{}"):
            raise BusError(f"{name!r} cannot name a log in Redis: braces decide on which node a key lies; use other characters")
        self.home = home
        self.prefix = text(f"{{{name}}}:")
        self.meta, self.log, self.ids = (self.prefix + part for part in (b"meta", b"log", b"ids"))
        self.fresh = uuid.uuid4().hex.encode()  # the id of the log, where it is made here
        self._id = b""
        self._end = 0

    def group(self, group: str, stream: str | None) -> list[bytes]:
        """Return the keys that the scripts of a group work on; the last is its bell."""
        place = self.prefix + b"group:" + json.dumps([group, stream]).encode()
        return [self.meta, self.log, place, place + b":free", place + b":held", self.dead(group), place + b":bell"]

    def dead(self, group: str) -> bytes:
        """Return the key of a group's dead letters."""
        return self.prefix + b"dead:" + json.dumps(group).encode()

    def ask(self, script: Script, keys: Sequence[bytes], args: Words = (), again: Words | None = None) -> Ask:
        """Return a script to run, which refuses another log than this, or one that went back."""
        known = (self._id, self._end)
        return Ask(script, keys, (*known, *args), None if again is None else (*known, *again))

    async def run(self, pool: Pool, ask: Ask) -> bytes:
        """Run a script; learn where the log ends, and return the rest of the answer."""
        found, end, rest = (await pool.call(ask)).split(b" ", 2)
        self._id = self._id or found
        self._end = max(self._end, int(end))
        return rest

    def row(self, message: Message, appended: datetime) -> Row:
        """Return what is written of a message.

        Raises:
            BusError: it cannot be written as it is; says which and why.
        """
        data, stream = wire.dump(message, appended, self.home), message.stream.encode()
        return message.id.encode(), b"%d %b %b" % (len(stream), stream, message.key.encode()), data

    def rows(self, page: bytes, after: int) -> Iterator[tuple[int, list[Any]]]:
        """Give offsets and the insides of messages from the JSON list of a script."""
        parts = wire.value(page, after, self.home)
        return zip(parts[::2], parts[1::2], strict=True)

    def message(self, offset: int, inside: list[Any]) -> Message:
        """Return a message from its inside."""
        name, stream, key, kind, version, cycle, cause, producer, time, appended, token, payload = inside
        return Message(
            name, stream, key, kind, payload, producer, moment(time), cycle, cause, version, moment(appended), offset, token
        )


def text(words: str) -> bytes:
    """Return words as bytes; a lone surrogate, which no log holds, gives bytes that match nothing."""
    return words.encode(errors="surrogatepass")
