"""While responses are stored, a request may refer to them, and its answer is stored before its end is sent."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from services.common.errors import InvalidRequest, NotFound, Unavailable
from services.gateway.apis.chat_completions.limits import ChatLimits
from services.gateway.apis.responses import parse as parse_stateless
from services.gateway.apis.responses.stateful import StatefulParser
from services.gateway.apis.responses.stored_response import StoredResponse, decode, encode
from services.gateway.apis.surface import Context
from services.gateway.http.errors import http_error
from services.gateway.requests.surface import SurfaceRequest
from services.gateway.requests.types import JSONObject, Principal
from tests.unit.gateway.apis.responses.answers import CREATED, MODEL, call, chunk, completion, events_of, fold, usage

OWNER, STRANGER = (Principal(f"key_{name}", f"acc_{name}", 10, None) for name in ("owner", "stranger"))
_USAGE = usage(1, 1)
_TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}


class MemoryStore:
    """Keeps responses in memory.

    Attributes:
        enabled: Whether responses are stored.
        is_down: Whether all calls fail.
        calls: Names of the calls.
    """

    def __init__(self) -> None:
        self.enabled = True
        self.is_down = False
        self.calls: list[str] = []
        self.contents: dict[tuple[str, str], bytes] = {}

    async def is_enabled(self) -> bool:
        self._called("is_enabled")
        return self.enabled

    async def store(self, account_id: str, response_id: str, content: bytes) -> None:
        self._called("store")
        self.contents[account_id, response_id] = content

    async def get(self, account_id: str, response_id: str) -> bytes:
        self._called("get")
        if (account_id, response_id) not in self.contents:
            raise NotFound("not found")
        return self.contents[account_id, response_id]

    async def delete(self, account_id: str, response_id: str) -> None:
        self._called("delete")
        del self.contents[account_id, response_id]

    async def delete_account(self, account_id: str) -> None:
        self._called("delete_account")

    def stored(self, name: str) -> StoredResponse:
        return decode(self.contents[OWNER.account_id, f"resp_{name}"])

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.is_down:
            raise Unavailable("away", reason="response_storage_unavailable")


class World:
    """A parser and what it stores."""

    def __init__(self, *, limits: ChatLimits | None = None, bytes_max: int = 100_000) -> None:
        self.store = MemoryStore()
        self.context = Context(limits=limits or ChatLimits(), clock=lambda: CREATED + 1.9)
        self.parser = StatefulParser(self.store, lambda: self.context, bytes_max=bytes_max)

    async def parse(self, principal: Principal = OWNER, **members: Any) -> SurfaceRequest:
        body = {"model": MODEL, "input": "hi"} | members
        return await self.parser(json.dumps(body).encode(), principal)

    async def answer(self, name: str, message: JSONObject | None = None, **members: Any) -> JSONObject:
        """Answer a request completely, and return the response."""
        request = await self.parse(**members)
        request.renderer.begin(f"req_{name}", CREATED)
        body = request.renderer.completion(completion(**(message or {"content": f"answer {name}"}), usage=_USAGE))
        if request.store:
            await request.store()
        response: JSONObject = json.loads(body)
        return response

    async def messages(self, **members: Any) -> list[JSONObject]:
        """Return the chat messages of a request."""
        messages: list[JSONObject] = (await self.parse(**members)).chat.members["messages"]
        return messages


@pytest.fixture
def world() -> World:
    return World()


def _said(*texts: str) -> list[JSONObject]:
    """Return messages of the user and the assistant in turn."""
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]


def _plain(messages: list[JSONObject]) -> list[JSONObject]:
    """Return messages with one text part as text."""
    return [
        one | {"content": one["content"][0]["text"]} if isinstance(one.get("content"), list) else one
        for one in messages
    ]


@pytest.mark.parametrize("store", [{}, {"store": True}, {"store": None}])
async def test_an_answer_is_stored_with_its_whole_input(world: World, store: JSONObject) -> None:
    response = await world.answer("A", **store)
    assert response["store"] is True
    stored = world.store.stored("A")
    assert json.loads(bytes(stored.response)) == response
    assert stored.input == [
        {
            "id": "msg_A_i0",
            "type": "message",
            "role": "user",
            "status": "completed",
            "content": [{"type": "input_text", "text": "hi"}],
        }
    ]


async def test_a_request_may_decline(world: World) -> None:
    response = await world.answer("A", store=False)
    assert response["store"] is False
    assert world.store.calls == []


async def test_the_previous_conversation_precedes_the_input_and_branches(world: World) -> None:
    await world.answer("A", input="one", instructions="Be brief.")
    second = await world.answer("B", input="two", previous_response_id="resp_A")
    assert second["previous_response_id"] == "resp_A"
    assert second["instructions"] is None
    messages = await world.messages(input="three", previous_response_id="resp_B", instructions="Be kind.")
    system, *rest = _plain(messages)
    assert system == {"role": "system", "content": "Be kind."}
    assert rest == _said("one", "answer A", "two", "answer B", "three")
    branch = await world.messages(input="other", previous_response_id="resp_A")
    assert _plain(branch) == _said("one", "answer A", "other")
    assert [item["id"] for item in world.store.stored("B").input] == ["msg_A_i0", "msg_A_0", "msg_B_i0"]


async def test_a_request_that_is_not_stored_may_continue_a_stored_conversation(world: World) -> None:
    await world.answer("A", input="one")
    response = await world.answer("B", input="two", previous_response_id="resp_A", store=False)
    assert (response["store"], response["previous_response_id"]) == (False, "resp_A")
    assert list(world.store.contents) == [(OWNER.account_id, "resp_A")]


async def test_tool_calls_of_the_previous_response_take_their_outputs(world: World) -> None:
    message = {"tool_calls": [call(0, "c1", "get_weather", "{}")]}
    await world.answer("A", message, input="weather?", tools=[_TOOL])
    output = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
    messages = await world.messages(input=[output], previous_response_id="resp_A", tools=[_TOOL])
    assert [one["role"] for one in messages] == ["user", "assistant", "tool"]
    with pytest.raises(InvalidRequest, match="No tool call found"):
        await world.parse(input=[output | {"call_id": "c2"}], previous_response_id="resp_A")


async def test_references_resolve_to_items_with_one_read(world: World) -> None:
    """What `@ai-sdk/openai` sends by default: its own messages whole, and references to the answers."""
    history: list[JSONObject] = []
    for name in "ABC":
        history.append({"role": "user", "content": [{"type": "input_text", "text": f"question {name}"}]})
        message = {"reasoning": f"thoughts {name}", "content": f"answer {name}"}
        response = await world.answer(name, message, input=history)
        history += [{"type": "item_reference", "id": item["id"]} for item in response["output"]]
    world.store.calls.clear()
    messages = await world.messages(input=[*history, {"role": "user", "content": "last"}])
    assert world.store.calls == ["is_enabled", "get"]
    texts = [text for name in "ABC" for text in (f"question {name}", f"answer {name}")]
    assert [(one["role"], one["content"]) for one in _plain(messages)] == [
        (one["role"], one["content"]) for one in _said(*texts, "last")
    ]
    assert [one["reasoning"] for one in messages if "reasoning" in one] == ["thoughts A", "thoughts B", "thoughts C"]


async def test_many_references_to_lost_items_of_a_response_read_its_items_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a request of 400 KB blocks the event loop for seconds, while a stored response is decoded each time."""
    await world.answer("A")
    reads: list[str] = []
    items = StoredResponse.items

    def counted(stored: StoredResponse) -> list[JSONObject]:
        reads.append("")
        return items.fget(stored)  # type: ignore[attr-defined, no-any-return]

    monkeypatch.setattr(StoredResponse, "items", property(counted))
    lost = [{"type": "item_reference", "id": f"rs_A_{100 + index % 300}"} for index in range(500)]
    await world.parse(input=[*lost, {"role": "user", "content": "hi"}])
    assert len(reads) == 1


async def test_references_may_name_input_items_and_leave_out_their_type(world: World) -> None:
    await world.answer("A", input="one")
    assert _plain(await world.messages(input=[{"id": "msg_A_i0"}])) == _said("one")


@pytest.mark.parametrize("item_id", ["msg_B_0", "msg_A_7", "msg_1", "x", "msg_A_0\n", "a" * 500])
async def test_a_reference_to_nothing_is_not_found(world: World, item_id: str) -> None:
    await world.answer("A")
    with pytest.raises(NotFound, match="Items are not persisted when `store` is set to false") as raised:
        await world.parse(input=[{"type": "item_reference", "id": item_id}, {"role": "user", "content": "hi"}])
    assert raised.value.details.param == "input"


async def test_lost_reasoning_is_left_out_and_not_stored(world: World) -> None:
    items = [{"type": "item_reference", "id": "rs_Z_0"}, {"role": "user", "content": "hi"}]
    await world.answer("A", input=items)
    assert [item["id"] for item in world.store.stored("A").input] == ["msg_A_i1"]


@pytest.mark.parametrize("previous", ["resp_B", "resp_", "A", "resp_A\n", "resp_A_0"])
async def test_an_unknown_previous_response_is_openais_error(world: World, previous: str) -> None:
    await world.answer("A")
    with pytest.raises(InvalidRequest) as raised:
        await world.parse(previous_response_id=previous)
    assert raised.value.message == f"Previous response with id '{previous}' not found."
    assert raised.value.details.code == "previous_response_not_found"


async def test_another_account_finds_nothing(world: World) -> None:
    await world.answer("A")
    with pytest.raises(InvalidRequest, match="not found"):
        await world.parse(STRANGER, previous_response_id="resp_A")
    with pytest.raises(NotFound):
        await world.parse(STRANGER, input=[{"type": "item_reference", "id": "msg_A_0"}])


@pytest.mark.parametrize("members", [{}, {"store": True}, {"store": False, "previous_response_id": "resp_A"}])
async def test_without_its_storage_a_request_is_refused_before_it_is_counted(world: World, members: JSONObject) -> None:
    world.store.is_down = True
    with pytest.raises(Unavailable):
        await world.parse(**members)
    assert (await world.answer("B", store=False))["status"] == "completed"


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"store": True},
        {"store": "yes"},
        {"previous_response_id": "resp_A"},
        {"previous_response_id": 1},
        {"input": [{"type": "item_reference", "id": "msg_A_0"}]},
        {"input": [{"type": "item_reference", "id": "rs_A_0"}, {"role": "user", "content": "hi"}]},
        {"unheard_of": 1},
    ],
)
async def test_while_nothing_is_stored_requests_are_those_without_state(world: World, members: JSONObject) -> None:
    world.store.enabled = False
    body = json.dumps({"model": MODEL, "input": "hi"} | members).encode()

    async def stateful() -> SurfaceRequest:
        return await world.parser(body, OWNER)

    async def stateless() -> SurfaceRequest:
        return parse_stateless(body, world.context)

    assert await _outcome(stateful) == await _outcome(stateless)
    assert world.store.contents == {}


async def _outcome(parse: Callable[[], Any]) -> Any:
    try:
        request = await parse()
    except (InvalidRequest, NotFound) as exc:
        return exc.message, exc.details
    request.renderer.begin("req_B", CREATED)
    return request.chat, request.renderer.completion(completion(content="x")), request.store


@pytest.mark.parametrize("members", [{"store": "yes"}, {"previous_response_id": 1}, {"input": [{"id": 1}]}])
async def test_invalid_members_are_refused_while_responses_are_stored(world: World, members: JSONObject) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await world.parse(**members)
    assert raised.value.details.code == "invalid_type"


async def test_errors_name_the_position_in_the_new_input(world: World) -> None:
    await world.answer("A")
    with pytest.raises(InvalidRequest) as raised:
        await world.parse(previous_response_id="resp_A", input=[{"role": "user", "content": 1}])
    assert raised.value.details.param == "input[0].content"


async def test_limits_apply_to_the_whole_conversation() -> None:
    world = World(limits=ChatLimits(messages_max=3))
    await world.answer("A")
    await world.answer("B", previous_response_id="resp_A")
    with pytest.raises(InvalidRequest, match="array too long"):
        await world.parse(previous_response_id="resp_B")


async def test_stored_bytes_count_with_the_body() -> None:
    world = World(bytes_max=3_000)
    await world.answer("A", {"content": "x" * 2_000})
    with pytest.raises(InvalidRequest) as raised:
        await world.parse(previous_response_id="resp_A")
    assert raised.value.details.code == "context_length_exceeded"


async def test_the_memory_of_stored_bytes_is_accounted(world: World) -> None:
    await world.answer("A", {"content": "x" * 2_000})
    request = await world.parse(previous_response_id="resp_A")
    assert request.chat.body_bytes > len(world.store.contents[OWNER.account_id, "resp_A"])


async def test_a_request_reads_at_most_64_responses(world: World) -> None:
    for number in range(65):
        await world.answer(f"R{number}")
    references = [{"type": "item_reference", "id": f"msg_R{number}_0"} for number in range(65)]
    assert len(await world.messages(input=references[:64])) == 1
    with pytest.raises(InvalidRequest, match="more than 64 stored responses"):
        await world.parse(input=references)


async def test_a_stream_is_stored_before_its_last_event(world: World) -> None:
    request = await world.parse(stream=True)
    renderer = request.renderer
    renderer.begin("req_A", CREATED)
    events = renderer.events([chunk(content="Hel")]) + renderer.events([chunk(content="lo"), chunk(finish="stop")])
    assert request.store is not None
    await request.store()
    stored = json.loads(bytes(world.store.stored("A").response))
    response = fold(events + renderer.end())
    assert response == stored
    assert response["store"] is True


async def test_a_stream_that_cannot_be_stored_fails_with_all_items_done(world: World) -> None:
    request = await world.parse(stream=True)
    renderer = request.renderer
    renderer.begin("req_A", CREATED)
    events = renderer.events([chunk(content="Hello"), chunk(finish="stop")])
    world.store.is_down = True
    assert request.store is not None
    with pytest.raises(Unavailable) as raised:
        await request.store()
    response = fold(events + renderer.stream_error(http_error(raised.value, now=0)))
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert response["output"][0]["content"][0]["text"] == "Hello"


async def test_a_cut_stream_is_not_stored(world: World) -> None:
    request = await world.parse(stream=True)
    request.renderer.begin("req_A", CREATED)
    events = request.renderer.events([chunk(content="Hel")])
    assert request.store is not None
    await request.store()
    assert events_of(events + request.renderer.end())[-1]["type"] == "response.failed"
    assert world.store.contents == {}


async def test_an_incomplete_response_is_stored_and_can_be_continued(world: World) -> None:
    request = await world.parse(input="one")
    request.renderer.begin("req_A", CREATED)
    request.renderer.completion(completion(content="an", finish="length"))
    assert request.store is not None
    await request.store()
    assert json.loads(bytes(world.store.stored("A").response))["status"] == "incomplete"
    assert _plain(await world.messages(previous_response_id="resp_A")) == _said("one", "an", "hi")


async def test_stored_items_keep_our_ids_and_get_ids_in_place_of_others(world: World) -> None:
    items = [
        {"role": "user", "content": "a", "id": "msg_own"},
        {"type": "message", "role": "assistant", "content": "b", "id": "msg_Z_0"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "x"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    ]
    await world.answer("A", input=items)
    stored = world.store.stored("A").input
    assert [item["id"] for item in stored] == ["msg_A_i0", "msg_Z_0", "fc_A_i2", "fco_A_i3", "item_A_i4"]
    assert stored[1]["content"] == [{"type": "output_text", "text": "b", "annotations": [], "logprobs": []}]


async def test_no_two_stored_items_have_the_same_id(world: World) -> None:
    """Otherwise a client that lists the items page by page never reaches the end."""
    first = await world.answer("A", input="one")
    same = {"role": "user", "content": "a", "id": "msg_Z_0"}
    await world.answer("B", previous_response_id="resp_A", input=[*first["output"], same, same])
    stored = [item["id"] for item in world.store.stored("B").input]
    assert stored == ["msg_A_i0", "msg_A_0", "msg_B_i0", "msg_Z_0", "msg_B_i2"]


def test_what_is_stored_round_trips() -> None:
    stored = decode(encode(b'{"id":"resp_A","output":[{"id":"msg_A_0"}]}', [{"id": "msg_A_i0", "text": "é\u2028"}]))
    assert bytes(stored.response) == b'{"id":"resp_A","output":[{"id":"msg_A_0"}]}'
    assert stored.items == [{"id": "msg_A_i0", "text": "é\u2028"}, {"id": "msg_A_0"}]
