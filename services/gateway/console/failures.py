"""What the client received for a request that failed, from its receipt: HTTP status, `error.code` and a plain reason.

The ledger records the reason of a failure, not the response. The gateway derives the status from the same reason
(`services/gateway/http/errors.py`), and so does this table.
"""

from dataclasses import dataclass

from services.common.receipts import Receipt
from services.gateway.console.labels import explain_outcome

_TOO_LONG = (
    "The conversation is longer than the model's context{context}. Shorten it, or use a model with a larger one."
)
FAILURES = {
    "invalid_request": (400, "The model provider rejected a parameter. The error's message named it."),
    "context_length_exceeded": (400, _TOO_LONG),
    "json_validate_failed": (400, "The model's output did not match the requested format. Simplify the schema."),
    "tool_use_failed": (400, "The model called a function with arguments that do not match its definition."),
    "model_not_allowed": (403, "The API key may not use the model {model}. Use another key or model."),
    "model_not_found": (404, "The model {model} does not exist, or cannot be used here."),
    "model_decommissioned": (404, "The model {model} has been decommissioned. Use another one."),
    "request_too_large": (413, _TOO_LONG),
    "concurrency_limit_exceeded": (429, "Too many of your requests were in progress. Wait for one to end."),
    "internal_error": (500, "An error on our side. Try again."),
    "upstream_cut": (502, "The model provider closed the connection before any output. Try again."),
    "upstream_invalid": (502, "The model provider's answer could not be read. Try again."),
    "upstream_misconfigured": (502, "The model provider rejected this service's credentials. Retries do not help."),
    "ledger_unavailable": (503, "The usage ledger could not record the request. Try again."),
    "overloaded": (503, "The service had too many requests in progress. Try again."),
    "service_stopped": (503, "The service was stopped before the answer was complete. Try again."),
    "upstream_busy": (503, "The model was in high demand. Wait for the time in the header retry-after."),
    "upstream_unavailable": (503, "The model provider was unavailable. Try again."),
    "deadline_exceeded": (504, "The model produced no output within the time limit. Try again."),
    "upstream_stalled": (504, "The model provider stopped responding. Try again."),
    "upstream_timeout": (504, "The model provider did not respond in time. Try again."),
}
"""Statuses and reasons by the ledger's `refund_reason`."""
_BY_OUTCOME = {"refused": 400, "upstream_failed": 503, "timed_out": 504, "cut": 502}
"""Statuses of failures with another reason, such as a code of Groq's."""
_WITHOUT_CODE = frozenset({"", "invalid_request", "no_verdict"})


@dataclass(frozen=True, slots=True)
class Failure:
    """What the client of a failed request received."""

    status: int | None
    """HTTP status; None if the client had left."""
    code: str
    """`error.code`; empty if the error had none, or it is not known."""
    reason: str
    had_output: bool
    """Whether the status was 200, because the stream had begun, and the error was an event in it."""


def failure_of(receipt: Receipt, context_window: int | None) -> Failure | None:
    """Return what the client received; None if the request was answered.

    Args:
        receipt: The request.
        context_window: Context of its model in tokens; None if it is not known.
    """
    if receipt.outcome == "answered":
        return None
    code = receipt.refund_reason or ""
    status, text = FAILURES.get(code, (_BY_OUTCOME.get(receipt.outcome), explain_outcome(receipt.outcome)))
    had_output = receipt.stream and receipt.time_to_first_token_ms is not None
    context = f" of {context_window:,} tokens" if context_window else ""
    return Failure(
        200 if had_output and status else status,
        "" if code in _WITHOUT_CODE else code,
        text.format(context=context, model=receipt.model) if code in FAILURES else text,
        had_output,
    )
