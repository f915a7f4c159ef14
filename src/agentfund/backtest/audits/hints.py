"""What a finding likely is, from what changed it, and how far back it reaches."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agentfund.backtest.audits.futures import CUT

NEAR = 0.15
"""A change that reaches back over less than this part of the known bars comes from a window, not from all data."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a difference.

    Args:
        way: what was done to the future; several with commas.
        back: bars from the first changed value to the cut.
        known: bars up to the cut.
        changed: values that differ, 0 where that was not counted.
        rounding: whether they differ by rounding only.
        volume: whether the volume alone changes it.
        opened: whether it is decided at the open of its bar.
    """

    way: str
    back: int = 0
    known: int = 0
    changed: int = 0
    rounding: bool = False
    volume: bool = False
    opened: bool = False

    def and_also(self, other: Evidence) -> Evidence:
        """Return both together: the longest reach counts."""
        ways = dict.fromkeys([*self.way.split(", "), *other.way.split(", ")])
        wider = other if other.back * max(self.known, 1) > self.back * max(other.known, 1) else self
        rounding = self.rounding and other.rounding
        return replace(wider, way=", ".join(ways), rounding=rounding, changed=max(self.changed, other.changed))


_KINDS = {
    "facts": "a fact used before it was known: its event time taken for its known time, the newest revision taken for all"
    " times, or a time read in the wrong zone",
    "universe": "instruments chosen by what became of them later (survivors, winners)",
    "chance": "chance without a seed, state kept between runs, the machine's clock, or a language model",
    "carried over": "a cache, a global or a class attribute that an earlier run has filled",
    "memory": "predictions that were made before, with the whole data, and are looked up by date",
    "execution": "a broker that fills at the price of the decision's own bar",
    "lanes": "an indicator whose batch() is not what its update() says, or a condition that looks at other bars",
}


def hint(kind: str, what: str, evidence: Evidence) -> str:
    """Return in a sentence what a finding likely is."""
    if kind in _KINDS:
        return _KINDS[kind]
    if evidence.rounding:
        return "rounding: the order in which numbers are summed depends on how many there are; round what is decided"
    if what == "result":
        return "a result that was kept from a run on other data"
    more = "; the volume of later bars is enough to change it" if evidence.volume else ""
    if evidence.opened and not evidence.back:
        return "the high, low, close or volume of its own bar, of which only the open is known" + more
    if evidence.way == CUT:
        return "something aligned to the end of the data, or a seed or a number made of their length" + more
    if 0 < evidence.changed <= 3 and evidence.back >= evidence.known - 1:
        return "an array that wraps round (np.roll, index -1): its first values come from its end" + more
    if evidence.back <= max(NEAR * evidence.known, 3):
        return (
            f"a look {evidence.back + 1} or more bars ahead: shift(-{evidence.back + 1}), a centred window, a gradient, gaps"
            " filled backwards, or a longer bar that is used before it closes" + more
        )
    return (
        "something computed over the whole data: mean and deviation, a quantile, parameters or a model fitted to all bars,"
        " prices adjusted or divided by the last one, a smoother that runs backwards" + more
    )
