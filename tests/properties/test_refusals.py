"""Whatever quota answers and whenever the clock moves, each refusal is sent once, still waits, or is dropped."""

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InternalError, Unavailable
from services.gateway.http.errors import HTTPError
from services.gateway.keys.refusals import Refusals, RefusedRequests
from services.gateway.metrics import REFUSALS_DROPPED
from services.gateway.requests.types import CountedKey
from tests.unit.gateway.auth_client import ManualClock

_CODES = ("", "invalid_type", "rate_limit_exceeded")
_STEPS = st.one_of(
    st.tuples(st.just("count"), st.integers(0, 4), st.sampled_from(_CODES)),
    st.tuples(st.just("wait"), st.integers(0, 900), st.none()),
    st.tuples(st.sampled_from(["record", "away", "defect"]), st.none(), st.none()),
)


class _Record:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.recorded = 0

    async def record(self, refused: Sequence[RefusedRequests]) -> None:
        if self.error:
            raise self.error
        assert all(one.count > 0 and one.age_seconds >= 0 for one in refused)
        self.recorded += sum(one.count for one in refused)


@given(steps=st.lists(_STEPS, max_size=60))
def test_no_refusal_is_lost_or_sent_twice(steps: list[tuple[str, int | None, str | None]]) -> None:
    async def run() -> None:
        record, clock, counted = _Record(), ManualClock(), 0
        refusals, dropped = Refusals(record, clock), REFUSALS_DROPPED._value.get()
        for step, number, code in steps:
            if step == "count":
                error = HTTPError(400, "wrong", "invalid_request_error", code=code or None)
                refusals.count(CountedKey(f"key_{number}", "acc_1"), error)
                counted += 1
            elif step == "wait":
                clock.seconds += number or 0
            else:
                record.error = {"away": Unavailable("away"), "defect": InternalError("a defect")}.get(step)
                await refusals.drain(timeout_seconds=1)
        record.error = None
        await refusals.drain(timeout_seconds=1)
        assert record.recorded + REFUSALS_DROPPED._value.get() - dropped == counted

    asyncio.run(run())
