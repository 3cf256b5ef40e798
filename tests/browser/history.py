"""Thirty days of usage in the ledger of a running stack, as an account with several keys and models would have it."""

import contextlib
import random
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.common.ids import Kind
from tests.e2e.stack import Stack

_DAYS = 30
_DAY_SECONDS = 86_400
# The requested model, the model that answers, its share of the requests, and microdollars per token.
_MODELS = (
    ("openai/gpt-oss-20b", "openai/gpt-oss-20b", 9, 0.15),
    ("llama-3.1-8b-instant", "openai/gpt-oss-20b", 6, 0.15),
    ("openai/gpt-oss-120b", "openai/gpt-oss-120b", 5, 0.4),
    ("qwen/qwen3.8-27b", "qwen/qwen3.8-27b", 3, 2.0),
    ("groq/compound", "groq/compound", 1, None),
    *((f"team/experiment-{number}", "openai/gpt-oss-20b", 0.3, 0.15) for number in range(1, 6)),
)
_OUTCOMES = {"answered": 90, "client_left": 3, "refused": 3, "upstream_failed": 2, "cut": 1, "timed_out": 1}
_REASONS = {"refused": ("context_length_exceeded", "model_not_found"), "upstream_failed": ("upstream_unavailable",)}
_SURFACES = ("chat", "chat", "chat", "responses", "messages", "completions")
_ULID = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True)
class Owned:
    """The account and keys of an e-mail address."""

    account_id: str
    key_ids: Sequence[str]


def owned_by(stack: Stack, email: str) -> Owned:
    """Return the ids of an account and its keys, oldest first."""
    with contextlib.closing(sqlite3.connect(stack.settings.data_dir / "auth.db")) as database:
        (account_id,) = database.execute("SELECT id FROM accounts WHERE email = ?", (email,)).fetchone()
        keys = database.execute("SELECT id FROM api_keys WHERE account_id = ? ORDER BY id", (account_id,))
        return Owned(account_id, [key_id for (key_id,) in keys])


def write_history(stack: Stack, owned: Owned, *, per_day: int = 60, seed: int = 1) -> int:
    """Insert the rows of thirty days up to now, and return their number."""
    chance, now = random.Random(f"{seed} {owned.account_id}"), time.time()
    times = [
        _moment(chance, now, back)
        for back in range(_DAYS)
        for _ in range(round(per_day * (0.4 + chance.random()) * (0.35 if _is_weekend(now, back) else 1)))
    ]
    write_requests(stack, owned, times, seed=seed)
    return len(times)


def write_requests(stack: Stack, owned: Owned, times: Sequence[float], *, seed: int = 1) -> None:
    """Insert a row for each time, in Unix seconds."""
    chance = random.Random(f"rows {seed} {owned.account_id}")
    rows = [_row(chance, owned, at) for at in times]
    names = ", ".join(rows[0])
    marks = ", ".join(f":{name}" for name in rows[0])
    with (
        contextlib.closing(sqlite3.connect(stack.settings.data_dir / "inference.db", timeout=20)) as database,
        database,
    ):
        database.executemany(f"INSERT INTO usage_ledger ({names}) VALUES ({marks})", rows)


def _moment(chance: random.Random, now: float, back: int) -> float:
    """Return a time on the UTC day before `back` days; today, one that has passed."""
    start = (now // _DAY_SECONDS - back) * _DAY_SECONDS
    return start + chance.random() * min(_DAY_SECONDS, now - start)


def _is_weekend(now: float, back: int) -> bool:
    return time.gmtime(now - back * _DAY_SECONDS).tm_wday >= 5


def _row(chance: random.Random, owned: Owned, at: float) -> Mapping[str, Any]:
    model, upstream_model, _, price = chance.choices(_MODELS, [share for _, _, share, _ in _MODELS])[0]
    outcome = chance.choices(list(_OUTCOMES), list(_OUTCOMES.values()))[0]
    is_charged = outcome not in _REASONS
    prompt = int(chance.lognormvariate(6.2, 1)) if is_charged else 0
    completion = int(chance.lognormvariate(5.4, 0.9)) if is_charged else 0
    reasoning = completion // 3 if "gpt-oss" in upstream_model else 0
    first = int(chance.lognormvariate(5.4, 0.4)) if is_charged else 0
    return {
        "request_id": f"{Kind.REQUEST.value}_{_ulid(chance, at)}",
        "account_id": owned.account_id,
        "key_id": chance.choice(owned.key_ids),
        "day": time.strftime("%Y-%m-%d", time.gmtime(at)),
        "reserved_at": at,
        "model": model,
        "upstream_model": upstream_model,
        "stream": chance.random() < 0.6,
        "outcome": outcome,
        "charged": is_charged,
        "refund_reason": "" if is_charged else chance.choice(_REASONS[outcome]),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "cached_tokens": prompt // 2 if chance.random() < 0.3 else 0,
        "reasoning_tokens": reasoning,
        "usage_source": "reported" if is_charged else "none",
        "upstream_id": "",
        "attempts": 1,
        "time_to_first_token_ms": first,
        "duration_ms": first + completion * 2,
        "surface": chance.choice(_SURFACES),
        "cost": None if price is None else round((prompt + completion) * price),
        "queue_ms": 0,
    }


def _ulid(chance: random.Random, at: float) -> str:
    number = (int(at * 1000) << 80) | chance.getrandbits(80)
    return "".join(_ULID[number >> 5 * place & 31] for place in reversed(range(26)))
