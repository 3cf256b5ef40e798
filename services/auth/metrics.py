"""What an operator watches of auth."""

from prometheus_client import Counter, Gauge

EMAILS = Counter("stack_emails_total", "E-mails by what came of them: sent, put_back, refused, given_up.", ["result"])
for _result in ("sent", "put_back", "refused", "given_up"):
    EMAILS.labels(_result)  # At 0 from the start, so that the first one is an increase.
EMAILS_WAITING = Gauge("stack_emails_waiting", "E-mails that wait to be sent.")
MAIL_SERVER_UP = Gauge("stack_mail_server_up", "Whether the mail server answers: 1, else 0; 1 without one.")
MAIL_SERVER_UP.set(1)
