"""The JSON Schemas of a Responses request, from the rules that validate it."""

from collections.abc import Mapping

from services.gateway.apis.chat_completions.limits import DEFAULT_LIMITS, ChatLimits
from services.gateway.apis.chat_completions.parameters import Parameter
from services.gateway.apis.checks import Schema
from services.gateway.apis.parameter_schema import given, parameter_schemas
from services.gateway.apis.responses.parameters import PARAMETERS, STORED_PARAMETERS


def schema(limits: ChatLimits = DEFAULT_LIMITS, parameters: Mapping[str, Parameter] = PARAMETERS) -> Schema:
    """Return the schema of a request body, by default while no responses are stored."""
    return {
        "type": "object",
        "properties": parameter_schemas(parameters, limits),
        "anyOf": [given("input"), given("instructions")],
        # Members that are null count as absent, regardless of their name.
        "additionalProperties": {"type": "null"},
    }


def documented_schema(limits: ChatLimits = DEFAULT_LIMITS) -> Schema:
    """Return the schema of a request body whether or not responses are stored, with descriptions for both cases.

    What is valid while no responses are stored is valid while they are.
    """
    documented = schema(limits, STORED_PARAMETERS)
    for name, parameter in STORED_PARAMETERS.items():
        if parameter is not PARAMETERS[name]:
            text = f"If responses are stored, {_effect(parameter)}. Otherwise {_effect(PARAMETERS[name])}."
            documented["properties"][name]["description"] = text
    return documented


def _effect(parameter: Parameter) -> str:
    return f"{parameter.policy.value}: {parameter.why}"
