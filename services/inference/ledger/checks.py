"""Validation of UsageService's requests: ids, dates and numbers of items.

Postgres rejects NUL characters in text with an error that would look like an outage.
"""

import re
from collections.abc import Sequence
from datetime import date

from google.protobuf.timestamp_pb2 import Timestamp

from services.common.errors import InvalidRequest
from services.common.rpc.surface import surface_from_proto
from services.common.runtime.clock import UNIX_SECONDS_MAX
from services.common.surface import Surface
from services.common.timestamps import unix_seconds
from services.inference.chat import ABANDONED_OUTCOMES, Outcome
from services.inference.ledger.writer import RequestsPage
from stack.common.v1 import surface_pb2
from stack.inference.v1 import usage_pb2

ITEMS_MAX = 1_000
"""Maximum number of items in a request, and of rows in a page."""
SCAN_MAX = 100_000
ID_CHARACTERS_MAX = 64
MODEL_CHARACTERS_MAX = 256
_PAGE_ROWS = 100
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def check_id(field: str, text: str) -> None:
    """Validate an id, which may be empty.

    Raises:
        InvalidRequest: The id is too long or contains NUL.
    """
    if len(text) > ID_CHARACTERS_MAX or "\0" in text:
        raise InvalidRequest(f"{field}: expected at most {ID_CHARACTERS_MAX} characters without NUL")


def check_required_id(field: str, text: str) -> None:
    """Validate an id that must not be empty.

    Raises:
        InvalidRequest: The id is empty, too long or contains NUL.
    """
    if not text:
        raise InvalidRequest(f"{field}: expected an id, got an empty string")
    check_id(field, text)


def check_ids(field: str, texts: Sequence[str]) -> None:
    """Validate several ids with `check_id`."""
    for text in texts:
        check_id(field, text)


def check_model(text: str) -> None:
    """Validate the model of a filter, which may be empty.

    Raises:
        InvalidRequest: It is longer than models in the ledger, or contains NUL.
    """
    if len(text) > MODEL_CHARACTERS_MAX or "\0" in text:
        raise InvalidRequest(f"model: expected at most {MODEL_CHARACTERS_MAX} characters without NUL")


def check_size(field: str, count: int, *, least: int = 1) -> None:
    """Validate a number of items.

    Raises:
        InvalidRequest: The number is below `least` or above `ITEMS_MAX`.
    """
    if not least <= count <= ITEMS_MAX:
        raise InvalidRequest(f"{field}: expected {least} to {ITEMS_MAX:,} items, got {count:,}")


def check_scan(scan_max: int) -> None:
    """Validate the maximum number of rows to read.

    Raises:
        InvalidRequest: It is negative or above `SCAN_MAX`.
    """
    if not 1 <= scan_max <= SCAN_MAX:
        raise InvalidRequest(f"scan_max: expected 1 to {SCAN_MAX:,}, or 0 for no maximum, got {scan_max}")


def check_day(field: str, text: str) -> None:
    """Validate a date.

    Raises:
        InvalidRequest: The text is not a date, `YYYY-MM-DD`.
    """
    try:
        if _DAY.fullmatch(text):
            date.fromisoformat(text)
            return
    except ValueError:
        pass
    raise InvalidRequest(f"{field}: expected a date, YYYY-MM-DD")


def check_time(field: str, moment: Timestamp) -> None:
    """Validate a time, such as one in milliseconds instead of seconds.

    Raises:
        InvalidRequest: It is not between 1970 and 9999, as no date of a receipt could be.
    """
    if not 0 <= moment.seconds <= UNIX_SECONDS_MAX or not 0 <= moment.nanos < 1_000_000_000:
        raise InvalidRequest(f"{field}: expected a time from 1970 to 9999")


def check_span(from_day: str, to_day: str) -> None:
    """Validate a range of dates, each of which may be empty.

    Raises:
        InvalidRequest: One of them is not a date.
    """
    for field, text in (("from_day", from_day), ("to_day", to_day)):
        if text:
            check_day(field, text)


def requests_page(request: usage_pb2.ListRequestsRequest) -> RequestsPage:
    """Convert and validate a request for a page of an account's rows.

    Raises:
        InvalidRequest: A field is invalid.
    """
    check_required_id("account_id", request.account_id)
    check_id("key_id", request.key_id)
    check_id("before", request.before)
    check_model(request.model)
    check_span(request.from_day, request.to_day)
    if not 0 <= request.page_size <= ITEMS_MAX:
        raise InvalidRequest(f"page_size: expected 1 to {ITEMS_MAX:,}, or 0 for {_PAGE_ROWS}, got {request.page_size}")
    return RequestsPage(
        account_id=request.account_id,
        key_id=request.key_id,
        outcome=checked_outcome(request.outcome),
        surface=checked_surface(request.surface),
        model=request.model,
        start=unix_seconds(request.from_time) if request.HasField("from_time") else None,
        end=unix_seconds(request.to_time) if request.HasField("to_time") else None,
        ended_from=unix_seconds(request.ended_from) if request.HasField("ended_from") else None,
        from_day=request.from_day,
        to_day=request.to_day,
        before=request.before,
        rows_max=request.page_size or _PAGE_ROWS,
    )


def abandoned_request(request: usage_pb2.AbandonedRequest) -> tuple[str, Outcome | None]:
    """Return the id of an abandoned request, and the outcome for its row; None keeps the row's outcome.

    Raises:
        InvalidRequest: The outcome is not one of `ABANDONED_OUTCOMES`.
    """
    outcome = checked_outcome(request.outcome)
    if outcome is not None and outcome not in ABANDONED_OUTCOMES:
        raise InvalidRequest(f"outcome: expected one of {', '.join(sorted(ABANDONED_OUTCOMES))}")
    return request.request_id, outcome


def checked_outcome(text: str) -> Outcome | None:
    """Return the outcome of a filter; None if it is empty. Raises `InvalidRequest` for an unknown one."""
    if not text:
        return None
    try:
        return Outcome(text)
    except ValueError as exc:
        raise InvalidRequest(f"outcome: expected one of {', '.join(Outcome)}") from exc


def checked_surface(value: surface_pb2.Surface.ValueType) -> Surface | None:
    """Return the surface of a filter; None if it is unspecified. Raises `InvalidRequest` for an unknown one."""
    surface = surface_from_proto(value)
    if surface is None and value != surface_pb2.SURFACE_UNSPECIFIED:
        raise InvalidRequest(f"surface: expected one of {', '.join(Surface)}")
    return surface
