"""Metrics of the gateway. Labels are bounded: no label has a value that a client chooses."""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)

_REQUEST_SECONDS = Histogram(
    "stack_http_request_duration_seconds",
    "Duration of HTTP requests, including the whole stream; its count is the number of requests.",
    ["route", "status"],
    buckets=_SECONDS,
)
IN_FLIGHT = Gauge("stack_http_requests_in_flight", "HTTP requests in flight.")
ADMISSION_SECONDS = Histogram(
    "stack_gateway_admission_seconds",
    "Time from a chat request to its call of inference: authentication, body, validation and reservation.",
    buckets=_SECONDS,
)
FIRST_EVENT_SECONDS = Histogram(
    "stack_gateway_time_to_first_event_seconds",
    "Time from a request to the first event of its stream.",
    buckets=_SECONDS,
)
STREAMS = Gauge("stack_gateway_streams_open", "Open event streams.")
REJECTED = Counter(
    "stack_http_rejected_total",
    "Requests and connections rejected by the HTTP server: malformed, too large, too slow or too many.",
    ["status"],
)
KEY_LOOK_UPS = Counter("stack_key_look_ups_total", "Look-ups of API keys, by source of the result.", ["source"])
KEY_WATCH_UP = Gauge("stack_key_watch_up", "1 while the watch for key changes in auth is connected, else 0.")
REFUSALS_DROPPED = Counter(
    "stack_gateway_refusals_dropped_total",
    "Refused requests that are missing in the numbers of their keys, because quota could not be reached for long.",
)
ABANDONED = Gauge(
    "stack_gateway_requests_abandoned",
    "Requests without a client or a verdict that wait for their ledger row to settle their hold.",
)
UNRECORDED_REQUESTS = Counter(
    "stack_gateway_requests_unrecorded_total",
    "Requests of API keys that deduplicate retries which ran without a record, by reason: unavailable or too_many.",
    ["reason"],
)
UNSETTLED = Counter("stack_gateway_holds_left_total", "Holds without a verdict, left to quota's sweeper.")


@cache
def request_seconds(route: str, status: int) -> Histogram:
    """Return the histogram for a route and a status."""
    return _REQUEST_SECONDS.labels(route, str(status))
