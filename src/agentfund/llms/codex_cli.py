"""OpenAI's language models through the user's own `codex` command line: a subscription as a route."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from agentfund.clock import SystemClock
from agentfund.errors import BadCredentials, BudgetExceeded, ConfigError, LLMError, LLMTimeout, MissingExtra
from agentfund.llms.api import address, by_tier
from agentfund.llms.codex_server import KeptServer, Server, ServerGone
from agentfund.llms.codex_settings import API, CHATGPT, catalog, default_effort, risks, rules, settings
from agentfund.llms.codex_told import FIX, Told
from agentfund.llms.environment import Environment
from agentfund.llms.layout import LAYOUT, schema_text, strict_schema, system_text, user_text
from agentfund.llms.pool import PerLoop
from agentfund.llms.prices import Price, Prices
from agentfund.llms.processes import Child, output
from agentfund.prompt import Completion, Prompt, Task, Tier, Usage

if TYPE_CHECKING:
    import os

    from agentfund.protocols import Clock

LLMS: Mapping[Tier, str] = {"strong": "gpt-6.1-sol", "middle": "gpt-6.1-terra", "small": "gpt-6-luna"}
"""The language model of each tier, where no other is given."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

_ZERO = Decimal(0)
_ADDED_BYTES = 2_048  # what codex puts around a question
_LONGEST_TOKENS = 128_000  # of an answer: codex has no limit to set, so this is the language models' own
_BY_PLAN, _BY_KEY = "plan", "key"
_OWN_HOME = "give the fund a CODEX_HOME of its own in env=, with a login of its own"
_KEYS = ("CODEX_API_KEY", "OPENAI_API_KEY")
_EXEC = (
    *("exec", "--json", "--ephemeral", "--skip-git-repo-check", "--ignore-user-config", "--ignore-rules"),
    *("--sandbox", "read-only", "--color", "never", "--output-schema", "{folder}/schema.json"),
)


class CodexCLI:
    """Asks through the unmodified `codex` command line that the user has installed and logged in to.

    Questions go to one `codex app-server` for each event loop, each in a thread of its own that is not kept, or, where
    that cannot be had, to a `codex exec` each. Neither has tools, and nothing is added to a prompt. Prompts cannot name
    files or commands. No key of the environment is passed on, because it would be billed; no credential is read or kept
    here.

    `codex` cannot limit the tokens of an answer: a prompt's `max_output_tokens` is not kept.

    `codex` puts the user's global `AGENTS.md` into every prompt, and nothing prevents it: where there is one, the route
    refuses. Give the fund a home of its own then: `CODEX_HOME=~/.codex-fund codex login`, and the same variable in `env`.

    Where this process is killed, an app-server ends at once with its questions, and a `codex exec` when it has its answer.

    Args:
        llm: the language model for all tiers, or for some of them.
        name: its name as a route.
        effort: how hard it thinks; None for the language model's default.
        flat_rate: whether calls cost nothing beyond the subscription. None: they do not, unless `env` holds an API key.
        timeout_s: seconds that a call may take.
        server: whether to ask an app-server. None: where it works, and the user's `config.toml` holds nothing that could
            start programs, add tools or change prompts; an app-server cannot be told to pass that file over.
        idle_s: seconds without a question after which the app-server is ended; it takes about 130 MB.
        program: path of `codex`; None to look for it.
        base_url: another server than the provider's own, with `/v1`.
        env: variables that it gets on purpose, beyond the few that are inherited; keys are kept as secrets.
            `CODEX_API_KEY` or `OPENAI_API_KEY` is used instead of the login.
        prices: one's own prices by language model.
        clock: where the time comes from.

    Attributes:
        utilization: the part of the plan's limit that is used up, 0 to 1, as it was last told; None before.

    Raises:
        ConfigError: a number is not positive, a tier or an effort is unknown, or an address or a name is none.
    """

    suits: Task = "code"
    adds = ""

    def __init__(
        self,
        llm: str | Mapping[Tier, str] | None = None,
        *,
        name: str = "codex_cli",
        effort: Effort | None = None,
        flat_rate: bool | None = None,
        timeout_s: float = 120.0,
        server: bool | None = None,
        idle_s: float = 300.0,
        program: str | os.PathLike[str] | None = None,
        base_url: str | None = None,
        env: Mapping[str, str] | None = None,
        prices: Prices | Mapping[str, Price] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not (timeout_s > 0 and idle_s > 0):
            raise ConfigError(f"timeout_s and idle_s must be above 0, not {timeout_s} and {idle_s}")
        if effort is not None and effort not in get_args(Effort):
            raise ConfigError(f"effort must be one of {', '.join(get_args(Effort))}, not {effort!r}")
        self.name = name
        own = "" if base_url is None else f",{address(base_url)}"
        self.settings = f"effort={effort or 'default'},layout={LAYOUT}{own}"
        self.utilization: float | None = None
        self._llms = by_tier(llm, LLMS)
        self._effort = effort
        self._environment = Environment(env, "CODEX_HOME", "CODEX_CA_CERTIFICATE")
        self._key = next((key for key in _KEYS if self._environment.given(key)), "")
        self._flat_rate = not self._environment.has_api_key if flat_rate is None else flat_rate
        self._timeout_s = timeout_s
        self._server = server
        self._program = program
        self._base_url = base_url
        self.prices = prices if isinstance(prices, Prices) else Prices(prices)
        self._clock = clock or SystemClock()
        self._login = ""
        self._catalog = ""
        self._no_server = False
        self._served = False
        self._kept: PerLoop[KeptServer] = PerLoop(lambda: KeptServer(self._start, idle_s))

    def __repr__(self) -> str:
        return f"<CodexCLI {self.name!r}: {', '.join(dict.fromkeys(self._llms.values()))}>"

    def llm(self, prompt: Prompt) -> str:
        """Return the name of the language model for the prompt's tier."""
        return self._llms[prompt.tier]

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        """Return the most that a prompt can be billed, in USD: zero at a flat rate, else with the longest possible answer.

        Raises:
            BudgetExceeded: no price is known.
        """
        return _ZERO if self._flat_rate else self._worst_case(prompt)

    def _worst_case(self, prompt: Prompt) -> Decimal:
        size = sum(len(text.encode()) for text in (system_text(prompt), user_text(prompt), schema_text(prompt)))
        return self.prices.worst_case("openai", self.llm(prompt), size + _ADDED_BYTES, _LONGEST_TOKENS, when=self._clock.now())

    async def check(self) -> str:
        """Return why it cannot be used, "" where it can. It asks `codex` how it is logged in, which costs nothing."""
        self._login = ""
        try:
            await self._prepare()
            self._asks_server()
        except LLMError as error:
            return str(error)
        return ""

    async def close(self) -> None:
        """End the running event loop's app-server; otherwise it ends with the loop."""
        await self._kept.close()

    async def complete(self, prompt: Prompt) -> Completion:
        """Ask once.

        Raises:
            LLMError: no usable answer; `BadCredentials` where it is not installed or not logged in.
        """
        user = user_text(prompt)
        told = Told()
        late: LLMError | None = None
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                kept = await self._kept.here()
                async with kept.preparing:
                    await self._prepare()
                if not (self._asks_server() and await self._asked_server(kept, prompt, user, told)):
                    await self._exec(prompt, user, told)
        except TimeoutError:
            late = LLMTimeout(f"codex gave no answer within {self._timeout_s:g} s")
        if told.utilization is not None:
            self.utilization = told.utilization
        error = late or told.failure(self._clock.now())
        completion = self._completion(prompt, told, self._clock.monotonic() - began)
        if error is not None:
            error.completion = completion if told.begun else None
            raise error
        return completion

    def _asks_server(self) -> bool:
        if self._server is False or self._no_server:
            return False
        risk = risks(self._home())
        if risk and self._server:
            raise BadCredentials(f"{risk}, and an app-server would obey it: leave server=None, or {_OWN_HOME}")
        return not risk

    async def _asked_server(self, kept: KeptServer, prompt: Prompt, user: str, told: Told) -> bool:
        """Ask the app-server; return whether it took the question."""
        thread = {
            "ephemeral": True,
            "model": self.llm(prompt),
            "baseInstructions": "",  # with words in it they would be sent twice
            "developerInstructions": system_text(prompt),
            "sandbox": "read-only",
            "approvalPolicy": "never",
        }
        turn = {
            "input": [{"type": "text", "text": user}],
            "outputSchema": strict_schema(prompt),
            "effort": self._effort or default_effort(self._catalog, self.llm(prompt)),
        }
        try:
            async with kept.use() as server:
                await server.ask(told, thread, turn)
        except ServerGone as gone:
            if self._server or told.sent:
                failed = LLMError(str(gone))
            else:
                self._no_server = not self._served
                return False
        else:
            self._served = True
            return True
        raise failed

    async def _exec(self, prompt: Prompt, user: str, told: Told) -> None:
        effort = self._effort or default_effort(self._catalog, self.llm(prompt))
        more = ["-c", f"model_reasoning_effort={json.dumps(effort)}"] if effort else []
        # Without any tool codex sends these twice. Elsewhere they would stand on the command line, for all users to see.
        system = ["-c", 'model_instructions_file="{folder}/system.txt"']
        command = [self._found(), *_EXEC, *self._settings(), *system, *more, "--model", self.llm(prompt), "-"]
        files = {"catalog.json": self._catalog, "system.txt": system_text(prompt), "schema.json": schema_text(prompt)}
        child = await Child.start(command, self._environment.variables(), files=files)
        try:
            child.write(user)
            child.end_input()
            told.sent = True
            while (line := await child.line()) is not None:
                told.take_line(line)
            status = await child.ended()
        finally:
            await child.close()
        if not told.done and not told.wrong:
            told.wrong = told.noted or f"codex ended with status {status}: {child.last_words or 'it said nothing'}"

    async def _start(self) -> Server:
        command = [self._found(), "app-server", *self._settings()]
        return await Server.start(command, self._environment.variables(), {"catalog.json": self._catalog})

    def _settings(self) -> list[str]:
        usual = API if self._key or self._login == _BY_KEY else CHATGPT
        return settings(self._base_url or usual, self._key, self._timeout_s)

    async def _prepare(self) -> None:
        """Find out what does not change: how the user is logged in, and which language models codex knows."""
        program = self._found()
        if found := rules(self._home()):
            raise BadCredentials(f"codex would put {found} into every prompt, and nothing prevents it: {_OWN_HOME}")
        variables = self._environment.variables()
        if not self._catalog:
            status, text, errors = await output([program, "debug", "models", "--bundled"], variables)
            try:
                self._catalog = catalog(text, self._llms.values())
            except ValueError:
                said = f"`codex debug models` ended with {status}: {errors}"
                raise LLMError(f"codex is too old or too new: it does not list its language models; {said}") from None
        if not self._key and not self._login:
            status, text, errors = await output([program, "login", "status"], variables)
            if status:
                raise BadCredentials(f"codex is not logged in: {FIX}")
            by_plan = "chatgpt" in f"{text} {errors}".lower()
            if not by_plan and self._flat_rate:
                raise BadCredentials(
                    "codex is logged in with an API key, so calls are billed: log in with ChatGPT, or say flat_rate=False"
                )
            self._login = _BY_PLAN if by_plan else _BY_KEY

    def _found(self) -> str:
        found = self._environment.find("codex", self._program)
        if not found:
            where = f"at {self._program}" if self._program is not None else "on the PATH"
            raise BadCredentials(f"codex is not installed: there is none {where}; npm install -g @openai/codex")
        if found.lower().endswith((".cmd", ".bat")):
            raise BadCredentials(f"{found} is a batch file, which cannot take settings safely: give program= the codex.exe")
        return found

    def _home(self) -> Path:
        told = self._environment.get("CODEX_HOME")
        user = self._environment.get("HOME") or self._environment.get("USERPROFILE")
        return Path(told) if told else (Path(user) if user else Path.home()) / ".codex"

    def _completion(self, prompt: Prompt, told: Told, latency_s: float) -> Completion:
        usage = told.usage or Usage()
        llm = told.llm or self.llm(prompt)
        cost = self.prices.cost("openai", llm, usage, when=self._clock.now()) if told.usage is not None else None
        owed = self._worst_known(prompt) if told.usage is None else cost
        billed = _ZERO if self._flat_rate or owed is None else owed
        return Completion(told.text, self.name, llm, usage, billed, cost, latency_s)

    def _worst_known(self, prompt: Prompt) -> Decimal:
        try:
            return self._worst_case(prompt)
        except (BudgetExceeded, MissingExtra):  # without a budget prices are not needed, so they may be missing
            return _ZERO
