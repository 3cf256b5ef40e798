"""The stand-in's rate limits: Groq's buckets, messages and headers."""

import time

import httpx
import pytest

from tests.integration.groq_standin.standin_process import QWEN, StandIn, started

_OPTIONS = ("--requests-per-minute", "5", "--tokens-per-minute", "1000", "--minute-seconds", "2")


@pytest.mark.long
def test_limits_are_of_a_key_and_model_and_refill() -> None:
    with started(*_OPTIONS) as (_, url), httpx.Client(base_url=url, timeout=10) as client:
        standin = StandIn(url, client)
        statuses = [standin.say("[[standin:tokens count=1]]").status_code for _ in range(6)]
        refused = standin.say("[[standin:tokens count=1]]")
        other_model = standin.say("[[standin:tokens count=1]]", model=QWEN)
        other_key = client.post(
            "/openai/v1/chat/completions",
            json={"model": QWEN, "messages": [{"role": "user", "content": "hi"}]},
            headers={"authorization": "Bearer gsk_other"},
        )
        time.sleep(float(refused.headers["retry-after"]))

        assert statuses == [200] * 5 + [429]
        error = refused.json()["error"]
        assert "on requests per minute (RPM): Limit 5, Used " in error["message"]
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert (other_model.status_code, other_key.status_code) == (200, 200)
        assert standin.say("[[standin:tokens count=1]]").status_code == 200


def test_tokens_count_by_the_maximum_until_the_end_and_then_by_their_use() -> None:
    with started(*_OPTIONS) as (_, url), httpx.Client(base_url=url, timeout=10) as client:
        standin = StandIn(url, client)
        refused = standin.say("[[standin:tokens count=1]]", max_completion_tokens=1_200)
        first = standin.say("[[standin:tokens count=10]]", max_completion_tokens=900)
        second = standin.say("[[standin:tokens count=10]]", max_completion_tokens=900)

        assert refused.status_code == 429
        assert "on tokens per minute (TPM): Limit 1000, Used 0, Requested 12" in refused.json()["error"]["message"]
        assert (first.status_code, second.status_code) == (200, 200)
        assert int(first.headers["x-ratelimit-remaining-tokens"]) <= 1_000 - 900
        assert first.headers["x-ratelimit-limit-tokens"] == "1000"
