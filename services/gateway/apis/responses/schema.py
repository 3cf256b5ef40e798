"""The JSON Schema of a Responses request, from the rules that validate it."""

from services.gateway.apis.chat_completions.limits import DEFAULT_LIMITS, ChatLimits
from services.gateway.apis.chat_completions.parameters import ParameterPolicy
from services.gateway.apis.checks import Schema, nullable
from services.gateway.apis.responses.parameters import PARAMETERS


def schema(limits: ChatLimits = DEFAULT_LIMITS) -> Schema:
    """Return the schema of a request body."""
    properties = {
        name: nullable(parameter.rule.schema) | _description(parameter.policy, parameter.why)
        for name, parameter in PARAMETERS.items()
    }
    model = PARAMETERS["model"].rule.schema | {"maxLength": limits.name_characters_max}
    tools = PARAMETERS["tools"].rule.schema | {"maxItems": limits.tools_max}
    return {
        "type": "object",
        "properties": properties
        | {"model": nullable(model), "tools": nullable(tools) | {"description": properties["tools"]["description"]}},
        "anyOf": [_given("input"), _given("instructions")],
        # Members that are null count as absent, regardless of their name.
        "additionalProperties": {"type": "null"},
    }


def _given(name: str) -> Schema:
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _description(policy: ParameterPolicy, why: str) -> Schema:
    return {} if policy is ParameterPolicy.PASSED else {"description": f"{policy.value.capitalize()}: {why}."}
