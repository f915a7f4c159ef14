"""From a proposal to an order."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentfund import Direction, Instrument, Order, Portfolio, Proposal, Side, Sizing
from agentfund.core.sizing import plan
from agentfund.trading import Position
from tests.market import START

D = Decimal


def planned(proposal: Proposal, portfolio: Portfolio | None = None, **changes: Any) -> Order | str:
    """Return the plan for a proposal at 100 with 100,000 in cash."""
    options: dict[str, Any] = {
        "decision": "d1",
        "time": START,
        "price": D(100),
        "equity": D(100_000),
        "portfolio": portfolio or Portfolio(D(100_000)),
        "instrument": Instrument("SIM"),
        "sizing": Sizing(),
    }
    return plan(proposal, **{**options, **changes})


def test_the_stop_loses_one_percent_of_equity() -> None:
    """F35: 1,000 at risk with a stop 4 away are 250 units."""
    made = planned(Proposal(direction=Direction.LONG, stop_pct=4, target_pct=8))
    assert isinstance(made, Order)
    assert (made.side, made.quantity, made.stop_loss, made.take_profit) == (Side.BUY, D(250), D(96), D(108))


def test_size_is_capped_by_leverage_less_headroom() -> None:
    """A stop of 0.5 % would ask for twice the equity."""
    made = planned(Proposal(direction=Direction.LONG, stop_pct=0.5))
    assert isinstance(made, Order)
    assert made.quantity == D(980)


def test_a_short_has_its_stop_above_and_its_target_below() -> None:
    """The mirror image of a long."""
    made = planned(Proposal(direction=Direction.SHORT, stop_pct=2, target_pct=4))
    assert isinstance(made, Order)
    assert (made.side, made.stop_loss, made.take_profit) == (Side.SELL, D(102), D(96))


def test_the_other_side_is_closed_first() -> None:
    """Turning around takes two decisions."""
    long = Portfolio(D(0), {"SIM": Position("SIM", D(300), D(90), START)})
    made = planned(Proposal(direction=Direction.SHORT), long)
    assert isinstance(made, Order)
    assert (made.side, made.quantity, made.reduce_only) == (Side.SELL, D(300), True)


def test_what_is_there_already_is_not_ordered_again() -> None:
    """And being flat is a position too."""
    assert planned(Proposal(direction=Direction.FLAT)) == "SIM is flat already"


def test_without_equity_there_is_no_size() -> None:
    """A broke fund orders nothing."""
    assert planned(Proposal(direction=Direction.LONG), equity=D("-5")) == "the size of SIM rounds to zero"


@given(
    price=st.decimals("0.01", "100000", places=2),
    stop=st.floats(0.5, 15),
    scale=st.floats(0.3, 2.0),
    equity=st.decimals("1", "10000000", places=2),
)
def test_size_never_passes_leverage_and_the_stop_never_lies_farther_than_asked(
    price: Decimal, stop: float, scale: float, equity: Decimal
) -> None:
    """Rounding never adds risk, beyond the noise of a float64: a billionth of a tick."""
    made = planned(
        Proposal(direction=Direction.LONG, stop_pct=stop, position_scale=scale), Portfolio(equity), price=price, equity=equity
    )
    if isinstance(made, Order):
        assert made.quantity * price <= equity
        assert made.stop_loss is not None
        assert made.stop_loss >= price * (1 - D(str(stop)) / 100) - D("1e-9") * D("0.01")
        assert made.quantity % D("0.0001") == 0


def test_the_same_decision_gives_the_same_order_id() -> None:
    """And another decision another one."""
    one, again, other = (planned(Proposal(direction=Direction.LONG), decision=name) for name in ("a", "a", "b"))
    assert isinstance(one, Order)
    assert isinstance(again, Order)
    assert isinstance(other, Order)
    assert one.id == again.id != other.id
