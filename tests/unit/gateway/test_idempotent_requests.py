"""Requests with an idempotency key in the gateway: what is claimed, recorded, kept and released."""

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from services.common.concurrency.byte_budget import ByteBudget
from services.common.errors import InvalidRequest, ServiceError, Throttled, Unavailable
from services.common.surface import Surface
from services.common.verdict import Verdict
from services.common.web.request_id import REQUEST_ID
from services.gateway.apis.chat_completions.surface import ChatRenderer
from services.gateway.http.middleware import FAILURE
from services.gateway.http.responses import json_response
from services.gateway.http_server.write_flow import ClientStalled
from services.gateway.metrics import UNRECORDED_REQUESTS
from services.gateway.requests import claimed_key, idempotency
from services.gateway.requests.idempotency import IdempotentRequests
from services.gateway.requests.idempotency_types import (
    Claim,
    ClaimState,
    IdempotencyKey,
    IdempotentAnswerGone,
    IdempotentRequestRunning,
)
from services.gateway.requests.keyed_requests import ImplicitlyKeyedRequest, KeyedRequest, keyed_request
from services.gateway.requests.recording import RecordedAnswer
from services.gateway.requests.surface import SurfaceRequest
from services.gateway.requests.types import Chat, Principal

_PRINCIPAL = Principal("key_1", "acc_1", 10, None)
_BODY_BYTES_MAX = 100
_OTHER_HEADERS = [(f"x-{number}".encode(), b"value") for number in range(12)]


class ScriptedStore:
    """Returns a claim, and records the other calls."""

    def __init__(
        self,
        claim: Claim | None = None,
        *,
        fails: bool = False,
        hangs: bool = False,
        refusal: ServiceError | None = None,
    ) -> None:
        self._claim = claim
        self._refusal = refusal
        self._fails = fails
        self._hangs = hangs
        self.claimed: list[tuple[IdempotencyKey, bytes, str]] = []
        self.replaced: list[bool] = []
        self.completed: list[tuple[str, bytes]] = []
        self.released: list[str] = []

    async def claim(self, key: IdempotencyKey, fingerprint: bytes, request_id: str, *, replaces: bool = False) -> Claim:
        self.claimed.append((key, fingerprint, request_id))
        self.replaced.append(replaces)
        if self._refusal is not None:
            raise self._refusal
        if self._claim is None and self._hangs:
            await asyncio.Event().wait()
        if self._claim is None:
            raise Unavailable("The storage is away.")
        return self._claim

    async def rename(self, key: IdempotencyKey, request_id: str, new_request_id: str) -> None:
        if self._fails:
            raise Unavailable("The storage is away.")

    async def complete(self, key: IdempotencyKey, request_id: str, content: bytes) -> None:
        if self._hangs:
            await asyncio.Event().wait()
        self.completed.append((request_id, content))
        if self._fails and content:
            raise Unavailable("The storage is away.")

    async def release(self, key: IdempotencyKey, request_id: str) -> None:
        self.released.append(request_id)


_CLAIMED = Claim(ClaimState.CLAIMED, "req_1")


def _scope(*values: bytes, path: str = "/api/v1/chat") -> Scope:
    headers = [*_OTHER_HEADERS, *((b"idempotency-key", value) for value in values)]
    return {"type": "http", "path": path, "headers": headers, REQUEST_ID: "req_1"}


def _keyed(scope: Scope) -> KeyedRequest:
    request = keyed_request(scope)
    assert request is not None
    return request


def _requests(store: ScriptedStore, *, recording_max: int = 10_000) -> IdempotentRequests:
    budget = ByteBudget(total_max=recording_max, share_max=recording_max)
    return IdempotentRequests(store, budget, bytes_max=_BODY_BYTES_MAX)


async def _read(request: KeyedRequest, body: bytes = b"{}") -> bytes:
    async def parse(body: bytes, principal: Principal) -> SurfaceRequest:
        return SurfaceRequest(Chat({}, stream=False, surface=Surface.CHAT), ChatRenderer())

    await request.reading(parse)(body, _PRINCIPAL)
    return request.fingerprint


class Client:
    """An ASGI client, which records messages."""

    def __init__(self, *, stalls_at: int = -1) -> None:
        self.messages: list[Message] = []
        self._stalls_at = stalls_at

    async def send(self, message: Message) -> None:
        if len(self.messages) == self._stalls_at:
            raise ClientStalled
        self.messages.append(message)

    async def receive(self) -> Message:
        return {"type": "http.disconnect"}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])


class Stream(Response):
    """A response of several parts."""

    def __init__(self, *parts: bytes, before_end: Callable[[Scope], None] = lambda scope: None) -> None:
        self._parts = parts
        self._before_end = before_end
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"x-ratelimit-remaining-requests", b"9")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        self._before_end(scope)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _running(response: Response) -> Callable[[], Awaitable[Response]]:
    async def run() -> Response:
        return response

    return run


async def _respond(
    requests: IdempotentRequests, response: Response, client: Client | None = None, scope: Scope | None = None
) -> Client:
    client, scope = client or Client(), scope or _scope(b"a")
    answer = await requests.respond(_keyed(scope), _PRINCIPAL, _running(response))
    await answer(scope, client.receive, client.send)
    return client


async def test_a_request_without_the_header_allocates_and_awaits_nothing_for_it() -> None:
    scope = _scope()
    assert keyed_request(scope) is None
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for _ in range(1_000):
            keyed_request(scope)
        grown = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, idempotency.__file__)])
    finally:
        tracemalloc.stop()
    assert sum(one.size_diff for one in grown.compare_to(before, "filename")) < 1_000
    assert not asyncio.iscoroutinefunction(keyed_request)


@pytest.mark.parametrize("values", [[b""], [b"x" * 256], [b"\xe9"], [b"a\x7f"], [b"a\tb"], [b"a", b"a"]])
async def test_an_invalid_header_is_refused_before_the_body_is_parsed(values: list[bytes]) -> None:
    request = _keyed(_scope(*values))
    with pytest.raises(InvalidRequest, match="Idempotency-Key") as raised:
        await _read(request)
    assert raised.value.details.param == "Idempotency-Key"


async def test_fingerprints_and_keys_differ_exactly_when_their_requests_do() -> None:
    fingerprints = {
        (path, body): await _read(_keyed(_scope(b"a", path=path)), body)
        for path in ("/api/v1/chat", "/api/v1/chat/completions")
        for body in (b"", b"{}", b"{} ")
    }
    assert len(set(fingerprints.values())) == 6
    assert await _read(_keyed(_scope(b"b")), b"{}") == fingerprints["/api/v1/chat", b"{}"]
    others = [Principal("key_2", "acc_1", 10, None), Principal("key_1", "acc_2", 10, None)]
    keys = {_keyed(_scope(value)).key(one) for value in (b"a", b"x" * 255) for one in (_PRINCIPAL, *others)}
    assert len(keys) == 6


async def test_a_stream_is_recorded_byte_for_byte_and_replayed() -> None:
    store = ScriptedStore(_CLAIMED)
    client = await _respond(_requests(store), Stream(b"data: 1\n\n", b": keep-alive\n\n", b"data: [DONE]\n\n"))
    assert client.headers[b"idempotent-replayed"] == b"false"
    assert client.headers[b"x-ratelimit-remaining-requests"] == b"9"
    ((request_id, content),) = store.completed
    assert request_id == "req_1"
    answer = RecordedAnswer.decode(content)
    assert answer is not None
    assert answer.body == client.body

    scope = _scope(b"a")
    scope[REQUEST_ID] = "req_2"
    repeat = await _respond(
        _requests(ScriptedStore(Claim(ClaimState.COMPLETED, "req_1", content))), Response("not run"), scope=scope
    )
    assert repeat.body == client.body
    assert repeat.headers == {b"content-type": b"text/event-stream", b"idempotent-replayed": b"true"}
    assert scope[REQUEST_ID] == "req_1"


async def test_the_events_of_a_stream_do_not_wait_for_a_store_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimed_key, "_FINISH_SECONDS", 0.2)
    client, store = Client(), ScriptedStore(_CLAIMED, hangs=True)
    requests = _requests(store)
    sending = asyncio.create_task(_respond(requests, Stream(b"one", b"two"), client))
    await asyncio.sleep(0.05)
    assert client.body == b"onetwo"
    assert client.messages[-1]["more_body"] is True
    await asyncio.wait_for(sending, 5)
    assert client.messages[-1]["more_body"] is False


@pytest.mark.parametrize(
    ("verdict", "completed", "released"),
    [
        (Verdict.RELEASED, 0, ["req_1"]),
        (Verdict.CHARGED, 1, []),
        (None, 1, []),
    ],
)
async def test_the_verdict_of_a_failure_decides(verdict: Verdict | None, completed: int, released: list[str]) -> None:
    def fail(scope: Scope) -> None:
        scope[FAILURE] = verdict

    store = ScriptedStore(_CLAIMED)
    await _respond(_requests(store), Stream(b"an error event", before_end=fail))
    assert (len(store.completed), store.released) == (completed, released)
    if verdict is None:
        assert store.completed == [("req_1", b"")], "the ledger decides"


async def test_an_answer_that_is_too_large_or_finds_no_room_is_sent_and_not_kept() -> None:
    for recording_max, size in ((10_000, _BODY_BYTES_MAX + 1), (50, 51)):
        store = ScriptedStore(_CLAIMED)
        client = await _respond(_requests(store, recording_max=recording_max), Stream(b"x" * size, b"y"))
        assert client.body == b"x" * size + b"y"
        assert store.completed == [("req_1", b"")]


async def test_the_bytes_of_a_recording_are_returned() -> None:
    requests = _requests(ScriptedStore(_CLAIMED), recording_max=60)
    for _ in range(3):
        await _respond(requests, Stream(b"x" * 50))
    assert requests._budget.total == 0


async def test_a_client_that_stalls_gets_nothing_more_and_the_whole_answer_is_kept() -> None:
    store, client = ScriptedStore(_CLAIMED), Client(stalls_at=2)
    with pytest.raises(ClientStalled):
        await _respond(_requests(store), Stream(b"one", b"two", b"three"), client)
    assert client.body == b"one"
    answer = RecordedAnswer.decode(store.completed[0][1])
    assert answer is not None
    assert answer.body == b"onetwothree"


async def test_an_answer_that_cannot_be_stored_is_sent_and_the_ledger_decides() -> None:
    store = ScriptedStore(_CLAIMED, fails=True)
    client = await _respond(_requests(store), json_response(b"{}"))
    assert client.body == b"{}"
    assert [bool(content) for _, content in store.completed] == [True, False]


async def test_a_cancelled_request_is_left_to_the_ledger() -> None:
    store = ScriptedStore(_CLAIMED)
    requests = _requests(store)

    class Endless(Response):
        def __init__(self) -> None:
            self.background = None

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.Event().wait()

    sending = asyncio.create_task(_respond(requests, Endless()))
    await asyncio.sleep(0.01)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await requests.drain(timeout_seconds=5)
    assert store.completed == [("req_1", b"")]


async def test_a_request_that_was_refused_before_it_ran_releases_its_key() -> None:
    store = ScriptedStore(_CLAIMED)

    async def refuse() -> Response:
        raise Unavailable("No slot.", reason="quota_unavailable")

    with pytest.raises(Unavailable, match="No slot"):
        await _requests(store).respond(_keyed(_scope(b"a")), _PRINCIPAL, refuse)
    assert store.released == ["req_1"]


async def test_without_the_storage_nothing_runs_and_a_claim_without_an_answer_is_withdrawn() -> None:
    store = ScriptedStore()
    requests = _requests(store)

    async def run() -> Any:
        raise AssertionError("ran")

    with pytest.raises(Unavailable) as raised:
        await requests.respond(_keyed(_scope(b"a")), _PRINCIPAL, run)
    assert raised.value.reason == "idempotency_unavailable"
    await requests.drain(timeout_seconds=5)
    assert store.released == ["req_1"]


async def test_a_renamed_request_is_completed_under_its_new_id() -> None:
    store = ScriptedStore(_CLAIMED)
    request = _keyed(_scope(b"a"))

    async def run() -> Response:
        assert request.claim is not None
        await request.claim.rename("req_2")
        return json_response(b"{}")

    answer = await _requests(store).respond(request, _PRINCIPAL, run)
    client = Client()
    await answer(request.scope, client.receive, client.send)
    assert [request_id for request_id, _ in store.completed] == ["req_2"]


async def test_an_unreadable_answer_is_gone() -> None:
    for content in (b"", b"not an answer", b"\x93\x01"):
        assert RecordedAnswer.decode(content) is None


def _retried(*counts: bytes, path: str = "/api/v1/chat") -> ImplicitlyKeyedRequest:
    scope = _scope(path=path)
    scope["headers"] += [(b"x-stainless-retry-count", count) for count in counts]
    return ImplicitlyKeyedRequest(scope)


@pytest.mark.parametrize(
    ("counts", "is_retry"),
    [
        ([], False),
        ([b"0"], False),
        ([b"00"], False),
        ([b"1"], True),
        ([b"10"], True),
        ([b"9" * 10_000], True),
        ([b""], False),
        ([b"-1"], False),
        ([b"1.5"], False),
        ([b"one"], False),
        ([b"\xb2"], False),
        ([b"1", b"1"], False),
    ],
)
async def test_only_a_valid_retry_count_above_zero_makes_a_retry(counts: list[bytes], is_retry: bool) -> None:
    store = ScriptedStore(_CLAIMED)
    request = _retried(*counts)
    await _read(request)
    await _requests(store).respond(request, _PRINCIPAL, _running(Response()))
    assert store.replaced == [not is_retry]


async def test_an_implicit_key_is_of_one_api_key_path_and_body_and_never_an_explicit_one() -> None:
    async def key(body: bytes = b"{}", path: str = "/api/v1/chat", principal: Principal = _PRINCIPAL) -> IdempotencyKey:
        request = _retried(path=path)
        await _read(request, body)
        return request.key(principal)

    one = await key()
    others = [
        await key(b"{ }"),
        await key(path="/api/v1/messages"),
        await key(principal=Principal("key_2", "acc_1", 10, None)),
    ]
    assert one == await key()
    assert len({one.digest, *(other.digest for other in others)}) == 4
    assert one.is_implicit
    # What a client can send as a header is another key, whatever it is.
    fingerprint = _retried()
    await _read(fingerprint)
    for value in (fingerprint.fingerprint, b"implicit\0key_1\0" + fingerprint.fingerprint):
        assert _keyed(_scope(value)).key(_PRINCIPAL).digest != one.digest


@pytest.mark.parametrize(
    ("store", "reason"),
    [
        (ScriptedStore(refusal=Throttled("Too many.")), "too_many"),
        (ScriptedStore(refusal=Unavailable("Away.")), "unavailable"),
        (ScriptedStore(hangs=True), "unavailable"),
    ],
)
@pytest.mark.parametrize("count", [b"0", b"1"])
async def test_without_storage_or_room_a_request_with_an_implicit_key_runs_unrecorded(
    monkeypatch: pytest.MonkeyPatch, store: ScriptedStore, reason: str, count: bytes
) -> None:
    monkeypatch.setattr(idempotency, "_IMPLICIT_CLAIM_SECONDS", 0.05)
    store.released.clear()
    before = UNRECORDED_REQUESTS.labels(reason)._value.get()
    request = _retried(count)
    await _read(request)
    requests, response = _requests(store), Response()
    assert await requests.respond(request, _PRINCIPAL, _running(response)) is response
    assert request.claim is None
    await requests.drain(timeout_seconds=1)
    # A claim that may have been stored is released, so that no retry waits for it.
    assert store.released == ([] if reason == "too_many" else ["req_1"])
    assert UNRECORDED_REQUESTS.labels(reason)._value.get() == before + 1


@pytest.mark.parametrize(
    ("state", "error", "hint"),
    [
        (ClaimState.RUNNING, IdempotentRequestRunning, "req_0 that this one retries is still running"),
        (ClaimState.GONE, IdempotentAnswerGone, "send it without x-stainless-retry-count"),
    ],
)
async def test_a_retry_names_the_request_that_it_retries(
    state: ClaimState, error: type[ServiceError], hint: str
) -> None:
    request = _retried(b"1")
    await _read(request)
    with pytest.raises(error, match=hint) as raised:
        await _requests(ScriptedStore(Claim(state, "req_0"))).respond(request, _PRINCIPAL, _running(Response()))
    assert "Idempotency-Key" not in raised.value.message


async def test_a_request_with_an_implicit_key_runs_even_if_its_new_id_cannot_be_stored() -> None:
    store = ScriptedStore(_CLAIMED, fails=True)
    requests, request = _requests(store), _retried()
    await _read(request)

    async def run() -> Response:
        assert request.claim is not None
        await request.claim.rename("req_2")
        return json_response(b"{}")

    await _respond_to(requests, request, run)
    await requests.drain(timeout_seconds=1)
    assert sorted(store.released) == ["req_1", "req_2"]


async def _respond_to(
    requests: IdempotentRequests, request: KeyedRequest, run: Callable[[], Awaitable[Response]]
) -> None:
    client = Client()
    response = await requests.respond(request, _PRINCIPAL, run)
    await response(request.scope, client.receive, client.send)
    assert client.body == b"{}"
