"""The console script: `agentfund` and `python -m agentfund`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; return its exit code."""
    try:
        from agentfund.cli import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich", "click"):
            raise
        sys.stderr.write("agentfund's command line needs typer: pip install 'agentfund[cli]'\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
