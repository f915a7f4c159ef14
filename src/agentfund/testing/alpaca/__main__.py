"""`python -m agentfund.testing.alpaca`: an Alpaca of one's own, until it is interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from agentfund.testing.alpaca.server import AlpacaServer


def main() -> int:
    """Serve until SIGINT or SIGTERM; print where and with which keys."""
    parser = argparse.ArgumentParser(prog="python -m agentfund.testing.alpaca", description=__doc__)
    parser.add_argument("--port", type=int, default=8900, help="where to listen on 127.0.0.1; 0 for any free port")
    parser.add_argument("--price", action="append", default=[], metavar="SYMBOL=PRICE", help="a symbol and its first price")
    parser.add_argument("--cash", type=int, default=100_000, help="dollars at the beginning")
    chosen = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with AlpacaServer(chosen.cash, port=chosen.port) as server:
        for pair in chosen.price or ["AAPL=100"]:
            symbol, _, price = pair.partition("=")
            server.move(symbol, price)
        lines = (
            f"url    {server.url}",
            f"key    {server.key}",
            f"secret {server.secret}",
            f'move   curl -d \'{{"symbol": "AAPL", "price": 101}}\' {server.url}/_admin/move',
        )
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
