"""The JSON Schema of a legacy completion request, from the rules that validate it."""

from services.gateway.apis.chat_completions.limits import DEFAULT_LIMITS, ChatLimits
from services.gateway.apis.checks import Schema
from services.gateway.apis.completions.parameters import PARAMETERS
from services.gateway.apis.parameter_schema import given, parameter_schemas


def schema(limits: ChatLimits = DEFAULT_LIMITS) -> Schema:
    """Return the schema of a request body."""
    return {
        "type": "object",
        "properties": parameter_schemas(PARAMETERS, limits),
        "allOf": [given("prompt")],
        # Members that are null count as absent, regardless of their name.
        "additionalProperties": {"type": "null"},
    }
