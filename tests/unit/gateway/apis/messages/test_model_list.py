"""The model list has Anthropic's members beside OpenAI's, and aliases name served models."""

import json

import anthropic.types
import pytest
from anthropic.pagination import SyncPage

from services.gateway.apis.messages.model_list import model_info, model_list
from services.gateway.apis.model_aliases import model_aliases

_MODEL = {
    "id": "openai/gpt-oss-20b",
    "object": "model",
    "created": 1754407957,
    "owned_by": "OpenAI",
    "context_window": 131072,
    "max_completion_tokens": 65536,
}


def test_anthropics_client_reads_the_list() -> None:
    body = model_list([_MODEL, {"id": "b", "object": "model"}])
    page = SyncPage[anthropic.types.ModelInfo].model_validate_json(body, strict=False)
    assert (page.has_more, page.first_id, page.last_id) == (False, "openai/gpt-oss-20b", "b")
    first, second = page.data
    assert first.model_dump(mode="json", exclude_unset=True) == {
        **_MODEL,
        "type": "model",
        "display_name": "openai/gpt-oss-20b",
        "created_at": "2025-08-05T15:32:37Z",
        "lifecycle": "active",
        "max_input_tokens": 131072,
        "max_tokens": 65536,
    }
    assert second.created_at.isoformat() == "1970-01-01T00:00:00+00:00"


def test_an_empty_list() -> None:
    assert json.loads(model_list([])) == {
        "object": "list",
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }


@pytest.mark.parametrize("created", [None, "x", -1, 10**30, 1.5])
def test_an_odd_time_counts_as_not_known(created: object) -> None:
    assert model_info({"id": "a", "created": created})["created_at"] == "1970-01-01T00:00:00Z"


class TestAliases:
    _ALIASES = model_aliases(
        {"claude-haiku-*": "small", "claude-*-latest": "latest", "claude-*": "large", "exact": "x/y"}
    )

    @pytest.mark.parametrize(
        ("name", "model"),
        [
            ("claude-haiku-4-5", "small"),
            ("claude-sonnet-latest", "latest"),
            ("claude-opus-5-5", "large"),
            ("claude-", "large"),
            ("exact", "x/y"),
            ("exactly", "exactly"),
            ("claude", "claude"),
            ("claude-" + "x" * 300, "claude-" + "x" * 300),
        ],
    )
    def test_the_first_match_counts(self, name: str, model: str) -> None:
        assert self._ALIASES.resolve(name) == model

    def test_prefix_and_suffix_do_not_overlap(self) -> None:
        assert model_aliases({"ab*ba": "m"}).resolve("aba") == "aba"

    @pytest.mark.parametrize(("pattern", "model"), [("", "b"), ("a", ""), ("a*b*", "c"), ("a", "b*"), ("a", "b c")])
    def test_invalid_aliases_are_refused(self, pattern: str, model: str) -> None:
        with pytest.raises(ValueError, match="Invalid model alias"):
            model_aliases({pattern: model})
