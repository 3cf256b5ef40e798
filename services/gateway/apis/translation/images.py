"""Images in chat messages. Groq answers 400 if the model does not read them."""

from collections.abc import Iterable

from services.gateway.requests.types import JSONObject


def has_images(messages: Iterable[JSONObject]) -> bool:
    """Return whether any message has an image part."""
    contents = (content for message in messages if isinstance(content := message.get("content"), list))
    return any(part["type"] == "image_url" for content in contents for part in content)
