"""`stackctl mail`: test the mail server."""

import click

from services.cli import client, output
from services.cli.client import Backends
from stack.auth.v1 import mail_pb2
from stack.auth.v1.mail_pb2_grpc import MailServiceStub

_SECONDS_MAX = 45.0
"""Mail servers may delay their greeting."""


@click.group()
def mail() -> None:
    """Test the mail server."""


@mail.command()
@click.option("--to", default="", help="E-mail address to send a test to. Without it, only the connection is tested.")
@output.as_json_option
@click.pass_obj
def test(backends: Backends, *, to: str, as_json: bool) -> None:
    """Connect to the mail server of AUTH_SMTP_URL, and show its capabilities or the cause of the failure."""
    request = mail_pb2.TestMailRequest(to=to)
    found = client.call(
        backends.auth(),
        lambda channel: MailServiceStub(channel).TestMail,
        request,
        timeout_seconds=_SECONDS_MAX,
    )
    fields = {
        "server": found.server,
        "encrypted": found.encrypted,
        "verified": found.verified,
        "authenticated": found.authenticated,
        "smtputf8": found.smtputf8,
        "sent": found.sent,
        "waiting": found.waiting,
    }
    output.show_json(fields) if as_json else output.show_fields(fields)
