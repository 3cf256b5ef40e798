"""The plan of one seed: the requests, the faults and their times, all derived from the seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from tests.faults import surfaces
from tests.faults.kinds import KINDS, MODEL_LISTS, RESET, Kind
from tests.faults.surfaces import Surface, surface_of

TRAFFIC_SECONDS = 1.8
_REQUESTS = (60, 120)
_LIMITS = (25, 70)
_TOKEN_LIMITS = (1_500, 12_000)
_MANY_TOKENS = 10**9
_STORM_REQUESTS = 20


class Leave(StrEnum):
    """When a client disconnects."""

    NEVER = "never"
    BEFORE_ANSWER = "before_answer"
    FIRST_CHUNK = "first_chunk"


class Layout(StrEnum):
    """How the services are spread over processes."""

    SERVICES = "services"
    """A process for each over Postgres, as in a cluster: two gateways, two quotas, inference and auth."""
    WORKERS = "workers"
    """Two processes that each run all four services, over shared SQLite files, as on one machine."""


class FaultKind(StrEnum):
    """What is done to a program or a store."""

    KILL = "kill"
    """SIGKILL; restarted later."""
    PAUSE = "pause"
    """SIGSTOP; SIGCONT later."""
    FLUSH = "flush"
    """Valkey is emptied while it runs."""
    FORGET = "forget"
    """Valkey is killed and restarted without its file."""
    ROLL_BACK = "roll_back"
    """Valkey is killed and restarted with the file as it was at the fault's beginning."""
    FAIL_OVER = "fail_over"
    """Valkey fails over to a replica that has all data; the shared address follows later."""
    FAIL_OVER_BEHIND = "fail_over_behind"
    """A replica without the last writes takes over; the old primary accepts writes for a while longer."""
    STEP_CLOCK = "step_clock"
    """Valkey's clock is set forwards or back; corrected later."""
    MIGRATE = "migrate"
    """Inference is killed, the migration that added roll-ups is undone and run again, and inference restarted."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of one client."""

    number: int
    at: float
    """Seconds from the start."""
    key: int
    """Index of its key."""
    gateway: int
    """Index of its gateway."""
    surface: Surface
    kind: Kind
    stream: bool
    leave: Leave
    leave_after: float
    """Seconds until a client disconnects before the answer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, repaired after its duration."""

    at: float
    """Seconds from the start."""
    target: str
    """Name of the program, or `postgres`."""
    harm: FaultKind
    seconds: float
    """Duration of the fault."""
    step: int = 0
    """Seconds by which a clock is set ahead."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What breaks with the target: itself, and all that it contains."""
        return (self.target, *_HELD.get(self.target, ()))


@dataclass(frozen=True, slots=True)
class Plan:
    """All requests and faults of one seed."""

    seed: int
    limits: tuple[int, ...]
    """The limit of each key in requests per day."""
    requests: tuple[Request, ...]
    faults: tuple[Fault, ...]
    layout: Layout = Layout.SERVICES
    model_list: str = "ordinary"
    """The stand-in's kind of answer for the model list."""
    token_limits: tuple[int, ...] = ()
    """The limit of each key in tokens per day."""

    @property
    def ledger_may_stall(self) -> bool:
        """Whether rows may have to wait: Postgres is down, or a frozen worker has the lock of the SQLite file."""
        has_frozen_worker = self.layout is Layout.WORKERS and FaultKind.PAUSE in self.faults_of("inference")
        return bool(self.faults_of("postgres")) or has_frozen_worker

    @property
    def fails_over(self) -> bool:
        """Whether a replica of Valkey takes over."""
        return bool({FaultKind.FAIL_OVER, FaultKind.FAIL_OVER_BEHIND} & self.faults_of("valkey"))

    @property
    def clock_step(self) -> int:
        """Seconds by which Valkey's clock is set ahead for a while."""
        return sum(fault.step for fault in self.faults)

    def faults_of(self, target: str) -> set[FaultKind]:
        """Return what is done to a target, or to what contains it."""
        return {fault.harm for fault in self.faults if target in fault.parts}


_PROCESSES = {
    Layout.SERVICES: ("gateway-1", "gateway-2", "quota-1", "quota-2", "inference", "auth", "groq-standin"),
    Layout.WORKERS: ("stack", "stack", "stack", "stack-2", "stack-2", "stack-2", "groq-standin"),
}
_STORES = {
    Layout.SERVICES: ("valkey", "valkey", "valkey", "valkey", "postgres", "postgres"),
    Layout.WORKERS: ("valkey", "valkey", "valkey", "valkey"),
}
_HELD = {
    "stack": ("gateway-1", "quota-1", "inference", "auth"),
    "stack-2": ("gateway-2", "quota-2", "inference", "auth"),
}
_VALKEY = (
    *(FaultKind.KILL, FaultKind.PAUSE, FaultKind.FLUSH, FaultKind.FORGET, FaultKind.ROLL_BACK),
    *(FaultKind.FAIL_OVER, FaultKind.FAIL_OVER_BEHIND, FaultKind.STEP_CLOCK, FaultKind.STEP_CLOCK),
)
_QUOTAS = ("quota-1", "quota-2")
_STEPS = (200, -200)
_STEPS_OF_DAYS = (4 * 86_400, -4 * 86_400)
"""Longer than quota keeps a day's counter: if the step were accepted, today's would be removed."""
_UNSEEN_SECONDS = 0.1
"""How long a quota that must not see a step is frozen before and after it."""


def plan(seed: int, layout: Layout = Layout.SERVICES) -> Plan:
    """Return the plan of a seed."""
    chance = random.Random(seed)
    limits = tuple(chance.randint(*_LIMITS) for _ in range(chance.choice((1, 1, 2))))
    requests = [_request(chance, seed, number, len(limits)) for number in range(chance.randint(*_REQUESTS))]
    if chance.random() < 0.15:
        requests += _storm(chance, seed, len(requests), len(limits))
    targets = chance.sample([*_PROCESSES[layout], *_STORES[layout]], chance.randint(1, 3))
    faults = [_fault(chance, target) for target in dict.fromkeys(targets)]
    faults = [_with_step(chance, fault, faults) if fault.harm is FaultKind.STEP_CLOCK else fault for fault in faults]
    if layout is Layout.SERVICES:
        faults += [_frozen_during(chance, fault) for fault in faults if fault.step and chance.random() < 0.6]
    models = chance.choice(MODEL_LISTS) if chance.random() < 0.3 else "ordinary"
    tokens = tuple(chance.randint(*_TOKEN_LIMITS) if chance.random() < 0.5 else _MANY_TOKENS for _ in limits)
    if layout is Layout.SERVICES and not {"inference", "postgres"} & set(targets) and chance.random() < 0.4:
        faults.append(Fault(chance.uniform(0.1, TRAFFIC_SECONDS), "inference", FaultKind.MIGRATE, 0.0))
    faults.sort(key=lambda fault: fault.at)
    return Plan(seed, limits, tuple(requests), tuple(faults), layout, models, tokens)


def body(request: Request, tag: str) -> bytes | dict[str, Any]:
    """Return a request's JSON value, or the bytes of a malformed one; `tag` makes it searchable in the journal."""
    if request.kind.name == "bad json":
        return b'{"messages": [{'
    text = f"{tag} {request.kind.marker.replace('ID', tag)}"
    return surfaces.body(request.surface, text, stream=request.stream, is_bad=request.kind.is_bad)


def _request(chance: random.Random, seed: int, number: int, keys: int) -> Request:
    kind = chance.choices(KINDS, [kind.weight for kind in KINDS])[0]
    stream = chance.random() < 0.6
    leave = chance.choices((Leave.NEVER, Leave.BEFORE_ANSWER, Leave.FIRST_CHUNK), (80, 10, 10))[0]
    return Request(
        number=number,
        at=chance.uniform(0, TRAFFIC_SECONDS),
        key=chance.randrange(keys),
        gateway=chance.randrange(2),
        surface=surface_of(seed, number),
        kind=kind,
        stream=stream,
        leave=leave,
        leave_after=chance.uniform(0.002, 0.15),
    )


def _storm(chance: random.Random, seed: int, first: int, keys: int) -> list[Request]:
    """Many connections to the upstream are reset at once."""
    at, key = chance.uniform(0, TRAFFIC_SECONDS), chance.randrange(keys)
    return [
        Request(
            number,
            at,
            key,
            number % 2,
            surface_of(seed, number),
            RESET,
            stream=number % 3 == 0,
            leave=Leave.NEVER,
            leave_after=0,
        )
        for number in range(first, first + _STORM_REQUESTS)
    ]


def _fault(chance: random.Random, target: str) -> Fault:
    harm = chance.choice(_VALKEY if target == "valkey" else (FaultKind.KILL, FaultKind.KILL, FaultKind.PAUSE))
    return Fault(chance.uniform(0.1, TRAFFIC_SECONDS), target, harm, _seconds(chance, target, harm))


def _with_step(chance: random.Random, fault: Fault, faults: Sequence[Fault]) -> Fault:
    """Return a fault with the step of its clock.

    A quota that starts meanwhile cannot detect that the clock is wrong and takes its day as correct, until it is
    restarted (docs/decisions/0015); so where one may, the step is not of days.
    """
    restarts = any(one.harm is FaultKind.KILL and set(_QUOTAS) & set(one.parts) for one in faults)
    return replace(fault, step=chance.choice(_STEPS if restarts else _STEPS + _STEPS_OF_DAYS))


def _frozen_during(chance: random.Random, step: Fault) -> Fault:
    """Return a fault that freezes a quota for a little longer than the clock is wrong."""
    return Fault(
        max(0.0, step.at - _UNSEEN_SECONDS), chance.choice(_QUOTAS), FaultKind.PAUSE, step.seconds + 2 * _UNSEEN_SECONDS
    )


def _seconds(chance: random.Random, target: str, harm: FaultKind) -> float:
    if target == "postgres" and chance.random() < 0.3:
        # Longer than a hold lives: the sweeper and the delayed rows meet when it resumes.
        return chance.uniform(2.5, 4.0)
    if harm is FaultKind.STEP_CLOCK:
        # Shorter than a hold lives: a longer step is accepted as the correct time.
        return chance.uniform(0.3, 2.0)
    return chance.uniform(0.3, 1.0) if harm is FaultKind.PAUSE or target == "postgres" else chance.uniform(0.02, 0.5)
