"""`POST /v1/responses`: the Responses API over chat completions."""

from services.gateway.apis.responses.errors import error
from services.gateway.apis.responses.request import parse
from services.gateway.apis.responses.schema import documented_schema, schema

__all__ = ["documented_schema", "error", "parse", "schema"]
