"""Anthropic's Messages API, `POST /v1/messages` and `/v1/messages/count_tokens`, over chat completions."""

from services.gateway.apis.messages.errors import error
from services.gateway.apis.messages.request import parse
from services.gateway.apis.messages.schema import count_schema, schema
from services.gateway.apis.messages.token_counts import count_tokens

__all__ = ["count_schema", "count_tokens", "error", "parse", "schema"]
