"""The JSON Schema of a request, from its table of parameters."""

from collections.abc import Mapping

from services.gateway.apis.chat_completions.limits import ChatLimits
from services.gateway.apis.chat_completions.parameters import Parameter, ParameterPolicy
from services.gateway.apis.checks import Schema, nullable


def parameter_schemas(parameters: Mapping[str, Parameter], limits: ChatLimits) -> dict[str, Schema]:
    """Return the schemas of parameters by name. Null counts as absent."""
    schemas = {name: _schema(parameter, {}) for name, parameter in parameters.items()}
    limited = {"model": {"maxLength": limits.name_characters_max}, "tools": {"maxItems": limits.tools_max}}
    return schemas | {name: _schema(parameters[name], limit) for name, limit in limited.items() if name in parameters}


def given(name: str) -> Schema:
    """Return a schema for objects in which a member is given and not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _schema(parameter: Parameter, limit: Schema) -> Schema:
    schema = nullable(parameter.rule.schema | limit)
    if parameter.policy is ParameterPolicy.PASSED:
        return schema
    return schema | {"description": f"{parameter.policy.value.capitalize()}: {parameter.why}."}
