"""With a mail server: e-mails are verified, passwords reset by e-mail, and accounts cannot be enumerated."""

import asyncio
import re
import sqlite3
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope
from grpc import StatusCode
from grpc.aio import AioRpcError

from stack.auth.v1 import mail_pb2, sessions_pb2
from stack.auth.v1.accounts_pb2 import DeleteAccountRequest
from tests.integration.auth_api import PASSWORD, AuthAPI, auth_api_of, bearer, refusal
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, AuthProcess, running_auth
from tests.ports import free_port

pytestmark = pytest.mark.xdist_group("auth-mail")


class Mailbox:
    """What a mail server received."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.receivers: list[list[str]] = []
        self.refused: set[str] = set()
        """Addresses that it refuses as unknown."""

    async def handle_RCPT(
        self, server: SMTP, session: object, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Accept a recipient."""
        if address in self.refused:
            return "550 5.1.1 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: object, envelope: Envelope) -> str:
        """Accept an e-mail."""
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        self.receivers.append([str(receiver) for receiver in envelope.rcpt_tos])
        return "250 OK"

    async def message(self, number: int) -> str:
        """Return the text of the e-mail of this number, once it has arrived."""
        async with asyncio.timeout(15):
            while len(self.messages) <= number:
                await asyncio.sleep(0.01)
        part = self.messages[number].get_body(("plain",))
        assert part is not None
        return str(part.get_content())


@contextmanager
def mail_server(mailbox: Mailbox, port: int, **options: object) -> Iterator[None]:
    server = Controller(mailbox, hostname="127.0.0.1", port=port, **options)  # type: ignore[arg-type]
    server.start()
    try:
        yield
    finally:
        server.stop()


def settings_of(port: int, **settings: str) -> dict[str, str]:
    return {
        "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
        "AUTH_KEY_PEPPER": PEPPER,
        "AUTH_SMTP_URL": f"smtp://127.0.0.1:{port}",
        "AUTH_MAIL_FROM": "stack@example.com",
        "AUTH_CONSOLE_URL": "https://console.example.com",
        **settings,
    }


@asynccontextmanager
async def mailed(tmp_path: Path, **settings: str) -> AsyncIterator[tuple[AuthAPI, Mailbox]]:
    mailbox, port = Mailbox(), free_port()
    with mail_server(mailbox, port):
        async with served(tmp_path, settings_of(port, **settings)) as (auth_api, _):
            yield auth_api, mailbox


@asynccontextmanager
async def served(tmp_path: Path, settings: dict[str, str]) -> AsyncIterator[tuple[AuthAPI, AuthProcess]]:
    with running_auth(tmp_path, settings) as process:
        async with auth_api_of(process.target) as auth_api:
            yield auth_api, process


async def _logged(process: AuthProcess, text: str) -> str:
    """Return the log line with this text, once it has been written."""
    async with asyncio.timeout(15):
        while True:
            for line in process.log:
                if text in line:
                    return line
            await asyncio.sleep(0.05)


def _metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def _token(message: str) -> str:
    found = re.search(r"https://console\.example\.com/\S*?[=#]([\w-]{20,})", message)
    assert found, f"the e-mail has no link: {message}"
    return found[1]


async def test_an_account_opens_with_the_emailed_token_and_not_before_and_the_token_works_once(tmp_path: Path) -> None:
    async with mailed(tmp_path) as (auth_api, mailbox):
        assert await auth_api.sign_up("ada@example.com") == ""
        early = await refusal(auth_api.log_in("ada@example.com"))
        assert (early.code, "is not confirmed" in early.message) == (StatusCode.FAILED_PRECONDITION, True)
        message = await mailbox.message(0)
        assert mailbox.messages[0]["To"] == "ada@example.com"
        assert mailbox.messages[0]["From"] == "stack@example.com"

        verify = sessions_pb2.VerifyEmailRequest(token=_token(message))
        assert (await auth_api.sessions.VerifyEmail(verify)).email == "ada@example.com"

        assert await auth_api.log_in("ada@example.com")
        assert (await refusal(auth_api.sessions.VerifyEmail(verify))).code is StatusCode.INVALID_ARGUMENT


async def test_an_emailed_link_resets_a_password_once_and_ends_every_session(tmp_path: Path) -> None:
    async with mailed(tmp_path) as (auth_api, mailbox):
        await auth_api.sign_up("ada@example.com")
        verify = sessions_pb2.VerifyEmailRequest(token=_token(await mailbox.message(0)))
        await auth_api.sessions.VerifyEmail(verify)
        session = await auth_api.log_in("ada@example.com")

        await auth_api.sessions.SendPasswordReset(sessions_pb2.SendPasswordResetRequest(email="Ada@example.com"))
        request = sessions_pb2.ResetPasswordRequest(token=_token(await mailbox.message(1)), password="a new good one")
        await auth_api.sessions.ResetPassword(request)

        assert (await refusal(auth_api.session(session))).code is StatusCode.UNAUTHENTICATED
        assert (await refusal(auth_api.log_in("ada@example.com"))).code is StatusCode.UNAUTHENTICATED
        assert await auth_api.log_in("ada@example.com", password="a new good one")
        assert (await refusal(auth_api.sessions.ResetPassword(request))).code is StatusCode.INVALID_ARGUMENT


@pytest.mark.long
@pytest.mark.parametrize("asks", ["signs up", "requests an e-mail"])
async def test_an_owner_who_verifies_an_email_does_not_admit_who_signed_up_with_it_first(
    tmp_path: Path, asks: str
) -> None:
    """The owner verifies the e-mail, assuming the account is new: the attacker's password must not open it."""
    async with mailed(tmp_path) as (auth_api, mailbox):
        await auth_api.sign_up("ada@example.com", password="the attacker's own")
        first_token = sessions_pb2.VerifyEmailRequest(token=_token(await mailbox.message(0)))
        if asks == "signs up":
            assert await auth_api.sign_up("ada@example.com") == ""
        else:
            await auth_api.sessions.SendVerification(sessions_pb2.SendVerificationRequest(email="ada@example.com"))
        message = await mailbox.message(1)
        assert "/reset?token=" in message

        assert (await refusal(auth_api.sessions.VerifyEmail(first_token))).code is StatusCode.INVALID_ARGUMENT
        request = sessions_pb2.ResetPasswordRequest(token=_token(message), password="a new good one")
        await auth_api.sessions.ResetPassword(request)

        assert await auth_api.log_in("ada@example.com", password="a new good one")
        attacker = await refusal(auth_api.log_in("ada@example.com", password="the attacker's own"))
        assert attacker.code is StatusCode.UNAUTHENTICATED


async def test_sign_up_and_reset_do_not_reveal_whether_an_account_exists(tmp_path: Path) -> None:
    async with mailed(tmp_path) as (auth_api, mailbox):
        new = sessions_pb2.SignUpRequest(email="ada@example.com", password=PASSWORD)
        answers = [await auth_api.sessions.SignUp(new), await auth_api.sessions.SignUp(new)]
        assert answers[0] == answers[1] == sessions_pb2.SignUpResponse()
        await mailbox.message(1)
        assert {str(message["To"]) for message in mailbox.messages} == {"ada@example.com"}

        known = await auth_api.sessions.SendPasswordReset(
            sessions_pb2.SendPasswordResetRequest(email="ada@example.com")
        )
        unknown = await auth_api.sessions.SendPasswordReset(
            sessions_pb2.SendPasswordResetRequest(email="no@example.com")
        )
        assert known == unknown
        await mailbox.message(2)


async def test_emails_to_one_address_are_limited(tmp_path: Path) -> None:
    """Otherwise anyone could fill another user's mailbox by requesting e-mails."""
    async with mailed(tmp_path) as (auth_api, mailbox):
        await auth_api.sign_up("ada@example.com")
        request = sessions_pb2.SendPasswordResetRequest(email="ada@example.com")
        asked = (auth_api.sessions.SendPasswordReset(request) for _ in range(8))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refusals = [answer.code() for answer in answers if isinstance(answer, AioRpcError)]
        assert set(refusals) <= {StatusCode.RESOURCE_EXHAUSTED}
        await mailbox.message(1)
        assert len(mailbox.messages) <= 6


async def test_an_email_is_sent_to_the_exact_address_of_its_account_in_any_script(tmp_path: Path) -> None:
    """The domain in punycode: only the local part needs a mail server that supports more than ASCII."""
    async with mailed(tmp_path) as (auth_api, mailbox):
        await auth_api.sign_up("жанна@пример.рф")
        assert "If you did not" in await mailbox.message(0)
        await auth_api.sign_up("ada+tag@example.com")
        assert "If you did not" in await mailbox.message(1)
        await auth_api.sign_up("ada@BÜCHER.example")
        assert "If you did not" in await mailbox.message(2)
        assert mailbox.receivers == [
            ["жанна@xn--e1afmkfd.xn--p1ai"],
            ["ada+tag@example.com"],
            ["ada@xn--bcher-kva.example"],
        ]
        assert mailbox.messages[2]["To"] == "ada@xn--bcher-kva.example"


async def test_an_email_has_a_date_and_is_marked_as_automatic(tmp_path: Path) -> None:
    """RFC 5322 requires a date, and many mail servers classify e-mails without one as spam."""
    async with mailed(tmp_path) as (auth_api, mailbox):
        await auth_api.sign_up("ada@example.com")
        await mailbox.message(0)
        message = mailbox.messages[0]
        assert datetime.now(UTC) - message["Date"].datetime < timedelta(minutes=1)
        assert re.fullmatch(r"<eml_\w{26}@example\.com>", message["Message-ID"])
        assert message["Auto-Submitted"] == "auto-generated"
        assert message["MIME-Version"] == "1.0"


async def test_an_address_that_the_mail_server_cannot_send_to_is_refused_at_sign_up(tmp_path: Path) -> None:
    """Users are not asked to read an e-mail that cannot be sent."""
    mailbox, port = Mailbox(), free_port()
    with mail_server(mailbox, port, enable_SMTPUTF8=False):
        async with served(tmp_path, settings_of(port)) as (auth_api, _):
            refused = await refusal(auth_api.sign_up("жанна@example.com"))
            assert (refused.code, "Use another address" in refused.message) == (StatusCode.INVALID_ARGUMENT, True)

            await auth_api.sign_up("zhanna@пример.рф")
            assert "To confirm the address" in await mailbox.message(0)


@pytest.mark.long
async def test_queued_emails_wait_for_the_mail_server_and_survive_a_restart(tmp_path: Path) -> None:
    mailbox, port, metrics_port = Mailbox(), free_port(), free_port()
    settings = settings_of(port, AUTH_METRICS_LISTEN=f"127.0.0.1:{metrics_port}")
    async with served(tmp_path, settings) as (auth_api, process):
        await auth_api.sign_up("ada@example.com")
        reported = await _logged(process, "An e-mail could not be delivered. Trying again later.")
        assert "cannot be reached" in reported
        assert "ada@example.com" not in reported
        metrics = _metrics(metrics_port)
        assert metrics["stack_mail_server_up"] == 0
        assert metrics["stack_emails_waiting"] == 1
        process.process.kill()

    with mail_server(mailbox, port):
        async with served(tmp_path, settings) as (auth_api, process):
            verify = sessions_pb2.VerifyEmailRequest(token=_token(await mailbox.message(0)))
            assert (await auth_api.sessions.VerifyEmail(verify)).email == "ada@example.com"
            await _until(lambda: _metrics(metrics_port)["stack_emails_waiting"] == 0)
            metrics = _metrics(metrics_port)
            assert metrics["stack_mail_server_up"] == 1
            assert metrics['stack_emails_total{result="sent"}'] == 1
    assert len(mailbox.messages) == 1


async def test_an_email_that_is_refused_permanently_is_not_retried_and_counted(tmp_path: Path) -> None:
    metrics_port = free_port()
    async with mailed(tmp_path, AUTH_METRICS_LISTEN=f"127.0.0.1:{metrics_port}") as (auth_api, mailbox):
        mailbox.refused.add("nobody@example.com")
        await auth_api.sign_up("nobody@example.com")
        await _until(lambda: _metrics(metrics_port)['stack_emails_total{result="refused"}'] == 1)
        await auth_api.sign_up("ada@example.com")
        await mailbox.message(0)
        await _until(lambda: _metrics(metrics_port)["stack_emails_waiting"] == 0)
        assert mailbox.receivers == [["ada@example.com"]]


@pytest.mark.long
async def test_a_relay_with_a_self_signed_certificate_works_once_it_is_trusted(tmp_path: Path) -> None:
    """STARTTLS is used wherever it is offered, so such a relay lost every e-mail, whatever was set."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca_file := tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    mailbox, port = Mailbox(), free_port()
    with mail_server(mailbox, port, tls_context=tls):
        async with served(tmp_path, settings_of(port)) as (auth_api, process):
            assert "AUTH_SMTP_CA_FILE" in await _logged(process, "The mail server check failed")
            refused = await refusal(auth_api.mail.TestMail(mail_pb2.TestMailRequest(), metadata=bearer()))
            assert refused.code is StatusCode.FAILED_PRECONDITION
            assert "not trusted" in refused.message
            assert "AUTH_SMTP_CA_FILE" in refused.message
            await auth_api.sign_up("ada@example.com")
            await _logged(process, "An e-mail could not be delivered. Trying again later.")
        for number, trust in enumerate([str(ca_file), "none"]):
            async with served(tmp_path, settings_of(port, AUTH_SMTP_CA_FILE=trust)) as (auth_api, _):
                if number == 1:
                    await auth_api.sign_up("bob@example.com")
                await mailbox.message(number)
                request = mail_pb2.TestMailRequest(to="operator@example.com")
                found = await auth_api.mail.TestMail(request, metadata=bearer())
                assert (found.encrypted, found.verified, found.sent) == (True, trust != "none", True)
                await mailbox.message(number + 1)
                mailbox.messages.pop()
    assert [receiver for [receiver] in mailbox.receivers if receiver != "operator@example.com"] == [
        "ada@example.com",
        "bob@example.com",
    ]


async def test_queued_emails_to_a_deleted_account_are_dropped(tmp_path: Path) -> None:
    port = free_port()
    async with served(tmp_path, settings_of(port)) as (auth_api, process):
        await auth_api.sign_up("ada@example.com")
        await _logged(process, "An e-mail could not be delivered. Trying again later.")
        await auth_api.accounts.DeleteAccount(DeleteAccountRequest(account="ada@example.com"), metadata=bearer())
        waiting = sqlite3.connect(tmp_path / "auth.db").execute("SELECT count(*) FROM emails").fetchone()
        assert waiting == (0,)


async def test_signing_up_with_another_address_of_a_mailbox_notifies_its_account(tmp_path: Path) -> None:
    async with mailed(tmp_path) as (auth_api, mailbox):
        await auth_api.sign_up("ada@example.com")
        await auth_api.sessions.VerifyEmail(sessions_pb2.VerifyEmailRequest(token=_token(await mailbox.message(0))))
        assert await auth_api.sign_up("ada+more@example.com") == "", "the answer is the same as for a new address"
        await mailbox.message(1)
        assert mailbox.messages[1]["Subject"] == "You already have an account"
        assert mailbox.receivers[1] == ["ada@example.com"]


async def test_a_full_queue_refuses_new_and_known_addresses_alike(tmp_path: Path) -> None:
    async with served(tmp_path, settings_of(free_port())) as (auth_api, _):
        await auth_api.sign_up("ada@example.com")
        with closing(sqlite3.connect(tmp_path / "auth.db", timeout=10)) as database, database:
            database.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) INSERT INTO emails "
                "(id, topic, email, account_id, actor, address, created_at, next_try_at, tries) "
                "SELECT 'eml_' || i, 'sign_up', 'x@example.com', NULL, 'unknown', '', created_at, '2999-01-01', 0 "
                "FROM n, (SELECT created_at FROM emails LIMIT 1)"
            )
        refused = [await refusal(auth_api.sign_up(email)) for email in ("ada@example.com", "bob@example.com")]
        assert refused[0] == refused[1]
        assert refused[0].code is StatusCode.UNAVAILABLE


@pytest.mark.long
async def test_an_owner_is_notified_of_many_wrong_passwords(tmp_path: Path) -> None:
    async with mailed(tmp_path) as (auth_api, mailbox):
        await auth_api.sign_up("ada@example.com")
        await auth_api.sessions.VerifyEmail(sessions_pb2.VerifyEmailRequest(token=_token(await mailbox.message(0))))
        for number in range(30):
            await refusal(auth_api.log_in("ada@example.com", password="a wrong guess", address=f"192.0.2.{number}"))
        assert "None of them succeeded" in await mailbox.message(1)
        await asyncio.sleep(0.5)
        assert len(mailbox.messages) == 2


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not holds():
            await asyncio.sleep(0.05)
