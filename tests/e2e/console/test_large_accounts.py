"""An account with more keys than fit into one call, and more requests than fit into memory at a time."""

import csv
import io
import json
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.console.browser import Browser, secret_of
from tests.e2e.stack import Stack, bare_environment, say
from tests.forked import run_module

_KEYS = 1_100
_REQUESTS = 50_500
_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"


@pytest.mark.long
async def test_all_of_it_is_listed_downloaded_and_shown_to_the_operator(stack: Stack) -> None:
    email = f"{secrets.token_hex(6)}@example.com"
    async with Browser(stack) as owner:
        await owner.sign_up(email)
        secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
        headers = {"authorization": f"Bearer {secret}"}
        answer = await owner.client.post("/api/v1/chat", headers=headers, json=say("hi"))
        request_id = answer.headers["x-request-id"]
        _multiply(stack, request_id)

        page = (await owner.get("/keys")).text
        assert re.search(r">1\s*<span class=\"muted\">of 1,000", page), "today's use is missing"
        assert "just now" in page, "the last use is missing"
        rows = list(csv.DictReader(io.StringIO((await owner.get("/usage.csv")).text)))
    assert len(rows) == _REQUESTS + 1
    assert len({row["request_id"] for row in rows}) == _REQUESTS + 1
    assert rows == sorted(rows, key=lambda row: row["request_id"], reverse=True)
    listed = _listed(stack, email)
    assert len(listed) == _KEYS + 1
    assert [key["used_today"] for key in listed if key["name"] == "laptop"] == [1]


def _multiply(stack: Stack, request_id: str) -> None:
    """Give the owner of a request many revoked keys, and many requests of an earlier time."""
    with _database(stack, "inference.db") as ledger:
        (key_id,) = ledger.execute("SELECT key_id FROM usage_ledger WHERE request_id = ?", (request_id,)).fetchone()
        _copy(
            ledger,
            "usage_ledger",
            "request_id",
            request_id,
            "substr(request_id, 1, 14) || printf('%016d', i)",
            _REQUESTS,
        )
    with _database(stack, "auth.db") as auth:
        _copy(auth, "api_keys", "id", key_id, "'key_' || printf('%026d', i)", _KEYS, name="'old'", digest="'d' || i",
              revoked_at="'2026-01-01 00:00:00.000000'")  # fmt: skip


@contextmanager
def _database(stack: Stack, name: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(stack.settings.data_dir / name, timeout=20)
    with connection:
        yield connection
    connection.close()


def _copy(
    database: sqlite3.Connection, table: str, key: str, value: str, new_key: str, copies: int, **changes: str
) -> None:
    """Insert copies of a row under other keys."""
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    selected = ", ".join({**changes, key: new_key}.get(column, column) for column in columns)
    query = f"{_NUMBERS.format(copies)} SELECT {selected} FROM n, {table} WHERE {key} = ?"
    database.execute(f"INSERT INTO {table} ({', '.join(columns)}) {query}", (value,))


def _listed(stack: Stack, email: str) -> list[dict[str, object]]:
    arguments = ("keys", "list", "--email", email, "--usage", "--json")
    targets = {f"{name.upper()}_TARGET": stack.socket(name) for name in ("auth", "quota", "inference")}
    environment = {**bare_environment(), **targets, "DATA_DIR": str(stack.settings.data_dir)}
    found: list[dict[str, object]] = json.loads(run_module("services.cli", *arguments, environment=environment).stdout)[
        "keys"
    ]
    return found
