"""BentoML's dispatcher over the simulated executor, in an interpreter that has bentoml: a rate on stdin, a JSON line out."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence

from open_loop import CAP, GOAL_S, drive, execute, lone  # type: ignore[import-not-found]  # this file's own folder: nograd is not installed here


async def main() -> None:
    from bentoml._internal.marshal.dispatcher import CorkDispatcher  # type: ignore[import-not-found]

    dispatcher = CorkDispatcher(GOAL_S * 1000, CAP, fallback=lambda: None, get_batch_size=lambda _: 1)

    async def batch(items: Sequence[int]) -> list[int]:
        await asyncio.get_running_loop().run_in_executor(None, execute, len(items))
        return [1] * len(items)

    send = dispatcher(batch)

    async def submit() -> None:
        if await send(1) is None:
            raise TimeoutError("shed")

    await drive(submit, rate=300, seconds=4, seed=0)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        rate, seconds, seed = json.loads(line)
        found = {"lone_ms": await lone(submit)} if not rate else await drive(submit, rate=rate, seconds=seconds, seed=seed)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


asyncio.run(main())
