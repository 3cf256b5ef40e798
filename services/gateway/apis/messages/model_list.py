"""`GET /v1/models` in Anthropic's form, for clients that send `anthropic-version`.

OpenAI's members stay, so that clients of either API can read the list.
"""

from collections.abc import Sequence

from msgspec.json import Encoder

from services.common.receipts import iso_time
from services.gateway.requests.types import JSONObject

_encode = Encoder().encode


def model_list(models: Sequence[JSONObject]) -> bytes:
    """Return the list of models as JSON. It always has one page; `limit` is ignored."""
    data = [model_info(model) for model in models]
    page = {
        "data": data,
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
    return _encode({"object": "list", **page})


def model_info(model: JSONObject) -> JSONObject:
    """Return a model of Groq's list with Anthropic's members added."""
    return {
        **model,
        "type": "model",
        "display_name": model.get("name") or model["id"],
        "created_at": iso_time(_seconds(model.get("created"))),
        "lifecycle": "active",
        "max_input_tokens": model.get("context_window"),
        "max_tokens": model.get("max_completion_tokens"),
    }


def _seconds(created: object) -> float:
    """Return the time of creation, or 0 if it is not known: Anthropic allows the epoch for that."""
    return created if isinstance(created, int) and 0 <= created < 2**33 else 0
