"""Prometheus metrics of the auth service."""

from prometheus_client import Counter, Gauge

EMAILS = Counter("stack_emails_total", "E-mails by result: sent, put_back, refused, given_up.", ["result"])
for _result in ("sent", "put_back", "refused", "given_up"):
    EMAILS.labels(_result)  # Export 0 from the start, so that rate() sees the first increase.
EMAILS_WAITING = Gauge("stack_emails_waiting", "E-mails waiting to be sent.")
MAIL_SERVER_UP = Gauge(
    "stack_mail_server_up", "Whether the mail server is reachable: 1 if it is or if none is configured, else 0."
)
MAIL_SERVER_UP.set(1)
