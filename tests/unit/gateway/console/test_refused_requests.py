"""Refused requests are summed up, drawn by hour and explained by the page of error codes."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.common.errors import Unavailable
from services.gateway.console.docs.error_codes import ErrorCode
from services.gateway.console.docs.library import Library
from services.gateway.console.docs.values import ValueSource
from services.gateway.console.facts import Facts
from services.gateway.console.hour_chart import hour_chart
from services.gateway.console.refusals import Refusal, RefusalSum, by_hour, hours_until, sums_of
from services.gateway.console.site import Site
from services.gateway.console.views.refused_requests import RefusedRequests
from services.gateway.settings import GatewaySettings
from tests.unit.gateway.auth_client import ManualClock

_ERRORS = Path("services/gateway/console/docs/content/errors.md").read_text(encoding="utf-8")
_HOUR = 3_600
_NOW = 500_000 * _HOUR + 1_800.0
_THIS, _OLDEST = 500_000 * _HOUR, (500_000 - 23) * _HOUR


def _refusal(key_id: str = "key_1", status: int = 400, code: str = "invalid_type", **hours: int) -> Refusal:
    """Return refusals by hour: `h0` is the current one, `h1` the one before."""
    counts = {_THIS - int(name[1:]) * _HOUR: count for name, count in hours.items()}
    return Refusal(key_id, status, code, float(max(counts)), counts)


def test_a_day_is_the_last_24_hours_and_a_week_is_all() -> None:
    assert (hours_until(_NOW)[0], hours_until(_NOW)[-1], len(hours_until(_NOW))) == (_OLDEST, _THIS, 24)
    (one,) = sums_of([_refusal(h0=1, h23=2, h24=4), _refusal("key_2", h30=8)], now=_NOW)
    assert one == RefusalSum(400, "invalid_type", 15, 3, float(_THIS), ["key_2", "key_1"])


def test_the_last_error_comes_first() -> None:
    sums = sums_of([_refusal(h3=9), _refusal(status=429, code="rate_limit_exceeded", h1=1)], now=_NOW)
    assert [one.code for one in sums] == ["rate_limit_exceeded", "invalid_type"]


def test_hours_have_their_codes_and_an_error_without_a_code_its_status() -> None:
    hours = by_hour([_refusal(h0=1, h40=5), _refusal("key_2", h0=2), _refusal(code="", h1=3)], now=_NOW)
    assert [dict(counts) for _, counts in hours[-2:]] == [{"400": 3}, {"invalid_type": 3}]
    assert len(hours) == 24


def test_the_chart_names_the_total_and_each_hour_with_refusals() -> None:
    for svg in hour_chart("Refused requests", by_hour([_refusal(h0=1_200, code="a<b", h5=1)], now=_NOW)):
        assert 'aria-label="Refused requests per hour in the last 24 hours: 1,201 in total"' in svg
        assert re.findall("<title>(.*?)</title>", svg) == ["03:00 UTC. a&lt;b: 1", "08:00 UTC. a&lt;b: 1,200"]
        assert svg.count('class="series-0"') == 2


def test_a_chart_of_nothing_has_no_columns() -> None:
    assert all("<title>" not in svg for svg in hour_chart("Refused requests", by_hour([], now=_NOW)))


async def _codes() -> Mapping[str, ErrorCode]:
    facts = cast(Facts, SimpleNamespace(refresh=_nothing, sign_up=None, models=None))
    values = await ValueSource(GatewaySettings(), Site(), facts).read()
    return (await Library().edition(values)).error_codes


async def _nothing() -> None:
    return None


async def test_each_code_of_the_page_of_errors_is_explained_with_a_link_to_its_section() -> None:
    codes = await _codes()
    rows = [line for line in _ERRORS.splitlines() if line.startswith("| `")]
    named = {code for row in rows for code in re.findall(r"`([a-z0-9_]+)`", row.split(" | ")[0])}
    assert codes.keys() == named
    assert codes["array_above_max_length"].path == "/docs/errors#the-request-is-invalid-400"
    assert '<a href="/docs/limits#size-of-a-request">' in codes["array_above_max_length"].happened
    assert codes["request_too_large"].happened == "The body exceeds 4 MiB, or is too large for the model."
    assert codes["rate_limit_exceeded"].path == "/docs/errors#a-limit-is-reached-429"
    assert all("{" not in one.happened + one.remedy for one in codes.values())


class _Client:
    """Refused requests of an account, or an outage."""

    def __init__(self, *found: Refusal, is_down: bool = False) -> None:
        self._found = found
        self._is_down = is_down
        self.asked: list[str] = []

    async def refusals(self, key_ids: list[str]) -> tuple[Refusal, ...]:
        self.asked = list(key_ids)
        if self._is_down:
            raise Unavailable("away", reason="quota_unavailable")
        return self._found


async def _read(client: _Client, keys: int = 1) -> Any:
    clock = ManualClock()
    clock.seconds = _NOW
    context = cast(Any, SimpleNamespace(scope=SimpleNamespace(refusals=client)))
    owned = [cast(Any, SimpleNamespace(id=f"key_{number}")) for number in range(1, keys + 1)]
    return await RefusedRequests(_codes, clock).read(context, owned)


async def test_rows_are_explained() -> None:
    other = _refusal(status=0, code="other", h0=1)
    section = await _read(_Client(_refusal(h0=1), _refusal(code="", h0=2), _refusal(code="of_groq", h0=3), other))
    texts = {row.sum.code: str(row.explained.happened) for row in section.rows}
    assert texts == {
        "invalid_type": "The value has the wrong JSON type.",
        "": "The request was refused.",
        "of_groq": "The request was refused.",
        "other": "There were more kinds of errors on one day than are counted separately.",
    }
    assert (section.in_day, section.in_week, section.keys, section.left_out) == (7, 7, 1, 0)


async def test_an_outage_is_unknown_and_not_zero() -> None:
    assert await _read(_Client(is_down=True)) is None
    assert (await _read(_Client())).rows == []


@pytest.mark.parametrize(("keys", "left_out"), [(2, 0), (1_000, 0), (1_003, 3)])
async def test_of_very_many_keys_the_oldest_are_left_out(keys: int, left_out: int) -> None:
    client = _Client(_refusal(f"key_{keys}", h0=1))
    section = await _read(client, keys)
    assert (section.left_out, section.keys) == (left_out, keys)
    assert (client.asked[0], client.asked[-1]) == (f"key_{left_out + 1}", f"key_{keys}")
