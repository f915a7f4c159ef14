"""Every error, drawn as a tree and named for who must act.

AgentFundError
├── ConfigError            you: something was put together in a way that cannot work
│   ├── PipelineError      the list of agents cannot work; says which agent and why
│   └── MissingExtra       an optional package is needed; says which command installs it
├── FeedError              the source of market data failed or gave something unusable
│   ├── BadData            the data is wrong; names the file, the row and the field
│   └── LookaheadError     an agent asked for data that lies after now
├── LLMError               a call to a language model gave no usable answer
│   ├── LLMUnavailable     nobody could answer; the cycle goes on without an opinion
│   ├── RateLimited        wait `retry_after` seconds, then try this route again
│   ├── UsageCapped        this route is used up until `until`
│   ├── Overloaded         the provider is busy or broken; try again or go elsewhere
│   ├── LLMTimeout         no answer within the deadline; it may still be billed
│   ├── BadCredentials     fix the key or the login; the route stays off until then
│   ├── BadRequest         the caller's bug; no other route would do better
│   ├── Refused            the language model declined to answer
│   ├── InvalidOutput      the answer does not fit the schema
│   ├── BudgetExceeded     the call would pass a budget; nothing was sent
│   └── CassetteMiss       replay has no recording of this prompt; nothing was sent
├── BrokerError            talking to the broker failed
│   ├── BrokerUnavailable  the order may or may not have arrived: its fate is UNKNOWN
│   │   └── OrderUnseen    the broker has an order of this id and does not show it; asking again proves nothing
│   └── OrderRejected      the broker said no; the order does not exist
├── BusError               the log could not be read or written
│   ├── BusUnavailable     the log cannot be written now (disk full, read-only, locked, gone)
│   ├── SchemaTooNew       the log was written by a newer agentfund; upgrade to read it
│   ├── LogMismatch        the log belongs to another run; choose another file
│   ├── LeaseLost          another process leads the fund, or this one could not renew its lease; it has stopped
│   └── BrokenRecord       the record of halts cannot be trusted; the watchdog begins it anew
└── CircuitOpen            the breaker refuses; try again after `retry_after` seconds
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.prompt import Completion


class AgentFundError(Exception):
    """The root: `except AgentFundError` catches all that agentfund raises on purpose."""


class ConfigError(AgentFundError, ValueError):
    """Something was put together in a way that cannot work."""


class PipelineError(ConfigError):
    """The list of agents cannot work; the message says which agent and why."""


class MissingExtra(ConfigError, ImportError):
    """An optional package is needed.

    Args:
        package: the package that could not be imported.
        extra: the extra of agentfund that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'agentfund[{extra}]'")


class FeedError(AgentFundError):
    """The source of market data failed or gave something unusable."""


class BadData(FeedError, ValueError):
    """The data is wrong; the message names the file, the row and the field."""


class LookaheadError(FeedError, LookupError):
    """An agent asked for data that lies after now."""


class LLMError(AgentFundError):
    """A call to a language model gave no usable answer.

    Attributes:
        completion: what came and was paid for all the same, so that its usage is not lost; None where nothing came.
    """

    completion: Completion | None = None


class LLMUnavailable(LLMError):
    """Nobody could answer; the cycle goes on without an opinion."""


class RateLimited(LLMError):
    """The provider asks to wait.

    Args:
        message: what the provider said.
        retry_after: seconds to wait, None where the provider named none.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UsageCapped(LLMError):
    """A subscription or spend limit is used up.

    Args:
        message: what the provider said.
        until: when it resets (aware UTC), None where the provider named no time.
    """

    def __init__(self, message: str, *, until: datetime | None = None) -> None:
        super().__init__(message)
        self.until = until


class Overloaded(LLMError):
    """The provider is busy or broken."""


class LLMTimeout(LLMError):
    """No answer within the deadline; the call may still be billed."""


class BadCredentials(LLMError):
    """The key or the login does not work."""


class BadRequest(LLMError):
    """The request itself is wrong, so no other route would do better."""


class Refused(LLMError):
    """The language model declined to answer."""


class InvalidOutput(LLMError):
    """The answer does not fit the schema.

    Args:
        message: what is wrong, in words that can be shown to the language model.
        text: the answer as it came.
    """

    def __init__(self, message: str, *, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class BudgetExceeded(LLMError):
    """The call would pass a budget; nothing was sent."""


class CassetteMiss(LLMError):
    """Replay has no recording of this prompt; nothing was sent."""


class BrokerError(AgentFundError):
    """Talking to the broker failed."""


class BrokerUnavailable(BrokerError):
    """The order may or may not have arrived."""


class OrderUnseen(BrokerUnavailable):
    """The broker says that it has an order of this id and does not show it: that it finds none later proves nothing."""


class OrderRejected(BrokerError):
    """The broker said no; the order does not exist.

    Args:
        message: the broker's reason.
        code: the broker's own code for it.
    """

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class BusError(AgentFundError):
    """The log could not be read or written."""


class BusUnavailable(BusError):
    """The log cannot be written now."""


class SchemaTooNew(BusError):
    """The log was written by a newer agentfund."""


class LogMismatch(BusError):
    """The log belongs to another run."""


class LeaseLost(BusError):
    """Another process leads the fund, or the lease could not be renewed in time; nothing was ordered since."""


class CircuitOpen(AgentFundError):
    """The breaker refuses the call.

    Args:
        name: the breaker's name.
        retry_after: seconds until the next trial may start.
    """

    def __init__(self, name: str, retry_after: float) -> None:
        self.name = name
        self.retry_after = retry_after

    def __str__(self) -> str:
        if self.retry_after == float("inf"):
            return f"circuit {self.name!r} is switched off until an operator resets it"
        return f"circuit {self.name!r} is open; try again in {self.retry_after:.1f} s"
