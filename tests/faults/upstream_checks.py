"""Compares the ledger with the stand-in's journal."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.faults.answers import Tokens, openai_tokens
from tests.faults.clients import Result
from tests.faults.evidence import Evidence
from tests.faults.kinds import Charge
from tests.faults.schedule import FaultKind
from tests.faults.world import HOLD_SECONDS, REQUEST_SECONDS, Row

NO_VERDICT = "no_verdict"
"""Reason of a row that the sweeper closed first; later data filled it in and left it uncharged."""
_TOKENS_MAX = 10**9
"""Highest count that a row accepts."""
_OWN_TIME_OUTS = {"upstream_timeout", "upstream_stalled", "deadline_exceeded"}
_STALL_SECONDS = 0.25
"""Half of a gateway's extra time for inference beyond the request's time-out."""
_WRITTEN_SECONDS_MAX = 1.0
"""Longest time from the upstream's answer to its row, where neither the database nor the machine stalls."""


def rows_have_the_reported_usage(evidence: Evidence) -> Iterator[str]:
    """Reported tokens are those that the upstream counted and reported for the same request."""
    standin_died = FaultKind.KILL in evidence.plan.faults_of("groq-standin")
    for row in evidence.rows:
        if row.usage_source != "reported":
            continue
        entries = evidence.exchanges_of(row)
        if row.upstream_id.startswith("req_") and not entries and not standin_died:
            yield f"the upstream knows nothing of {row}"
        if entries and all(entry["ended_at"] for entry in entries):
            yield from _wrong_usage(row, entries)


def clients_receive_the_reported_usage(evidence: Evidence) -> Iterator[str]:
    """A client reads the same usage as its receipt has."""
    rows = {row.request_id: row for row in evidence.rows}
    for result in evidence.results:
        row = rows.get(result.request_id)
        if row is None or not result.is_complete or result.tokens is None or row.usage_source != "reported":
            continue
        if _capped(result.tokens) != _tokens(row)._replace(total=result.tokens.total and _tokens(row).total):
            yield f"{result} received {result.tokens}: {row}"


def usage_is_estimated_only_where_it_was_not_reported(evidence: Evidence) -> Iterator[str]:
    """Where the upstream reported the usage in a body that was sent to its end, the row has it."""
    for row in evidence.rows:
        entry = evidence.journal.get(row.upstream_id)
        if row.usage_source != "estimated" or entry is None:
            continue
        if entry["completed"] and not _ran_out_of_time(entry) and _counted(entry["usage_sent"]) is not None:
            yield f"the upstream reported {entry['usage_sent']}: {row}"


def rows_belong_to_their_exchanges(evidence: Evidence) -> Iterator[str]:
    """A row names an exchange of its own request, and no other row does."""
    requests = {result.request_id: result.request for result in evidence.results if result.request_id}
    for row in evidence.rows:
        entry, request = evidence.journal.get(row.upstream_id), requests.get(row.request_id)
        if entry is not None and request is not None and evidence.number_of(entry) != request.number:
            yield f"{row} names an exchange that was for {entry['last_user_message']!r}, and not for {request}"
    for upstream_id, count in Counter(row.upstream_id for row in evidence.rows).items():
        if count > 1 and upstream_id in evidence.journal:
            yield f"{count} rows for the one exchange {upstream_id}"


def upstream_answers_once(evidence: Evidence) -> Iterator[str]:
    """No request is answered twice."""
    for number, entries in evidence.exchanges.items():
        answers = [entry for entry in entries if is_answered(entry)]
        if len(answers) > 1 and evidence.kind_of(number).charge is Charge.YES:
            yield f"{len(answers)} whole answers for request {number}"


def answers_of_the_upstream_are_charged(evidence: Evidence) -> Iterator[str]:
    """An answer of the upstream in time is charged, whatever the client received, unless inference was killed or
    stopped.
    """
    if evidence.plan.faults_of("inference"):
        return
    for number, entries in evidence.exchanges.items():
        kind = evidence.kind_of(number)
        for entry in entries:
            if kind.charge is not Charge.YES or not is_answered(entry) or _ran_out_of_time(entry):
                continue
            row = evidence.row_of(entry)
            if row is None and (kind.has_id or evidence.request_id_of(number)):
                yield f"no row for the answered exchange {entry}"
            if row is not None and not row.charged and not _may_be_swept_first(evidence, number, entry, row):
                yield f"not charged, though the upstream answered: {row}"


def answers_of_the_upstream_arrive(evidence: Evidence) -> Iterator[str]:
    """An undelayed answer of the upstream reaches a connected client, unless a part between them breaks."""
    results = {result.request.number: result for result in evidence.results}
    for number, entries in evidence.exchanges.items():
        result = results[number]
        gateway = f"gateway-{result.request.gateway + 1}"
        if evidence.plan.faults_of("inference") or evidence.plan.faults_of(gateway) or result.has_left:
            continue
        if result.request.kind.charge is not Charge.YES or result.is_complete or _is_timed_out(evidence, result):
            continue
        if any(is_answered(entry) and entry["ended_at"] - entry["received_at"] < 0.5 for entry in entries):
            yield f"{result}, though the upstream answered: {result.error}"


def whole_answers_are_those_of_the_upstream(evidence: Evidence) -> Iterator[str]:
    """A client gets a whole answer only where the upstream sent one; a failed or cut one never looks complete."""
    standin_died = FaultKind.KILL in evidence.plan.faults_of("groq-standin")
    for result in evidence.results:
        if not result.is_complete:
            continue
        if result.request.kind.charge is not Charge.YES:
            yield f"{result} looks complete"
        entries = evidence.exchanges.get(result.request.number, [])
        if not standin_died and not any(entry["status"] == 200 and entry["finish_reason"] for entry in entries):
            yield f"{result}, though the upstream sent no answer: {entries}"


def is_answered(entry: dict[str, Any]) -> bool:
    """Whether the upstream sent an answer to its end."""
    return bool(entry["completed"] and entry["status"] == 200 and entry["finish_reason"])


def _wrong_usage(row: Row, entries: list[dict[str, Any]]) -> Iterator[str]:
    received = [_counted(entry["usage_sent"]) for entry in entries]
    if _tokens(row) not in received:
        yield f"the upstream reported {[entry['usage_sent'] for entry in entries]}: {row}"
    counted = [_counted(entry["usage"]) for entry in entries]
    if _TOKENS_MAX not in _tokens(row) and _tokens(row) not in counted:
        yield f"the upstream counted {[entry['usage'] for entry in entries]}: {row}"


def _ran_out_of_time(entry: dict[str, Any]) -> bool:
    """Whether an exchange was so long that its request's time-out may have passed before its end was read."""
    return bool(entry["ended_at"] - entry["received_at"] > 1.2)


def _may_be_swept_first(evidence: Evidence, number: int, entry: dict[str, Any], row: Row) -> bool:
    """Whether a row may have come after the sweeper's verdict, which is given only after the hold's lifetime."""
    if row.refund_reason != NO_VERDICT or evidence.plan.ledger_may_stall:
        return row.refund_reason == NO_VERDICT
    started_at = next(result.started_at for result in evidence.results if result.request.number == number)
    written_at = entry["ended_at"] + _WRITTEN_SECONDS_MAX + evidence.stalled_seconds
    return bool(written_at >= started_at + HOLD_SECONDS)


def _is_timed_out(evidence: Evidence, result: Result) -> bool:
    """Whether a request timed out; on a machine that stalls, inference cannot report that in time."""
    has_waited = result.ended_at - result.started_at >= REQUEST_SECONDS
    is_given_up = result.code == "inference_unavailable" and has_waited and evidence.stalled_seconds >= _STALL_SECONDS
    return result.code in _OWN_TIME_OUTS or is_given_up


def _counted(usage: dict[str, Any] | None) -> Tokens | None:
    """Return the counts that a row should have; None where no usage can be read."""
    tokens = openai_tokens(usage)
    return tokens and _capped(tokens)


def _capped(tokens: Tokens) -> Tokens:
    """Return counts as a row accepts them. An unreported total remains None."""
    prompt, completion, total, cached, reasoning = (min(count or 0, _TOKENS_MAX) for count in tokens)
    return Tokens(prompt, completion, None if tokens.total is None else total, cached, reasoning)


def _tokens(row: Row) -> Tokens:
    return Tokens(row.prompt_tokens, row.completion_tokens, row.total_tokens, row.cached_tokens, row.reasoning_tokens)
