"""Plan events: signatures as Standard Webhooks defines them, and what a body must contain."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, cast

import pytest

from services.auth.accounts.plan_events import PlanEvent, PlanEvents, PlanEventStatus
from services.auth.accounts.webhook_signatures import SignedMessage, WebhookVerifier, parse_secrets
from services.auth.audit import webhook
from services.common.errors import InvalidRequest, NotFound, PermissionDenied

KEY = bytes(range(32))
NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
BY = webhook("192.0.2.1")
EVENT: dict[str, Any] = {
    "type": "account.plan_changed",
    "timestamp": "2026-08-01T11:59:58.25+02:00",
    "data": {"account": "Ada@Example.com", "plan": "pro", "more": 1},
}


class Clock:
    """Always noon."""

    def now(self) -> float:
        return NOW.timestamp()

    def monotonic(self) -> float:
        return 0


class Feed:
    """Counts its notifications."""

    notified = 0

    def notify(self) -> None:
        self.notified += 1


class Store:
    """Records the events that arrive."""

    def __init__(self) -> None:
        self.events: list[PlanEvent] = []

    async def apply(self, event: PlanEvent, *, by: Any, at: datetime) -> PlanEventStatus:
        self.events.append(event)
        return PlanEventStatus.APPLIED


def signed(body: bytes, *, key: bytes = KEY, at: datetime = NOW, webhook_id: str = "msg_1") -> SignedMessage:
    """Return a message with a valid signature."""
    timestamp = str(int(at.timestamp()))
    digest = hmac.digest(key, f"{webhook_id}.{timestamp}.".encode() + body, sha256)
    return SignedMessage(webhook_id, timestamp, f"v1,{base64.b64encode(digest).decode()}", body)


def events(store: Store, *keys: bytes, feed: Feed | None = None) -> PlanEvents:
    """Return a receiver that accepts `keys`."""
    return PlanEvents(store, WebhookVerifier(keys), feed=cast(Any, feed or Feed()), clock=Clock())


def test_the_example_of_standard_webhooks_is_verified() -> None:
    """From the tests of the reference implementation."""
    (secret,) = parse_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    message = SignedMessage("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", signature, b'{"test": 2432232314}')

    WebhookVerifier([secret]).verify(message, now=datetime.fromtimestamp(1_614_265_330, UTC))


async def test_a_signed_event_is_applied_and_published() -> None:
    store, feed = Store(), Feed()
    message = signed(json.dumps(EVENT).encode())
    other = SignedMessage(message.webhook_id, message.timestamp, f"v1a,x v1,eA== {message.signature}", message.body)

    assert await events(store, b"x" * 24, KEY, feed=feed).receive(message, by=BY) is PlanEventStatus.APPLIED
    assert await events(store, KEY, feed=feed).receive(other, by=BY) is PlanEventStatus.APPLIED

    at = datetime(2026, 8, 1, 9, 59, 58, 250_000, tzinfo=UTC)
    assert store.events == [PlanEvent("msg_1", at, "ada@example.com", "pro")] * 2
    assert feed.notified == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"body": b"{}"}, "invalid_signature"),
        ({"webhook_id": "msg_2"}, "invalid_signature"),
        ({"timestamp": str(int(NOW.timestamp()) + 1)}, "invalid_signature"),
        ({"signature": ""}, "invalid_signature"),
        ({"signature": "v1,é"}, "invalid_signature"),
        ({"signature": "v2,eA=="}, "invalid_signature"),
        ({"timestamp": ""}, "invalid_timestamp"),
        ({"timestamp": "-5"}, "invalid_timestamp"),
        ({"timestamp": "٣"}, "invalid_timestamp"),
        ({"timestamp": "1" * 400}, "invalid_timestamp"),
        ({"webhook_id": ""}, "invalid_webhook_id"),
        ({"webhook_id": "m" * 201}, "invalid_webhook_id"),
        ({"webhook_id": "m\0"}, "invalid_webhook_id"),
    ],
)
async def test_a_message_with_anything_changed_is_refused(change: dict[str, Any], reason: str) -> None:
    store, message = Store(), signed(json.dumps(EVENT).encode())
    fields = {name: getattr(message, name) for name in ("webhook_id", "timestamp", "signature", "body")}

    with pytest.raises(PermissionDenied) as refused:
        await events(store, KEY).receive(SignedMessage(**{**fields, **change}), by=BY)

    assert (refused.value.reason, store.events) == (reason, [])


async def test_a_message_of_another_secret_is_refused() -> None:
    with pytest.raises(PermissionDenied, match="AUTH_PLAN_WEBHOOK_SECRETS"):
        await events(Store(), KEY).receive(signed(b"{}", key=b"x" * 32), by=BY)


@pytest.mark.parametrize(("seconds", "is_accepted"), [(-301, False), (-300, True), (300, True), (301, False)])
async def test_a_message_can_be_repeated_for_five_minutes(seconds: int, is_accepted: bool) -> None:
    message = signed(json.dumps(EVENT).encode(), at=NOW + timedelta(seconds=seconds))
    if is_accepted:
        await events(Store(), KEY).receive(message, by=BY)
        return
    with pytest.raises(PermissionDenied) as refused:
        await events(Store(), KEY).receive(message, by=BY)
    assert refused.value.reason == "timestamp_out_of_range"


async def test_without_a_secret_nothing_is_received() -> None:
    with pytest.raises(NotFound) as refused:
        await events(Store()).receive(signed(json.dumps(EVENT).encode()), by=BY)
    assert refused.value.reason == "plan_webhook_disabled"


async def test_an_event_of_a_clock_that_is_ahead_counts_as_of_now() -> None:
    """Otherwise the true events of the next minutes would be stale."""
    store = Store()
    body = json.dumps(EVENT | {"timestamp": "2026-08-01T12:04:00Z"}).encode()
    await events(store, KEY).receive(signed(body), by=BY)
    assert [event.at.isoformat() for event in store.events] == ["2026-08-01T12:00:00+00:00"]


@pytest.mark.parametrize("more", [{"timestamp": EVENT["timestamp"], "data": [1]}, {}])
async def test_an_event_of_another_type_is_ignored(more: dict[str, Any]) -> None:
    store, feed = Store(), Feed()
    body = json.dumps({"type": "invoice.paid", **more}).encode()
    assert await events(store, KEY, feed=feed).receive(signed(body), by=BY) is PlanEventStatus.IGNORED
    assert (store.events, feed.notified) == ([], 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"type": "account.plan_changed"}',
        json.dumps(EVENT | {"timestamp": "2026-08-01T12:00:00"}).encode(),
        json.dumps(EVENT | {"timestamp": 1_785_585_600}).encode(),
        json.dumps(EVENT | {"timestamp": "2026-08-01T12:05:01Z"}).encode(),
        json.dumps(EVENT | {"timestamp": "0001-01-01T00:00:00+14:00"}).encode(),
        json.dumps(EVENT | {"data": {"account": "ada@example.com"}}).encode(),
        json.dumps(EVENT | {"data": {"account": "nobody", "plan": "pro"}}).encode(),
        json.dumps(EVENT | {"data": {"account": "ada@example.com", "plan": "Pro!"}}).encode(),
        json.dumps(EVENT | {"data": {"account": "acc_\0", "plan": "pro"}}).encode(),
        pytest.param(json.dumps(EVENT)[:-1].encode() + b', "more": ' + b"[" * 30_000, id="nested too deeply"),
    ],
)
async def test_a_signed_body_that_is_no_plan_event_is_refused(body: bytes) -> None:
    store = Store()
    with pytest.raises(InvalidRequest):
        await events(store, KEY).receive(signed(body), by=BY)
    assert store.events == []


def test_secrets_are_a_list_in_the_form_of_standard_webhooks() -> None:
    first, second = (f"whsec_{base64.b64encode(key).decode()}" for key in (KEY, KEY[:24]))
    assert parse_secrets(f" {first},{second} ,") == (KEY, KEY[:24])
    assert parse_secrets("") == ()
    for invalid in ("abc", first.removeprefix("whsec_"), "whsec_", "whsec_c2hvcnQ=", "whsec_!", "whsec_" + "A" * 200):
        with pytest.raises(ValueError, match="must be secrets like whsec_…"):
            parse_secrets(invalid)
