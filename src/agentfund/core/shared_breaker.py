"""A circuit breaker that several processes share: one state, one trial, whoever asks.

Every change is a compare-and-set on what was read, so of any number of processes one makes it and the others look again.
A permit carries the era in which it was given, a random number that no other process and no other time can repeat.
"""

from __future__ import annotations

import logging
import math
import random
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol
from weakref import ref
from zlib import crc32

from pydantic import ConfigDict, TypeAdapter

from agentfund.core.breaker import BreakerState, CircuitBreaker, Listener, Neutral, Permit, Result
from agentfund.errors import BusError, BusUnavailable, CircuitOpen, ConfigError, SchemaTooNew

if TYPE_CHECKING:
    from agentfund.protocols import Clock

_TRIES = 1000
_FORMAT = 1
_CLOSED, _OPEN, _HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN

_log = logging.getLogger(__name__)


class BreakerStore(Protocol):
    """Where breakers of several processes keep their states. Whatever a method raises means that the store is lost."""

    def load(self, name: str) -> tuple[int, str] | None:
        """Return the version and the text last set for this breaker, None where there never was one."""

    def compare_and_set(self, name: str, expected: int, text: str) -> bool:
        """Set text and version `expected + 1` if the version is still `expected` (0: there is none); return whether it was."""

    def now(self) -> tuple[str, float]:
        """Return which clock this is, and its seconds, the same in every process; after a reboot it may be another clock."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What is shared. `start` and `ends` bound a cool-down or a trial, in seconds of the store's clock `epoch`."""

    era: int
    state: BreakerState
    failures: int
    trips: int
    epoch: str
    start: float
    ends: float

    __pydantic_config__ = ConfigDict(ser_json_inf_nan="constants", extra="forbid")


_Work = Callable[[_Record, float], _Record]
_NEW = _Record(0, _CLOSED, 0, 0, "", 0.0, 0.0)
_json = TypeAdapter(_Record)


class _Lost(Exception):
    """The store is lost; the cause says why."""


class SharedCircuitBreaker(CircuitBreaker):
    """A breaker for one route, for use by any number of tasks, threads and processes with one store.

    It counts, opens and admits one trial as `CircuitBreaker` does, for all who share the store. Each call reads the store
    twice, and writes it only where something changes. There is no `deadline`: put time limits inside the protected call.

    Times are the store's. When its clock is another than before, or was set back, a cool-down begins again in full, and so
    does the time of a trial: never shorter than it was meant, and from then no longer.

    The store is lost when it raises, when what it holds cannot be read, and from a failed write to the next one that
    succeeds. It is asked again after a second, or after `cooldown` where that is less. Meanwhile:

    - `"open"`: every call is refused. Verdicts and `open_for` are kept, and told to the store when it is back.
    - `"local"`: each process goes on by itself, from what it last saw; so each has a trial of its own. When the store is
      back, what it holds is what counts.

    Args:
        name: the route; those who use the same name share the state.
        store: where it is kept.
        when_store_is_lost: "open" for orders and other calls that must not be repeated, "local" for language models.
        failures: so many failures in a row, whoever had them, open the circuit.
        cooldown: seconds the first time it opens; doubled every time a trial fails.
        cap: the longest cool-down, seconds.
        jitter: each cool-down is shortened by a random share of it, at most this (0 to 1).
        trial_timeout: a trial that has said nothing for so many seconds, its process killed perhaps, is lost: one other
            caller becomes the trial. Make it longer than the longest call.
        neutral: errors that say nothing about the route: types, or a predicate.
        on_transition: called with the old state, the new state and `retry_after` when this breaker makes, or first sees,
            another state.
        clock: tells the time while the store cannot.
        rng: gives the jitter's share, 0 to 1.

    Raises:
        ConfigError: a value cannot work.
    """

    def __init__(
        self,
        name: str,
        store: BreakerStore,
        *,
        when_store_is_lost: Literal["open", "local"] = "open",
        failures: int = 5,
        cooldown: float = 30.0,
        cap: float = 3600.0,
        jitter: float = 0.0,
        trial_timeout: float = 60.0,
        neutral: Neutral = (),
        on_transition: Listener | None = None,
        clock: Clock | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(
            name,
            failures=failures,
            cooldown=cooldown,
            cap=cap,
            jitter=jitter,
            trial_timeout=trial_timeout,
            neutral=neutral,
            on_transition=on_transition,
            clock=clock,
            rng=rng,
        )
        if when_store_is_lost not in ("open", "local"):
            raise ConfigError(f"breaker {name!r}: when_store_is_lost={when_store_is_lost!r} must be 'open' or 'local'")
        self._store = store
        self._local = when_store_is_lost == "local"
        self._pass = None  # nothing is admitted without a look at the store
        self._record = _NEW  # what was last seen, and the local state while the store is lost
        self._offset = 0.0  # from this process's monotonic seconds to the store's
        self._epoch = ""
        self._lost: BaseException | None = None
        self._again = -math.inf  # while lost: when to ask the store again
        self._owed: deque[_Work] = deque(maxlen=1000)
        self._trial_era = 0

    def reset(self) -> None:
        """Close, forget all failures, and ignore the verdicts of calls now under way. A damaged record is replaced.

        Raises:
            BusUnavailable: the store is lost; nothing has changed.
        """
        with self._lock:
            try:
                self._change_shared(lambda record, now: self._next(record, _CLOSED, now, now, trips=0), mend=True)
            except _Lost as lost:
                self._lose(lost)
                raise BusUnavailable(f"breaker {self.name!r} was not reset, its store is lost: {self._lost}") from self._lost
        self._tell()

    def __repr__(self) -> str:
        return f"<SharedCircuitBreaker {self.name!r} {self.state} retry_after={self.retry_after:.1f} s>"

    def _admit(self) -> Permit:
        permit: Permit | None = None

        def admit(record: _Record, now: float) -> _Record:
            nonlocal permit
            permit = None
            if record.state is _OPEN and now >= record.ends:
                record = self._next(record, _HALF_OPEN, now, now + self._trial_timeout)
                permit = Permit(self, record.era, record.ends)
            elif record.state is _CLOSED:
                permit = Permit(self, record.era, math.inf)
            return record

        with self._lock:
            decided = self._change(admit)
            admitted = permit if decided else None
            if admitted is not None and admitted.ends < math.inf:
                self._trial, self._trial_era = ref(admitted), admitted.generation
            wait, lost = max(0.0, self._until - self._monotonic()), self._lost
        self._tell()
        if admitted is not None:
            return admitted
        refusal = CircuitOpen(self.name, wait)
        if not decided:
            refusal.add_note(f"refused because the store of its state is lost: {lost}")
        raise refusal from lost

    def _settle(self, permit: Permit, result: Result) -> None:
        era = permit.generation

        def settle(record: _Record, now: float) -> _Record:
            if record.era != era:
                return record
            trial = record.state is _HALF_OPEN
            if result == "failure":
                counted = replace(record, failures=record.failures + 1)
                return self._tripped(counted, now) if trial or counted.failures >= self._limit else counted
            if result == "ok":
                return self._next(record, _CLOSED, now, now, trips=0) if trial else replace(record, failures=0)
            return self._next(record, _OPEN, now, now) if trial else record

        with self._lock:
            if not permit.settled:
                permit.settled = True
                self._change_or_owe(settle)
        self._tell()

    def _hold(self, until: float) -> None:
        seconds = until - self._monotonic()

        def hold(record: _Record, now: float) -> _Record:
            if record.state is not _OPEN:
                return self._next(record, _OPEN, now, now + seconds)
            return replace(record, start=now, ends=now + seconds) if now + seconds > record.ends else record

        with self._lock:
            self._change_or_owe(hold)
        self._tell()

    def _look(self) -> None:
        with self._lock:
            self._change(lambda record, now: record)
        self._tell()

    def _change_or_owe(self, work: _Work) -> None:
        if not self._change(work):
            self._owed.append(work)

    def _change(self, work: _Work) -> bool:
        """Do it to the shared state, or to the local one; return whether either stands for the circuit now."""
        if self._lost is None or self._monotonic() >= self._again:
            try:
                self._change_shared(work)
            except _Lost as lost:
                self._lose(lost)
            else:
                return True
        now = self._monotonic() + self._offset
        if self._local:
            self._see(work(self._due(self._record, self._epoch, now), now), now)
        else:
            self._show(_OPEN, self._again)
        return self._local

    def _change_shared(self, work: _Work, *, mend: bool = False) -> None:
        for _ in range(_TRIES):
            version, old = self._load(mend)
            epoch, now = self._ask(self._store.now)  # after the load, so that nothing in it can lie ahead
            self._epoch, self._offset = epoch, now - self._monotonic()
            owed = tuple(self._owed)
            new = self._due(old, epoch, now)
            for step in (*owed, work):
                new = step(new, now)
            # A store that was lost may be readable and yet full: it is back when it can be written.
            write = new != old or mend or self._lost is not None
            if write and not self._ask(self._store.compare_and_set, self.name, version, _encode(new)):
                continue
            for step in owed:
                with suppress(ValueError):  # the garbage collector may have ended a call in between, which told it
                    self._owed.remove(step)
            if self._lost is not None:
                self._lost = None
                _log.info("breaker %r: the store of its state is back", self.name)
            self._see(new, now)
            return
        error = BusUnavailable(f"{_TRIES} times another change came first: check `compare_and_set` of the store")
        raise _Lost from error

    def _load(self, mend: bool) -> tuple[int, _Record]:
        found = self._ask(self._store.load, self.name)
        if found is None:
            return 0, _NEW
        version, text = found
        try:
            return version, _decode(self.name, text)
        except BusError as error:
            if mend and not isinstance(error, SchemaTooNew):
                return version, _NEW
            raise _Lost from error

    def _ask(self, question: Callable[..., Any], *args: Any) -> Any:
        try:
            return question(*args)
        except Exception as error:
            raise _Lost from error

    def _lose(self, lost: _Lost) -> None:
        if self._lost is None:
            _log.warning("breaker %r: the store of its state is lost: %s", self.name, lost.__cause__)
        self._lost = lost.__cause__
        self._again = self._monotonic() + min(1.0, self._cooldown)

    def _due(self, record: _Record, epoch: str, now: float) -> _Record:
        """Do what time alone has done."""
        if record.state is _CLOSED:
            return record
        if record.epoch != epoch or now < record.start:
            record = replace(record, epoch=epoch, start=now, ends=now + (record.ends - record.start))
        collected = record.era == self._trial_era and self._trial() is None
        if record.state is _HALF_OPEN and (now >= record.ends or collected):
            return self._next(record, _OPEN, now, now)
        return record

    def _tripped(self, record: _Record, now: float) -> _Record:
        full = min(self._cap, self._cooldown * 2.0 ** min(record.trips, 1000))  # 2.0 ** 1024 overflows
        ends = now + full * (1.0 - self._jitter * self._rng())
        return self._next(record, _OPEN, now, ends, trips=record.trips + 1)

    def _next(self, record: _Record, state: BreakerState, now: float, ends: float, *, trips: int | None = None) -> _Record:
        trips = record.trips if trips is None else trips
        return _Record(secrets.randbits(62), state, 0, trips, self._epoch, now, ends)

    def _see(self, record: _Record, now: float) -> None:
        self._record = record
        self._failures, self._trips = record.failures, record.trips
        self._show(record.state, self._monotonic() + (record.ends - now) if record.state is not _CLOSED else -math.inf)

    def _show(self, state: BreakerState, until: float) -> None:
        old, self._state, self._until = self._state, state, until
        if self._listener is not None and old is not state:
            self._events.append((old, state, until))


def _encode(record: _Record) -> str:
    body = _json.dump_json(record).decode()
    return f"{_FORMAT} {crc32(body.encode()):08x} {body}"


def _decode(name: str, text: str) -> _Record:
    head, _, rest = text.partition(" ")
    checksum, _, body = rest.partition(" ")
    if head.isdecimal() and len(head) < 10 and int(head) > _FORMAT:
        raise SchemaTooNew(
            f"the state of breaker {name!r} has format {head}, this agentfund reads {_FORMAT}: upgrade agentfund"
        )
    try:
        if head != str(_FORMAT) or checksum != f"{crc32(body.encode()):08x}":
            raise ValueError("its checksum is wrong")
        return _json.validate_json(body, strict=True)
    except ValueError as error:
        raise BusError(f"the state of breaker {name!r} is damaged: {error}; replace it with reset()") from error
