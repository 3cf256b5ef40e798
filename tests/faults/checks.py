"""The invariants of any seed: each check yields a sentence for every violation."""

import re
import time
from collections.abc import Callable, Iterable, Iterator

from stack.quota.v1 import quota_pb2
from tests.faults import upstream_checks
from tests.faults.clients import Result
from tests.faults.evidence import Evidence, charged_rows, charged_tokens, day_at, day_number
from tests.faults.kinds import Charge
from tests.faults.schedule import FaultKind
from tests.faults.upstream_checks import NO_VERDICT
from tests.faults.world import HOLD_SECONDS, Row

_STATUSES = {200, 400, 404, 413, 429, 502, 503, 504}
_LIMIT_TEXT = re.compile(r"Limit (\d+), Used (\d+), In use (\d+), Requested 1\.")
_TOKENS_TEXT = re.compile(r"TPD\).*: Limit (\d+), Used (\d+), In use (\d+), Requested at least (\d+)\.")
_CLOCK_SECONDS = 0.1
"""By how much two clocks of one machine may differ: Redis' is read in milliseconds."""
_LATE_SECONDS_MAX = 1.0
"""Longest time between the look at a settled key and the probe of it."""
_NEVER_CHARGED = {"refused", "upstream_failed", "unknown"}
_ALWAYS_CHARGED = {"answered", "client_left", "cut"}
_MAY_BE_FREE = {
    # The sweeper closed it first; what came later is not charged.
    NO_VERDICT,
    # The client disconnected before Groq was called.
    "client_left",
}
"""Reasons why an answered request is not charged."""
_NO_ROW_CODES = {"ledger_unavailable"}
"""Refused by inference before it began anything, with the verdict `released`."""


def problems(evidence: Evidence) -> list[str]:
    """Return all violations of a run."""
    return [*evidence.problems, *(f"{check.__name__}: {text}" for check in _CHECKS for text in check(evidence))]


def answers_are_charged(evidence: Evidence) -> Iterator[str]:
    """A client that got an answer to its end has a charged row, except one that came after the sweeper's verdict."""
    rows = {row.request_id: row for row in evidence.rows}
    for result in evidence.results:
        if result.is_complete:
            row = rows.get(result.request_id)
            if row is None or row.outcome == "unknown":
                if not _may_lose_rows(evidence):
                    yield f"{result} has no row of its own: {row}"
            elif not row.charged and not _was_late(evidence, result, row):
                yield f"{result} is not charged: {row}"
            elif row.outcome not in ("answered", "client_left"):
                yield f"{result} was answered, but its row says otherwise: {row}"


def rows_are_charged_rightly(evidence: Evidence) -> Iterator[str]:
    """Failed requests are free, and answered ones are charged."""
    kinds = {result.request_id: result.request.kind for result in evidence.results if result.request_id}
    for row in evidence.rows:
        kind = kinds.get(row.request_id)
        if row.charged and row.outcome in _NEVER_CHARGED:
            yield f"charged, though it failed: {row}"
        if not row.charged and row.outcome in _ALWAYS_CHARGED and row.refund_reason not in _MAY_BE_FREE:
            yield f"not charged, though it was answered: {row}"
        if row.charged and kind and (kind.charge is Charge.NO or kind.is_bad):
            yield f"charged, though Groq refuses or fails every {kind.name} request: {row}"
        if row.charged and kind and kind.charge is Charge.AFTER_OUTPUT and not row.stream and row.outcome != "answered":
            yield f"charged without any output: {row}"


def output_is_charged(evidence: Evidence) -> Iterator[str]:
    """A client that was sent any output has a charged row, unless inference was killed before it was written."""
    rows = {row.request_id: row for row in evidence.rows}
    for result in evidence.results:
        row = rows.get(result.request_id)
        if not result.has_output or row is None or row.charged or row.outcome == "unknown":
            continue
        if row.refund_reason != NO_VERDICT:
            yield f"{result} was sent output and is not charged: {row}"


def rows_belong_to_requests(evidence: Evidence) -> Iterator[str]:
    """Every reserved and dispatched request has its row, and there is no row without a request."""
    known = {row.request_id: row.outcome for row in evidence.rows}
    for result in evidence.results:
        is_reserved = result.remaining is not None and result.status != 429
        # With the hold Redis lost the record of a request; only one that reached inference has a row then.
        may_lack = evidence.redis_lost or result.code in _NO_ROW_CODES
        if is_reserved and result.request_id not in known and not may_lack:
            yield f"{result} was reserved and has no row"
        if not is_reserved and result.status is not None and known.get(result.request_id, "unknown") != "unknown":
            # A reserve whose answer was lost may have held a slot, which the sweeper closes.
            yield f"{result} held no slot and has a row"
    most = 2 * len(evidence.results)  # A reserve without an answer is retried once, under another id.
    if len(evidence.rows) > most:
        yield f"{len(evidence.rows)} rows for {len(evidence.results)} requests"


def rows_have_the_surface(evidence: Evidence) -> Iterator[str]:
    """A row that inference wrote has the surface of its request; `/chat/completions` is the same as `/chat`."""
    sent = {result.request_id: result.request.surface.partition("/")[0] for result in evidence.results}
    for row in evidence.rows:
        surface = sent.get(row.request_id)
        if surface and row.outcome != "unknown" and row.surface != surface:
            yield f"a request to {surface} has the row {row}"


def limits_are_kept(evidence: Evidence) -> Iterator[str]:
    """No key exceeds its limit; if Redis lost something, by no more than what it lost."""
    for key_id, day in _key_days(evidence):
        charged, most = charged_rows(evidence.rows, key_id, day), _most(evidence, key_id, day)
        if charged > most:
            yield f"{key_id} on day {day}: {charged} charged, limit {evidence.limit(key_id)}, allowed {most}"


def limits_are_kept_at_every_moment(evidence: Evidence) -> Iterator[str]:
    """Charges and holds together never exceeded that bound either."""
    for (key_id, day), peak in evidence.peaks.items():
        if peak > _most(evidence, key_id, day):
            yield f"{key_id} on day {day}: {peak} charged and held, limit {evidence.limit(key_id)}"


def token_limits_are_kept(evidence: Evidence) -> Iterator[str]:
    """No key exceeds its limit of tokens, at no moment, unless Redis lost charges or holds."""
    for key_id, day in () if evidence.redis_lost else _key_days(evidence):
        charged, limit = charged_tokens(evidence.rows, key_id, day), evidence.token_limit(key_id)
        if max(charged, evidence.token_peaks.get((key_id, day), 0)) > limit:
            yield f"{key_id} on day {day}: {charged} tokens, at most {evidence.token_peaks}, limit {limit}"


def denials_are_true(evidence: Evidence) -> Iterator[str]:
    """A 429 comes only when the limit is filled, and its numbers are plausible, where its body arrived."""
    for result in evidence.results:
        if (
            result.status == 429 and not result.is_cut
        ):  # `answers_are_well_formed` decides which clients may be interrupted.
            yield from _wrong_denial(evidence, result)


def days_are_those_of_the_run(evidence: Evidence) -> Iterator[str]:
    """Requests are counted on the current day, however far Redis' clock steps for less than a hold's lifetime."""
    first, last = day_at(evidence.started_at), day_at(time.time())
    for row in evidence.rows:
        if not first <= day_number(row.day) <= last:
            yield f"counted on another day than {first} or {last}: {row}"


def probes_have_correct_headers(evidence: Evidence) -> Iterator[str]:
    """On a settled key the next answer's header agrees with the ledger.

    A reservation whose gateway gave up may be made after that: its hold counts until the sweeper closes it.
    """
    for result, limit, charged in evidence.probes:
        if result.status == 429 and _TOKENS_TEXT.search(_message(result)):
            continue
        late = _late_holds(evidence, result)
        reported = 0 if result.status == 429 else result.remaining
        left = limit - charged - (result.status == 200)
        if reported is None or not max(0, left - late) <= reported <= max(0, left):
            yield f"{result}: remaining {result.remaining} after {charged} of {limit}, and {late} late holds"
        if result.status == 429 and charged + late < limit:
            yield f"{result}: refused after {charged} of {limit}, and {late} late holds"


def answers_are_well_formed(evidence: Evidence) -> Iterator[str]:
    """Statuses are expected ones, no request hangs, and a stream has a proper end."""
    for result in evidence.results:
        if result.status is not None and result.status not in _STATUSES:
            yield f"{result}: {result.error}"
        if result.hangs:
            yield f"{result} hangs"
        if result.is_done and result.error:
            yield f"{result}: complete, and an error"
        if result.request.kind.is_bad and result.status not in (None, 400, 503):
            yield f"{result}: expected 400"
        yield from (f"{result}: {oddity}" for oddity in result.oddities)


def connections_hold(evidence: Evidence) -> Iterator[str]:
    """Only a killed gateway interrupts its clients' connections."""
    for result in evidence.results:
        gateway = f"gateway-{result.request.gateway + 1}"
        if result.is_cut and FaultKind.KILL not in evidence.plan.faults_of(gateway):
            yield f"{result} was cut by {gateway}, which was alive"


def quota_finds_nothing(evidence: Evidence) -> Iterator[str]:
    """Quota's own comparison finds no discrepancy; over-admission only where Redis lost something, and within its
    bound.
    """
    over_limit = quota_pb2.DISCREPANCY_KIND_OVER_LIMIT
    own = {key.id for key in evidence.keys}
    for one in evidence.discrepancies:
        if one.kind == over_limit and one.key_id not in own:
            continue  # It belongs to an earlier seed, and was judged there.
        if one.kind != over_limit or one.charged + one.held > _most(evidence, one.key_id, day_number(one.day)):
            yield f"verify found {quota_pb2.DiscrepancyKind.Name(one.kind)}: {one}".replace("\n", " ")


_CHECKS: tuple[Callable[[Evidence], Iterable[str]], ...] = (
    answers_are_charged,
    rows_are_charged_rightly,
    output_is_charged,
    rows_belong_to_requests,
    rows_have_the_surface,
    upstream_checks.rows_have_the_reported_usage,
    upstream_checks.clients_receive_the_reported_usage,
    upstream_checks.usage_is_estimated_only_where_it_was_not_reported,
    upstream_checks.rows_belong_to_their_exchanges,
    upstream_checks.upstream_answers_once,
    upstream_checks.whole_answers_are_those_of_the_upstream,
    upstream_checks.answers_of_the_upstream_are_charged,
    upstream_checks.answers_of_the_upstream_arrive,
    limits_are_kept,
    limits_are_kept_at_every_moment,
    token_limits_are_kept,
    denials_are_true,
    days_are_those_of_the_run,
    probes_have_correct_headers,
    answers_are_well_formed,
    connections_hold,
    quota_finds_nothing,
)


def _may_lose_rows(evidence: Evidence) -> bool:
    """A row is lost only where it waited for the database and its process was killed."""
    return evidence.plan.ledger_may_stall and FaultKind.KILL in evidence.plan.faults_of("inference")


def _was_late(evidence: Evidence, result: Result, row: Row) -> bool:
    """Whether the sweeper may have closed a row before it came.

    It does so only after the hold's lifetime. Where no row has to wait for the database it commits before its answer
    ends, so that such an answer ended after that time.
    """
    if row.refund_reason != NO_VERDICT:
        return False
    return evidence.plan.ledger_may_stall or result.ended_at >= _reserved_at(evidence, result, row) + HOLD_SECONDS


def _late_holds(evidence: Evidence, probe: Result) -> int:
    """Return the number of holds of a probe's key that the sweeper closed later, and that were made just before it."""
    key_id = evidence.keys[probe.request.key].id
    return sum(
        any(
            probe.started_at - _LATE_SECONDS_MAX <= at <= probe.ended_at
            for at in (row.reserved_at, row.reserved_at - evidence.plan.clock_step)
        )
        for row in evidence.rows
        if row.key_id == key_id and row.refund_reason == NO_VERDICT and not row.charged
    )


def _reserved_at(evidence: Evidence, result: Result, row: Row) -> float:
    """Return when a request was reserved, by the machine's clock, where Redis' clock may have stepped."""
    known = row.reserved_at, row.reserved_at - evidence.plan.clock_step
    within = (at for at in known if result.started_at - _CLOCK_SECONDS <= at <= result.ended_at)
    return next(within, result.started_at)


def _wrong_denial(evidence: Evidence, result: Result) -> Iterator[str]:
    key_id = evidence.keys[result.request.key].id
    found, of_tokens = _LIMIT_TEXT.search(_message(result)), _TOKENS_TEXT.search(_message(result))
    if of_tokens is not None:
        limit, used, in_use, requested = map(int, of_tokens.groups())
        if limit != evidence.token_limit(key_id) or used + in_use + requested <= limit:
            yield f"{result}: the limit of tokens was not filled: {of_tokens.group()}"
        return
    if found is None:
        yield f"{result}: a 429 without numbers: {result.error}"
        return
    limit, used, in_use = map(int, found.groups())
    if limit != evidence.limit(key_id) or used + in_use < limit:
        yield f"{result}: the limit was not filled: {found.group()}"
    days = {day for one, day in _key_days(evidence) if one == key_id}
    if used > max((charged_rows(evidence.rows, key_id, day) for day in days), default=0):
        yield f"{result}: more used than was ever charged: {found.group()}"
    if used + in_use > max((_most(evidence, key_id, day) for day in days), default=limit):
        yield f"{result}: over the limit: {found.group()}"


def _message(result: Result) -> str:
    return str((result.error or {}).get("message"))


def _most(evidence: Evidence, key_id: str, day: int) -> int:
    return evidence.limit(key_id) + evidence.lost.get((key_id, day), 0)


def _key_days(evidence: Evidence) -> set[tuple[str, int]]:
    return {(row.key_id, day_number(row.day)) for row in evidence.rows} | set(evidence.entries)
