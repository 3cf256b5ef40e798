"""The surfaces that answer chat requests, as they are recorded in the ledger."""

from enum import StrEnum


class Surface(StrEnum):
    """The HTTP API through which a request came."""

    CHAT = "chat"
    """OpenAI's chat completions, and the console's playground."""
    COMPLETIONS = "completions"
    """OpenAI's legacy completions."""
    RESPONSES = "responses"
    """OpenAI's responses."""
    MESSAGES = "messages"
    """Anthropic's messages."""
