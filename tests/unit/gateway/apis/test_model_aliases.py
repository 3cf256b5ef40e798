"""A model under an alias of inference's list is treated as the model itself, and requested under the alias."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from services.common.errors import InvalidRequest
from services.gateway.apis import completions, messages, responses, tokenizers
from services.gateway.apis.messages import count_tokens
from services.gateway.apis.model_aliases import ModelAliases
from services.gateway.apis.model_facts import facts_of
from services.gateway.apis.surface import Context
from services.gateway.requests.types import JSONObject
from services.inference.catalogue import Catalogue

_OSS, _QWEN, _BLIND = "openai/gpt-oss-120b", "qwen/qwen3.8-27b", "blind"
_ALIASES = {"my-oss": _OSS, "my-qwen": _QWEN, "my-blind": _BLIND}
_IMAGE = "data:image/png;base64,AAAA"
_BODIES: dict[str, tuple[Callable[[bytes, Context], Any], JSONObject]] = {
    "completions": (completions.parse, {"prompt": "hi", "max_tokens": 10**6}),
    "responses": (responses.parse, {"input": "hi", "max_output_tokens": 10**6, "reasoning": {"effort": "medium"}}),
    "messages": (
        messages.parse,
        {
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 10**6,
            "output_config": {"effort": "medium"},
        },
    ),
}


class Listing:
    """A model list, with or without Groq's newer members."""

    def __init__(self, *, has_features: bool) -> None:
        self._more = {"supported_features": ["reasoning"]} if has_features else {}

    async def list_models(self) -> list[JSONObject]:
        return [
            {"id": _OSS, "max_completion_tokens": 65_536, **self._more},
            {"id": _QWEN, "max_completion_tokens": 16_384, **self._more},
            {"id": _BLIND, "input_modalities": ["text"]},
        ]


@pytest.fixture(params=[True, False], ids=["features", "no_features"])
async def context(request: pytest.FixtureRequest) -> Context:
    catalogue = Catalogue(Listing(has_features=request.param), _ALIASES)
    assert await catalogue.refresh()
    aliases = ModelAliases((("claude-oss", "my-oss"), ("claude-qwen", "my-qwen")))
    return Context(models=facts_of(catalogue.list_models()), aliases=aliases)


@pytest.mark.parametrize("surface", _BODIES)
@pytest.mark.parametrize(("alias", "model"), [("my-oss", _OSS), ("my-qwen", _QWEN)])
def test_an_alias_is_sent_with_the_members_that_its_model_accepts(
    context: Context, surface: str, alias: str, model: str
) -> None:
    parse, body = _BODIES[surface]

    def sent(name: str) -> JSONObject:
        members: JSONObject = parse(json.dumps({**body, "model": name}).encode(), context).chat.members
        return members

    assert sent(alias) == {**sent(model), "model": alias}
    assert ("reasoning_format" in sent(alias)) == (model == _QWEN)


@pytest.mark.parametrize(("alias", "model"), [("claude-oss", _OSS), ("claude-qwen", _QWEN)])
def test_an_alias_of_messages_may_stand_for_an_alias_of_the_list(context: Context, alias: str, model: str) -> None:
    parse, body = _BODIES["messages"]
    served, named = (parse(json.dumps({**body, "model": name}).encode(), context) for name in (model, alias))
    assert named.chat.members == {**served.chat.members, "model": context.aliases.resolve(alias)}


@pytest.mark.skipif(tokenizers.QUICKTOK is None, reason="quicktok has no wheel for this Python")
@pytest.mark.parametrize("alias", ["my-oss", "claude-oss"])
def test_the_tokenizer_is_the_models(context: Context, alias: str) -> None:
    tokenizers.load(tokenizers.FAMILIES)
    content = "The quick brown fox jumps over the lazy dog. " * 20
    counted = [
        count_tokens(json.dumps({"model": name, "messages": [{"role": "user", "content": content}]}).encode(), context)
        for name in (alias, _OSS, "unknown")
    ]
    assert counted[0] == counted[1] != counted[2]


def test_images_are_refused_for_the_name_that_the_client_sent(context: Context) -> None:
    image = {"type": "input_image", "image_url": _IMAGE}
    body = {"model": "my-blind", "input": [{"role": "user", "content": [image]}]}
    with pytest.raises(InvalidRequest, match="`my-blind` does not read images"):
        responses.parse(json.dumps(body).encode(), context)


@pytest.mark.parametrize("root", [None, "", 1, _OSS])
def test_a_root_that_names_no_other_model_is_ignored(root: object) -> None:
    assert facts_of([{"id": _OSS, "root": root}])[_OSS].id is None
