"""litellm's Router with its own mock response: prints its version, then seconds per call for each line that it reads."""

from __future__ import annotations

import asyncio
import sys
import time
from importlib.metadata import version
from typing import Any

import litellm
from pydantic import BaseModel


class Verdict(BaseModel):
    """The answer's type."""

    approved: bool
    reason: str


TEXT = '{"approved":true,"reason":"there is room"}'
router = litellm.Router(
    model_list=[
        {"model_name": name, "litellm_params": {"model": f"openai/{name}", "api_key": "unused", "mock_response": TEXT}}
        for name in ("first", "second")
    ],
    fallbacks=[{"first": ["second"]}],
    num_retries=0,
)


async def run(calls: int) -> float:
    """Return seconds per call."""
    began = time.perf_counter()
    for _ in range(calls):
        question: Any = [{"role": "system", "content": "Judge the proposal."}, {"role": "user", "content": "{}"}]
        answer = await router.acompletion(model="first", messages=question, response_format=Verdict)
        assert Verdict.model_validate_json(answer.choices[0].message.content).approved
    return (time.perf_counter() - began) / calls


async def serve() -> None:
    """Run once for each line of the standard input, in one loop."""
    print(version("litellm"), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(await run(int(sys.argv[1])), flush=True)


asyncio.run(serve())
