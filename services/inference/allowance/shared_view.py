"""The view of Groq's limits that all replicas share, in Redis.

Each decision is one script and one round trip. If Redis fails or does not answer in time, the replica uses its own
view (`own_view.py`), which has followed what Groq reported and what this replica sent, and tries Redis again after a
second. What Groq reports and what requests have used is sent in the background.
"""

import asyncio
import hashlib
import logging
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from services.common.redis.batch_client import BatchClient
from services.common.runtime.clock import Clock
from services.inference.allowance.model import Admission, Demand, Grant, Observation, Settlement, Turn, Window
from services.inference.allowance.own_view import OwnView
from services.inference.metrics import ALLOWANCE_CALLS

_log = logging.getLogger(__name__)
PREFIX = "inference:allowance:2"
"""Beginning of the Redis keys. The number is that of the format: replicas with different ones have separate views."""
_PARTS = ("state", "order", "waiting", "appointments", "served")
_WINDOWS = tuple(Window)
_NUMBERS = {window: number for number, window in enumerate(_WINDOWS, 1)}
_CALL_SECONDS_MAX = 0.5
"""Time-out of a call. It is the longest that requests wait once for a Redis that hangs."""
_OPEN_SECONDS = 1.0
"""How long the own view is used after a failure, before Redis is tried again."""
_CALLS_MAX = 16
"""Maximum calls at the same time, each of which uses a connection. Others wait for their turn: Redis runs one script at
a time, so more would not be faster."""
_WAITING_LIFETIME_SECONDS = 2.0
"""How long the waiting requests of a replica that no longer asks hold a place."""
_GRACE_SECONDS_MIN = 5.0
_PENDING_MAX = 10_000
_ITEMS_MAX = 200
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def connect(url: str) -> BatchClient:
    """Return a client that connects on first use and sends each command once."""
    client = BatchClient.from_url(
        url,
        socket_timeout=_CALL_SECONDS_MAX,
        socket_connect_timeout=_CALL_SECONDS_MAX,
        max_connections=2 * _CALLS_MAX,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
    return cast(BatchClient, client)


class _Script:
    """A Lua script, which is loaded when the server does not know it."""

    def __init__(self, client: BatchClient, text: str) -> None:
        self._client = client
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], argument: bytes) -> Any:
        """Run the script and return its answer.

        Raises:
            RedisError, OSError: The server cannot be reached, does not answer in time, or the script failed.
        """
        command = ("EVALSHA", self._sha, len(keys), *keys, argument)
        (answer,) = await self._client.run_batch([command])
        if isinstance(answer, NoScriptError):
            await self._client.script_load(self._text)
            (answer,) = await self._client.run_batch([command])
        if isinstance(answer, RedisError):
            raise answer
        return answer


class SharedView:
    """Implements `AllowanceView` for replicas that share a Redis."""

    def __init__(self, client: BatchClient, own: OwnView, clock: Clock, *, keys: Sequence[str]) -> None:
        """Create a view.

        Args:
            client: Client from `connect`.
            own: The view to use while Redis fails.
            clock: Decides when Redis is tried again.
            keys: The Groq keys. Their limits are stored by a digest, so that they stay right if keys are replaced or
                reordered.
        """
        self._own = own
        self._clock = clock
        self._key_names = [_digest(key) for key in keys]
        self._replica = uuid.uuid4().hex[:12]
        self._closed_until = 0.0
        self._turns = asyncio.Semaphore(_CALLS_MAX)
        self._pending: OrderedDict[str, deque[dict[str, Any]]] = OrderedDict()
        """What is to be recorded, by model."""
        self._pending_count = 0
        self._recorder: asyncio.Task[None] | None = None
        self._abandoned: set[asyncio.Future[Turn]] = set()
        """Calls of `acquire` whose callers were cancelled."""
        folder = Path(__file__).parent
        prelude = (folder / "buckets.lua").read_text(encoding="utf-8")
        self._acquire, self._admit, self._record = (
            _Script(client, prelude + (folder / f"{name}.lua").read_text(encoding="utf-8"))
            for name in ("acquire", "admit", "record")
        )

    @property
    def is_shared(self) -> bool:
        """Whether Redis is used; otherwise it has failed, and the own view is."""
        return self._clock.monotonic() >= self._closed_until

    def allowances(self) -> Iterator[tuple[int, str, Window, int, float]]:
        """Yield each known limit; see `OwnView.allowances`. It follows Redis with each decision."""
        return self._own.allowances()

    def tokens_max(self, model: str) -> float:
        """Return the most tokens of one request; see `AllowanceView.tokens_max`."""
        return self._own.tokens_max(model)

    async def acquire(self, model: str, demands: Sequence[Demand], *, grants_max: int, is_waiting: bool) -> Turn:
        """Take the allowance for as many demands as possible; see `AllowanceView.acquire`.

        If the caller is cancelled, Redis may have taken the allowance already. The call is then completed in the
        background, and what it took is given back.
        """
        asking = asyncio.ensure_future(self._take(model, demands, grants_max=grants_max, is_waiting=is_waiting))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._abandoned.add(asking)
            asking.add_done_callback(lambda _: self._give_back(model, demands, asking))
            raise

    def _give_back(self, model: str, demands: Sequence[Demand], asking: "asyncio.Future[Turn]") -> None:
        self._abandoned.discard(asking)
        for position, key in asking.result().grants if not asking.cancelled() else ():
            one = demands[position]
            self.settle(Settlement(model, key, one.account_id, one.weight, one.tokens, used=0, requests=0))

    async def _take(self, model: str, demands: Sequence[Demand], *, grants_max: int, is_waiting: bool) -> Turn:
        members = {"demands": demands, "grants_max": grants_max, "is_waiting": is_waiting}
        answer = await self._call("acquire", self._acquire, model, members)
        if answer is None:
            return await self._own.acquire(model, demands, grants_max=grants_max, is_waiting=is_waiting)
        grants, now = [Grant(*grant) for grant in answer[0]], self._clock.monotonic()
        for grant in grants:
            self._own.take(model, grant.key, demands[grant.position], now)
        return Turn(grants, answer[1], bool(answer[2]))

    async def admit(self, model: str, demand: Demand, *, wait_max: float, wait_min: float) -> Admission:
        """Decide whether a request may wait; see `AllowanceView.admit`."""
        grace = max(wait_max, _GRACE_SECONDS_MIN)
        members = {"demand": demand, "wait_max": wait_max, "wait_min": wait_min, "grace": grace}
        answer = await self._call("admit", self._admit, model, members)
        if answer is None:
            return await self._own.admit(model, demand, wait_max=wait_max, wait_min=wait_min)
        return Admission(bool(answer[0]), answer[1])

    def pause(self, model: str, account_id: str) -> None:
        """Record that an account waits in this process, but could not be served now."""
        self._own.pause(model, account_id)
        self._later(model, {"pauses": account_id})

    def leave(self, model: str, account_id: str) -> None:
        """Record that nothing of an account waits in this process any more."""
        self._own.leave(model, account_id)
        self._later(model, {"leaves": account_id})

    def settle(self, settlement: Settlement) -> None:
        """Correct the estimate of a request that was granted."""
        self._own.settle(settlement)
        if settlement.used != settlement.estimated or not settlement.requests:
            item = {
                "key": settlement.key,
                "account_id": settlement.account_id,
                "weight": settlement.weight,
                "estimated": settlement.estimated,
                "used": settlement.used,
                "requests": settlement.requests,
            }
            self._later(settlement.model, {"settlement": item})

    def observe(self, model: str, key: int, observations: Sequence[Observation]) -> None:
        """Record what Groq reports."""
        self._own.observe(model, key, observations)
        numbered = [(_NUMBERS[window], limit, used) for window, limit, used in observations]
        self._later(model, {"key": key, "observations": numbered})

    async def close(self) -> None:
        """Send what is to be recorded, for a short time."""
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=2 * _CALL_SECONDS_MAX)
        if self._recorder is not None:
            await asyncio.wait([self._recorder], timeout=2 * _CALL_SECONDS_MAX)
            self._recorder.cancel()

    async def _call(self, name: str, script: _Script, model: str, members: dict[str, Any]) -> Any:
        """Run a script and return its answer; None while Redis is not used or if it fails."""
        async with self._turns:  # The wait for it is no failure of Redis, and is outside of the time-out.
            return await self._call_now(name, script, model, members) if self.is_shared else None

    async def _call_now(self, name: str, script: _Script, model: str, members: dict[str, Any]) -> Any:
        limits = self._own.configured(model)
        members |= {
            "replica": self._replica,
            "lifetime": _WAITING_LIFETIME_SECONDS,
            "keys": self._key_names,
            "windows": [self._own.seconds[window] for window in _WINDOWS],
            "limits": [limits.get(window, 0) for window in _WINDOWS],
        }
        keys = [f"{PREFIX}:{{{model}}}:{part}" for part in _PARTS]
        try:
            answer = await script(keys, _encode(members))
        except (RedisError, OSError) as exc:
            ALLOWANCE_CALLS.labels(name, "failed").inc()
            if self.is_shared:
                _log.warning(
                    "The Redis of Groq's limits failed. This replica uses its own view of them.",
                    extra={"call": name, "error": type(exc).__name__},
                )
            self._closed_until = self._clock.monotonic() + _OPEN_SECONDS
            return None
        ALLOWANCE_CALLS.labels(name, "ok").inc()
        return _decode(cast(bytes, answer))

    def _later(self, model: str, item: dict[str, Any]) -> None:
        if self._pending_count >= _PENDING_MAX:
            return  # Redis has failed for long. Its buckets refill on their own.
        self._pending.setdefault(model, deque()).append(item)
        self._pending_count += 1
        if self._recorder is None or self._recorder.done():
            self._recorder = asyncio.get_running_loop().create_task(self._record_pending())

    async def _record_pending(self) -> None:
        while self._pending:
            model, items = self._pending.popitem(last=False)
            batch = [items.popleft() for _ in range(min(len(items), _ITEMS_MAX))]
            self._pending_count -= len(batch)
            if items:
                self._pending[model] = items
            answer = await self._call("record", self._record, model, {"items": batch})
            for key, windows in answer or ():
                self._own.replace(model, key, {_WINDOWS[n]: (int(one[0]), one[1]) for n, one in enumerate(windows)})


def _digest(key: str) -> str:
    """Return a name of a Groq key from which the key cannot be found: keys are random."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]
