"""What an operator watches of a gateway. Labels are few and bounded: nothing that a caller chooses becomes one."""

import re
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
_ROUTE = re.compile(
    r"^/(?:api/v1/(chat|models|key|usage|openapi\.json)|(static|healthz|readyz|playground)|(?:api|v1|openai))(?:/|$)"
)

_REQUEST_SECONDS = Histogram(
    "stack_http_request_duration_seconds",
    "Time that HTTP requests took, streams to their end; its count is the number of requests.",
    ["route", "status"],
    buckets=_SECONDS,
)
IN_FLIGHT = Gauge("stack_http_requests_in_flight", "HTTP requests that are being answered.")
ADMISSION_SECONDS = Histogram(
    "stack_gateway_admission_seconds",
    "Our own part before a chat goes to inference: its body read and checked, its key known, its slot held.",
    buckets=_SECONDS,
)
FIRST_EVENT_SECONDS = Histogram(
    "stack_gateway_time_to_first_event_seconds", "Time from a request to its stream's first event.", buckets=_SECONDS
)
STREAMS = Gauge("stack_gateway_streams_open", "Streams that are being sent.")
REJECTED = Counter(
    "stack_http_rejected_total",
    "Requests and connections that the HTTP server itself rejected: malformed, too large, too slow or too many.",
    ["status"],
)
KEY_LOOK_UPS = Counter("stack_key_look_ups_total", "API keys shown, by who knew them.", ["source"])
KEY_WATCH_UP = Gauge("stack_key_watch_up", "Whether auth's changes of keys are heard just now: 1, else 0.")
ABANDONED = Gauge(
    "stack_gateway_requests_abandoned",
    "Requests without a client or a verdict, whose ledger row is being looked for to settle their hold.",
)
UNSETTLED = Counter("stack_gateway_holds_left_total", "Holds without a verdict, left to quota's sweeper.")


@cache
def request_seconds(route: str, status: int) -> Histogram:
    """Return the histogram of a route's requests that ended with a status; both are short lists."""
    return _REQUEST_SECONDS.labels(route, str(status))


def route_of(path: str) -> str:
    """Return the label of a canonical path: its word in the API, `unknown` of those it lacks, `console` of others."""
    match = _ROUTE.match(path)
    return (match[1] or match[2] or "unknown") if match else "console"
