"""Memory for request bodies in transit is bounded in total and per owner."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from services.common.concurrency.byte_budget import ByteBudget
from services.common.errors import Throttled, TooLarge, Unavailable
from services.common.web.bodies import content_length
from services.gateway.http.request_bodies import RequestBodies
from services.gateway.settings import GatewaySettings


class Upload:
    """A request whose body arrives when the test sends it."""

    def __init__(self, *, address: str = "192.0.2.1", **headers: str) -> None:
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "headers": raw, "client": (address, 1)}
        self._messages: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.request = Request(scope, self._messages.get)

    async def send(self, size: int, *, more: bool = True) -> None:
        self._messages.put_nowait({"type": "http.request", "body": b"x" * size, "more_body": more})
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def leave(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})


def _begin(bodies: RequestBodies, upload: Upload, key_id: str = "key_1") -> "asyncio.Task[bytes]":
    return asyncio.create_task(bodies.read(upload.request, key_id))


async def test_a_body_in_parts_is_read_completely_and_counts_until_then() -> None:
    budget, upload = ByteBudget(total_max=100, share_max=100), Upload()
    reading = _begin(RequestBodies(budget, bytes_max=100), upload)
    await upload.send(60)
    assert budget.total == 60
    await upload.send(40, more=False)
    assert await reading == b"x" * 100
    assert budget.total == 0


@pytest.mark.parametrize("length", ["0" * 5_000, "9" * 5_000, "-1", "\u0665", ""])
async def test_an_invalid_content_length_is_refused_unread(length: str) -> None:
    upload = Upload(content_length=length)
    assert content_length(upload.request.scope) is None
    reading = _begin(RequestBodies(ByteBudget(total_max=100, share_max=100), bytes_max=100), upload)
    await upload.send(5, more=False)
    assert await reading == b"x" * 5


async def test_a_body_in_one_part_is_not_counted() -> None:
    budget, upload = ByteBudget(total_max=1, share_max=1), Upload()
    reading = _begin(RequestBodies(budget, bytes_max=100), upload)
    await upload.send(100, more=False)
    assert len(await reading) == 100


@pytest.mark.parametrize(
    ("key_id", "address", "kind", "reason"),
    [
        ("key_1", "192.0.2.2", Throttled, "too_many_bytes_at_once"),
        ("key_2", "192.0.2.1", Throttled, "too_many_bytes_at_once"),
        ("key_2", "192.0.2.2", Unavailable, "overloaded"),
    ],
    ids=["same key", "same address", "in all"],
)
async def test_a_body_beyond_the_bounds_is_refused_without_side_effects(
    key_id: str, address: str, kind: type[Throttled | Unavailable], reason: str
) -> None:
    budget = ByteBudget(total_max=100, share_max=60)
    bodies = RequestBodies(budget, bytes_max=60)
    first, second = Upload(), Upload(address=address)
    kept, refused = _begin(bodies, first), _begin(bodies, second, key_id)
    await first.send(50)
    await second.send(10)
    await second.send(41)
    with pytest.raises(kind) as raised:
        await refused
    assert (raised.value.reason, raised.value.details.retry_after_seconds) == (reason, 1)
    assert budget.total == 50
    await first.send(10, more=False)
    assert len(await kept) == 60
    assert budget.total == 0


async def test_an_aborted_or_oversized_body_is_no_longer_counted() -> None:
    budget = ByteBudget(total_max=100, share_max=100)
    bodies = RequestBodies(budget, bytes_max=50)
    gone, large = Upload(), Upload()
    readings = [_begin(bodies, gone), _begin(bodies, large)]
    await gone.send(40)
    gone.leave()
    await large.send(40)
    await large.send(11)
    with pytest.raises(ClientDisconnect):
        await readings[0]
    with pytest.raises(TooLarge):
        await readings[1]
    assert budget.total == 0


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "gzip, identity"])
async def test_a_compressed_body_is_refused_with_its_encoding(encoding: str) -> None:
    bodies = RequestBodies(ByteBudget(total_max=9, share_max=9), bytes_max=9)
    with pytest.raises(HTTPException) as raised:
        await bodies.read(Upload(content_encoding=encoding).request, "key_1")
    assert raised.value.status_code == 415
    assert encoding in raised.value.detail


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_BODY_BYTES_MAX", "16777217"),
        ("GATEWAY_RECEIVING_BYTES_PER_CLIENT_MAX", "1000"),
        ("GATEWAY_RECEIVING_BYTES_MAX", "5000000"),
    ],
)
def test_settings_that_contradict_each_other_stop_the_start(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name.removeprefix("GATEWAY_").lower() if "BODY" in name else name):
        GatewaySettings()
