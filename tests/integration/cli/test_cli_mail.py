"""`stackctl mail test`: whether mail can be sent, or one sentence with the reason why not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink
from click.testing import CliRunner, Result

from services.cli.main import main
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, running_auth
from tests.integration.cli.conftest import Stackctl
from tests.ports import free_port


@pytest.fixture
def with_mail(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Yield the target of an auth service with a mail server, and the port on which none listens yet."""
    port = free_port()
    settings = {
        "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
        "AUTH_KEY_PEPPER": PEPPER,
        "AUTH_SMTP_URL": f"smtp://127.0.0.1:{port}",
    }
    with running_auth(tmp_path, settings) as service:
        yield service.target, port


def mail_test(target: str, *arguments: str) -> Result:
    settings = {"AUTH_TARGET": target, "STACK_ADMIN_TOKEN": ADMIN_TOKEN}
    return CliRunner().invoke(main, ["mail", "test", *arguments], env=settings)


def test_missing_mail_configuration_is_reported(stackctl: Stackctl) -> None:
    result = stackctl("mail", "test")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "stackctl: Mail is not configured: set AUTH_SMTP_URL where auth runs, and restart it.\n"


def test_an_unavailable_mail_server_is_reported_in_one_sentence_and_an_available_one_described(
    with_mail: tuple[str, int],
) -> None:
    target, port = with_mail
    away = mail_test(target)
    assert away.exit_code == 1
    assert away.stderr == (
        f"stackctl: No mail can be sent: 127.0.0.1:{port} cannot be reached (SMTPConnectError); check AUTH_SMTP_URL.\n"
    )

    server = Controller(Sink(), hostname="127.0.0.1", port=port)
    server.start()
    try:
        found = json.loads(mail_test(target, "--to", "ada@example.com", "--json").stdout)
        assert found == {
            "server": f"127.0.0.1:{port}",
            "encrypted": False,
            "verified": False,
            "authenticated": False,
            "smtputf8": True,
            "sent": True,
            "waiting": 0,
        }
        assert "sent" in mail_test(target).stdout
    finally:
        server.stop()
