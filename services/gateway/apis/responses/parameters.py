"""The top-level parameters of a Responses request: which are passed on, translated, dropped or refused, and why."""

from collections.abc import Mapping
from typing import Any

from services.common.errors import InvalidRequest
from services.gateway.apis.chat_completions.parameters import PARAMETERS as CHAT_PARAMETERS
from services.gateway.apis.chat_completions.parameters import Parameter, ParameterPolicy, accept_only, reject
from services.gateway.apis.checks import (
    Rule,
    anything,
    array_of,
    boolean,
    by_type,
    decimal,
    integer,
    mapping,
    nullable,
    one_of,
    record,
    refusal,
    string,
    type_name,
    unknown_parameter,
    unsupported,
)
from services.gateway.apis.responses.formats import FORMAT
from services.gateway.apis.responses.input_items import ITEMS, ITEMS_OR_REFERENCES
from services.gateway.apis.responses.tool_choice import TOOL_CHOICE
from services.gateway.apis.responses.tools import TOOLS
from services.gateway.http.redaction import redacted
from services.gateway.requests.types import JSONObject

_METADATA_MAX, _METADATA_NAME_MAX, _METADATA_VALUE_MAX = 16, 64, 512
_INCLUDE_MAX = 64
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
ENCRYPTED_REASONING = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"
_INCLUDABLE = (
    ENCRYPTED_REASONING,
    _LOGPROBS,
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
_NO_LOGPROBS = "Groq's models do not return log probabilities"
_HINT = "a hint for OpenAI that does not change the answer"
_known_includable = one_of(*_INCLUDABLE)


def _check_includable(path: str, value: Any) -> None:
    _known_includable(path, value)
    if value == _LOGPROBS:
        raise unsupported(path, _NO_LOGPROBS)


def _check_metadata(path: str, value: Any) -> None:
    mapping(path, value)
    pairs = {name: one for name, one in value.items() if one is not None}
    if len(pairs) > _METADATA_MAX:
        text = f"Invalid '{path}': too many properties. Expected at most {_METADATA_MAX}, but got {len(pairs)} instead."
        raise refusal(text, path, "object_above_max_properties")
    for name, one in pairs.items():
        if not isinstance(one, str):
            text = f"Invalid type for '{path}': expected values of type string, but got {type_name(one)} instead."
            raise refusal(text, path, "invalid_type")
        if len(name) > _METADATA_NAME_MAX or len(one) > _METADATA_VALUE_MAX:
            text = (
                f"Invalid '{path}': string too long. Expected names with maximum length {_METADATA_NAME_MAX}, and "
                f"values with maximum length {_METADATA_VALUE_MAX}."
            )
            raise refusal(text, path, "string_above_max_length")


_METADATA = Rule(
    _check_metadata,
    {
        "type": "object",
        "description": f"At most {_METADATA_MAX} members that are not null.",
        "additionalProperties": nullable({"type": "string", "maxLength": _METADATA_VALUE_MAX}),
        "propertyNames": {"maxLength": _METADATA_NAME_MAX},
        "maxProperties": _METADATA_MAX,
    },
)


def _check_previous(path: str, value: Any) -> None:
    string(path, value)
    raise previous_not_found(
        value,
        " This service does not store responses: set `store` to false and send the whole conversation as `input`.",
    )


def previous_not_found(response_id: str, advice: str = "") -> InvalidRequest:
    """Return OpenAI's error for a `previous_response_id` that is not stored.

    Args:
        response_id: The id.
        advice: A sentence after OpenAI's own one, with a space before it.
    """
    text = f"Previous response with id '{redacted(response_id)}' not found.{advice}"
    return refusal(text, "previous_response_id", "previous_response_not_found")


def _refused(rule: Rule, why: str) -> Parameter:
    return Parameter(rule, ParameterPolicy.REFUSED, why)


def _rejected(why: str) -> Parameter:
    return _refused(reject(why), why)


def _accepted_only(value: Any, rule: Rule, why: str) -> Parameter:
    return _refused(accept_only(value, rule, why), why)


def _ignored(rule: Rule, why: str) -> Parameter:
    return Parameter(rule, ParameterPolicy.DROPPED, why)


def _translated(rule: Rule, why: str) -> Parameter:
    return Parameter(rule, ParameterPolicy.TRANSLATED, why)


PARAMETERS: Mapping[str, Parameter] = {
    "model": CHAT_PARAMETERS["model"],
    "input": _translated(
        by_type("one of a string or array of objects", {str: string, list: ITEMS}), "items become chat messages"
    ),
    "instructions": _translated(string, "becomes the first system message"),
    "max_output_tokens": _translated(integer(1), "becomes `max_completion_tokens`, at most the model's maximum"),
    "temperature": Parameter(decimal(0, 2)),
    "top_p": Parameter(decimal(0, 1)),
    "presence_penalty": Parameter(decimal(-2, 2)),
    "frequency_penalty": Parameter(decimal(-2, 2)),
    "stream": Parameter(boolean),
    "stream_options": _ignored(record({"include_obfuscation": boolean}), "events are not padded"),
    "tools": _translated(TOOLS, "become function tools; OpenAI's hosted tools are dropped"),
    "tool_choice": _translated(TOOL_CHOICE, "becomes chat's `tool_choice`; dropped without tools"),
    "parallel_tool_calls": _translated(boolean, "dropped without tools"),
    "text": _translated(
        record({"format": FORMAT, "verbosity": string}),
        "`format` becomes `response_format`, or a last system message if there are tools",
    ),
    "reasoning": _translated(
        record({"effort": one_of(*EFFORTS)}), "`effort` becomes `reasoning_effort` in the values of the model"
    ),
    "include": _translated(
        array_of(
            Rule(_check_includable, {"enum": [one for one in _INCLUDABLE if one != _LOGPROBS]}),
            "an array of strings",
            at_most=_INCLUDE_MAX,
        ),
        f"`{ENCRYPTED_REASONING}` adds the member to reasoning items; other values have no effect",
    ),
    "store": _ignored(boolean, "responses are not stored, unless the operator switches it on"),
    "previous_response_id": _refused(
        Rule(_check_previous, {"not": {}}), "responses are not stored, unless the operator switches it on"
    ),
    "conversation": _rejected("conversations are not stored; send all items in `input`"),
    "prompt": _rejected("prompt templates are not stored; send the text in `input`"),
    "background": _accepted_only(
        False, boolean, "nothing is answered in the background; use `stream` for long answers"
    ),
    "truncation": _ignored(one_of("auto", "disabled"), "the input is never truncated"),
    "max_tool_calls": _ignored(integer(), "bounds only hosted tools"),
    "top_logprobs": _accepted_only(0, integer(0, 20), _NO_LOGPROBS),
    "metadata": _ignored(_METADATA, "returned in the response"),
    "service_tier": CHAT_PARAMETERS["service_tier"],
    "user": _ignored(string, _HINT),
    "safety_identifier": _ignored(string, _HINT),
    "prompt_cache_key": _ignored(string, _HINT),
    "prompt_cache_retention": _ignored(anything, _HINT),
    "prompt_cache_options": _ignored(anything, _HINT),
    "moderation": _ignored(anything, _HINT),
    "access_programs": _ignored(anything, _HINT),
    "context_management": _ignored(anything, _HINT),
    "background_options": _ignored(anything, _HINT),
    "image": _ignored(anything, _HINT),
    "personality": _ignored(anything, _HINT),
    "client_metadata": _ignored(anything, "sent by Codex for OpenAI"),
}
"""All parameters. Null counts as absent."""
STORED_PARAMETERS: Mapping[str, Parameter] = {
    **PARAMETERS,
    "input": _translated(
        by_type("one of a string or array of objects", {str: string, list: ITEMS_OR_REFERENCES}),
        "items become chat messages; references are replaced by the stored items",
    ),
    "store": _translated(boolean, "false does not store the response"),
    "previous_response_id": _translated(string, "the input and output of that response precede `input`"),
}
"""The parameters while responses are stored."""


def check_parameters(members: JSONObject, parameters: Mapping[str, Parameter] = PARAMETERS) -> None:
    """Validate the parameters of a request that has no null members.

    Raises:
        InvalidRequest: A parameter is unknown, invalid or unsupported.
        NotFound: An item refers to a stored item.
    """
    unknown = next((name for name in members if name not in parameters), None)
    if unknown is not None:
        raise unknown_parameter(unknown)
    for name, value in members.items():
        parameters[name].rule(name, value)
