"""The smallest ordered log passes the suite for ordered logs."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

from agentfund.buses.ordered import Ordered
from tests.buses.ordered_contract import OrderedContract, Shelf, ShelfLog, shut


class TestShelfLog(OrderedContract):
    """So what the suite asks for can be had."""

    @pytest.fixture(autouse=True)
    def shelved(self) -> None:
        self.shelf = Shelf()

    def make(self) -> Ordered:
        return ShelfLog(self.shelf)

    def gone(self) -> AbstractAsyncContextManager[None]:
        return shut(self.shelf)
