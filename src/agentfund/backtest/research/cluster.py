"""Workers on a Ray cluster: the only file that imports Ray (the extra `ray`), and only when it is used."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from agentfund.backtest.research.crew import Died, Done, Event, Ready, Unfit
from agentfund.backtest.research.processes import one_thread
from agentfund.errors import ConfigError, MissingExtra
from agentfund.secrets import scrub

if TYPE_CHECKING:
    from agentfund.backtest.research.attempt import Attempt, Setting, Task


class _Worker:
    """What runs as an actor on the cluster: it holds the bars for all its trials."""

    def __init__(self, setting: Setting) -> None:
        from agentfund.backtest.research.attempt import Bench

        one_thread()
        self._bench = Bench(setting)

    def ready(self) -> bool:
        """Say that it has begun."""
        return True

    def run(self, task: Task) -> Attempt:
        """Run one trial."""
        return self._bench.run(task)


class Cluster:
    """A crew of Ray actors with one core each; the bars are put into the object store once.

    A cluster that the program has joined (`ray.init("ray://...")`) is used; otherwise one is started on this machine, and
    ended with the crew. agentfund must be installed, in the same version, on every machine of it.

    Args:
        setting: what the trials share.
        workers: how many workers to make room for where a cluster is started; None for one on each core.

    Raises:
        MissingExtra: Ray is not installed.
        ConfigError: the strategy cannot be sent.
    """

    def __init__(self, setting: Setting, workers: int | None = None) -> None:
        if find_spec("ray") is None:
            raise MissingExtra("ray", "ray")
        self._ray: Any = import_module("ray")
        self._own = not self._ray.is_initialized()
        if self._own:
            self._ray.init(
                num_cpus=workers,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
        try:
            self._setting = self._ray.put(setting)
        except Exception as error:
            self.dismiss()
            name = getattr(setting.make, "__qualname__", repr(setting.make))
            raise ConfigError(
                f"{name} cannot be sent to the cluster ({error}): define it in a file that is imported"
            ) from error
        # What is defined in a script or a notebook is sent along; what is in a file of its own is imported over there.
        self._actor = self._ray.remote(num_cpus=1, max_restarts=0)(_Worker)
        self._workers: dict[int, Any] = {}
        self._under_way: dict[Any, tuple[int, str]] = {}
        self._hired = 0

    @property
    def size(self) -> int:
        """How many workers the cluster has cores for."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def hire(self) -> int:
        """Start an actor."""
        self._hired += 1
        self._workers[self._hired] = actor = self._actor.remote(self._setting)
        self._under_way[actor.ready.remote()] = (self._hired, "ready")
        return self._hired

    def give(self, worker: int, task: Task) -> None:
        """Send a task."""
        self._under_way[self._workers[worker].run.remote(task)] = (worker, "done")

    def wait(self) -> Sequence[Event]:
        """Return what ended; an actor that is gone is one event, whatever it held."""
        waiting = list(self._under_way)
        ended, _ = self._ray.wait(waiting, num_returns=1)
        more, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        events: list[Event] = []
        for reference in [each for each in waiting if each in {*ended, *more}]:
            if reference not in self._under_way:
                continue
            number, kind = self._under_way.pop(reference)
            try:
                content = self._ray.get(reference)
            except self._ray.exceptions.RayActorError as error:
                events.append(self._gone(number, kind, error))
            else:
                events.append(Ready(number) if kind == "ready" else Done(number, content))
        return events

    def _gone(self, number: int, kind: str, error: Exception) -> Event:
        self._workers.pop(number, None)
        self._under_way = {each: what for each, what in self._under_way.items() if what[0] != number}
        reason = scrub(str(error).strip().splitlines()[-1])
        # An error while it was made comes as one of its own; a death does not.
        if kind == "ready" and "Traceback" in str(error):
            return Unfit(number, f"a worker on the cluster cannot begin: {reason}")
        return Died(number, reason)

    def dismiss(self) -> None:
        """End the actors, and the cluster where it was started here."""
        for actor in getattr(self, "_workers", {}).values():
            with suppress(Exception):
                self._ray.kill(actor)
        self._workers = {}
        if self._own:
            self._ray.shutdown()
        sys.stdout.flush()
