"""What must hold after all harm: the log against itself, and against the exchange's own books."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from agentfund.core.context import State
from agentfund.messages import Filled, Intended, Led, Message, Observed
from agentfund.workers.words import ASKED, REPLIED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfund.trading import Account, Fill


def faults(
    log: Sequence[Message], arrivals: Sequence[dict[str, Any]], fills: Sequence[Fill], account: Account, fund: str
) -> list[str]:
    """Return what went wrong, one sentence each; an empty list is good.

    Args:
        log: every message of the bus, in its order.
        arrivals: what reached the exchange, in its order: `id`, `token` and `again` of each order.
        fills: what the exchange did.
        account: what it holds for the fund.
        fund: the fund's name.
    """
    wrong = []
    places = [message.offset for message in log]
    if places != list(range(1, len(log) + 1)):
        wrong.append("offsets do not count from 1 without a gap")
    wrong += [f"message {name} is on the log {times} times" for name, times in Counter(m.id for m in log).items() if times > 1]
    state = State()
    intended: dict[str, int] = {}
    filled: Counter[str] = Counter()
    cycles: dict[int, set[str]] = {}
    for message in log:
        if message.stream != fund:
            continue
        stale = state.is_stale(message)
        before = state
        state = state.apply(message)
        if state.token < before.token:
            wrong.append(f"the token fell from {before.token} to {state.token}")
        match message.event:
            case Intended(order) if not stale:
                intended[order.id] = order.token
                cycles.setdefault(message.cycle, set()).add(order.id)
                if order.token != message.token:
                    wrong.append(f"order {order.id} has token {order.token}, its message {message.token}")
            case Filled(fill) if not stale:
                filled[fill.id] += 1
            case Led() | Observed():
                pass
    wrong += [f"cycle {cycle} intended {len(names)} orders" for cycle, names in cycles.items() if len(names) > 1]
    known = {fill.id for fill in fills}
    wrong += [f"order {one['id']} reached the exchange and is not on the log" for one in arrivals if one["id"] not in intended]
    effects = Counter(fill.order_id for fill in fills if fill.leg == "order")
    wrong += [f"order {name} was dealt {times} times" for name, times in effects.items() if times > 1]
    wrong += [f"fill {name} is on the log {times} times" for name, times in filled.items() if times > 1]
    wrong += [f"fill {name} is not on the log" for name in sorted(known - set(filled))]
    wrong += [f"fill {name} is on the log and never happened" for name in sorted(set(filled) - known)]
    held = {symbol: position.quantity for symbol, position in state.portfolio.positions.items()}
    if held != dict(account.positions) or state.portfolio.cash != account.cash:
        mine, theirs = f"{held} and {state.portfolio.cash}", f"{dict(account.positions)} and {account.cash}"
        wrong.append(f"the log holds {mine}, the exchange {theirs}")
    asked = {message.id for message in log if message.type == ASKED}
    replied = [message.payload["ask"] for message in log if message.type == REPLIED]
    wrong += [f"answer to {name}, which nobody asked" for name in replied if name not in asked]
    return wrong
