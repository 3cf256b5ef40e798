"""An exhaustive check of the accounting rules on a small world: do the rules keep their guarantees?

The world is one key with a limit, a few requests, and at most one Redis flush and one rollback. The program explores
every interleaving of reserve (with an initial count that may be stale), release, dispatch, row, late row, abandonment,
crash, settle, sweep, reconcile and time passing. Change the rules of docs/architecture.md only together with it.

    python -m tools.hold_machine            # three requests; a few minutes
    python -m tools.hold_machine 2          # two requests; seconds
    python -m tools.hold_machine --without reconcile-guard

`--without` disables one rule, to show that the check finds the violation that it prevents.
"""

import argparse
import sys
from collections import deque
from collections.abc import Iterator
from enum import IntEnum, StrEnum
from typing import NamedTuple

LIMIT = 2


class Phase(IntEnum):
    """The stage of a request; from CHARGED on it has a row, or needs none."""

    NEW = 0
    HELD = 1
    """Its slot is reserved."""
    OUT = 2
    """Inference has received it."""
    DEAD = 3
    """Inference crashed with it."""
    CHARGED = 4
    FREE = 5
    UNKNOWN = 6
    """The sweeper closed it; a later row stays uncharged."""
    RELEASED = 7
    """Its client left before dispatch: the gateway released the hold, and inference never had it."""
    DENIED = 8


class Gateway(IntEnum):
    """What the gateway does about a request's hold."""

    WAITS = 0
    """Waiting for inference's verdict."""
    ABANDONED = 1
    """Polling for the row: the client disconnected, a time-out answered it, or the call broke, so the verdict does not
    come."""
    SETTLED = 2
    DIED = 3
    """Crashed or gave up: the hold is left to the sweeper."""


class Rule(StrEnum):
    """Rules that can be disabled."""

    RECONCILE_GUARD = "reconcile-guard"
    """Reconciliation counts only rows that are older than a hold can live and have no hold."""
    VERDICT_NEEDS_ROW = "verdict-needs-row"
    """A hold is settled only by the verdict of a row."""
    SWEEPER_ASKS_LEDGER = "sweeper-asks-ledger"
    """The sweeper closes a hold by its row's verdict."""


class Request(NamedTuple):
    """One request."""

    phase: Phase = Phase.NEW
    gateway: Gateway = Gateway.WAITS
    is_old: bool = False
    """Whether it was reserved longer ago than a hold may live."""


class Redis(NamedTuple):
    """The counter of the key's day."""

    charged: int
    holds: frozenset[int]


class State(NamedTuple):
    """The world."""

    requests: tuple[Request, ...]
    redis: Redis | None = None
    """None: no counter yet, or Redis was emptied."""
    initial_count: int | None = None
    """Charged rows that a reserve has read as the initial count, and not written yet."""
    was_flushed: bool = False
    was_rolled_back: bool = False
    forgiven: int = 0
    """Holds and charges that Redis lost, by which it may admit too many."""
    snapshot: Redis | None = None


Step = tuple[str, State]


class Machine:
    """The steps that can follow a state."""

    def __init__(self, without: Rule | None = None) -> None:
        """Follow all rules except one."""
        self._without = without

    def steps(self, state: State) -> Iterator[Step]:
        """Yield the possible steps."""
        yield from self._initialise(state)
        for number, request in enumerate(state.requests):
            yield from self._request(state, number, request)
            yield from self._hold(state, number, request)
        yield from self._time(state)
        yield from self._losses(state)
        yield from self._reconcile(state)

    def _initialise(self, state: State) -> Iterator[Step]:
        if state.redis is None and state.initial_count is None:
            yield "read initial count", state._replace(initial_count=charged_rows(state))
        if state.initial_count is not None:
            initialised = Redis(state.initial_count, frozenset()) if state.redis is None else state.redis
            yield "write initial count", state._replace(redis=initialised, initial_count=None)

    def _request(self, state: State, number: int, request: Request) -> Iterator[Step]:
        """Yield the steps of gateway and inference with one request."""
        phase, gateway, is_old = request
        redis = state.redis
        if phase is Phase.NEW and redis is not None:
            if redis.charged + len(redis.holds) < LIMIT:
                held = redis._replace(holds=redis.holds | {number})
                yield f"reserve {number}", _put(state, number, phase=Phase.HELD)._replace(redis=held)
            else:
                yield f"deny {number}", _put(state, number, phase=Phase.DENIED, gateway=Gateway.SETTLED)
        if phase is Phase.HELD and gateway is Gateway.WAITS:
            if not is_old:
                yield f"dispatch {number}", _put(state, number, phase=Phase.OUT)
            released = _put(state, number, phase=Phase.RELEASED, gateway=Gateway.SETTLED)
            yield f"release {number}", _close(released, number, is_charged=False)
        if phase is Phase.OUT:
            yield f"charged row {number}", _put(state, number, phase=Phase.CHARGED)
            yield f"free row {number}", _put(state, number, phase=Phase.FREE)
            yield f"inference dies {number}", _put(state, number, phase=Phase.DEAD)
        if gateway is Gateway.WAITS and phase in (Phase.OUT, Phase.CHARGED, Phase.FREE, Phase.DEAD):
            yield f"abandon {number}", _put(state, number, gateway=Gateway.ABANDONED)
        if gateway in (Gateway.WAITS, Gateway.ABANDONED) and Phase.HELD <= phase <= Phase.UNKNOWN:
            yield f"gateway dies {number}", _put(state, number, gateway=Gateway.DIED)

    def _hold(self, state: State, number: int, request: Request) -> Iterator[Step]:
        """Yield the steps that close one request's hold."""
        phase, gateway, is_old = request
        is_settling = gateway in (Gateway.WAITS, Gateway.ABANDONED)
        if is_settling and phase in (Phase.CHARGED, Phase.FREE):
            settled = _put(state, number, gateway=Gateway.SETTLED)
            yield f"settle {number}", _close(settled, number, is_charged=phase is Phase.CHARGED)
        if self._without is Rule.VERDICT_NEEDS_ROW and is_settling and phase is Phase.OUT:
            yield (
                f"settle {number} early",
                _close(_put(state, number, gateway=Gateway.SETTLED), number, is_charged=True),
            )
        if state.redis is None or number not in state.redis.holds or not is_old:
            return
        if phase in (Phase.CHARGED, Phase.FREE):
            is_charged = phase is Phase.CHARGED or self._without is Rule.SWEEPER_ASKS_LEDGER
            yield f"sweep {number}", _close(state, number, is_charged=is_charged)
        if phase in (Phase.DEAD, Phase.HELD, Phase.OUT):
            yield f"sweep unknown {number}", _close(_put(state, number, phase=Phase.UNKNOWN), number, is_charged=False)

    def _time(self, state: State) -> Iterator[Step]:
        """Yield the step of time passing: a request may still be in progress then, where inference was paused."""
        aged = tuple(one._replace(is_old=True) if _is_begun(one) else one for one in state.requests)
        if aged != state.requests:
            yield "time passes", state._replace(requests=aged)

    def _losses(self, state: State) -> Iterator[Step]:
        redis, snapshot = state.redis, state.snapshot
        if redis is None:
            return
        if not state.was_flushed:
            forgiven = state.forgiven + len(redis.holds)
            yield "flush", state._replace(redis=None, initial_count=None, was_flushed=True, forgiven=forgiven)
        if snapshot is None and not state.was_rolled_back:
            yield "snapshot", state._replace(snapshot=redis)
        if snapshot is not None and not state.was_rolled_back:
            gap = abs(redis.charged - snapshot.charged) + len(redis.holds ^ snapshot.holds)
            back = state._replace(redis=snapshot, was_rolled_back=True, snapshot=None)
            yield "roll back", back._replace(forgiven=state.forgiven + gap)

    def _reconcile(self, state: State) -> Iterator[Step]:
        redis = state.redis
        if redis is None:
            return
        has_guard = self._without is not Rule.RECONCILE_GUARD
        count = sum(
            one.phase is Phase.CHARGED and (not has_guard or (one.is_old and number not in redis.holds))
            for number, one in enumerate(state.requests)
        )
        if count > redis.charged:
            yield "reconcile", state._replace(redis=redis._replace(charged=count))


def charged_rows(state: State) -> int:
    """Return how many rows are charged."""
    return sum(one.phase is Phase.CHARGED for one in state.requests)


def violated_guarantee(state: State, machine: Machine) -> str:
    """Return the guarantee that a state violates; empty when it keeps them all."""
    redis, rows = state.redis, charged_rows(state)
    if rows > LIMIT + state.forgiven:
        return "more is charged than the limit"
    if redis is None:
        return ""
    has_lost = state.was_flushed or state.was_rolled_back
    if not has_lost and redis.charged + len(redis.holds) > LIMIT:
        return "the counter is above the limit"
    if not _is_quiet(state):
        return ""
    if redis.charged > rows:
        return f"a request is charged for nothing: counter {redis.charged}, charged rows {rows}"
    if redis.charged < rows and not any(name == "reconcile" for name, _ in machine.steps(state)):
        return f"the counter stays below the ledger: counter {redis.charged}, charged rows {rows}"
    return ""


def explore(requests: int, without: Rule | None = None) -> tuple[int, str, list[str]]:
    """Explore every interleaving.

    Returns: How many states were explored, the violated guarantee, and the steps to it; both are empty when all
    guarantees hold.
    """
    machine, start = Machine(without), State((Request(),) * requests)
    seen: dict[State, tuple[str, State] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        if guarantee := violated_guarantee(state, machine):
            return len(seen), guarantee, _path(seen, state)
        for name, after in machine.steps(state):
            if after not in seen:
                seen[after] = (name, state)
                waiting.append(after)
    return len(seen), "", []


def main() -> int:
    """Explore according to the command line; return 1 when a guarantee is violated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("requests", nargs="?", type=int, default=3)
    parser.add_argument("--without", type=Rule, choices=list(Rule))
    given = parser.parse_args()
    states, guarantee, path = explore(given.requests, given.without)
    if guarantee:
        print(f"{guarantee}, after {states:,} states: {', '.join(path)}")
        return 1
    print(f"{states:,} states, every guarantee kept")
    return 0


def _put(state: State, number: int, *, phase: Phase | None = None, gateway: Gateway | None = None) -> State:
    before = state.requests[number]
    after = before._replace(
        phase=before.phase if phase is None else phase, gateway=before.gateway if gateway is None else gateway
    )
    return state._replace(requests=(*state.requests[:number], after, *state.requests[number + 1 :]))


def _close(state: State, number: int, *, is_charged: bool) -> State:
    redis = state.redis
    if redis is None or number not in redis.holds:
        return state
    return state._replace(redis=Redis(redis.charged + is_charged, redis.holds - {number}))


def _is_begun(request: Request) -> bool:
    return request.phase not in (Phase.NEW, Phase.DENIED, Phase.RELEASED)


def _is_quiet(state: State) -> bool:
    """Whether nothing is in progress any more, so that counter and ledger must agree."""
    if state.redis is None or state.redis.holds or state.initial_count is not None:
        return False
    return all(
        not _is_begun(one) or (one.is_old and one.phase is not Phase.OUT and not _will_settle(one))
        for one in state.requests
    )


def _will_settle(request: Request) -> bool:
    is_settling = request.gateway in (Gateway.WAITS, Gateway.ABANDONED)
    return is_settling and request.phase in (Phase.CHARGED, Phase.FREE)


def _path(seen: dict[State, tuple[str, State] | None], state: State) -> list[str]:
    path = []
    while (before := seen[state]) is not None:
        name, state = before
        path.append(name)
    return path[::-1]


if __name__ == "__main__":
    sys.exit(main())
