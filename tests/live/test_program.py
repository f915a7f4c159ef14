"""Live funds as processes: told to end, killed, two of them, on a full disk, with an order whose fate is unknown."""

from __future__ import annotations

import re
import resource
import signal
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import sleep

import pytest

from agentfund.messages import Answered, Approved, Intended
from agentfund.testing.alpaca import AlpacaServer, Fault
from agentfund.trading import OrderStatus
from tests.live.day import write_ticks
from tests.live.programs import LIVE, desk, events, log, promoted, run, running, until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AlpacaServer]:
    """An Alpaca of this machine, and a desk that knows where it is."""
    with AlpacaServer() as one:
        desk(tmp_path, one)
        yield one


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_while_it_waits_it_says_what_it_leaves(tmp_path: Path, server: AlpacaServer, number: int) -> None:
    """It ends in peace, and whoever comes next need not wait for its lease."""
    with running(tmp_path, "live", *LIVE) as fund:
        until(lambda: "advised by" in fund.said, "advice", fund)
        fund.tell(number)
        assert fund.ended() == 0
    assert "left: nothing is held and no order is open" in fund.said
    assert server.orders_created == 0
    assert run(tmp_path, "live", *LIVE, "--cycles", "1")[0] == 0


def test_a_new_fund_cannot_begin_with_more_than_advice(tmp_path: Path, server: AlpacaServer) -> None:
    """An option is no promotion, on a log that is new either."""
    code, said = run(tmp_path, "live", *LIVE, "--mode", "autonomous", "--cycles", "1")
    assert code != 0
    assert "is advisory by its log" in said
    assert "agentfund promote out/live/fund.db --to supervised" in said
    assert server.orders_created == 0


def test_told_to_end_during_an_order_it_waits_for_the_answer(tmp_path: Path, server: AlpacaServer) -> None:
    """The order is on the log with what became of it, and its stop is named."""
    promoted(tmp_path, ["supervised", "autonomous"])
    server.fail(Fault("slow", "POST /v2/orders", seconds=1.5))
    with running(tmp_path, "live", *LIVE) as fund:
        until(lambda: server.requests["POST /v2/orders"], "an order", fund)
        fund.tell(signal.SIGINT)
        assert fund.ended() == 0
    assert server.orders_created == 1
    (intended,) = events(tmp_path, Intended)
    assert isinstance(intended, Intended)
    answers = [one.status for one in events(tmp_path, Answered) if isinstance(one, Answered)]
    assert answers
    assert OrderStatus.UNKNOWN not in answers
    assert intended.order.id in fund.said or f"stop {intended.order.stop_loss}; these orders stay at the broker" in fund.said


def test_killed_during_an_order_it_carries_on_and_orders_nothing_twice(tmp_path: Path, server: AlpacaServer) -> None:
    """The dead process's lease has to run out first, and whoever comes too early is told."""
    promoted(tmp_path, ["supervised", "autonomous"])
    server.fail(Fault("hang_before", "POST /v2/orders"))
    with running(tmp_path, "live", *LIVE) as fund:
        until(lambda: server.requests["POST /v2/orders"], "an order", fund)
        code, said = run(tmp_path, "live", *LIVE)
        assert code != 0
        assert "the fund 'fund' is led by" in said, said
        assert "left: not known" in said
        fund.tell(signal.SIGKILL)
        fund.ended()
    server.heal()
    (intended,) = events(tmp_path, Intended)
    assert isinstance(intended, Intended)

    def carried_on() -> bool:
        code, said = run(tmp_path, "live", *LIVE, "--cycles", "2", "--mode", "advisory")
        assert code == 0 or "is led by" in said, said
        sleep(0 if code == 0 else 4)
        return code == 0

    until(carried_on, "a fund that carries on")
    assert [one.client_id for one in server.venue.tickets].count(intended.order.id) <= 1
    orders = log(tmp_path)[1].orders
    assert orders[intended.order.id].status is not OrderStatus.INTENDED


def test_an_order_of_unknown_fate_is_settled_by_a_persons_word(tmp_path: Path, server: AlpacaServer) -> None:
    """Not while the fund runs, not without a reason; then nothing of it is open any more."""
    promoted(tmp_path, ["supervised", "autonomous"])
    server.fail(Fault("hang_before", "POST /v2/orders", times=1000))

    def unknown() -> list[str]:
        told = [one for one in events(tmp_path, Answered) if isinstance(one, Answered)]
        return [one.order_id for one in told if one.status is OrderStatus.UNKNOWN]

    with running(tmp_path, "live", *LIVE) as fund:
        until(lambda: server.requests["POST /v2/orders"], "an order", fund)
        server.fail(Fault("status_before", "GET /v2/orders", times=1000))
        until(unknown, "an order whose fate is unknown", fund)
        order = unknown()[0]
        words = ("resolve", "out/live", order[:8], "--as", "rejected", "--by", "Ada", "--reason")
        code, said = run(tmp_path, *words, "the broker says that it never came")
        assert code != 0
        assert "stop it first" in said
        fund.tell(signal.SIGINT)
        assert fund.ended() == 0
    assert "whose fate is unknown" in fund.said
    assert run(tmp_path, *words, "so")[0] != 0
    code, said = run(tmp_path, *words, "the broker says that it never came")
    assert (code, said.strip()) == (0, f"order {order} is rejected, by Ada")
    assert order not in log(tmp_path)[1].state.orders


def test_an_order_is_approved_on_the_page_that_the_program_serves(tmp_path: Path, server: AlpacaServer) -> None:
    """By the address it printed: the page shows the exact order, and the answer is on the log."""
    promoted(tmp_path, ["supervised"])
    with running(tmp_path, "live", *LIVE, "--wait", "60") as fund:
        until(lambda: "orders wait for a person at" in fund.said, "its page", fund)
        address = fund.said.partition("orders wait for a person at ")[2].split()[0]
        person = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(), urllib.request.ProxyHandler({}))

        def shown() -> dict[str, str]:
            content = person.open(address, timeout=10).read().decode()
            return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', content))

        until(shown, "an order that waits", fund)
        form = urllib.parse.urlencode({**shown(), "by": "Ada", "answer": "yes"}).encode()
        place = address.partition("/enter")[0]
        assert "Approved" in person.open(f"{place}/answer", form, timeout=10).read().decode()
        until(lambda: events(tmp_path, Intended), "the order", fund)
        fund.tell(signal.SIGTERM)
        assert fund.ended() == 0
    told = [one for one in events(tmp_path, Approved) if isinstance(one, Approved)]
    assert (told[0].approved, told[0].by) == (True, "Ada")
    assert not (tmp_path / "out/live/approvals.address").exists()


def test_a_full_disk_stops_the_fund_and_nothing_is_lost(tmp_path: Path, server: AlpacaServer) -> None:
    """The error says so, and with room it carries on."""
    write_ticks(tmp_path / "SIM.csv", hours=2)
    words = (
        "paper",
        "--feed",
        "recorded",
        "--data",
        "SIM.csv",
        "--bar-minutes",
        "1",
        "--speed",
        "0",
        "--agents",
        "rsi",
        "--plain",
    )
    most = 60_000
    code, said = run(tmp_path, *words, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    assert code != 0
    assert "error:" in said
    assert "fund.db" in said
    assert "Traceback" not in said
    cycles = log(tmp_path, "out/paper/fund.db")[1].state.cycle
    assert cycles > 0
    assert run(tmp_path, *words, "--cycles", str(cycles + 5))[0] == 0
    assert log(tmp_path, "out/paper/fund.db")[1].state.cycle >= cycles


def test_a_shadow_runs_beside_and_says_how_it_differed(tmp_path: Path, server: AlpacaServer) -> None:
    """A candidate on the same bars, with a log of its own, that costs the incumbent nothing."""
    write_ticks(tmp_path / "SIM.csv", hours=3)
    words = ("paper", "--feed", "recorded", "--data", "SIM.csv", "--bar-minutes", "1", "--speed", "0", "--plain")
    code, said = run(tmp_path, *words, "--agents", "sma", "--shadow", "rsi")
    assert code == 0, said
    assert "moments at which either decided" in said
    assert "its log is out/paper/shadow-1.db" in said
    alone = run(tmp_path, *words, "--agents", "sma", "--dir", "alone")
    assert alone[0] == 0
    ours, theirs = (log(tmp_path, name)[1].state for name in ("out/paper/fund.db", "alone/fund.db"))
    assert (ours.equity, ours.cycle) == (theirs.equity, theirs.cycle)
