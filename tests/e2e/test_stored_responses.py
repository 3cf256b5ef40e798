"""The Responses API with stored responses, by OpenAI's client, in both layouts and with a real Valkey."""

import asyncio
import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import openai
import pytest
from redis import Redis

from services.local import valkey
from tests.e2e.console.browser import PASSWORD, Browser, secret_of
from tests.e2e.stack import Key, Stack, bare_environment, running_stack, say
from tests.forked import run_module

pytestmark = pytest.mark.xdist_group("stored-responses")

MODEL = "openai/gpt-oss-20b"
_SECRET_TEXT = "My name is Ada Lovelace."


@pytest.fixture(
    scope="module", params=[pytest.param(1, id="worker"), pytest.param(0, id="services", marks=pytest.mark.long)]
)
def storing(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Yield a stack that stores responses, at most three of an account's. Tests may kill its second Valkey."""
    with running_stack(
        workers=request.param,
        stores_responses=True,
        INFERENCE_RESPONSES_PER_ACCOUNT_MAX="3",
        GATEWAY_INVALID_REQUESTS_PER_SECOND="0",
    ) as stack:
        yield stack


@pytest.fixture
async def owner(storing: Stack) -> Key:
    """Return a key of the test account, whose stored responses are gone."""
    with closing(_responses_redis(storing)) as redis:
        redis.flushall()
    return await storing.create_key()


@pytest.fixture
def client(storing: Stack, owner: Key) -> Iterator[openai.OpenAI]:
    with _client(storing, owner) as client:
        yield client


def _client(stack: Stack, key: Key) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.base_url}/v1", api_key=key.secret, max_retries=0, timeout=20)


def _responses_redis(stack: Stack) -> "Redis":
    return Redis(unix_socket_path=str(stack.folder / valkey.RESPONSES_SOCKET))


async def _last_chat(stack: Stack) -> list[dict[str, Any]]:
    """Return the messages of the last chat that the stand-in received."""
    entry = (await stack.journal())[-1]
    messages: list[dict[str, Any]] = entry["request"]["messages"]
    return messages


def _texts(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return role and text of each message."""
    return [
        (one["role"], one["content"] if isinstance(one["content"], str) else one["content"][0]["text"])
        for one in messages
    ]


async def _other_account(stack: Stack) -> Key:
    """Return a key of a new account."""
    async with Browser(stack) as browser:
        assert (await browser.sign_up(f"{secrets.token_hex(6)}@example.com")).status_code == 200
        return Key("", secret_of((await browser.submit("/keys", "/keys", {"name": "other"})).text))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_is_stored_continued_read_and_deleted(
    storing: Stack, owner: Key, client: openai.OpenAI, stream: bool
) -> None:
    first = _create(client, stream, input="one")
    assert client.responses.retrieve(first.id).to_dict() == first.to_dict()
    second = _create(client, stream, input="two", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    expected = [("user", "one"), ("assistant", first.output_text), ("user", "two")]
    assert _texts(await _last_chat(storing)) == expected

    items = client.responses.input_items.list(second.id, order="asc")
    assert [(item.type, getattr(item, "role", None)) for item in items.data] == [
        ("message", "user"),
        *((item.type, getattr(item, "role", None)) for item in first.output),
        ("message", "user"),
    ]
    page = client.responses.input_items.list(second.id, limit=1)
    assert page.data[0].to_dict() == items.data[-1].to_dict()
    assert [one.id for one in page] == [one.id for one in reversed(items.data)], "pages are not complete"

    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    assert client.responses.retrieve(second.id).id == second.id
    assert await storing.until_settled(owner) == (2, 0), "only the answers count"


def _create(client: openai.OpenAI, stream: bool, **members: Any) -> Any:
    if not stream:
        return client.responses.create(model=MODEL, **members)
    with client.responses.create(model=MODEL, stream=True, **members) as events:
        *_, last = events
    return last.response


async def test_item_references_on_the_second_turn(storing: Stack, client: openai.OpenAI) -> None:
    """`@ai-sdk/openai` sends its own messages, and refers to the reasoning and text of the answers."""
    first = client.responses.create(model=MODEL, input=[{"role": "user", "content": "one"}])
    references: Any = [{"type": "item_reference", "id": item.id} for item in first.output]
    second = client.responses.create(
        model=MODEL,
        input=[{"role": "user", "content": "one"}, *references, {"role": "user", "content": "two"}],
    )
    assert second.status == "completed"
    expected = [("user", "one"), ("assistant", first.output_text), ("user", "two")]
    assert _texts(await _last_chat(storing)) == expected


async def test_store_false_stores_nothing(storing: Stack, client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="one", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with closing(_responses_redis(storing)) as redis:
        assert redis.dbsize() == 0


async def test_another_account_gets_the_same_404_as_for_an_unknown_id(storing: Stack, client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="one")
    other = await _other_account(storing)
    with _client(storing, other) as stranger:
        for call in (stranger.responses.retrieve, stranger.responses.delete, stranger.responses.input_items.list):
            with pytest.raises(openai.NotFoundError) as raised:
                call(response.id)
            assert raised.value.body["message"] == f"Response with id '{response.id}' not found."  # type: ignore[index]
        with pytest.raises(openai.BadRequestError) as refused:
            stranger.responses.create(model=MODEL, input="two", previous_response_id=response.id)
        assert refused.value.code == "previous_response_not_found"
    assert client.responses.retrieve(response.id).id == response.id


@pytest.mark.parametrize("path", ["nothing", "cancel", "input_items/1"])
async def test_an_unknown_url_below_a_response_does_not_deny_the_response(
    storing: Stack, owner: Key, client: openai.OpenAI, path: str
) -> None:
    response = client.responses.create(model=MODEL, input="one")
    url = f"{storing.base_url}/api/v1/responses/{response.id}/{path}"
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(url, headers=owner.headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


async def test_only_the_newest_responses_of_an_account_are_kept(client: openai.OpenAI) -> None:
    names = [client.responses.create(model=MODEL, input=f"{number}").id for number in range(4)]
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(names[0])
    assert [client.responses.retrieve(name).id for name in names[1:]] == names[1:]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        *(({"limit": limit}, "limit") for limit in ("0", "101", "x", "", "-1", "1.0", "9" * 5_000)),
        ({"order": "up"}, "order"),
        ({"after": "msg_1"}, "after"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_an_invalid_page_of_input_items_is_a_400(
    storing: Stack, owner: Key, client: openai.OpenAI, query: dict[str, str], param: str
) -> None:
    response = client.responses.create(model=MODEL, input="one")
    async with httpx.AsyncClient(base_url=storing.base_url, trust_env=False) as http:
        path = f"/v1/responses/{response.id}/input_items"
        answer = await http.get(path, params=query, headers=owner.headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_replay_of_events_is_refused(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="one")
    with pytest.raises(openai.BadRequestError, match="cannot be streamed"):
        client.responses.retrieve(response.id, stream=True)


async def test_nothing_of_a_conversation_is_readable_in_redis_files_or_logs(
    storing: Stack, client: openai.OpenAI
) -> None:
    response = client.responses.create(model=MODEL, input=_SECRET_TEXT)
    assert response.output_text
    with closing(_responses_redis(storing)) as redis:
        dump = b"".join(redis.dump(name) or b"" for name in redis.keys("*"))
    assert len(dump) > 300
    files = b"".join(path.read_bytes() for path in storing.settings.data_dir.rglob("*") if path.is_file())
    logs = "".join(storing.log(name) for name in storing.names).encode()
    for text in (_SECRET_TEXT, response.output_text):
        assert text.encode() not in dump + files + logs


async def test_responses_are_deleted_with_their_account(storing: Stack) -> None:
    async with Browser(storing) as browser:
        assert (await browser.sign_up(f"{secrets.token_hex(6)}@example.com")).status_code == 200
        secret = secret_of((await browser.submit("/keys", "/keys", {"name": "laptop"})).text)
        with _client(storing, Key("", secret)) as client:
            response = client.responses.create(model=MODEL, input="one")
        refused = await browser.submit("/account", "/account/delete", {"password": "not the password"})
        assert refused.status_code == 403
        with closing(_responses_redis(storing)) as redis:
            assert [name for name in redis.keys("*") if response.id.encode() in name]
            gone = await browser.submit("/account", "/account/delete", {"password": PASSWORD})
            assert "Your account has been deleted" in gone.text
            assert [name for name in redis.keys("*") if response.id.encode() in name] == []


async def _stackctl(stack: Stack, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    targets = {f"{name.upper()}_TARGET": stack.socket(name) for name in ("auth", "quota", "inference")}
    data_dir = str(stack.settings.data_dir)
    environment = {**bare_environment(), **stack.environment, **targets, "DATA_DIR": data_dir, **settings}
    return await asyncio.to_thread(run_module, "services.cli", *arguments, "--json", environment=environment)


async def test_an_operators_deletion_of_an_account_deletes_its_responses_and_can_be_repeated(storing: Stack) -> None:
    owner = await _other_account(storing)
    with _client(storing, owner) as client, closing(_responses_redis(storing)) as redis:
        response = client.responses.create(model=MODEL, input="one")

        def kept() -> list[bytes]:
            return [name for name in redis.keys("*") if isinstance(name, bytes) and response.id.encode() in name]

        (record,) = kept()
        account_id = record.split(b"{")[1].split(b"}")[0].decode()
        delete = ("accounts", "delete", account_id, "--yes")
        # The operator's machine loses its connection between the two deletions.
        interrupted = await _stackctl(storing, *delete, INFERENCE_TARGET="127.0.0.1:1")
        assert (interrupted.returncode, json.loads(interrupted.stdout)["id"]) == (3, account_id)
        assert f"Then run `stackctl accounts delete {account_id}` again." in interrupted.stderr
        assert kept() == [record]
        storing.kill(valkey.RESPONSES)
        try:
            refused = await _stackctl(storing, *delete)
        finally:
            storing.start(valkey.RESPONSES)
            await storing.until_ready(valkey.RESPONSES)
        assert (refused.returncode, "Restore inference's Redis" in refused.stderr) == (1, True)
        repeated = await _stackctl(storing, *delete)
        assert (repeated.returncode, repeated.stderr) == (0, "")
        assert kept() == []


async def test_without_its_valkey_requests_to_be_stored_are_refused_uncounted_and_nothing_else(
    storing: Stack, owner: Key, client: openai.OpenAI
) -> None:
    stored = client.responses.create(model=MODEL, input="one")
    charged, _ = await storing.until_settled(owner)
    storing.kill(valkey.RESPONSES)
    try:
        for call in (
            lambda: client.responses.create(model=MODEL, input="two"),
            lambda: client.responses.create(model=MODEL, input="two", stream=True),
            lambda: client.responses.create(model=MODEL, input="two", store=False, previous_response_id=stored.id),
            lambda: client.responses.retrieve(stored.id),
            lambda: client.responses.delete(stored.id),
        ):
            started = time.monotonic()
            with pytest.raises(openai.InternalServerError) as raised:
                call()
            assert (raised.value.status_code, raised.value.code) == (503, "response_storage_unavailable")
            assert time.monotonic() - started < 2
        assert await storing.until_settled(owner) == (charged, 0)

        assert client.responses.create(model=MODEL, input="two", store=False).status == "completed"
        async with httpx.AsyncClient(base_url=storing.base_url, trust_env=False, timeout=20) as http:
            assert (await http.post("/api/v1/chat", headers=owner.headers, json=say("hi"))).status_code == 200
            assert (await http.get("/readyz")).status_code == 200
        async with Browser(storing) as browser:
            assert (await browser.sign_up(f"{secrets.token_hex(6)}@example.com")).status_code == 200
            page = await browser.submit("/account", "/account/delete", {"password": PASSWORD})
            assert page.status_code == 503
            assert "storage of responses" in page.text
            assert (await browser.get("/keys")).status_code == 200
    finally:
        storing.start(valkey.RESPONSES)
        await storing.until_ready(valkey.RESPONSES)
    assert client.responses.create(model=MODEL, input="three").to_dict()["store"] is True


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_whose_storage_fails_is_an_error_and_is_charged(
    storing: Stack, owner: Key, stream: bool
) -> None:
    """The Valkey dies while Groq answers: the answer exists and Groq bills it, but its client must not rely on it."""
    before, _ = storing.counters(owner)
    body = {"model": MODEL, "input": "[[standin:slow token_ms=100]] [[standin:tokens count=15]]", "stream": stream}
    async with httpx.AsyncClient(base_url=storing.base_url, trust_env=False, timeout=20) as http:
        answering = asyncio.create_task(http.post("/v1/responses", headers=owner.headers, json=body))
        try:
            await asyncio.sleep(0.7)
            assert not answering.done()
            storing.kill(valkey.RESPONSES)
            answer = await answering
        finally:
            storing.start(valkey.RESPONSES)
            await storing.until_ready(valkey.RESPONSES)
    if stream:
        last = json.loads(answer.text.strip().rpartition("data: ")[2])
        assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
        assert "[DONE]" not in answer.text
        assert "response.completed" not in answer.text
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "response_storage_unavailable")
        assert answer.headers["x-should-retry"] == "false", "OpenAI's client would be charged again"
    assert await storing.until_settled(owner) == (before + 1, 0)
    (row,) = storing.ledger(owner)
    assert (row["outcome"], row["charged"]) == ("answered", 1)


async def test_by_default_nothing_is_stored(stack: Stack, key: Key) -> None:
    with _client(stack, key) as client:
        response = client.responses.create(model=MODEL, input="one", store=True)
        assert response.to_dict()["store"] is False
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.input_items.list(response.id)
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model=MODEL, input="two", previous_response_id=response.id)
        assert refused.value.code == "previous_response_not_found"
        reference: Any = {"type": "item_reference", "id": response.output[-1].id}
        with pytest.raises(openai.NotFoundError, match="store"):
            client.responses.create(model=MODEL, input=[reference])
