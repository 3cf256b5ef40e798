"""With a mail server: e-mails are verified, passwords reset by letter, and nobody learns who has an account."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope
from grpc import StatusCode
from grpc.aio import AioRpcError

from stack.auth.v1 import sessions_pb2
from tests.unit.auth.auth_process import ADMIN_TOKEN, PEPPER, running_auth
from tests.unit.auth.people import PASSWORD, People, people_of, refusal

pytestmark = pytest.mark.xdist_group("auth-mail")


class Mailbox:
    """What a mail server took."""

    def __init__(self) -> None:
        self.letters: list[EmailMessage] = []
        self.receivers: list[list[str]] = []

    async def handle_DATA(self, server: SMTP, session: object, envelope: Envelope) -> str:
        """Take a letter."""
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.letters.append(message)
        self.receivers.append([str(receiver) for receiver in envelope.rcpt_tos])
        return "250 OK"

    async def letter(self, number: int) -> str:
        """Return the text of the letter of this number, once it has come."""
        async with asyncio.timeout(10):
            while len(self.letters) <= number:
                await asyncio.sleep(0.01)
        part = self.letters[number].get_body(("plain",))
        assert part is not None
        return str(part.get_content())


@asynccontextmanager
async def mailed(tmp_path: Path) -> AsyncIterator[tuple[People, Mailbox]]:
    mailbox = Mailbox()
    server = Controller(mailbox, hostname="127.0.0.1", port=0)
    server.port = _free_port()
    server.start()
    settings = {
        "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
        "AUTH_KEY_PEPPER": PEPPER,
        "AUTH_SMTP_URL": f"smtp://127.0.0.1:{server.port}",
        "AUTH_MAIL_FROM": "stack@example.com",
        "AUTH_CONSOLE_URL": "https://console.example.com",
    }
    try:
        with running_auth(tmp_path, settings) as process:
            async with people_of(process.target) as people:
                yield people, mailbox
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _token(letter: str) -> str:
    found = re.search(r"https://console\.example\.com/\S*?[=#]([\w-]{20,})", letter)
    assert found, f"the letter has no link to follow: {letter}"
    return found[1]


async def test_an_account_opens_with_the_letter_and_not_before_and_its_token_works_once(tmp_path: Path) -> None:
    async with mailed(tmp_path) as (people, mailbox):
        assert await people.sign_up("ada@example.com") == ""
        early = await refusal(people.log_in("ada@example.com"))
        assert (early.code, "Confirm your e-mail" in early.message) == (StatusCode.FAILED_PRECONDITION, True)
        letter = await mailbox.letter(0)
        assert mailbox.letters[0]["To"] == "ada@example.com"
        assert mailbox.letters[0]["From"] == "stack@example.com"

        verify = sessions_pb2.VerifyEmailRequest(token=_token(letter))
        assert (await people.sessions.VerifyEmail(verify)).email == "ada@example.com"

        assert await people.log_in("ada@example.com")
        assert (await refusal(people.sessions.VerifyEmail(verify))).code is StatusCode.INVALID_ARGUMENT


async def test_a_letter_resets_a_password_once_and_ends_every_session(tmp_path: Path) -> None:
    async with mailed(tmp_path) as (people, mailbox):
        await people.sign_up("ada@example.com")
        verify = sessions_pb2.VerifyEmailRequest(token=_token(await mailbox.letter(0)))
        await people.sessions.VerifyEmail(verify)
        session = await people.log_in("ada@example.com")

        await people.sessions.SendPasswordReset(sessions_pb2.SendPasswordResetRequest(email="Ada@example.com"))
        request = sessions_pb2.ResetPasswordRequest(token=_token(await mailbox.letter(1)), password="a new good one")
        await people.sessions.ResetPassword(request)

        assert (await refusal(people.session(session))).code is StatusCode.UNAUTHENTICATED
        assert (await refusal(people.log_in("ada@example.com"))).code is StatusCode.UNAUTHENTICATED
        assert await people.log_in("ada@example.com", password="a new good one")
        assert (await refusal(people.sessions.ResetPassword(request))).code is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("asks", ["signs up", "asks for the letter"])
async def test_who_signs_up_first_with_anothers_email_is_not_let_in_by_its_owner(tmp_path: Path, asks: str) -> None:
    """The owner confirms the e-mail, believing the account to be new: the stranger's password must not open it."""
    async with mailed(tmp_path) as (people, mailbox):
        await people.sign_up("ada@example.com", password="the stranger's own")
        strangers = sessions_pb2.VerifyEmailRequest(token=_token(await mailbox.letter(0)))
        if asks == "signs up":
            assert await people.sign_up("ada@example.com") == ""
        else:
            await people.sessions.SendVerification(sessions_pb2.SendVerificationRequest(email="ada@example.com"))
        letter = await mailbox.letter(1)
        assert "/reset?token=" in letter

        assert (await refusal(people.sessions.VerifyEmail(strangers))).code is StatusCode.INVALID_ARGUMENT
        request = sessions_pb2.ResetPasswordRequest(token=_token(letter), password="a new good one")
        await people.sessions.ResetPassword(request)

        assert await people.log_in("ada@example.com", password="a new good one")
        stranger = await refusal(people.log_in("ada@example.com", password="the stranger's own"))
        assert stranger.code is StatusCode.UNAUTHENTICATED


async def test_nobody_learns_from_sign_up_or_reset_who_has_an_account(tmp_path: Path) -> None:
    async with mailed(tmp_path) as (people, mailbox):
        new = sessions_pb2.SignUpRequest(email="ada@example.com", password=PASSWORD)
        answers = [await people.sessions.SignUp(new), await people.sessions.SignUp(new)]
        assert answers[0] == answers[1] == sessions_pb2.SignUpResponse()
        await mailbox.letter(1)
        assert {str(letter["To"]) for letter in mailbox.letters} == {"ada@example.com"}

        known = await people.sessions.SendPasswordReset(sessions_pb2.SendPasswordResetRequest(email="ada@example.com"))
        unknown = await people.sessions.SendPasswordReset(sessions_pb2.SendPasswordResetRequest(email="no@example.com"))
        assert known == unknown
        await mailbox.letter(2)


async def test_letters_to_one_address_are_bounded(tmp_path: Path) -> None:
    """Nobody fills another's mailbox by asking for letters."""
    async with mailed(tmp_path) as (people, mailbox):
        await people.sign_up("ada@example.com")
        request = sessions_pb2.SendPasswordResetRequest(email="ada@example.com")
        asked = (people.sessions.SendPasswordReset(request) for _ in range(8))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refusals = [answer.code() for answer in answers if isinstance(answer, AioRpcError)]
        assert set(refusals) <= {StatusCode.RESOURCE_EXHAUSTED}
        await mailbox.letter(1)
        assert len(mailbox.letters) <= 6


async def test_a_letter_goes_to_the_very_address_of_its_account_in_any_script(tmp_path: Path) -> None:
    async with mailed(tmp_path) as (people, mailbox):
        await people.sign_up("жанна@пример.рф")
        assert "Somebody" in await mailbox.letter(0)
        await people.sign_up("ada+tag@example.com")
        assert "Somebody" in await mailbox.letter(1)
        assert mailbox.receivers == [["жанна@пример.рф"], ["ada+tag@example.com"]]
