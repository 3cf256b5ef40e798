"""Look-ups of hosts that users chose: names that take for ever delay nothing else."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from services.inference.http.origin import Origin
from services.inference.webhooks.addresses import AddressPolicy, Refused
from services.inference.webhooks.lookups import Lookups, TooManyLookups


class Names:
    """Names whose servers answer once the test wants it."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()

    def look_up(self, host: str, port: int, **_: Any) -> list[Any]:
        self.may_answer.wait(20)
        if host == "none":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", port))] * 2


async def test_names_that_are_never_answered_do_not_delay_the_event_loops_threads() -> None:
    names = Names()
    policy = AddressPolicy(lookup=Lookups(look_up=names.look_up).addresses)
    attempts = [asyncio.create_task(policy.resolve(Origin(f"{number}.slow", 443, True))) for number in range(24)]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 443)
    finally:
        names.may_answer.set()
    assert await asyncio.gather(*attempts) == [["1.1.1.1"]] * 24


async def test_an_attempt_that_ends_keeps_its_thread_until_the_name_is_answered() -> None:
    names = Names()
    lookups = Lookups(threads_max=1, look_up=names.look_up)
    attempt = asyncio.create_task(lookups.addresses("slow", 443))
    await asyncio.sleep(0)
    attempt.cancel()
    await asyncio.wait([attempt])

    with pytest.raises(TooManyLookups):
        await lookups.addresses("other", 443)
    names.may_answer.set()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await lookups.addresses("other", 443) == ["1.1.1.1"]
                break
            except TooManyLookups:
                await asyncio.sleep(0.01)


async def test_a_name_without_an_address_is_an_error() -> None:
    names = Names()
    names.may_answer.set()
    with pytest.raises(Refused, match="cannot be resolved"):
        await AddressPolicy(lookup=Lookups(look_up=names.look_up).addresses).resolve(Origin("none", 443, True))
