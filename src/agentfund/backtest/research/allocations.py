"""How capital is shared among sleeves, from returns that are known and nothing else.

An allocation is any function of (returns so far, names, now) that gives a weight for each name: a plain function, one of
the classes here, or what a selection agent answered. Weights are at least zero; what they leave of one is cash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from agentfund.errors import ConfigError

if TYPE_CHECKING:
    from agentfund.market import Floats

Weights: TypeAlias = Mapping[str, float]
"""Share of capital by name; a name that is missing gets nothing."""
Allocate: TypeAlias = Callable[["Floats", tuple[str, ...], datetime], Weights]
"""(returns so far, shape (periods, sleeves), oldest first; names of the sleeves; the moment, aware UTC) -> weights."""
Named: TypeAlias = Literal["equal", "inverse_volatility", "volatility_target", "risk_parity"]

_ROUNDS = 200
_CLOSE = 1e-12
_NEAR = 0.3  # below it, Newton's whole step keeps all weights above zero and squares the error


def _check(lookback: int | None, least: int) -> None:
    if least < 2 or (lookback is not None and lookback < least):
        raise ConfigError(
            f"lookback={lookback}, least={least}: it takes at least two returns, and lookback is no less than that"
        )


def equal(returns: Floats, names: tuple[str, ...], now: datetime) -> Weights:
    """Give every sleeve the same: 1 / N."""
    return dict.fromkeys(names, 1.0 / len(names))


@dataclass(frozen=True, slots=True)
class InverseVolatility:
    """Weights in proportion to 1 / volatility, adding up to 1: w[i] = (1 / s[i]) / sum(1 / s).

    With fewer than `least` returns, all sleeves get the same. A sleeve that did not move is taken as moving as much as the
    others do on average.

    Args:
        lookback: how many of the newest returns are looked at; None for all.
        least: how many returns it takes.
    """

    lookback: int | None = 120
    least: int = 20

    def __post_init__(self) -> None:
        _check(self.lookback, self.least)

    def __call__(self, returns: Floats, names: tuple[str, ...], now: datetime) -> Weights:
        """Return the weights."""
        seen = _newest(returns, self.lookback)
        if len(seen) < self.least:
            return equal(returns, names, now)
        inverse = 1.0 / _deviations(seen)
        return _by_name(names, inverse / inverse.sum())


@dataclass(frozen=True, slots=True)
class RiskParity:
    """Equal risk contribution: every sleeve adds the same to the volatility of the whole.

    w[i] (S w)[i] is the same for all i, and the weights add up to 1. S is the covariance matrix of the newest returns, its
    correlations shrunk towards zero. Sources: S. Maillard, T. Roncalli and J. Teiletche, The Properties of Equally Weighted
    Risk Contribution Portfolios, Journal of Portfolio Management 36 (4), 2010; solved as the convex problem
    min x' C x / 2 - sum(log(x)) / N, C the correlations, by the damped Newton method of F. Spinu, An Algorithm for Computing
    Risk Parity Weights, 2013; w[i] is in proportion to x[i] / s[i], s the deviations.

    Args:
        lookback: how many of the newest returns are looked at; None for all.
        shrinkage: share of the correlations that is taken away, from 0 to 1: S = (1 - shrinkage) * covariance
            + shrinkage * its diagonal.
        least: how many returns it takes; with fewer, all sleeves get the same.
    """

    lookback: int | None = 120
    shrinkage: float = 0.1
    least: int = 20

    def __post_init__(self) -> None:
        _check(self.lookback, self.least)
        if not 0.0 <= self.shrinkage <= 1.0:
            raise ConfigError(f"shrinkage={self.shrinkage}: it is a share, from 0 to 1")

    def __call__(self, returns: Floats, names: tuple[str, ...], now: datetime) -> Weights:
        """Return the weights."""
        seen = _newest(returns, self.lookback)
        if len(seen) < self.least:
            return equal(returns, names, now)
        return _by_name(names, equal_risk(covariance(seen, self.shrinkage)))


@dataclass(frozen=True, slots=True)
class VolatilityTarget:
    """Scales another allocation so that the volatility of the whole, as it was lately, meets a target.

    exposure = min(max_leverage, target / volatility); the weights are exposure times those of `of`. What is above 1 in sum
    is borrowed. Volatility is the square root of w' S w, annualised by the number of periods that there were in a year.

    Args:
        target: volatility a year to aim for, as a fraction: 0.1 is ten percent.
        max_leverage: most that the weights may add up to.
        of: the allocation that is scaled.
        lookback: how many of the newest returns are looked at; None for all.
        least: how many returns it takes; with fewer, nothing is scaled.
    """

    target: float = 0.10
    max_leverage: float = 1.0
    of: Allocate = InverseVolatility()
    lookback: int | None = 120
    least: int = 20

    def __post_init__(self) -> None:
        _check(self.lookback, self.least)
        if not (math.isfinite(self.target) and self.target > 0 and math.isfinite(self.max_leverage) and self.max_leverage > 0):
            raise ConfigError(f"target={self.target} and max_leverage={self.max_leverage} must be above zero")

    def scaled(self, returns: Floats, names: tuple[str, ...], now: datetime, per_year: float) -> Weights:
        """Return the weights, given how many periods a year has."""
        base = self.of(returns, names, now)
        seen = _newest(returns, self.lookback)
        if len(seen) < self.least:
            return {name: weight * min(1.0, self.max_leverage) for name, weight in base.items()}
        weights = np.array([base.get(name, 0.0) for name in names])
        volatility = float((seen @ weights).std()) * math.sqrt(per_year)
        exposure = self.max_leverage if volatility <= 0 else min(self.max_leverage, self.target / volatility)
        return _by_name(names, weights * exposure)

    def __call__(self, returns: Floats, names: tuple[str, ...], now: datetime) -> Weights:
        """Return the weights for daily returns of every day of the year; a mix knows its own periods and asks `scaled`."""
        return self.scaled(returns, names, now, 365.25)


def covariance(returns: Floats, shrinkage: float = 0.0) -> Floats:
    """Return the covariance matrix of returns (periods, sleeves), its correlations shrunk towards zero by a share.

    A sleeve that did not move gets the mean deviation of the others and no correlation.
    """
    deviations = _deviations(returns)
    still = returns.std(axis=0) <= 0
    centred = returns - returns.mean(axis=0)
    matrix: Floats = (1.0 - shrinkage) * (centred.T @ centred) / len(returns)
    matrix[still, :] = matrix[:, still] = 0.0
    np.fill_diagonal(matrix, deviations**2)
    return matrix


def equal_risk(matrix: Floats) -> Floats:
    """Return the weights, adding up to 1, with which each sleeve adds the same risk; see `RiskParity`.

    Args:
        matrix: a covariance matrix with a diagonal above zero.
    """
    scale = np.sqrt(np.diag(matrix))
    # In units of their own deviations quiet sleeves and wild ones are solved alike.
    correlations, budget = matrix / np.outer(scale, scale), 1.0 / len(matrix)
    x = np.full(len(matrix), math.sqrt(budget))
    for _ in range(_ROUNDS):
        slope = correlations @ x - budget / x
        try:
            step = np.linalg.solve(correlations + np.diag(budget / x**2), slope)
        except np.linalg.LinAlgError:  # sleeves that cancel each other out exactly: the weights are as near as numbers come
            break
        reach = float(np.abs(step / x).max())
        x = x - (step if reach < _NEAR else step / (1.0 + reach))
        if reach <= _CLOSE:
            break
    weights = x / scale
    total: Floats = weights / weights.sum()
    return total


def chosen(weights: Named | Allocate) -> Allocate:
    """Return an allocation by its name, or the function itself.

    Raises:
        ConfigError: there is none of that name.
    """
    named: dict[str, Allocate] = {
        "equal": equal,
        "inverse_volatility": InverseVolatility(),
        "volatility_target": VolatilityTarget(),
        "risk_parity": RiskParity(),
    }
    if isinstance(weights, str):
        if weights not in named:
            raise ConfigError(f"weights={weights!r}: there is {', '.join(named)}, or a function of one's own")
        return named[weights]
    if not callable(weights):
        raise ConfigError(f"weights={weights!r}: give a name, or a function of (returns, names, now)")
    return weights


def called(allocate: Allocate) -> str:
    """Return what an allocation is called in messages."""
    return getattr(allocate, "__name__", None) or repr(allocate)


def checked(given: object, allocate: Allocate, names: tuple[str, ...], now: datetime, most: float) -> Floats:
    """Return weights as an array in the order of the names.

    Raises:
        ConfigError: they cannot be used; names the function, the moment and the weight.
    """
    where = f"weights of {called(allocate)} at {now.isoformat()}"
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: give a weight by name, such as {{{names[0]!r}: 0.5}}, not {given!r}")
    if unknown := [name for name in given if name not in names]:
        raise ConfigError(f"{where}: there is no sleeve {unknown[0]!r}; there is {', '.join(names)}")
    for name, weight in given.items():
        if (
            isinstance(weight, bool)
            or not isinstance(weight, int | float | np.floating)
            or not math.isfinite(weight)
            or weight < 0
        ):
            raise ConfigError(f"{where}: {name} gets {weight!r}; a weight is a number of at least zero")
    total = math.fsum(float(weight) for weight in given.values())
    if total > most * (1 + 1e-9):
        raise ConfigError(f"{where}: they add up to {total:.6g}, {most:g} is the most; what is left of it is cash")
    return np.array([float(given.get(name, 0.0)) for name in names])


def _newest(returns: Floats, lookback: int | None) -> Floats:
    return returns if lookback is None else returns[-lookback:]


def _deviations(returns: Floats) -> Floats:
    """Return population standard deviations; that of a sleeve that did not move is the mean of the others."""
    found: Floats = returns.std(axis=0)
    moved = found > 0
    if not moved.any():
        return np.ones_like(found)
    return np.where(moved, found, found[moved].mean())


def _by_name(names: tuple[str, ...], weights: Floats) -> dict[str, float]:
    return dict(zip(names, weights.tolist(), strict=True))
