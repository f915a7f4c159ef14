"""Orders and scenes survive the wire exactly; what is missing or malformed is refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.core.gate import Scene
from agentfund.rpc import gate_pb2 as pb
from agentfund.rpc.codec import Malformed, dump_order, dump_scene, load_order, load_scene, not_finite
from agentfund.trading import Order, OrderState, OrderStatus, Portfolio, Position
from tests.core.test_gate import LONG, order, scene, working
from tests.market import START
from tests.rpc.scenes import far, near

D = Decimal
SRC = Path(__file__).parents[2] / "src"


def through_bytes(order: Order, scene: Scene) -> tuple[Order, Scene]:
    """Return what arrives."""
    request = pb.CheckRequest(order=dump_order(order), scene=dump_scene(scene))
    arrived = pb.CheckRequest.FromString(request.SerializeToString())
    return load_order(arrived.order), load_scene(arrived.scene)


@settings(max_examples=60, deadline=None)
@given(pair=st.one_of(near(), far))
def test_every_field_survives(pair: tuple[Order, Scene]) -> None:
    """To the last digit, trailing zeros included, which `==` alone would not see."""
    arrived = through_bytes(*pair)
    assert arrived == pair
    assert (dump_order(arrived[0]), dump_scene(arrived[1])) == (dump_order(pair[0]), dump_scene(pair[1]))


def test_numbers_that_are_none_survive_so_that_the_gate_can_name_them() -> None:
    """NaN and infinity are read as what they are, and found."""
    strange = order(quantity=D("NaN"), stop_loss=D("-Infinity"))
    arrived, view = through_bytes(strange, scene())
    assert repr(arrived) == repr(strange)
    assert not_finite(arrived, view) == "a number of order id1"


UNSEEN: list[dict[str, Any]] = [
    {"portfolio": Portfolio(D(100_000), realized=D("NaN"))},
    {"portfolio": Portfolio(D(100_000), fees=D("Infinity"))},
    {"portfolio": Portfolio(D(100_000), {"SIM2": Position("SIM2", D(1), D("sNaN"), START)})},
    {"prices": {"SIM": D(100), "SIM2": D("NaN")}},
    {"orders": (OrderState(order(id="other", symbol="SIM2"), OrderStatus.WORKING, told=D("NaN")),)},
    {"recent": (order(id="other", quantity=D("Infinity")),)},
    {"quote_age_s": float("nan")},
]


@pytest.mark.parametrize("changes", [pytest.param(one, id=f"{number}-{next(iter(one))}") for number, one in enumerate(UNSEEN)])
def test_a_number_that_is_none_is_found_wherever_it_stands(changes: dict[str, Any]) -> None:
    """Also where no check of the gate looks."""
    assert not_finite(order(), scene()) == ""
    assert not_finite(order(), scene(**changes)) != ""


def test_half_a_character_in_words_for_people_does_not_stop_an_order() -> None:
    """A broker's reason may be anything, and a position has to be closed all the same."""
    said = (OrderState(order(id="other"), OrderStatus.REJECTED, reason="half \ud83d"),)
    _, view = through_bytes(order(), scene(orders=said, blind="\ud83d"))
    assert (view.orders[0].reason, view.blind) == ("half \\ud83d", "\\ud83d")


UNSENDABLE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"quantity": 100.0}, {}),
    ({"quantity": None}, {}),
    ({"symbol": "half \ud83d"}, {}),
    ({"id": None}, {}),
    ({"side": "buy"}, {}),
    ({"time": START.replace(tzinfo=None)}, {}),
    ({"quantity": D("1E+501")}, {}),
    ({"quantity": D("0." + "3" * 70)}, {}),
    ({}, {"equity": None}),
    ({}, {"now": None}),
    ({}, {"portfolio": Portfolio(D(0), {"SIM": Position("OTHER", D(1), D(1), START)})}),
]


@pytest.mark.parametrize(
    ("order_changes", "scene_changes"),
    [pytest.param(*one, id=f"{number}-{next(iter(one[0] | one[1]))}") for number, one in enumerate(UNSENDABLE)],
)
def test_what_cannot_be_told_exactly_is_not_sent(order_changes: dict[str, Any], scene_changes: dict[str, Any]) -> None:
    """A type that would be bent on the way is refused here."""
    with pytest.raises(Malformed):
        through_bytes(order(**order_changes), scene(**scene_changes))


MISSING = (
    *("now_us", "decided_us", "price", "quote_age_s", "portfolio", "prices", "equity", "peak_equity", "day_equity"),
    *("orders", "recent", "ordered_last_hour", "critical_last_day", "critical", "degraded", "blind"),
)


@pytest.mark.parametrize("part", MISSING)
def test_a_scene_without_a_part_is_none(part: str) -> None:
    """A client that forgets to say that the broker is blind must not look like one whose broker is not."""
    told = dump_scene(scene())
    told.ClearField(part)
    with pytest.raises(Malformed, match=r"missing"):
        load_scene(told)


@pytest.mark.parametrize("part", ["side", "type", "quantity", "time_us"])
def test_an_order_without_a_part_is_none(part: str) -> None:
    """Also one among the recent orders, where the epoch as its time would hide a duplicate."""
    told = dump_scene(scene(recent=(order(),)))
    told.recent.orders[0].ClearField(part)
    with pytest.raises(Malformed, match=r"missing"):
        load_scene(told)


def test_parts_of_a_portfolio_and_of_an_order_that_is_open_cannot_be_left_out() -> None:
    """They say how much is at risk already."""
    for path in ("portfolio.positions", "portfolio.cash"):
        told = dump_scene(scene(portfolio=LONG))
        told.portfolio.ClearField(path.partition(".")[2])
        with pytest.raises(Malformed, match="missing"):
            load_scene(told)
    for field in ("order", "status", "filled", "told"):
        told = dump_scene(scene(orders=working()))
        told.orders.states[0].ClearField(field)
        with pytest.raises(Malformed, match="missing"):
            load_scene(told)


TEXTS = ("ten", "1,000", "1_000", " 1", "1\n", "١٠", "0x10", "--1", "1e5", "1E+501", "1" * 65, "NaN1x", "inf", "")


@pytest.mark.parametrize("text", [pytest.param(text, id=ascii(text[:10])) for text in TEXTS])
def test_a_decimal_has_one_spelling(text: str) -> None:
    """What Python's Decimal would read with some good will is refused."""
    told = dump_order(order())
    told.quantity = text
    with pytest.raises(Malformed, match="quantity"):
        load_order(told)


def test_values_of_a_later_version_mean_nothing() -> None:
    """An order of an unknown type, a status, a side: refused, not taken for the first one."""
    for field in ("side", "type"):
        told = dump_order(order())
        setattr(told, field, 9)
        with pytest.raises(Malformed, match="9 means nothing here"):
            load_order(told)
    state = dump_scene(scene(orders=working()))
    state.orders.states[0].status = 9  # type: ignore[assignment]
    with pytest.raises(Malformed, match="9 means nothing here"):
        load_scene(state)


def test_a_symbol_stands_there_once() -> None:
    """Two prices or two positions of one instrument leave open which of them counts."""
    told = dump_scene(scene(portfolio=LONG))
    told.prices.prices.add(symbol="SIM", price="1")
    with pytest.raises(Malformed, match="twice"):
        load_scene(told)
    told = dump_scene(scene(portfolio=LONG))
    told.portfolio.positions.positions.append(told.portfolio.positions.positions[0])
    with pytest.raises(Malformed, match="twice"):
        load_scene(told)


@pytest.mark.parametrize("value", ["0", "-0.01", "NaN", ""])
def test_increments_are_above_zero(value: str) -> None:
    """A lot of zero would let any quantity pass."""
    told = dump_scene(scene())
    told.instrument.lot_size = value
    with pytest.raises(Malformed, match="lot_size"):
        load_scene(told)


def test_a_moment_outside_of_the_calendar_is_none() -> None:
    """Not an overflow."""
    told = dump_scene(scene())
    told.now_us = 2**62
    with pytest.raises(Malformed, match="no moment"):
        load_scene(told)


def test_the_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    """Whoever changes the one has to make the other anew."""
    from grpc_tools import protoc

    made = tmp_path / "gate.bin"
    file = "agentfund/rpc/gate.proto"
    assert protoc.main(["protoc", f"-I{SRC}", f"--descriptor_set_out={made}", str(SRC / file)]) == 0
    (expected,) = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file
    for message in expected.message_type:
        for field in message.field:
            field.ClearField("json_name")
    held = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    assert held == expected
