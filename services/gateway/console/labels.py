"""What happened, in plain words."""

_OUTCOMES = {
    "answered": ("Answered", "The model answered in full."),
    "client_left": (
        "You left early",
        "Your program closed the connection before the end. The model's work was done, so it counts.",
    ),
    "client_stalled": (
        "Not read",
        "Your program stopped reading the answer, so the connection was closed. The model had begun, so it counts.",
    ),
    "key_revoked": (
        "Key revoked",
        "The key was revoked while its answer was on the way. The model's work was done, so it counts.",
    ),
    "session_ended": (
        "Session ended",
        "Your session ended while its answer was on the way. The model's work was done, so it counts.",
    ),
    "refused": ("Refused", "The model's server refused the request."),
    "upstream_failed": ("Failed", "The request failed before any output came."),
    "cut": (
        "Cut off",
        "The answer broke off after output had begun. What had come by then was passed on.",
    ),
    "timed_out": (
        "Timed out",
        "The model took longer than a request may take. It counts if the model had begun to answer or answered later.",
    ),
    "unknown": ("Unknown", "We lost sight of this request. That is on us."),
}
_REFUNDS = {
    "invalid_request": "the model's server did not accept what was sent",
    "model_not_found": "there is no such model",
    "model_not_allowed": "the key may not ask for this model",
    "request_too_large": "the conversation is longer than the model takes",
    "client_left": "you left before the model was asked",
    "deadline_exceeded": "no output came within the time that a request may take",
    "concurrency_limit_exceeded": "too many of your requests ran at the same time",
    "overloaded": "too many requests ran here at the same time",
    "upstream_cut": "the model's server broke off before any output came",
    "upstream_invalid": "the model's server sent what is no answer",
    "upstream_misconfigured": "this service's own access to the model was refused",
    "upstream_stalled": "the model's server fell silent",
    "upstream_timeout": "the model's server did not answer in time",
    "upstream_unavailable": "the model's server could not take requests just then",
    "internal_error": "a defect of ours ended it",
    "service_stopped": "this service was stopped before the answer was complete",
    "ledger_unavailable": "we could not write it down, and what is not written down is not counted",
    "no_verdict": "we do not know how it ended, and what we do not know we do not count",
}
_ACTIONS = {
    "account.created": "Account opened",
    "account.deleted": "Account deleted",
    "account.plan_set": "Plan changed",
    "account.password_set": "Password changed",
    "account.password_reset": "Password reset by a link",
    "account.email_verified": "E-mail confirmed",
    "account.log_ins_failed": "Many wrong passwords tried",
    "key.created": "API key created",
    "key.revoked": "API key revoked",
    "key.rotated": "API key rotated",
    "key.limit_set": "Limit of an API key changed",
    "session.opened": "Logged in",
    "session.ended": "Session ended",
    "token.verify_email": "Confirmation of the e-mail sent",
    "token.reset_password": "Link for a new password made",
    "token.invite": "Invitation made",
    "plan.set": "Plan changed",
}
OUTCOMES = tuple(_OUTCOMES)


def label(outcome: str) -> str:
    """Return a short word for an outcome or an action; one that has none stands for itself."""
    if outcome in _OUTCOMES:
        return _OUTCOMES[outcome][0]
    return _ACTIONS.get(outcome, outcome.replace("_", " ").replace(".", ": "))


def explained(outcome: str) -> str:
    """Return what an outcome means to who made the request."""
    return _OUTCOMES.get(outcome, ("", "This is how the request ended."))[1]


def refund_explained(reason: str) -> str:
    """Return why a request was not counted."""
    return _REFUNDS.get(reason, reason.replace("_", " "))


def countdown(seconds: float) -> str:
    """Return a span of time as hours, minutes and seconds, `07:12:03`; nothing is left of a past one."""
    whole = max(0, int(seconds))
    return f"{whole // 3_600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def ago(seconds: float | None, *, now: float) -> str:
    """Return how long ago a time was, in its largest unit; `never` for None."""
    if seconds is None:
        return "never"
    passed = max(0, now - seconds)
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if passed >= size:
            count = int(passed // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
