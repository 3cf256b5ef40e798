"""Built-in model list, used until Groq's list is available: the chat models that Groq served in October 2026."""

from services.inference.chat import JSONObject


def _model(name: str, owner: str, created: int, context_window: int, max_completion_tokens: int) -> JSONObject:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": owner,
        "active": True,
        "context_window": context_window,
        "max_completion_tokens": max_completion_tokens,
    }


BUILT_IN_MODELS: tuple[JSONObject, ...] = (
    _model("openai/gpt-oss-120b", "OpenAI", 1754408224, 131_072, 65_536),
    _model("openai/gpt-oss-20b", "OpenAI", 1754407957, 131_072, 65_536),
    _model("qwen/qwen3.8-27b", "Alibaba Cloud", 1786984846, 131_072, 16_384),
)
"""Models in the format of Groq's list. Sources: Groq's model list and its models page, as of 2026-10."""
