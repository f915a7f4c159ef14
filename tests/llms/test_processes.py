from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from agentfund.errors import BadCredentials, LLMError
from agentfund.llms.environment import Environment
from agentfund.llms.pool import Idle, PerLoop
from agentfund.llms.processes import MOST_BYTES, Child, output

ECHO = "import sys\nfor line in sys.stdin:\n    print('heard', line.strip(), flush=True)\n"
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


async def start(code: str, most_bytes: int = MOST_BYTES) -> Child:
    return await Child.start([sys.executable, "-c", code], Environment(None).variables(), most_bytes=most_bytes)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3] if Path("/proc").is_dir() else True


async def last_line(child: Child) -> bytes:
    last = b""
    while (line := await child.line()) is not None:
        last = line
    return last


async def gone(pid: int) -> bool:
    for _ in range(200):
        if not alive(pid):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_program_is_asked_line_by_line() -> None:
    """What is written arrives, and what is printed comes back in order, then None."""
    child = await start(ECHO)
    child.write("one\nhalf \ud800\n")
    child.end_input()
    assert [await child.line() for _ in range(3)] == [b"heard one", b"heard half ?", None]
    assert await child.ended() == 0
    await child.close()


async def test_a_last_line_without_an_end_is_a_line() -> None:
    """A program that is cut off in a line has still said what it said."""
    child = await start("print('half', end='')")
    assert [await child.line(), await child.line()] == [b"half", None]
    await child.close()


async def test_it_runs_in_an_empty_folder_that_goes_with_it() -> None:
    """No project is around it, and nothing is left."""
    child = await start("import os; print(os.listdir('.'), os.environ['TMPDIR'])")
    assert await child.line() == f"[] {child.folder / 'tmp'}".encode()
    assert child.folder.stat().st_mode & 0o077 == 0, "others can read it"
    await child.close()
    assert not child.folder.exists()


@pytest.mark.parametrize("code", [FAMILY, f"exec({STUBBORN!r})"])
async def test_closing_ends_it_soon(code: str) -> None:
    """Also one that will not be told."""
    child = await start(code)
    await child.line()
    began = time.monotonic()
    await child.close()
    assert time.monotonic() - began < 2.0
    assert child.status is not None


async def test_its_children_end_with_it() -> None:
    """The whole family is ended when it is closed."""
    child = await start(FAMILY)
    grandchild = int(await child.line() or 0)
    assert alive(grandchild)
    await child.close()
    assert await gone(grandchild)


async def test_what_it_leaves_behind_is_ended_too() -> None:
    """A program that ends by itself does not leave its children running."""
    child = await start(FAMILY.replace("time.sleep(60)\n", "sys.exit(3)\n"))
    grandchild = int(await child.line() or 0)
    assert await child.ended() == 3
    assert await gone(grandchild)
    await child.close()


async def test_who_has_left_the_family_cannot_hold_it_up() -> None:
    """A grandchild in a session of its own keeps the output open; closing does not wait for it."""
    away = FAMILY.replace('"])', '"], start_new_session=True)').replace("time.sleep(60)\n", "", 1)
    child = await start(away)
    grandchild = int(await child.line() or 0)
    began = time.monotonic()
    assert await child.line() is None
    await child.close()
    assert time.monotonic() - began < 2.0
    os.kill(grandchild, signal.SIGKILL)


async def test_a_program_that_prints_without_end_is_killed() -> None:
    """Ten megabytes are no answer, in lines, in one line, or as errors."""
    for code in ("print('x' * 100)", "print('x', end='')", "print('x' * 100, file=sys.stderr)"):
        child = await start(f"import sys\nwhile True: {code}", most_bytes=100_000)
        with pytest.raises(LLMError, match="printed more than 100000 bytes and was killed"):
            await last_line(child)
        await child.close()
        assert child.status == -signal.SIGKILL


async def test_a_cancelled_wait_leaves_the_program_to_be_closed() -> None:
    """Cancellation comes through at once, and closing works after it."""
    child = await start(ECHO)
    task = asyncio.ensure_future(child.line())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await child.close()
    assert child.status is not None


async def test_a_program_that_is_not_there_is_named() -> None:
    """Nothing is left of it either."""
    with pytest.raises(BadCredentials, match="there is no program /nowhere/claude"):
        await Child.start(["/nowhere/claude"], {})
    with pytest.raises(LLMError, match="could not be started"):
        await Child.start([str(Path(__file__))], {})


async def test_output_is_what_a_program_prints() -> None:
    """Status, output and errors; one that does not end is an error."""
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(2)"
    assert await output([sys.executable, "-c", code], {}) == (2, "out", "err")
    with pytest.raises(LLMError, match="did not end within"):
        await output([sys.executable, "-c", "import time; time.sleep(60)"], {}, timeout_s=0.05)


async def test_twenty_programs_run_at_once() -> None:
    """And none is left as a zombie."""
    answers = await asyncio.gather(*(output([sys.executable, "-c", f"print({n})"], {}) for n in range(20)))
    assert [int(text) for _, text, _ in answers] == list(range(20))
    ended = (0, 0)
    with suppress(ChildProcessError):  # other tests may have left helpers of Python's that run on
        ended = os.waitpid(-1, os.WNOHANG)
    assert ended == (0, 0)


def test_a_killed_process_closes_its_programs_input(tmp_path: Path) -> None:
    """Nobody is left to end them then, so they must notice by themselves."""
    code = (
        "import asyncio, sys\nfrom agentfund.llms.processes import Child\n"
        f"async def main():\n    child = await Child.start([sys.executable, '-c', {ECHO!r}], {{}})\n"
        "    print(child._transport.get_pid(), flush=True)\n    await asyncio.sleep(60)\nasyncio.run(main())"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.communicate()
    assert asyncio.run(gone(child))


def test_few_variables_are_inherited_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is found by accident would be billed."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CODEX_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "sk-of-somebody-else")
    monkeypatch.setenv("CODEX_HOME", "/codex")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    seen = Environment(None, "CODEX_HOME").variables({"SWITCH": "1"})
    assert "sk-of-somebody-else" not in seen.values()
    assert (seen["CODEX_HOME"], seen["HTTPS_PROXY"], seen["SWITCH"]) == ("/codex", "http://proxy:3128", "1")
    assert "CODEX_HOME" not in Environment(None).variables()


def test_a_key_that_is_passed_on_purpose_stays_secret() -> None:
    """It reaches the program and nobody else, and it means that calls are billed."""
    environment = Environment({"ANTHROPIC_API_KEY": "sk-on-purpose", "ANTHROPIC_BASE_URL": "http://here"})
    assert "sk-on-purpose" not in repr(vars(environment))
    assert environment.variables()["ANTHROPIC_API_KEY"] == "sk-on-purpose"
    assert environment.has_api_key
    assert not Environment({"CLAUDE_CODE_OAUTH_TOKEN": "sk-of-a-plan"}).has_api_key


async def waiting(idle: Idle, *keys: str) -> list[Child]:
    for key in keys:
        await idle.start(key, start(ECHO))
    return [child for kept in idle._waiting.values() for child, _ in kept]


async def test_a_program_that_waits_is_given_to_its_own_kind_of_question() -> None:
    """Once, and not to another."""
    idle = Idle(60.0, 1)
    await waiting(idle, "a")
    assert idle.take("b") is None
    child = idle.take("a")
    assert child is not None
    assert child.alive
    assert idle.take("a") is None
    await child.close()


async def test_a_program_that_has_died_while_it_waited_is_not_given() -> None:
    """A dead one would answer with nothing."""
    idle = Idle(60.0, 1)
    (child,) = await waiting(idle, "a")
    child.kill()
    await child.ended()
    assert idle.take("a") is None
    await child.close()


async def test_a_program_that_waits_too_long_is_ended() -> None:
    """So memory is not held for questions that do not come; and nothing else has to be done for it."""
    idle = Idle(0.05, 1)
    (child,) = await waiting(idle, "a")
    await asyncio.wait_for(child.ended(), 5)
    assert len(idle) == 0
    await asyncio.sleep(0.05)
    assert not child.folder.exists()


async def test_only_what_is_asked_again_is_worth_a_program() -> None:
    """A question that is asked once takes nothing; one of a kind waits, and four in all."""
    idle = Idle(60.0, 1)
    assert [idle.wants("a"), idle.wants("a"), idle.wants("b")] == [False, True, False]
    await waiting(idle, "a")
    assert not idle.wants("a")
    await waiting(idle, "c", "d", "e")
    assert not idle.wants("b"), "four are enough"
    await idle.close()
    assert idle.wants("b")


async def test_a_question_that_is_asked_rarely_is_not_asked_again() -> None:
    """What waited for it would be ended before it comes."""
    idle = Idle(0.02, 1)
    assert not idle.wants("a")
    await asyncio.sleep(0.05)
    assert not idle.wants("a")


def test_what_waits_in_a_loop_ends_with_it() -> None:
    """Nobody has to close it, and the next loop has its own."""
    kept: PerLoop[Idle] = PerLoop(lambda: Idle(60.0, 1))

    async def leave() -> Child:
        idle = await kept.here()
        assert await kept.here() is idle
        assert len(asyncio.all_tasks()) == 1, "a task of ours would be in the way of those who count tasks"
        return (await waiting(idle, "a"))[0]

    first, second = asyncio.run(leave()), asyncio.run(leave())
    assert first.status is not None
    assert second.status is not None
    assert not kept._made


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_what_waits_in_a_loop_that_was_closed_without_a_word_is_ended_by_the_next_use() -> None:
    """Python itself complains of such a loop, but no program must go on for it."""
    kept: PerLoop[Idle] = PerLoop(lambda: Idle(60.0, 1))

    async def leave() -> Child:
        return (await waiting(await kept.here(), "a"))[0]

    loop = asyncio.new_event_loop()
    child = loop.run_until_complete(leave())
    pid = child._transport.get_pid()  # type: ignore[union-attr]
    loop.close()
    assert alive(pid)

    async def use_and_wait() -> bool:
        await kept.here()
        return await gone(pid)

    assert asyncio.run(use_and_wait())
    del child, loop
    gc.collect()
