"""The parameters of a legacy completion request: which are passed on, translated, dropped or refused, and why."""

from collections.abc import Mapping
from typing import Any

from services.gateway.apis.chat_completions.parameters import PARAMETERS as CHAT_PARAMETERS
from services.gateway.apis.chat_completions.parameters import Parameter, ParameterPolicy, accept_only, reject
from services.gateway.apis.checks import (
    Rule,
    boolean,
    integer,
    missing,
    refusal,
    string,
    unknown_parameter,
    unsupported,
    wrong_type,
)
from services.gateway.requests.types import JSONObject

CHAT_NAMES = (
    "model",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "stop",
    "stream",
    "stream_options",
    "n",
    "seed",
    "user",
    "logit_bias",
    "reasoning_effort",
    "service_tier",
    "store",
    "metadata",
)
"""Parameters that are handled as in a chat request."""
_ONE_COMPLETION = "only one completion is generated"
_NO_LOGPROBS = "Groq's models do not return log probabilities"
_ONE_TEXT = "only one prompt is supported, as a string or as an array of one string"


def _check_prompt(path: str, value: Any) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise wrong_type(path, "one of a string or array of strings", value)
    if not value:
        raise refusal(f"Invalid '{path}': empty array. Expected one string.", path, "empty_array")
    if len(value) > 1 or not isinstance(value[0], str):
        raise unsupported(path, _ONE_TEXT)


PARAMETERS: Mapping[str, Parameter] = {
    "prompt": Parameter(
        Rule(
            _check_prompt,
            {"anyOf": [string.schema, {"type": "array", "items": string.schema, "minItems": 1, "maxItems": 1}]},
        ),
        ParameterPolicy.TRANSLATED,
        "becomes one user message; several prompts and token ids are refused",
    ),
    "suffix": Parameter(
        string, ParameterPolicy.TRANSLATED, "a system message asks for the text between prompt and suffix"
    ),
    "max_tokens": Parameter(
        integer(1), ParameterPolicy.TRANSLATED, "becomes `max_completion_tokens`, at most the model's maximum"
    ),
    "echo": Parameter(boolean, ParameterPolicy.TRANSLATED, "the prompt is put before the text"),
    "best_of": Parameter(
        accept_only(1, integer(1, 20), _ONE_COMPLETION), ParameterPolicy.REFUSED, f"{_ONE_COMPLETION}; 1 is dropped"
    ),
    "logprobs": Parameter(reject(_NO_LOGPROBS), ParameterPolicy.REFUSED, _NO_LOGPROBS),
    **{name: CHAT_PARAMETERS[name] for name in CHAT_NAMES},
}
"""All parameters. Null counts as absent."""


def check_parameters(members: JSONObject) -> None:
    """Validate the parameters of a request that has no null members.

    Raises:
        InvalidRequest: A parameter is missing, unknown, invalid or unsupported.
    """
    if "prompt" not in members:
        raise missing("prompt")
    unknown = next((name for name in members if name not in PARAMETERS), None)
    if unknown is not None:
        raise unknown_parameter(unknown)
    for name, value in members.items():
        PARAMETERS[name].rule(name, value)
