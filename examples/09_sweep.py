"""Many parameters, one honest answer: a sweep, what luck alone would have found, and a walk forward."""

from datetime import timedelta

from agentfund import PaperBroker
from agentfund.backtest import Sweep, WalkForward
from agentfund.feeds import SimulatedMarket
from agentfund.strategies import SmaCross

if __name__ == "__main__":
    market = SimulatedMarket("SIM", bars=4000, seed=5, interval=timedelta(hours=1))
    broker = PaperBroker(cash=100_000, max_volume_pct=100)
    grid = {"fast": [5, 10, 20, 30], "slow": [20, 40, 60, 80]}

    def meant(p: dict[str, int]) -> bool:
        """A fast average is faster than a slow one."""
        return p["fast"] < p["slow"]

    sweep = Sweep(SmaCross, grid, market, broker=broker, where=meant)
    result = sweep.run(trials="trials.jsonl", store="sweep.jsonl")
    print(result.text())

    again = sweep.run(trials="trials.jsonl", store="sweep.jsonl")  # everything is stored already
    print(again.text() == result.text())

    walk = WalkForward(SmaCross, grid, market, train=timedelta(days=180), test=timedelta(days=60), broker=broker, where=meant)
    print(walk.run().text())
