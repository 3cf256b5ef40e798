"""Exports of a running stack: the same requests as in receipts, of the own account only."""

import csv
import io
import json

import httpx

from tests.e2e.stack import Key, Stack, say


async def _chat(http: httpx.AsyncClient, key: Key, model: str = "llama-3.1-8b-instant") -> str:
    response = await http.post("/api/v1/chat", headers=key.headers, json=say("hi", model=model))
    return response.headers["x-request-id"]


async def test_an_export_has_the_receipts_of_the_account_in_both_formats(stack: Stack, http: httpx.AsyncClient) -> None:
    key = await stack.create_account_key("export@example.com")
    ids = [await _chat(http, key) for _ in range(3)] + [await _chat(http, key, "=cmd|'/c calc'!A0")]
    receipts = [(await http.get(f"/v1/usage/{one}", headers=key.headers)).json() for one in reversed(ids)]

    lines = await http.get("/v1/usage/export", headers=key.headers)
    text = await http.get("/openai/v1/usage/export", params={"format": "csv"}, headers=key.headers)

    assert (lines.status_code, text.status_code) == (200, 200)
    assert [json.loads(line) for line in lines.text.splitlines()] == receipts
    rows = list(csv.DictReader(io.StringIO(text.text, newline="")))
    assert [row["id"] for row in rows] == list(reversed(ids))
    assert rows[0]["model"] == "'=cmd|'/c calc'!A0"
    assert [row["slot_number"] for row in rows[1:]] == ["3", "2", "1"]


async def test_an_export_can_be_limited_and_continued(stack: Stack, http: httpx.AsyncClient) -> None:
    key = await stack.create_account_key("continued@example.com")
    ids = [await _chat(http, key) for _ in range(3)]
    day = (await http.get(f"/v1/usage/{ids[0]}", headers=key.headers)).json()["day"]

    async def exported(**params: str) -> list[str]:
        response = await http.get("/v1/usage/export", params=params, headers=key.headers)
        return [json.loads(line)["id"] for line in response.text.splitlines()]

    assert await exported(before=ids[2]) == [ids[1], ids[0]]
    assert await exported(**{"from": day, "to": day}, key_id=key.id) == ids[::-1]
    assert await exported(key_id="key_01KAKAKAKAKAKAKAKAKAKAKAKA") == []
    assert await exported(to="2020-01-01") == []


async def test_another_account_and_no_account_get_nothing(stack: Stack, http: httpx.AsyncClient, key: Key) -> None:
    await _chat(http, key)
    other = await stack.create_account_key("nothing@example.com")

    assert (await http.get("/v1/usage/export", headers=other.headers)).text == ""
    assert (await http.get("/v1/usage/export", headers=other.headers, params={"key_id": key.id})).text == ""
    assert (await http.get("/v1/usage/export")).status_code == 401
