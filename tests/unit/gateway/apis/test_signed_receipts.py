"""The endpoints of signed receipts in front of a scripted signer: 404s, and how often inference is asked for keys."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from services.common.errors import ErrorDetails, NotFound, ServiceError, Unavailable
from services.gateway.apis.error_handlers import UNCOUNTED
from services.gateway.apis.signed_receipts import SignedReceipts
from services.gateway.http.paths import KEY_SET_PATH
from services.gateway.requests.types import Principal

_OWN = "req_01KAKAKAKAKAKAKAKAKAKAKAKA"
_KEYS = b'{"keys":[]}'
_AWAY = Unavailable("Inference cannot be reached.", reason="inference_unavailable")
_UNSIGNED = NotFound("Not signed.", reason="receipts_unsigned", details=ErrorDetails(code="receipts_unsigned"))


class OneAccount:
    """Maps every key to the same account."""

    async def authenticate(self, api_key: str, *, address: str = "") -> Principal:
        return Principal("key_1", "acc_1", 10, None)


@dataclass
class Clock:
    """Time that the test advances."""

    seconds: float = 1_000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Signer:
    """Returns or raises one result after the other; the last one is repeated."""

    results: Sequence[bytes | ServiceError] = ()
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def sign(self, request_id: str, *, account_id: str) -> str:
        self.asked.append((request_id, account_id))
        return self._next().decode()

    async def key_set(self) -> bytes:
        self.asked.append(("", ""))
        return self._next()

    def _next(self) -> bytes:
        result = self.results[min(len(self.asked), len(self.results)) - 1]
        if isinstance(result, ServiceError):
            raise result
        return result


def _http(signer: Signer, clock: Clock | None = None) -> httpx.AsyncClient:
    receipts = SignedReceipts(OneAccount(), signer, clock or Clock())
    paths = [Route("/usage/{request_id}/jws", receipts.receipt), Route(KEY_SET_PATH, receipts.key_set)]
    app = Starlette(routes=paths, exception_handlers=UNCOUNTED)
    headers = {"Authorization": "Bearer any"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway", headers=headers)


async def test_a_receipt_is_signed_for_the_account_of_the_key() -> None:
    signer = Signer([b"a.b.c"])
    async with _http(signer) as http:
        response = await http.get(f"/usage/{_OWN}/jws")
    assert (response.status_code, response.text) == (200, "a.b.c")
    assert response.headers["content-type"] == "application/jose"
    assert signer.asked == [(_OWN, "acc_1")]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotFound("no row"), 404, "request_not_found"),
        (_UNSIGNED, 404, "receipts_unsigned"),
        (_AWAY, 503, "inference_unavailable"),
    ],
)
async def test_an_error_of_the_signer_becomes_a_status(error: ServiceError, status: int, code: str | None) -> None:
    async with _http(Signer([error])) as http:
        response = await http.get(f"/usage/{_OWN}/jws")
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("request_id", ["req_1", "chatcmpl-1", f"{_OWN}0", "%00"])
async def test_an_invalid_request_id_is_404_without_a_call(request_id: str) -> None:
    signer = Signer([b"a.b.c"])
    async with _http(signer) as http:
        response = await http.get(f"/usage/{request_id}/jws")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "request_not_found")
    assert signer.asked == []


async def test_keys_are_read_once_a_minute_however_often_they_are_asked_for() -> None:
    signer, clock = Signer([_KEYS]), Clock()
    async with _http(signer, clock) as http:
        responses = [await http.get(KEY_SET_PATH) for _ in range(50)]
        assert len(signer.asked) == 1
        clock.seconds += 60
        responses.append(await http.get(KEY_SET_PATH))
    assert len(signer.asked) == 2
    assert {(one.status_code, one.content) for one in responses} == {(200, _KEYS)}
    assert responses[0].headers["content-type"] == "application/jwk-set+json"
    assert responses[0].headers["cache-control"] == "public, max-age=300"


async def test_without_signed_receipts_there_are_no_keys() -> None:
    async with _http(Signer([_UNSIGNED])) as http:
        assert (await http.get(KEY_SET_PATH)).status_code == 404


async def test_keys_are_served_while_inference_is_away() -> None:
    signer, clock = Signer([_KEYS, _AWAY, b'{"keys":[1]}']), Clock()
    async with _http(signer, clock) as http:
        before = await http.get(KEY_SET_PATH)
        clock.seconds += 61
        during = await http.get(KEY_SET_PATH)
        clock.seconds += 1
        after = await http.get(KEY_SET_PATH)
    assert [before.content, during.content, after.content] == [_KEYS, _KEYS, b'{"keys":[1]}']


async def test_keys_that_were_never_read_are_asked_for_once_a_second() -> None:
    signer, clock = Signer([_AWAY]), Clock()
    async with _http(signer, clock) as http:
        for _ in range(20):
            assert (await http.get(KEY_SET_PATH)).status_code == 503
        assert len(signer.asked) == 1
        clock.seconds += 1
        assert (await http.get(KEY_SET_PATH)).status_code == 503
    assert len(signer.asked) == 2
