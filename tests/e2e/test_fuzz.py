"""Any body at all: never a 500, never a hang, never a count for what was refused.

`make test-fuzz BODIES=100000` sends as many as one likes; the suite sends a few hundred.
"""

import asyncio
import json
import os
from collections import Counter
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.stack import Stack
from tests.properties.chat_bodies import JSON_VALUES, broken_bodies

_BODIES = int(os.environ.get("FUZZ_BODIES") or 300)
_SECONDS_MAX = 10
_STATUSES = {200, 400, 404, 413}
_RAW = st.binary(max_size=200) | JSON_VALUES.map(json.dumps).map(str.encode)


def _without_markers(body: Any) -> bytes:
    """Return the body as JSON text that asks the stand-in for no failure."""
    return json.dumps(body).replace("[[standin", "[[other").encode()


def test_any_body_is_answered_or_refused_and_only_answers_count(stack: Stack) -> None:
    key = asyncio.run(stack.create_key(daily_limit=10**9))
    seen: Counter[int] = Counter()
    refusals = 0
    with httpx.Client(base_url=stack.base_url, trust_env=False, timeout=_SECONDS_MAX) as client:

        @settings(
            max_examples=_BODIES, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
        )
        @given(broken_bodies().map(_without_markers) | _RAW)
        def send(body: bytes) -> None:
            nonlocal refusals
            response = client.post("/v1/chat/completions", headers=key.headers, content=body)
            seen[response.status_code] += 1
            assert response.status_code in _STATUSES, (response.status_code, response.text, body)
            if response.status_code != 200:
                refusals += "x-ratelimit-limit-requests" in response.headers
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}

        send()
    counters = asyncio.run(stack.until_settled(key))
    rows = stack.ledger(key)
    print(f"{sum(seen.values()):,} bodies: {dict(sorted(seen.items()))}, {refusals} refused by Groq")
    assert counters == (seen[200], 0)
    assert sum(row["charged"] for row in rows) == seen[200]
    assert len(rows) == seen[200] + refusals, "what was refused at the edge never reached inference"
