"""Checks of requests to quota."""

import re

from services.common.errors import InvalidRequest

ITEMS_MAX = 1_000
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def check_size(count: int, field: str, *, items_max: int = ITEMS_MAX) -> None:
    """Check the number of items in a call.

    Raises:
        InvalidRequest: There are none, or too many.
    """
    if not 1 <= count <= items_max:
        raise InvalidRequest(f"{field}: expected 1 to {items_max:,} items, got {count:,}")


def check_id(text: str, field: str) -> None:
    """Check an id.

    Raises:
        InvalidRequest: It is not one.
    """
    # The store joins ids with spaces and colons, and the sweeper could never close a hold whose id the ledger rejects.
    # `charged` and `limit` are fields of the previous version's layout.
    if not _ID.fullmatch(text) or text in ("charged", "limit"):
        raise InvalidRequest(
            f"{field}: expected an id of 1 to 64 characters from A-Z, a-z, 0-9, _, - and ., got {text!r}"
        )
