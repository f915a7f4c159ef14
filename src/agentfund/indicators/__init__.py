"""Indicators over bars: for whole arrays and one bar at a time, with the same bits."""

from __future__ import annotations

from agentfund.indicators.averages import EMA, MACD, SMA, Macd
from agentfund.indicators.base import AnyIndicator, BarLike, Field, Indicator, OfField, values
from agentfund.indicators.channels import Bands, Bollinger, Donchian
from agentfund.indicators.lag import Lag, Price
from agentfund.indicators.momentum import ADX, RSI, Directional
from agentfund.indicators.volatility import ATR, RealisedVol, ZScore

__all__ = [
    "ADX",
    "ATR",
    "EMA",
    "MACD",
    "RSI",
    "SMA",
    "AnyIndicator",
    "Bands",
    "BarLike",
    "Bollinger",
    "Directional",
    "Donchian",
    "Field",
    "Indicator",
    "Lag",
    "Macd",
    "OfField",
    "Price",
    "RealisedVol",
    "ZScore",
    "values",
]
