"""Plan events: signed messages of a payment provider that move an account to a plan."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Protocol

import msgspec

from services.auth.accounts.model import checked_reference
from services.auth.accounts.plans import checked_plan_name
from services.auth.accounts.webhook_signatures import TOLERANCE_SECONDS, SignedMessage, WebhookVerifier
from services.auth.audit import Actor
from services.auth.watch.feed import ChangeFeed
from services.common.errors import InvalidRequest, NotFound
from services.common.runtime.clock import Clock, utc_now

EVENT_TYPE = "account.plan_changed"
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)


class PlanEventStatus(StrEnum):
    """What became of a plan event."""

    APPLIED = "applied"
    """The account has the plan."""
    DUPLICATE = "duplicate"
    """An event with this id was received before; nothing changed."""
    STALE = "stale"
    """A later event, or an operator, has set the account's plan; nothing changed."""
    IGNORED = "ignored"
    """The event has another type; nothing changed."""


@dataclass(frozen=True, slots=True)
class PlanEvent:
    """An event that moves an account to a plan."""

    id: str
    """Id that the provider chose; unique for each event, and the same for each attempt to deliver it."""
    at: datetime
    """Time of the event. An event does not override a later one, or a later change by an operator."""
    account: str
    """E-mail address or id of the account."""
    plan: str


class PlanEventStore(Protocol):
    """Interface for storing plan events."""

    async def apply(self, event: PlanEvent, *, by: Actor, at: datetime) -> PlanEventStatus:
        """Move an account to a plan, once for each event id, unless its plan was set later than the event.

        Raises:
            NotFound: There is no such account or plan. The event is not recorded, so that it can be delivered again.
            Unavailable: The store cannot be reached.
        """


class _Type(msgspec.Struct):
    type: str


class _Body(msgspec.Struct):
    timestamp: Annotated[datetime, msgspec.Meta(tz=True)]
    data: msgspec.Raw = msgspec.Raw(b"{}")


class _Data(msgspec.Struct):
    account: str
    plan: str


class PlanEvents:
    """Verifies and applies plan events."""

    def __init__(self, store: PlanEventStore, verifier: WebhookVerifier, *, feed: ChangeFeed, clock: Clock) -> None:
        """Apply events to `store` and publish the resulting key changes to `feed`."""
        self._store = store
        self._verifier = verifier
        self._feed = feed
        self._clock = clock

    async def receive(self, message: SignedMessage, *, by: Actor) -> PlanEventStatus:
        """Verify a message and apply its event.

        Raises:
            NotFound: There is no secret for plan events (`plan_webhook_disabled`), or no such account or plan.
            PermissionDenied: The message was not signed with a secret within the last five minutes.
            InvalidRequest: The body is not a plan event, or its timestamp is in the future or before 2000.
            Unavailable: The store cannot be reached.
        """
        if not self._verifier.is_enabled:
            raise NotFound(
                "Plan events are not enabled. Set AUTH_PLAN_WEBHOOK_SECRETS.", reason="plan_webhook_disabled"
            )
        now = utc_now(self._clock)
        self._verifier.verify(message, now=now)
        event = _parse(message)
        if event is None:
            return PlanEventStatus.IGNORED
        if not _EARLIEST <= event.at <= now + timedelta(seconds=TOLERANCE_SECONDS):
            raise InvalidRequest(
                "The event's timestamp is in the future, or before 2000. Send the time at which the plan changed.",
                reason="invalid_timestamp",
            )
        # An event of a clock that is ahead would make later events stale.
        status = await self._store.apply(replace(event, at=min(event.at, now)), by=by, at=now)
        if status is PlanEventStatus.APPLIED:
            self._feed.notify()
        return status


def _parse(message: SignedMessage) -> PlanEvent | None:
    """Return the event in a message; None if it has another type.

    Raises:
        InvalidRequest: The body is not a plan event.
    """
    try:
        if msgspec.json.decode(message.body, type=_Type).type != EVENT_TYPE:
            return None
        body = msgspec.json.decode(message.body, type=_Body)
        data = msgspec.json.decode(body.data, type=_Data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"The body is not a plan event: {exc}.", reason="invalid_event") from exc
    return PlanEvent(message.webhook_id, body.timestamp, checked_reference(data.account), checked_plan_name(data.plan))
