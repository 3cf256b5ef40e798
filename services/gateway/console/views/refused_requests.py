"""The section "Refused requests" of the usage page and of the page of a key."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from services.common.runtime.clock import Clock
from services.common.web.unknown import or_none
from services.gateway.console.docs.error_codes import ERRORS, ErrorCode
from services.gateway.console.docs.outline import path_of
from services.gateway.console.hour_chart import hour_chart
from services.gateway.console.ports import Key
from services.gateway.console.refusals import RefusalSum, by_hour, sums_of
from services.gateway.console.request_context import RequestContext

_KEYS_MAX = 1_000
"""Most accounts have a few keys. Of more, the oldest are left out."""
_UNKNOWN = ErrorCode(
    Markup("The request was refused."),
    Markup("Correct what the message of the error names."),
    path_of(ERRORS),
)
_OTHER = ErrorCode(
    Markup("There were more kinds of errors on one day than are counted separately."),
    Markup("Look at the messages of the errors that your programs received."),
    path_of(ERRORS),
)


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """Requests that were refused with one code."""

    sum: RefusalSum
    explained: ErrorCode
    keys: Sequence[Key]
    """The keys of these requests, those with the most first."""


@dataclass(frozen=True, slots=True)
class RefusedSection:
    """What the section shows."""

    rows: Sequence[RefusedRow]
    charts: Sequence[Markup]
    """The last 24 hours, for wide and for narrow screens."""
    in_week: int
    in_day: int
    keys: int
    """Number of keys. Rows name theirs if there are several."""
    left_out: int
    """Number of keys that are not included."""


class RefusedRequests:
    """Reads what the section shows."""

    def __init__(self, error_codes: Callable[[], Awaitable[Mapping[str, ErrorCode]]], clock: Clock) -> None:
        """Explain codes by `error_codes`."""
        self._error_codes = error_codes
        self._clock = clock

    async def read(self, context: RequestContext, keys: Sequence[Key]) -> RefusedSection | None:
        """Return the section of keys, which are ordered by age; None if it is not known at the moment."""
        included = {key.id: key for key in keys[-_KEYS_MAX:]}
        refusals = await or_none(context.scope.refusals.refusals(list(included)))
        if refusals is None:
            return None
        now, explanations = self._clock.now(), await self._error_codes()
        rows = [
            RefusedRow(one, _explained(one, explanations), [included[key_id] for key_id in one.key_ids])
            for one in sums_of(refusals, now=now)
        ]
        return RefusedSection(
            rows,
            [Markup(svg) for svg in hour_chart("Refused requests", by_hour(refusals, now=now))],
            sum(row.sum.in_week for row in rows),
            sum(row.sum.in_day for row in rows),
            len(keys),
            len(keys) - len(included),
        )


def _explained(one: RefusalSum, explanations: Mapping[str, ErrorCode]) -> ErrorCode:
    return explanations.get(one.code, _UNKNOWN) if one.status else _OTHER
