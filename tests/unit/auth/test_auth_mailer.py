"""When e-mails are retried and when they are given up."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from services.auth.audit import Actor
from services.auth.mail.mailer import Capabilities, DeliveryFailed, Mailer
from services.auth.mail.queue import QueuedEmail, Topic, new_email
from services.auth.mail.templates import Email
from services.common.errors import FailedPrecondition, InvalidRequest, Unavailable

_ABLE = Capabilities("mail.example.com:587", is_encrypted=True, is_verified=True, is_authenticated=True, smtputf8=False)


class ManualClock:
    """A clock controlled by the test."""

    def __init__(self) -> None:
        self.seconds = datetime(2026, 8, 1, 12, tzinfo=UTC).timestamp()

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


class Queue:
    """A `MailQueue` of one e-mail."""

    def __init__(self, email: QueuedEmail | None = None) -> None:
        self.email, self.next_try_at = email, datetime.min.replace(tzinfo=UTC)

    async def add(self, email: QueuedEmail) -> None:
        """Keep it."""
        self.email = email

    async def due(self, now: datetime) -> bool:
        """Whether it is due."""
        return self.email is not None and self.next_try_at <= now

    async def claim(self, *, count: int, now: datetime, until: datetime) -> Sequence[QueuedEmail]:
        """Take it."""
        assert self.email is not None
        self.next_try_at = until
        self.email = QueuedEmail(
            self.email.id,
            self.email.topic,
            self.email.to,
            None,
            self.email.by,
            self.email.created_at,
            self.email.tries + 1,
        )
        return [self.email]

    async def put_back(self, email: QueuedEmail, *, next_try_at: datetime) -> None:
        """Keep it."""
        self.next_try_at = next_try_at

    async def remove(self, email: QueuedEmail) -> None:
        """Forget it."""
        self.email = None

    async def waiting(self) -> int:
        """Count it."""
        return int(self.email is not None)


class Server:
    """A `Transport` that is down until the test says otherwise."""

    name = "mail.example.com:587"

    def __init__(self) -> None:
        self.is_up, self.tries, self.taken = False, 0, list[Email]()

    async def check(self) -> Capabilities:
        """Answer while up."""
        if not self.is_up:
            raise DeliveryFailed("it cannot be reached")
        return _ABLE

    async def send(self, email: Email, *, email_id: str, at: datetime) -> Capabilities:
        """Take it while up."""
        self.tries += 1
        capabilities = await self.check()
        self.taken.append(email)
        return capabilities


async def compose(queued: QueuedEmail) -> Email:
    return Email(queued.to, "Hello", "A message.")


_TURNS = 100
"""More turns of the event loop than a check of the queue takes, which waits for nothing."""


async def _look(mailer: Mailer) -> None:
    """Run the mailer's check of its queue once."""
    mailer.notify()
    running = asyncio.create_task(mailer.run(compose))
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_an_email_is_retried_with_growing_pauses_and_given_up_after_a_day() -> None:
    clock, server = ManualClock(), Server()
    queue = Queue(new_email(Topic.SIGN_UP, "ada@example.com", by=Actor("unknown"), clock=clock))
    mailer = Mailer(queue, server, clock=clock)
    begun, tried = clock.seconds, []
    while queue.email is not None:
        await _look(mailer)
        tried.append(clock.seconds - begun)
        assert clock.seconds - begun <= 90_000, "the e-mail is never given up"
        clock.seconds = max(queue.next_try_at.timestamp(), clock.seconds)

    assert tried[:5] == [0, 5, 35, 155, 755]
    assert 86_400 <= tried[-1] < 86_400 + 600
    assert server.tries == len(tried)


async def test_an_email_that_cannot_be_built_waits_and_the_service_continues() -> None:
    async def fail(queued: QueuedEmail) -> Email:
        raise ValueError(queued.to)

    clock, server = ManualClock(), Server()
    server.is_up = True
    queue = Queue(new_email(Topic.SIGN_UP, "ada@example.com", by=Actor("unknown"), clock=clock))
    mailer = Mailer(queue, server, clock=clock)
    mailer.notify()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await mailer.run(fail)
    assert queue.email is not None
    clock.seconds += 5
    await _look(mailer)
    assert len(server.taken) == 1


async def test_an_email_is_sent_once_the_server_is_available_again() -> None:
    clock, server = ManualClock(), Server()
    queue = Queue(new_email(Topic.SIGN_UP, "ada@example.com", by=Actor("unknown"), clock=clock))
    mailer = Mailer(queue, server, clock=clock)
    await _look(mailer)
    server.is_up = True
    await _look(mailer)
    assert server.taken == [], "the e-mail is retried too early"
    clock.seconds += timedelta(seconds=5).total_seconds()
    await _look(mailer)
    assert [email.to for email in server.taken] == ["ada@example.com"]
    assert queue.email is None


async def test_non_ascii_addresses_need_a_server_known_to_support_smtputf8() -> None:
    clock, server = ManualClock(), Server()
    mailer = Mailer(Queue(), server, clock=clock)
    await mailer.check_deliverable("ada@example.com")
    with pytest.raises(Unavailable):
        await mailer.check_deliverable("жанна@example.com")
    server.is_up = True
    with pytest.raises(InvalidRequest, match="Use another address"):
        await mailer.check_deliverable("жанна@example.com")


async def test_without_a_mail_server_nothing_is_queued_and_a_check_reports_it() -> None:
    queue = Queue()
    mailer = Mailer(queue, None, clock=ManualClock())
    await mailer.add(new_email(Topic.SIGN_UP, "ada@example.com", by=Actor("unknown"), clock=ManualClock()))
    await mailer.check_deliverable("жанна@example.com")
    await asyncio.wait_for(mailer.run(compose), 1)
    assert queue.email is None
    with pytest.raises(FailedPrecondition, match="AUTH_SMTP_URL"):
        await mailer.test(None)
