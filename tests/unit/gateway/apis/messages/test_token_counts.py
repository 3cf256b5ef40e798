"""Tokens are counted by the model's tokenizer, or estimated and rounded up."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from services.common.errors import InvalidRequest, NotFound
from services.gateway.apis import tokenizers
from services.gateway.apis.messages.token_counts import count_tokens
from services.gateway.apis.surface import Context, ModelFacts
from services.gateway.apis.tokenizers import FAMILIES, exact_tokens, text_tokens
from services.gateway.settings import GatewaySettings

_TEXT = "The quick brown fox jumps over the lazy dog. " * 20
_NO_WHEEL = tokenizers.QUICKTOK is None


@pytest.fixture(autouse=True, scope="module")
def _tokenizers() -> None:
    tokenizers.load(FAMILIES)


def _count(model: str = "openai/gpt-oss-20b", **members: Any) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "foo"}], **members}
    answer = json.loads(count_tokens(json.dumps(body).encode(), Context()))
    assert list(answer) == ["input_tokens"]
    return int(answer["input_tokens"])


@pytest.mark.skipif(_NO_WHEEL, reason="quicktok has no wheel for this Python")
class TestTokenizer:
    def test_the_vocabulary_is_the_models(self) -> None:
        # The ids are from OpenAI's published o200k_base.
        assert tokenizers.QUICKTOK.get_encoding("o200k_harmony").encode("hello world") == [24912, 2375]
        assert text_tokens("openai/gpt-oss-120b", "hello world") == 2

    def test_every_text_counts(self) -> None:
        call = {"type": "tool_use", "id": "a", "name": "f", "input": {"text": _TEXT}}
        result = {"type": "tool_result", "tool_use_id": "a", "content": _TEXT}
        thinking = {"type": "thinking", "thinking": _TEXT, "signature": "x"}
        base = text_tokens("openai/gpt-oss-20b", _TEXT)
        assert base == 201
        empty = _count()
        for members in (
            {"system": _TEXT},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": _TEXT}]}]},
            {"messages": [{"role": "user", "content": "foo"}, {"role": "assistant", "content": [thinking, call]}]},
            {
                "messages": [
                    {"role": "assistant", "content": [{**call, "input": {}}]},
                    {"role": "user", "content": [result]},
                ]
            },
            {"tools": [{"name": "f", "description": _TEXT, "input_schema": {}}]},
        ):
            assert _count(**members) >= empty + base - 5, members

    def test_no_request_loads_a_vocabulary(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Loading one stops all threads of the process for 0.4 s, and for 3 s on a busy machine."""
        monkeypatch.setattr(tokenizers, "_loaded", {})
        monkeypatch.setattr(tokenizers.QUICKTOK, "get_encoding", None)
        assert text_tokens("openai/gpt-oss-20b", "hello world") == 4
        assert exact_tokens("openai/gpt-oss-20b", "hello world") is None


def test_families_without_a_tokenizer_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"llama: expected families of models among openai/gpt-oss, qwen/qwen3"):
        GatewaySettings(tokenizers=["llama"])


class TestEstimate:
    def test_it_is_rounded_up(self) -> None:
        assert text_tokens("other", "x") == 1
        assert text_tokens("other", "x" * 6) == 2
        assert text_tokens("other", "x" * 7) == 3

    @pytest.mark.skipif(_NO_WHEEL, reason="quicktok has no wheel for this Python")
    def test_it_exceeds_the_count_of_english_and_code(self) -> None:
        code = json.dumps({"tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]}) * 20
        for text in (_TEXT, code):
            assert text_tokens("openai/gpt-oss-20b", text) < text_tokens("other", text)

    def test_texts_beyond_every_window_are_estimated(self) -> None:
        text = "é" * 1_000_001
        assert text_tokens("openai/gpt-oss-20b", text) == -(-2 * 1_000_001 // 3)

    def test_an_image_counts_as_much_whatever_its_size(self) -> None:
        def image(size: int) -> Any:
            return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "a" * size}}

        small, large = (_count(messages=[{"role": "user", "content": [image(size)]}]) for size in (10, 100_000))
        assert small == large > 1_500


def test_max_tokens_are_not_required_and_hidden_tools_cost_nothing() -> None:
    tool = {"name": "f", "description": _TEXT, "input_schema": {}, "defer_loading": True}
    assert _count(tools=[tool], tool_choice={"type": "auto"}, thinking={"type": "adaptive"}) == _count(tools=[])


def test_invalid_requests_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        count_tokens(b'{"model":"m"}', Context())
    known = Context(models={"m": ModelFacts()})
    with pytest.raises(NotFound):
        count_tokens(b'{"model":"claude-opus-5-5","messages":[{"role":"user","content":"hi"}]}', known)
