"""Workers in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Literal

from agentfund.backtest.research.attempt import Bench, Setting, Task
from agentfund.backtest.research.crew import Died, Done, Event, Ready, Unfit
from agentfund.errors import ConfigError
from agentfund.secrets import scrub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.process import BaseProcess

Start = Literal["fork", "spawn"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usual_start() -> Start:
    """Return how workers begin: forked on Linux, where they share the bars; spawned elsewhere, where a fork is not safe."""
    return "fork" if sys.platform == "linux" else "spawn"


class Processes:
    """A crew of processes. A forked worker shares the bars' memory, a spawned one is sent a copy once.

    Workers leave Ctrl-C to their parent, use one thread each, and end when their parent has ended.

    Args:
        setting: what the trials share.
        start: how workers begin.

    Raises:
        ConfigError: workers are spawned and what they need cannot be sent.
    """

    def __init__(self, setting: Setting, start: Start | None = None) -> None:
        self._start = start or usual_start()
        if self._start == "spawn":
            sendable(setting)
        self._setting = setting
        self._context: Any = multiprocessing.get_context(self._start)
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}
        self._hired = 0

    def hire(self) -> int:
        """Start a process."""
        ours, theirs = self._context.Pipe()
        # A fork has the parent's ends of all pipes too; while it holds them, the end of the parent is no end of a pipe.
        others = [ours, *(pipe for _, pipe in self._workers.values())] if self._start == "fork" else []
        process = self._context.Process(target=_work, args=(theirs, self._setting, others), daemon=True, name="sweep worker")
        with _one_thread_each(self._start), warnings.catch_warnings():
            # A worker touches no lock of another thread: it runs trials, and ends without cleaning up after its parent.
            warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
            process.start()
        theirs.close()
        self._hired += 1
        self._workers[self._hired] = (process, ours)
        return self._hired

    def give(self, worker: int, task: Task) -> None:
        """Send a task; where the worker has died, `wait` says so."""
        with suppress(OSError):
            self._workers[worker][1].send(task)

    def wait(self) -> Sequence[Event]:
        """Return what workers sent; a pipe that ends is a worker that died."""
        owners = {pipe: number for number, (_, pipe) in self._workers.items()}
        events: list[Event] = []
        for pipe in wait(list(owners)):
            assert isinstance(pipe, Connection)
            number = owners[pipe]
            try:
                kind, content = pipe.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                events.append(Died(number, self._cause(number)))
                continue
            if kind == "done":
                events.append(Done(number, content))
            else:
                events.append(Ready(number) if kind == "ready" else Unfit(number, content))
        return events

    def _cause(self, number: int) -> str:
        process, pipe = self._workers.pop(number)
        pipe.close()
        process.join(5.0)
        code = process.exitcode
        if code is None:
            process.kill()
            return "its pipe broke"
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        return f"{name}; the system ends processes so when memory runs out" if name == "SIGKILL" else name

    def dismiss(self) -> None:
        """Kill the processes; nothing of theirs is lost, for only the parent writes."""
        for process, pipe in self._workers.values():
            process.kill()
            pipe.close()
        for process, _ in self._workers.values():
            process.join()
            process.close()
        self._workers.clear()


def sendable(setting: Setting) -> None:
    """Check that a strategy can be sent to a process that was not forked.

    Raises:
        ConfigError: it cannot; says why and what to do.
    """
    make = setting.make
    name = getattr(make, "__qualname__", repr(make))
    home = getattr(make, "__module__", "")
    fix = 'define it in a file that is imported, or run with on="here"'
    try:
        pickle.dumps(make)
    except Exception as error:
        raise ConfigError(f"{name} cannot be sent to a worker process ({error}): {fix}") from error
    if home == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        raise ConfigError(f"{name} is defined in a notebook or at the prompt, where a spawned worker cannot find it: {fix}")


def _work(pipe: Connection, setting: Setting, others: Sequence[Connection]) -> None:
    """Be a worker: say ready, then run what comes until the pipe ends."""
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told as well, and ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    one_thread()
    code = 0
    try:
        try:
            bench = Bench(setting)
        except Exception as error:
            pipe.send(("unfit", scrub(f"a worker cannot begin: {type(error).__name__}: {error}")))
            return
        pipe.send(("ready", None))
        while True:
            pipe.send(("done", bench.run(pipe.recv())))
    except (EOFError, OSError):
        pass  # the parent has ended
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        # What the parent set up (exit handlers, other threads' locks) is the parent's to end.
        sys.stderr.flush()
        os._exit(code)


def one_thread() -> None:
    """Let numeric libraries use one thread: there is a worker for each core already."""
    if "numba" in sys.modules:
        with suppress(Exception):
            sys.modules["numba"].set_num_threads(1)
    with suppress(ImportError):
        import_module("threadpoolctl").threadpool_limits(1)


@contextmanager
def _one_thread_each(start: Start) -> Iterator[None]:
    """Tell processes that are spawned meanwhile to use one thread, unless the user said otherwise."""
    unset = [name for name in _THREADS if name not in os.environ] if start == "spawn" else []
    os.environ.update(dict.fromkeys(unset, "1"))
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)
