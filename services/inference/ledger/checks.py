"""What UsageService takes: ids and days that a database can be asked for, and a bounded number of them.

Postgres refuses a NUL in a text, which would look like an outage; longer texts than a column holds are nobody's id.
"""

import re
from collections.abc import Sequence
from datetime import date

from services.common.errors import InvalidRequest
from services.inference.chat import ABANDONED_OUTCOMES, Outcome
from services.inference.ledger.writer import RequestsPage
from stack.inference.v1 import usage_pb2

ITEMS_MAX = 1_000
"""Most things that one call may name, and most rows of a page."""
ID_CHARACTERS_MAX = 64
_PAGE_ROWS = 100
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def check_id(field: str, text: str) -> None:
    """Let an id pass, or nothing.

    Raises:
        InvalidRequest: The ledger could neither keep it nor be asked for it.
    """
    if len(text) > ID_CHARACTERS_MAX or "\0" in text:
        raise InvalidRequest(f"{field}: expected at most {ID_CHARACTERS_MAX} characters without NUL")


def check_given(field: str, text: str) -> None:
    """Let an id pass.

    Raises:
        InvalidRequest: There is none, or as `check_id`.
    """
    if not text:
        raise InvalidRequest(f"{field}: expected an id, got nothing")
    check_id(field, text)


def check_ids(field: str, texts: Sequence[str]) -> None:
    """Let ids pass; raises as `check_id`."""
    for text in texts:
        check_id(field, text)


def check_size(field: str, count: int, *, least: int = 1) -> None:
    """Let a number of things pass.

    Raises:
        InvalidRequest: It is out of bounds.
    """
    if not least <= count <= ITEMS_MAX:
        raise InvalidRequest(f"{field}: expected {least} to {ITEMS_MAX:,} items, got {count:,}")


def check_day(field: str, text: str) -> None:
    """Let a day pass.

    Raises:
        InvalidRequest: It is none.
    """
    try:
        if _DAY.fullmatch(text):
            date.fromisoformat(text)
            return
    except ValueError:
        pass
    raise InvalidRequest(f"{field}: expected a date, YYYY-MM-DD")


def check_span(from_day: str, to_day: str) -> None:
    """Let a span of days pass, each end of which may be open.

    Raises:
        InvalidRequest: An end is no day.
    """
    for field, text in (("from_day", from_day), ("to_day", to_day)):
        if text:
            check_day(field, text)


def requests_page(request: usage_pb2.ListRequestsRequest) -> RequestsPage:
    """Return what page of an account's rows is asked for.

    Raises:
        InvalidRequest: No such page can be.
    """
    check_given("account_id", request.account_id)
    check_id("key_id", request.key_id)
    check_id("before", request.before)
    check_span(request.from_day, request.to_day)
    if not 0 <= request.page_size <= ITEMS_MAX:
        raise InvalidRequest(f"page_size: expected 1 to {ITEMS_MAX:,}, or 0 for {_PAGE_ROWS}, got {request.page_size}")
    return RequestsPage(
        account_id=request.account_id,
        key_id=request.key_id,
        outcome=_outcome(request.outcome),
        from_day=request.from_day,
        to_day=request.to_day,
        before=request.before,
        rows_max=request.page_size or _PAGE_ROWS,
    )


def abandoned_request(request: usage_pb2.AbandonedRequest) -> tuple[str, Outcome | None]:
    """Return the id of an abandoned request, and the outcome to note on its row; None leaves the row's own.

    Raises:
        InvalidRequest: It is no reason why a request is abandoned.
    """
    outcome = _outcome(request.outcome)
    if outcome is not None and outcome not in ABANDONED_OUTCOMES:
        raise InvalidRequest(f"outcome: expected one of {', '.join(sorted(ABANDONED_OUTCOMES))}")
    return request.request_id, outcome


def _outcome(text: str) -> Outcome | None:
    if not text:
        return None
    try:
        return Outcome(text)
    except ValueError as exc:
        raise InvalidRequest(f"outcome: expected one of {', '.join(Outcome)}") from exc
