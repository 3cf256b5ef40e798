"""Groq's validation of chat requests: properties, types, and rules that depend on the model."""

from collections.abc import Mapping
from dataclasses import dataclass

from tools.groq_standin import catalogue, errors
from tools.groq_standin.messages import Messages
from tools.groq_standin.schema import (
    Check,
    Violation,
    anything,
    array_of,
    boolean,
    check_members,
    integer,
    mapping,
    nullable,
    number,
    one_of,
    record,
    string,
)

_UNSUPPORTED_EVERYWHERE = ("logprobs", "top_logprobs", "logit_bias")


def _stop(path: str, value: object) -> None:
    if isinstance(value, list):
        return array_of(string, at_most=4)(path, value)
    return string(path, value)


def _tool_choice(path: str, value: object) -> None:
    if isinstance(value, dict):
        function = record({"name": string}, ["name"])
        return record({"type": one_of("function"), "function": function}, ["type", "function"])(path, value)
    return one_of("none", "auto", "required")(path, value)


_FUNCTION = {
    "name": string,
    "description": nullable(string),
    "parameters": nullable(mapping),
    "strict": nullable(boolean),
}
_TOOL = {"type": string, "function": record(_FUNCTION, ["name"]), "server_label": string, "server_url": string}


def _tool(path: str, value: object) -> None:
    is_function = isinstance(value, dict) and value.get("type") == "function"
    record(_TOOL, ["type", "function"] if is_function else ["type"])(path, value)


_JSON_SCHEMA = {
    "name": string,
    "description": nullable(string),
    "schema": nullable(mapping),
    "strict": nullable(boolean),
}
_RESPONSE_FORMAT = {
    "type": one_of("text", "json_object", "json_schema"),
    "json_schema": record(_JSON_SCHEMA, ["name"]),
}

_NOT_NULL: dict[str, Check] = {
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "max_completion_tokens": integer(1),
    "max_tokens": integer(1),
    "stop": _stop,
    "stream": boolean,
    "stream_options": record({"include_usage": nullable(boolean)}),
    "n": integer(1, 1),
    "seed": integer(),
    "tools": array_of(_tool, at_most=128),
    "tool_choice": _tool_choice,
    "parallel_tool_calls": boolean,
    "disable_tool_validation": boolean,
    "functions": array_of(mapping, at_most=128),
    "function_call": anything,
    "response_format": record(_RESPONSE_FORMAT, ["type"]),
    "reasoning_effort": one_of("none", "default", "low", "medium", "high"),
    "reasoning_format": one_of("hidden", "raw", "parsed"),
    "include_reasoning": boolean,
    "service_tier": one_of("auto", "on_demand", "flex", "performance"),
    "user": string,
    "metadata": mapping,
    "store": boolean,
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "logit_bias": mapping,
    "logprobs": boolean,
    "top_logprobs": integer(0, 20),
    "citation_options": anything,
    "compound_custom": anything,
    "documents": anything,
    "search_settings": anything,
    "exclude_domains": anything,
    "include_domains": anything,
}
# SDKs send null for unset parameters (`"stop": null`), so all top-level parameters accept null.
_OPTIONAL = {name: nullable(check) for name, check in _NOT_NULL.items()}


@dataclass(frozen=True, slots=True)
class Validator:
    """Groq's rules for requests. Two rules on which the sources disagree are optional."""

    allow_logprobs: bool = False
    """Accept `logprobs`, `top_logprobs` and `logit_bias` (they have no effect)."""
    refuse_names: bool = False
    """Refuse `messages[].name`, as in Groq's documentation but not in its SDK's types."""

    def check(self, body: object) -> catalogue.Model:
        """Validate a request and return its model.

        Raises:
            Refused: The request violates a rule, or its model is unknown.
        """
        try:
            request = self._check_shape(body)
        except Violation as exc:
            raise errors.Refused(errors.refusal(400, str(exc))) from exc
        model = catalogue.MODELS.get(str(request["model"]))
        if model is None:
            raise errors.Refused(errors.unknown_model(str(request["model"])))
        self._check_fit(request, model)
        return model

    def _check_shape(self, body: object) -> dict[str, object]:
        if not isinstance(body, dict):
            raise Violation("", "value must be an object")
        messages = Messages(refuse_names=self.refuse_names)
        fields = {"messages": messages.check, "model": string} | _OPTIONAL
        check_members("", body, fields, ["messages", "model"])
        return body

    def _check_fit(self, request: Mapping[str, object], model: catalogue.Model) -> None:
        if not model.chats:
            _refuse(f"The model `{model.id}` does not support chat completions")
        _check_token_limit(request, model)
        _check_reasoning(request, model)
        if _wants_json(request) and request.get("tools"):
            _refuse("json mode cannot be combined with tool/function calling", "response_format")
        for name in _UNSUPPORTED_EVERYWHERE:
            if request.get(name) not in (None, False) and not self.allow_logprobs:
                _refuse(f"`{name}` is not supported with this model", name)


def _check_token_limit(request: Mapping[str, object], model: catalogue.Model) -> None:
    for name in ("max_completion_tokens", "max_tokens"):
        value, most = request.get(name), model.max_completion_tokens
        if isinstance(value, int) and value > most:
            text = f"`{name}` must be less than or equal to `{most}`, the maximum value for `{name}` is less than the "
            _refuse(text + "`context_window` for this model", name)


def _check_reasoning(request: Mapping[str, object], model: catalogue.Model) -> None:
    effort, style = request.get("reasoning_effort"), request.get("reasoning_format")
    if style is not None and request.get("include_reasoning") is not None:
        _refuse("`include_reasoning` and `reasoning_format` are mutually exclusive", "reasoning_format")
    if style is not None and not model.reasoning_efforts:
        _refuse("`reasoning_format` is not supported with this model", "reasoning_format")
    if effort is None or effort in model.reasoning_efforts:
        return
    if not model.reasoning_efforts:
        _refuse("`reasoning_effort` is not supported with this model", "reasoning_effort")
    *first, last = (f"`{allowed}`" for allowed in model.reasoning_efforts)
    _refuse(f"`reasoning_effort` must be one of {', '.join(first)} or {last}", "reasoning_effort")


def _wants_json(request: Mapping[str, object]) -> bool:
    wanted = request.get("response_format")
    return isinstance(wanted, dict) and wanted.get("type") != "text"


def _refuse(message: str, param: str | None = None) -> None:
    extra = {} if param is None else {"param": param}
    raise errors.Refused(errors.refusal(400, message, **extra))
