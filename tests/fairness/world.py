"""Accounts that compete for one Groq key, whose limits the stand-in enforces."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec

from services.common.errors import ServiceError
from services.common.ids import Kind, new_id
from services.common.runtime.clock import SystemClock
from services.inference.allowance.model import Window
from services.inference.allowance.own_view import OwnView
from services.inference.allowance.shared_view import SharedView, connect
from services.inference.chat import CallContext, ChatCall
from tests.integration.groq_standin.standin_process import OSS, started
from tests.integration.inference_world import DAY, Inference, running

REQUESTS, TOKENS = 30, 6_000
"""Limits of the key in a window."""
_COUNTS = (120, 160, 200)
_END_SECONDS = 10.0


@dataclass
class Account:
    """An account, and what was served to it."""

    name: str
    callers: int
    """Calls that it makes at the same time."""
    weight: int = 1
    tokens: int = 0
    waits: list[float] = field(default_factory=list)
    """Time of each served call from its first attempt to its end, in seconds."""
    followed: int = 0
    """Attempts at the time that `retry-after` gave."""
    kept: int = 0
    """Those of them that were served."""


@dataclass
class Result:
    """What came of a competition."""

    accounts: Sequence[Account]
    calls: int
    """Calls to Groq."""
    limited: int
    """Calls that Groq refused with 429."""

    @property
    def jain(self) -> float:
        """Jain's index of the tokens served per weight: 1 if all are equal."""
        shares = [account.tokens / account.weight for account in self.accounts]
        squares = sum(share**2 for share in shares)
        return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0

    @property
    def light_wait(self) -> float:
        """Median wait of accounts with one call at a time."""
        return statistics.median(wait for account in self.accounts if account.callers == 1 for wait in account.waits)

    @property
    def heavy_wait(self) -> float:
        """Median wait of accounts with many calls at a time."""
        return statistics.median(wait for account in self.accounts if account.callers > 1 for wait in account.waits)

    @property
    def kept(self) -> float:
        """Part of the calls that followed `retry-after` and were served, from 0 to 1."""
        followed = sum(account.followed for account in self.accounts)
        return sum(account.kept for account in self.accounts) / followed if followed else 1.0

    def __str__(self) -> str:
        served = {account.name: (account.weight, account.tokens, len(account.waits)) for account in self.accounts}
        return (
            f"Jain {self.jain:.4f}, 429 {self.limited} of {self.calls}, median wait {self.light_wait:.2f} s and "
            f"{self.heavy_wait:.2f} s, retry-after kept {self.kept:.3f} of "
            f"{sum(account.followed for account in self.accounts)}; weight, tokens, calls: {served}"
        )


async def compete(
    accounts: Sequence[Account], folders: Sequence[Path], *, windows: int, seconds: float, redis_url: str
) -> Result:
    """Let accounts compete for a number of windows, after one that does not count.

    The first requests find a full allowance, which any account may take as long as no other one waits.

    Args:
        accounts: The accounts.
        folders: Folder of each inference replica's ledger; calls are distributed at random.
        windows: Number of windows.
        seconds: Length of a window.
        redis_url: Redis that the replicas share; empty without one.
    """
    options = ("--requests-per-minute", str(REQUESTS), "--tokens-per-minute", str(TOKENS))
    with started(*options, "--minute-seconds", str(seconds)) as (_, url):
        async with AsyncExitStack() as stack:
            inferences = [
                await stack.enter_async_context(_replica(url, folder, seconds, redis_url)) for folder in folders
            ]
            start = time.monotonic() + seconds
            end = start + windows * seconds
            callers = [
                asyncio.create_task(_call_until(end, account, inferences, counts_from=start))
                for account in accounts
                for _ in range(account.callers)
            ]
            await asyncio.wait(callers, timeout=(windows + 1) * seconds + _END_SECONDS)
            for caller in callers:
                caller.cancel()
            results = await asyncio.gather(*callers, return_exceptions=True)
        failures = [one for one in results if isinstance(one, Exception)]
        assert not failures, failures[0]
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            journal = (await client.get("/journal")).json()
    return Result(accounts, len(journal), sum(entry["status"] == 429 for entry in journal))


@asynccontextmanager
async def _replica(url: str, folder: Path, seconds: float, redis_url: str) -> AsyncIterator[Inference]:
    clock = SystemClock()
    # Groq reports the limit of requests per minute only when it is exceeded.
    own = OwnView(clock, configured={"*": {Window.REQUESTS_PER_MINUTE: REQUESTS}}, minute_seconds=seconds)
    async with AsyncExitStack() as stack:
        view: OwnView | SharedView = own
        if redis_url:
            client = connect(redis_url)
            stack.push_async_callback(client.aclose)
            view = SharedView(client, own, clock, keys=("gsk_fairness",))
            stack.push_async_callback(view.close)
        yield await stack.enter_async_context(running(url, folder, view=view, queue_seconds=seconds / 2))


async def _call_until(end: float, account: Account, inferences: Sequence[Inference], *, counts_from: float) -> None:
    """Make calls one after another, and send each again when it is told to."""
    while time.monotonic() < end:
        began, follows = time.monotonic(), False
        count = random.choice(_COUNTS)
        while time.monotonic() < end:
            try:
                tokens = await _call(account, count, random.choice(inferences))
            except ServiceError as exc:
                if exc.reason != "upstream_busy":
                    raise
                account.followed += follows
                follows = True
                await asyncio.sleep(exc.details.retry_after_seconds)
                continue
            account.followed += follows
            account.kept += follows
            if time.monotonic() >= counts_from:
                account.tokens += tokens
                account.waits.append(time.monotonic() - began)
            break


async def _call(account: Account, count: int, inference: Inference) -> int:
    text = f"[[standin:tokens count={count}]]"
    call = ChatCall(
        {"messages": [{"role": "user", "content": text}], "max_completion_tokens": count},
        OSS,
        include_usage=False,
        size_bytes=160,
    )
    context = CallContext(new_id(Kind.REQUEST), account.name, "key_1", DAY, time.time(), weight=account.weight)
    answer = await inference.completions.create(call, context)
    tokens: int = msgspec.json.decode(answer.text)["usage"]["total_tokens"]
    return tokens
