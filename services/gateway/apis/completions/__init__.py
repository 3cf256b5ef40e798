"""`POST /v1/completions`: the legacy Completions API over chat completions."""

from services.gateway.apis.chat_completions.surface import error
from services.gateway.apis.completions.request import parse
from services.gateway.apis.completions.schema import schema

__all__ = ["error", "parse", "schema"]
