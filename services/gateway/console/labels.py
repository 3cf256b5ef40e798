"""Labels and explanations of outcomes, surfaces, refund reasons and audit actions."""

from services.common.limits import Limit, Scope, Unit, Window
from services.common.prices import dollars

_OUTCOMES = {
    "answered": ("Answered", "The answer is complete."),
    "client_left": (
        "Disconnected",
        "Your program closed the connection before the end of the answer. The model did the work, so the "
        "request counts.",
    ),
    "client_stalled": (
        "Not read",
        "Your program stopped reading the answer, so the connection was closed. The model had started, so the request "
        "counts.",
    ),
    "key_revoked": (
        "Key revoked",
        "The API key was revoked during the answer. The model did the work, so the request counts.",
    ),
    "session_ended": (
        "Session ended",
        "Your session ended during the answer. The model did the work, so the request counts.",
    ),
    "refused": ("Rejected", "The model provider rejected the request."),
    "upstream_failed": ("Failed", "The request failed before the model produced output."),
    "cut": (
        "Interrupted",
        "The answer was interrupted after the model had started. You received the output up to that point.",
    ),
    "timed_out": (
        "Timed out",
        "The request exceeded the time limit. It counts if the model had started to answer, or answered later.",
    ),
    "unknown": ("Unknown", "The outcome of this request was not recorded. This is an error on our side."),
}
_SURFACES = {
    "chat": "Chat Completions",
    "completions": "Completions",
    "responses": "Responses",
    "messages": "Messages",
}
_REFUNDS = {
    "invalid_request": "the model provider rejected the request as invalid",
    "model_not_found": "the model does not exist",
    "model_not_allowed": "the API key may not use this model",
    "request_too_large": "the conversation is too long for the model",
    "client_left": "you disconnected before the request was sent to the model",
    "deadline_exceeded": "the model produced no output within the time limit",
    "concurrency_limit_exceeded": "you had too many requests in progress",
    "upstream_busy": "the model was in high demand",
    "overloaded": "the service had too many requests in progress",
    "upstream_cut": "the model provider closed the connection before any output",
    "upstream_invalid": "the model provider returned an invalid answer",
    "upstream_misconfigured": "the model provider rejected this service's key",
    "upstream_stalled": "the model provider stopped responding",
    "upstream_timeout": "the model provider did not respond in time",
    "upstream_unavailable": "the model provider was unavailable",
    "internal_error": "an internal error occurred",
    "service_stopped": "the service was stopped before the answer was complete",
    "ledger_unavailable": "its usage could not be recorded",
    "no_verdict": "its outcome is unknown",
}
_UNITS = {
    Unit.REQUESTS: "Requests",
    Unit.TOKENS: "Tokens",
    Unit.COST: "Cost",
    Unit.CONCURRENT_REQUESTS: "Requests in progress",
}
_ACTIONS = {
    "account.created": "Account created",
    "account.deleted": "Account deleted",
    "account.suspended": "Account suspended",
    "account.resumed": "Account resumed",
    "invite.revoked": "Invitation revoked",
    "operator.added": "Became an operator",
    "operator.removed": "No longer an operator",
    "operator_session.opened": "Logged in to the operators' console",
    "account.plan_set": "Plan changed",
    "account.password_set": "Password changed",
    "account.password_reset": "Password reset with a link",
    "account.email_verified": "E-mail address confirmed",
    "account.log_ins_failed": "Many failed log-ins",
    "alerts.set": "Alerts changed",
    "identity.linked": "Identity linked",
    "identity.unlinked": "Identity unlinked",
    "key.created": "API key created",
    "key.revoked": "API key revoked",
    "key.rotated": "API key rotated",
    "key.limit_set": "API key limit changed",
    "key.renamed": "API key renamed",
    "key.paused": "API key paused",
    "key.resumed": "API key resumed",
    "key.expiry_set": "API key expiry changed",
    "key.models_set": "API key models changed",
    "key.deduplication_set": "Deduplication of retries changed",
    "recovery_code.used": "Recovery code used",
    "recovery_codes.replaced": "New recovery codes",
    "session.opened": "Logged in",
    "session.ended": "Session ended",
    "token.verify_email": "Confirmation e-mail sent",
    "token.reset_password": "Password reset link created",
    "token.invite": "Invitation created",
    "totp.enabled": "Second factor turned on",
    "totp.disabled": "Second factor turned off",
    "totp.reset": "Second factor reset",
    "plan.set": "Plan changed",
}
OUTCOMES = tuple(_OUTCOMES)
_LABELS = {outcome: name for outcome, (name, _) in _OUTCOMES.items()} | _SURFACES | _ACTIONS


def label(name: str) -> str:
    """Return the label of an outcome, surface or action. Unknown ones are returned with spaces for underscores."""
    return _LABELS.get(name, name.replace("_", " ").replace(".", ": "))


def explain_outcome(outcome: str) -> str:
    """Return the explanation of an outcome, for the user."""
    return _OUTCOMES.get(outcome, ("", "No further details are available."))[1]


def explain_refund(reason: str) -> str:
    """Return the reason why a request was not counted, for the user."""
    return _REFUNDS.get(reason, reason.replace("_", " "))


def limit_label(scope: Scope, unit: Unit, window: Window | None) -> str:
    """Return what a limit limits, such as `Tokens per minute, each key`."""
    per = "" if window is None else f" per {window}"
    return f"{_UNITS[unit]}{per}, {'each key' if scope is Scope.KEY else 'account'}"


def limit_amount(unit: Unit, amount: int) -> str:
    """Return an amount of a unit, such as `6,000` or `$5.00`."""
    return f"${dollars(amount)}" if unit is Unit.COST else f"{amount:,}"


def describe_limit(limit: Limit) -> str:
    """Return a limit in words, such as `6,000 tokens per minute` or `$5.00 per month`."""
    unit = "" if limit.unit is Unit.COST else f" {_UNITS[limit.unit].lower()}"
    return f"{limit_amount(limit.unit, limit.limit)}{unit}{'' if limit.window is None else f' per {limit.window}'}"


def countdown(seconds: float) -> str:
    """Format a duration as hours, minutes and seconds, `07:12:03`. Negative durations are `00:00:00`."""
    total = max(0, int(seconds))
    return f"{total // 3_600:02}:{total // 60 % 60:02}:{total % 60:02}"
