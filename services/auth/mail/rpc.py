"""gRPC service MailService: tests of the mail server by operators."""

from services.auth.accounts.addresses import normalized_email
from services.auth.callers import AdminToken
from services.auth.mail.mailer import Mailer
from services.auth.mail.queue import MailQueue
from services.auth.mail.templates import EmailTemplates
from services.common.rpc.types import Context
from stack.auth.v1 import mail_pb2, mail_pb2_grpc


class MailService(mail_pb2_grpc.MailServiceServicer):
    """Tests mail delivery for operators."""

    def __init__(self, mailer: Mailer, queue: MailQueue, templates: EmailTemplates, *, admin_token: AdminToken) -> None:
        self._mailer = mailer
        self._queue = queue
        self._templates = templates
        self._admin_token = admin_token

    async def TestMail(self, request: mail_pb2.TestMailRequest, context: Context) -> mail_pb2.TestMailResponse:
        """Connect to the mail server, and send a test e-mail if the request has an address."""
        self._admin_token.require(context)
        email = self._templates.test(normalized_email(request.to)) if request.to else None
        found = await self._mailer.test(email)
        return mail_pb2.TestMailResponse(
            server=found.server,
            encrypted=found.is_encrypted,
            verified=found.is_verified,
            authenticated=found.is_authenticated,
            smtputf8=found.smtputf8,
            sent=email is not None,
            waiting=await self._queue.waiting(),
        )
