"""Whether a process still runs, asked of real ones."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agentfund.buses.processes import boot_id, fate, pid_of, this_process

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the system does not say when a process began")
SAY_WHO = "from agentfund.buses.processes import this_process; print(this_process(), flush=True); input()"


def started() -> tuple[subprocess.Popen[str], str]:
    """Start a process that waits, and return its name."""
    process = subprocess.Popen([sys.executable, "-c", SAY_WHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, process.stdout.readline().rstrip("\n")


def test_this_process_is_alive() -> None:
    """Its name has its number in it."""
    assert fate(this_process()) == "alive"
    assert pid_of(this_process()) == str(os.getpid())


@ON_LINUX
def test_another_process_is_alive_until_it_is_killed() -> None:
    """Also while its parent has not asked how it ended, and after."""
    process, name = started()
    with process:
        assert fate(name) == "alive"
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert fate(name) == "dead"
        process.wait()
        assert fate(name) == "dead"


@ON_LINUX
def test_a_number_that_was_given_again_is_another_process() -> None:
    """The number lives, and what it named does not."""
    pid, start, space = this_process().split(" ")
    assert fate(f"{pid} {int(start) - 1} {space}") == "dead"


def test_of_a_process_in_another_container_nothing_is_known() -> None:
    """Its number means another process here, or none."""
    pid, start, space = this_process().split(" ")
    assert fate(f"{pid} {start} {space}1") == "not known"


@ON_LINUX
def test_a_start_of_the_machine_has_a_name() -> None:
    """The same for every process."""
    command = [sys.executable, "-c", "from agentfund.buses.processes import boot_id; print(boot_id())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == boot_id() != ""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_is_another_process() -> None:
    """It does not go on under its parent's name."""
    mine = this_process()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, this_process().encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() != mine
    os.close(read)
    os.close(write)
