"""An exhaustive check of the accounting rules on a small world: do the rules keep their guarantees?

The world is one account with two keys and a few requests. Each request takes one request of its key's limit, one of the
account's limit, and up to `BOUND` tokens of the account's limit. The program explores every interleaving of reserve
(with initial counts that may be stale), release, dispatch, row, late row, abandonment, crash, settle, sweep, reconcile
and time passing. In some worlds Redis is flushed and rolled back, the window turns, the limit is lowered, and the
account is deleted and created again. docs/accounting.md has the rules; change them only together with this program.

    python -m tools.hold_machine                          # the small worlds, in seconds
    python -m tools.hold_machine --world losses-of-three  # one world; the large ones take up to several minutes
    python -m tools.hold_machine --without reconcile-guard
    python -m tools.hold_machine --table                  # each rule, and the guarantee that breaks without it

`--without` disables one rule, to show that the check finds the violation that it prevents.
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

BOUND = 2
"""Tokens that a request holds: the upper bound of what it can use."""


class Phase(IntEnum):
    """The stage of a request; from CHARGED on it has a row, or needs none."""

    NEW = 0
    HELD = 1
    """Its hold is written."""
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
    """Rules that can be disabled, named as in docs/accounting.md."""

    KEY_LIMIT = "key-limit"
    """A reserve checks the key's requests."""
    ACCOUNT_LIMIT = "account-limit"
    """A reserve checks the account's requests."""
    TOKEN_LIMIT = "token-limit"
    """A reserve checks the account's tokens."""
    HOLDS_COUNT = "holds-count"
    """Holds count against a limit with all that they took."""
    ALL_OR_NONE = "all-or-none"
    """A reserve that one limit denies takes nothing of the other limits."""
    CURRENT_LIMIT = "current-limit"
    """A reserve checks the limit in force, not an earlier, higher one."""
    HIGHEST_LIMIT = "highest-limit"
    """Drift is measured against the highest limit of the window, so a lowered limit is not drift."""
    GIVE_BACK = "give-back"
    """A settlement charges what was used, and gives back the rest of the hold."""
    AT_MOST_HELD = "at-most-held"
    """A settlement and a row never charge more than was held."""
    SETTLE_NEEDS_HOLD = "settle-needs-hold"
    """A settlement without a hold changes nothing."""
    VERDICT_NEEDS_ROW = "verdict-needs-row"
    """A hold is settled only by the verdict of a row."""
    WINDOW_OF_RESERVE = "window-of-reserve"
    """A settlement charges the window of the reserve, which the hold records."""
    SWEEPER_ASKS_LEDGER = "sweeper-asks-ledger"
    """The sweeper closes a hold by its row's verdict."""
    SWEEPER_ASKS_AMOUNTS = "sweeper-asks-amounts"
    """The sweeper charges the row's amounts, not the hold's."""
    CLOSE_BY_ROW = "close-by-row"
    """The sweeper closes a request without a row by an `unknown` row, which makes its verdict final."""
    RECONCILE_GUARD = "reconcile-guard"
    """Reconciliation counts only rows that are older than a hold can live and have no hold."""
    SEED_ABSENT = "seed-absent"
    """An initial count is written only where there is no counter."""
    SEED_ALL_KEYS = "seed-all-keys"
    """The account's initial count includes the rows of deleted keys and of the deleted account."""
    ACCOUNT_STAYS = "account-stays"
    """An account that is deleted and created again keeps its counters."""


@dataclass(frozen=True)
class World:
    """What is in a world and what can happen there."""

    keys: tuple[int, ...]
    """Key of each request, 0 or 1."""
    key_limit: int
    account_limit: int
    token_limit: int
    usages: tuple[int, ...] = (1, BOUND)
    """Tokens that a charged request can have used; more than `BOUND` where the bound was too low."""
    has_flush: bool = False
    has_rollback: bool = False
    has_turn: bool = False
    """Whether the window of tokens turns once."""
    lowered_limit: int | None = None
    """Account's limit in requests after it is lowered."""
    has_deletion: bool = False
    """Whether the account of key 0 is deleted. Key 1 belongs to the account created then."""


WORLDS = {
    "keys": World((0, 0), 1, 2, 4, has_flush=True),
    "accounts": World((0, 1), 1, 1, 4, has_flush=True),
    "tokens": World((0, 1), 1, 2, 3, usages=(1, 3), has_flush=True),
    "windows": World((0, 0), 2, 2, 2, has_turn=True),
    "lowered": World((0, 1), 1, 2, 4, usages=(2,), lowered_limit=1),
    "deleted": World((0, 1), 1, 1, 4, usages=(2,), has_flush=True, has_deletion=True),
    "rolled-back": World((0, 1), 1, 1, 2, has_rollback=True),
    "losses": World((0, 0), 2, 2, 3, usages=(1, 3), has_flush=True, has_rollback=True),
}
"""Small worlds, of two requests each."""

LARGE_WORLDS = {
    "turns-and-losses": World((0, 0), 2, 2, 2, has_flush=True, has_rollback=True, has_turn=True),
    "three": World((0, 0, 1), 1, 2, 3),
    "losses-of-three": World((0, 0, 1), 2, 2, 4, usages=(2,), has_flush=True, has_rollback=True),
}
"""Worlds that take minutes."""


class Request(NamedTuple):
    """One request."""

    phase: Phase = Phase.NEW
    gateway: Gateway = Gateway.WAITS
    is_old: bool = False
    """Whether it was reserved longer ago than a hold may live."""
    window: int = 0
    """Window of its reserve."""
    tokens: int = 0
    """Tokens that its charged row has."""


class Counts(NamedTuple):
    """Amounts by limit."""

    keys: tuple[int, int] = (0, 0)
    """Requests of each key."""
    account: int = 0
    """Requests of the account."""
    tokens: tuple[int, int] = (0, 0)
    """Tokens of the account, in each window."""

    def plus(self, key: int, window: int, requests: int, tokens: int) -> "Counts":
        """Return the amounts with a request's added."""
        return Counts(_add(self.keys, key, requests), self.account + requests, _add(self.tokens, window, tokens))


class Redis(NamedTuple):
    """Counters and holds of the account."""

    charged: Counts
    holds: frozenset[int] = frozenset()
    leaked: int = 0
    """Requests of keys that are held for denied requests; must be 0."""
    highest: int = 0
    """Highest account limit at a reserve."""


class State(NamedTuple):
    """The world's state."""

    requests: tuple[Request, ...]
    redis: Redis | None = None
    """None: no counters yet, or Redis was emptied."""
    initial: Counts | None = None
    """Sums of charged rows that a replica has read as the initial counts, and not written yet."""
    was_flushed: bool = False
    was_rolled_back: bool = False
    forgiven: int = 0
    """Holds and charges that Redis lost, by which it may admit too many."""
    snapshot: Redis | None = None
    window: int = 0
    is_lowered: bool = False
    is_deleted: bool = False


Step = tuple[str, State]


class Machine:
    """The steps that can follow a state."""

    def __init__(self, world: World, without: Rule | None = None) -> None:
        """Follow all rules except one."""
        self.world = world
        self._without = without

    def steps(self, state: State) -> Iterator[Step]:
        """Yield the possible steps."""
        yield from self._initialise(state)
        for number, request in enumerate(state.requests):
            yield from self._reserve(state, number, request)
            yield from self._request(state, number, request)
            yield from self._settle(state, number, request)
            yield from self._sweep(state, number, request)
        yield from self._time(state)
        yield from self._changes(state)
        yield from self._losses(state)
        yield from self._reconcile(state)

    def ledger(self, state: State, *, is_seed: bool = False) -> Counts:
        """Return the sums of charged rows by limit."""
        counts = Counts()
        is_live_only = is_seed and state.is_deleted and self._without is Rule.SEED_ALL_KEYS
        for number, request in enumerate(state.requests):
            if request.phase is Phase.CHARGED and not (is_live_only and self.world.keys[number] == 0):
                counts = counts.plus(self.world.keys[number], request.window, 1, request.tokens)
        return counts

    def held(self, state: State, redis: Redis) -> Counts:
        """Return what holds take of each limit."""
        counts = Counts()
        for number in redis.holds:
            counts = counts.plus(self.world.keys[number], state.requests[number].window, 1, BOUND)
        return counts._replace(keys=_add(counts.keys, 0, redis.leaked))

    def account_limit(self, state: State) -> int:
        """Return the account's limit in force."""
        lowered = self.world.lowered_limit
        return self.world.account_limit if lowered is None or not state.is_lowered else lowered

    def drift(self, state: State, redis: Redis) -> bool:
        """Return whether `stackctl verify` reports that the account is over its limit."""
        limit = redis.highest if self._without is not Rule.HIGHEST_LIMIT else self.account_limit(state)
        return redis.charged.account + len(redis.holds) > limit

    def reconciled(self, state: State, redis: Redis) -> Redis:
        """Return Redis after a reconciliation."""
        has_guard = self._without is not Rule.RECONCILE_GUARD
        old = Counts()
        for number, request in enumerate(state.requests):
            if request.phase is Phase.CHARGED and (not has_guard or (request.is_old and number not in redis.holds)):
                old = old.plus(self.world.keys[number], request.window, 1, request.tokens)
        charged = redis.charged
        raised = Counts(
            _maximum(charged.keys, old.keys), max(charged.account, old.account), _maximum(charged.tokens, old.tokens)
        )
        return redis._replace(charged=raised)

    def _initialise(self, state: State) -> Iterator[Step]:
        if state.initial is None and (state.redis is None or self._without is Rule.SEED_ABSENT):
            yield "read initial counts", state._replace(initial=self.ledger(state, is_seed=True))
        if state.initial is None:
            return
        redis = state.redis
        if redis is None:
            redis = Redis(state.initial, highest=state.initial.account)
        elif self._without is Rule.SEED_ABSENT:
            redis = redis._replace(charged=state.initial)
        yield "write initial counts", state._replace(redis=redis, initial=None)

    def _reserve(self, state: State, number: int, request: Request) -> Iterator[Step]:
        redis, key = state.redis, self.world.keys[number]
        if request.phase is not Phase.NEW or redis is None or (key == 0 and state.is_deleted):
            return
        redis = redis._replace(highest=max(redis.highest, self.account_limit(state)))
        if self._fits(state, redis, key):
            held = redis._replace(holds=redis.holds | {number})
            admitted = _put(state, number, phase=Phase.HELD, window=state.window)
            yield f"reserve {number}", admitted._replace(redis=held)
            return
        if self._without is Rule.ALL_OR_NONE and key == 0 and self._fits_key(state, redis, key):
            redis = redis._replace(leaked=1)
        yield f"deny {number}", _put(state, number, phase=Phase.DENIED, gateway=Gateway.SETTLED)._replace(redis=redis)

    def _fits(self, state: State, redis: Redis, key: int) -> bool:
        limit = redis.highest if self._without is Rule.CURRENT_LIMIT else self.account_limit(state)
        held = Counts() if self._without is Rule.HOLDS_COUNT else self.held(state, redis)
        tokens = redis.charged.tokens[state.window] + held.tokens[state.window]
        fits_account = redis.charged.account + held.account + 1 <= limit
        return (
            self._fits_key(state, redis, key)
            and (fits_account or self._without is Rule.ACCOUNT_LIMIT)
            and (tokens + BOUND <= self.world.token_limit or self._without is Rule.TOKEN_LIMIT)
        )

    def _fits_key(self, state: State, redis: Redis, key: int) -> bool:
        held = Counts() if self._without is Rule.HOLDS_COUNT else self.held(state, redis)
        is_below = redis.charged.keys[key] + held.keys[key] + 1 <= self.world.key_limit
        return is_below or self._without is Rule.KEY_LIMIT

    def _request(self, state: State, number: int, request: Request) -> Iterator[Step]:
        """Yield the steps of gateway and inference with one request."""
        phase, gateway, is_old = request.phase, request.gateway, request.is_old
        if phase is Phase.HELD and gateway is Gateway.WAITS:
            if not is_old:
                yield f"dispatch {number}", _put(state, number, phase=Phase.OUT)
            released = _put(state, number, phase=Phase.RELEASED, gateway=Gateway.SETTLED)
            yield f"release {number}", self._close(released, number, is_charged=False)
        if phase is Phase.OUT:
            for used in self.world.usages:
                tokens = used if self._without is Rule.AT_MOST_HELD else min(used, BOUND)
                yield f"charged row {number} of {used} tokens", _put(state, number, phase=Phase.CHARGED, tokens=tokens)
            yield f"free row {number}", _put(state, number, phase=Phase.FREE)
            yield f"inference dies {number}", _put(state, number, phase=Phase.DEAD)
        if gateway is Gateway.WAITS and phase in (Phase.OUT, Phase.CHARGED, Phase.FREE, Phase.DEAD):
            yield f"abandon {number}", _put(state, number, gateway=Gateway.ABANDONED)
        if gateway in (Gateway.WAITS, Gateway.ABANDONED) and Phase.HELD <= phase <= Phase.UNKNOWN:
            yield f"gateway dies {number}", _put(state, number, gateway=Gateway.DIED)

    def _settle(self, state: State, number: int, request: Request) -> Iterator[Step]:
        if request.gateway not in (Gateway.WAITS, Gateway.ABANDONED):
            return
        settled = _put(state, number, gateway=Gateway.SETTLED)
        if request.phase in (Phase.CHARGED, Phase.FREE):
            yield f"settle {number}", self._close(settled, number, is_charged=request.phase is Phase.CHARGED)
        if self._without is Rule.VERDICT_NEEDS_ROW and request.phase is Phase.OUT:
            yield f"settle {number} early", self._close(settled, number, is_charged=True)

    def _sweep(self, state: State, number: int, request: Request) -> Iterator[Step]:
        if state.redis is None or number not in state.redis.holds or not request.is_old:
            return
        if request.phase in (Phase.CHARGED, Phase.FREE):
            is_charged = request.phase is Phase.CHARGED or self._without is Rule.SWEEPER_ASKS_LEDGER
            holds_all = self._without is Rule.SWEEPER_ASKS_AMOUNTS
            yield f"sweep {number}", self._close(state, number, is_charged=is_charged, holds_all=holds_all)
        if request.phase in (Phase.DEAD, Phase.HELD, Phase.OUT):
            has_row = self._without is not Rule.CLOSE_BY_ROW
            closed = _put(state, number, phase=Phase.UNKNOWN) if has_row else state
            yield f"sweep unknown {number}", self._close(closed, number, is_charged=False)

    def _close(self, state: State, number: int, *, is_charged: bool, holds_all: bool = False) -> State:
        redis, request, key = state.redis, state.requests[number], self.world.keys[number]
        if redis is None or (number not in redis.holds and self._without is not Rule.SETTLE_NEEDS_HOLD):
            return state
        tokens = BOUND if holds_all or self._without is Rule.GIVE_BACK else request.tokens
        window = state.window if self._without is Rule.WINDOW_OF_RESERVE else request.window
        charged = redis.charged.plus(key, window, 1, tokens) if is_charged else redis.charged
        return state._replace(redis=redis._replace(charged=charged, holds=redis.holds - {number}))

    def _time(self, state: State) -> Iterator[Step]:
        """Yield the step of time passing: a request may still be in progress then, where inference was paused."""
        aged = tuple(one._replace(is_old=True) if _is_begun(one) else one for one in state.requests)
        if aged != state.requests:
            yield "time passes", state._replace(requests=aged)
        if self.world.has_turn and state.window == 0:
            yield "the window turns", state._replace(window=1)

    def _changes(self, state: State) -> Iterator[Step]:
        """Yield the steps of operator and owner."""
        if self.world.lowered_limit is not None and not state.is_lowered:
            yield "lower the limit", state._replace(is_lowered=True)
        if self.world.has_deletion and not state.is_deleted:
            redis = state.redis
            if redis is not None and self._without is Rule.ACCOUNT_STAYS:
                redis = redis._replace(charged=Counts(), holds=frozenset())
            yield "delete and create the account", state._replace(is_deleted=True, redis=redis)

    def _losses(self, state: State) -> Iterator[Step]:
        redis, snapshot = state.redis, state.snapshot
        if redis is None:
            return
        if self.world.has_flush and not state.was_flushed:
            forgiven = state.forgiven + len(redis.holds)
            yield "flush", state._replace(redis=None, initial=None, was_flushed=True, forgiven=forgiven)
        if not self.world.has_rollback or state.was_rolled_back:
            return
        if snapshot is None:
            yield "snapshot", state._replace(snapshot=redis)
        else:
            gap = abs(redis.charged.account - snapshot.charged.account) + len(redis.holds ^ snapshot.holds)
            back = state._replace(redis=snapshot, was_rolled_back=True, snapshot=None)
            yield "roll back", back._replace(forgiven=state.forgiven + gap)

    def _reconcile(self, state: State) -> Iterator[Step]:
        if state.redis is None:
            return
        reconciled = self.reconciled(state, state.redis)
        if reconciled != state.redis:
            yield "reconcile", state._replace(redis=reconciled)


def violated_guarantee(state: State, machine: Machine) -> str:
    """Return the guarantee that a state violates; empty when it keeps them all."""
    world, redis, rows = machine.world, state.redis, machine.ledger(state)
    if _exceeds(rows, world, state.forgiven):
        return "more is charged than a limit"
    if redis is None:
        return ""
    held = machine.held(state, redis)
    if redis.leaked:
        return "a denied request holds something"
    if not (state.was_flushed or state.was_rolled_back):
        taken = _sum(redis.charged, held)
        if _exceeds(taken, world, 0):
            return "a counter and its holds are above the limit"
        if machine.drift(state, redis):
            return "a lowered limit is reported as drift"
    if not _is_quiet(state):
        return ""
    if any(mine > theirs for mine, theirs in zip(_flat(redis.charged), _flat(rows), strict=True)):
        return "something is charged for nothing"
    if redis.charged != rows and machine.reconciled(state, redis) == redis:
        return "a counter stays below the ledger"
    return ""


def violated_by_step(before: State, step: Step, machine: Machine) -> str:
    """Return the guarantee that a step violates; empty when it keeps them all."""
    name, after = step
    if not name.startswith("reserve ") or after.redis is None or before.was_flushed or before.was_rolled_back:
        return ""
    if after.redis.charged.account + len(after.redis.holds) > machine.account_limit(before):
        return "a reserve is admitted above the limit in force"
    return ""


class Exploration(NamedTuple):
    """Result of an exploration."""

    states: int
    """Number of states."""
    guarantee: str
    """The violated guarantee; empty when all hold."""
    path: list[str]
    """Steps to the violation."""


def explore(world: World, without: Rule | None = None) -> Exploration:
    """Explore every interleaving of a world, the shortest first, until a guarantee is violated."""
    machine, start = Machine(world, without), State((Request(),) * len(world.keys))
    seen: dict[State, tuple[str, State] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        if guarantee := violated_guarantee(state, machine):
            return Exploration(len(seen), guarantee, _path(seen, state))
        for step in machine.steps(state):
            name, after = step
            if guarantee := violated_by_step(state, step, machine):
                return Exploration(len(seen), guarantee, [*_path(seen, state), name])
            if after not in seen:
                seen[after] = (name, state)
                waiting.append(after)
    return Exploration(len(seen), "", [])


def find_violation(rule: Rule) -> tuple[str, Exploration]:
    """Return the first small world where a guarantee is violated without a rule, and the exploration."""
    for name, world in WORLDS.items():
        found = explore(world, rule)
        if found.guarantee:
            return name, found
    return "", Exploration(0, "", [])


def main() -> int:
    """Explore according to the command line; return 1 when a guarantee is violated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=[*WORLDS, *LARGE_WORLDS])
    parser.add_argument("--without", type=Rule, choices=list(Rule))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        return _print_table()
    worlds = WORLDS | LARGE_WORLDS
    names = [given.world] if given.world else list(WORLDS)
    return max(_print_world(name, worlds[name], given.without) for name in names)


def _print_world(name: str, world: World, without: Rule | None) -> int:
    started = time.monotonic()
    states, guarantee, path = explore(world, without)
    if guarantee:
        print(f"{name}: {guarantee}, after {states:,} states and {len(path)} steps: {', '.join(path)}")
        return 1
    print(f"{name}: {states:,} states in {time.monotonic() - started:.0f} s, every guarantee kept")
    return 0


def _print_table() -> int:
    print("| without | guarantee that breaks | steps | world |\n|---|---|---|---|")
    for rule in Rule:
        name, (_, guarantee, path) = find_violation(rule)
        print(f"| `{rule}` | {guarantee or 'none'} | {len(path)} | {name} |", flush=True)
    return 0


def _exceeds(counts: Counts, world: World, forgiven: int) -> bool:
    return (
        max(counts.keys) > world.key_limit + forgiven
        or counts.account > world.account_limit + forgiven
        or max(counts.tokens) > world.token_limit + forgiven * BOUND
    )


def _flat(counts: Counts) -> tuple[int, ...]:
    return (*counts.keys, counts.account, *counts.tokens)


def _sum(one: Counts, other: Counts) -> Counts:
    keys = one.keys[0] + other.keys[0], one.keys[1] + other.keys[1]
    tokens = one.tokens[0] + other.tokens[0], one.tokens[1] + other.tokens[1]
    return Counts(keys, one.account + other.account, tokens)


def _add(pair: tuple[int, int], position: int, amount: int) -> tuple[int, int]:
    return (pair[0] + amount, pair[1]) if position == 0 else (pair[0], pair[1] + amount)


def _maximum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return max(one[0], other[0]), max(one[1], other[1])


def _put(state: State, number: int, **changes: Any) -> State:
    after = state.requests[number]._replace(**changes)
    return state._replace(requests=(*state.requests[:number], after, *state.requests[number + 1 :]))


def _is_begun(request: Request) -> bool:
    return request.phase not in (Phase.NEW, Phase.DENIED, Phase.RELEASED)


def _is_quiet(state: State) -> bool:
    """Whether nothing is in progress any more, so that counter and ledger must agree."""
    if state.redis is None or state.redis.holds or state.initial is not None:
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
