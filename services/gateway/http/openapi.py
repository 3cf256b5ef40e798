"""The OpenAPI 3.1 document of the HTTP API, generated from the rules that validate requests."""

from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from services.common.limits import Scope, Unit, Window
from services.common.receipts import Receipt
from services.gateway.apis import completions, messages, responses
from services.gateway.apis.chat_completions.limits import DEFAULT_LIMITS, ChatLimits
from services.gateway.apis.chat_completions.messages import MESSAGES
from services.gateway.apis.chat_completions.parameters import PARAMETERS, ParameterPolicy
from services.gateway.apis.checks import Schema, nullable
from services.gateway.apis.receipts import DayUsage

_encode = msgspec.json.Encoder().encode
_STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_DAY: Schema = {"type": "string", "format": "date"}
_ERRORS = {
    "400": "The request is invalid; `param` is the invalid parameter. Not counted.",
    "401": "The API key is missing or invalid.",
    "403": "The API key may not use this model. Not counted.",
    "404": "The object does not exist.",
    "408": "The request body did not arrive in time. Not counted.",
    "413": "The request body is too large. Not counted.",
    "415": "The request body is compressed. Not counted.",
    "429": "The API key's daily requests are used or in progress, or too many unknown keys came from your address, "
    "or you sent too many invalid requests.",
    "500": "Internal server error.",
    "502": "The model provider returned an invalid answer, or rejected this service's key. Not counted.",
    "503": "The service is temporarily unavailable. Try again after `retry-after` seconds. Not counted.",
    "504": "The request took too long.",
}
_LIMIT: dict[str, Schema] = {
    "scope": {"enum": list(Scope)},
    "unit": {"enum": list(Unit)},
    "window": {"enum": [*Window, None], "description": "Null for concurrent requests. Days and months are UTC."},
    "limit": {"type": "integer", "description": "Costs are in microdollars."},
}
_KEY_ERRORS = {
    "409": "The first request with this `Idempotency-Key`, or the one that this request retries, is still running. "
    "Repeat it after `retry-after` seconds.",
    "410": "The first request with this `Idempotency-Key`, or the one that this request retries, was charged, but its "
    "answer is no longer available.",
    "422": "This `Idempotency-Key` was used for a request with another path or body.",
}
"""Additional errors of the operations that call a model. Repeats are not counted."""
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A text of your choice, such as a UUID. If you send the request again with the same key within 24 "
    "hours, you get the same answer, and are not charged again. Ignored unless the operator supports it.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_RETRY_COUNT = {
    "name": "x-stainless-retry-count",
    "in": "header",
    "description": "How often an SDK has sent this request before. If the API key has `deduplicate_retries` and the "
    "count is above 0, you get the answer of the request that this one retries, and are not charged again.",
    "schema": {"type": "string"},
}
_IDEMPOTENT_REPLAYED = {
    "idempotent-replayed": "`true` if this is the answer to an earlier request with the same `Idempotency-Key`, or to "
    "the one that this request retries; `false` if it is that of the first one; absent if the request has no key and "
    "its API key does not deduplicate retries, or the operator does not support it.",
}
_REFERENCE = "#/components/schemas/{name}"
_TAGS = {
    "chat": "Chat completions",
    "responses": "Responses",
    "messages": "Messages",
    "completions": "Legacy completions",
    "models": "Models",
    "key": "Keys and limits",
    "limits": "Keys and limits",
    "usage": "Usage and receipts",
    "webhooks": "Webhooks",
}
"""Groups of operations, by the first part of their path below `/api/v1`."""
_STORAGE = (
    "By default responses are not stored: the answer has `store: false`, and `previous_response_id` and references to "
    "items are refused. If the operator stores responses, a response is stored unless the request has `store: false`. "
    "Later requests can then continue it with `previous_response_id`, and the operations on `/responses/{id}` return "
    "and delete it."
)
_LIMITS = (
    "At most {values} JSON values, {parts} content parts and {calls} tool calls in all messages combined, "
    "{levels} levels of nested arrays and objects, and {characters} characters in a name."
)
_RATE_LIMIT_HEADERS = {
    "x-ratelimit-limit-requests": "Maximum requests per UTC day.",
    "x-ratelimit-remaining-requests": "Remaining requests, without those in progress.",
    "x-ratelimit-reset-requests": "Time until the reset at 00:00 UTC, such as `7h12m3s`.",
}


@cache
def document(limits: ChatLimits = DEFAULT_LIMITS) -> bytes:
    """Return the document as JSON text."""
    return _encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Stack 3.0 API",
                "version": version("stack-api"),
                "description": "An OpenAI-compatible chat API. Every path is also served under `/v1` and `/openai/v1`.",
            },
            "security": [{"key": []}],
            "tags": [{"name": name} for name in dict.fromkeys(_TAGS.values())],
            "paths": _tagged(_paths()),
            "components": {
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "`sk_stk_…`"}},
                "schemas": {
                    "ChatRequest": chat_request(limits),
                    "ChatCompletion": _CHAT_COMPLETION,
                    "CompletionRequest": completions.schema(limits),
                    "Completion": _COMPLETION,
                    "CountTokensRequest": messages.count_schema(limits),
                    "MessageRequest": messages.schema(limits),
                    "Message": _MESSAGE,
                    "ResponseRequest": responses.documented_schema(limits),
                    "Response": _RESPONSE,
                    "Error": _ERROR,
                    "MessagesError": _MESSAGES_ERROR,
                    **_usage_schemas(),
                },
            },
        }
    )


def chat_request(limits: ChatLimits = DEFAULT_LIMITS) -> Schema:
    """Return the JSON Schema of a chat request."""
    properties = {
        name: nullable(parameter.rule.schema) | _description(parameter.policy, parameter.why)
        for name, parameter in PARAMETERS.items()
    }
    return {
        "type": "object",
        "properties": {"messages": MESSAGES.schema, **properties} | _limited_properties(limits),
        "required": ["messages"],
        "description": _LIMITS.format(
            values=limits.values_max,
            parts=limits.content_parts_max,
            calls=limits.tool_calls_max,
            levels=limits.nesting_max,
            characters=limits.name_characters_max,
        ),
        # Members that are null count as absent, regardless of their name.
        "additionalProperties": {"type": "null"},
    }


def _limited_properties(limits: ChatLimits) -> Schema:
    """Return the members whose schemas have a limit."""
    most = {"maxItems": limits.tools_max}
    tools, functions = (PARAMETERS[name].rule.schema | most for name in ("tools", "functions"))
    return {
        "messages": MESSAGES.schema | {"maxItems": limits.messages_max},
        "model": nullable(PARAMETERS["model"].rule.schema | {"maxLength": limits.name_characters_max}),
        "tools": nullable(tools),
        "functions": nullable(functions),
    }


def _description(policy: ParameterPolicy, why: str) -> Schema:
    return {} if policy is ParameterPolicy.PASSED else {"description": f"{policy.value.capitalize()}: {why}."}


def _tagged(paths: dict[str, Any]) -> dict[str, Any]:
    """Return the paths with the group of each operation."""
    return {
        path: {method: {**operation, "tags": [_tag(path)]} for method, operation in operations.items()}
        for path, operations in paths.items()
    }


def _tag(path: str) -> str:
    return _TAGS[path.removeprefix("/api/v1/").partition("/")[0]] if path.startswith("/api/v1/") else _TAGS["usage"]


def _paths() -> dict[str, Any]:
    chat = _model_operation("Create a chat completion")
    chat["requestBody"] = {"required": True, "content": _json(_reference("ChatRequest"))}
    chat["responses"]["200"] = {
        "description": "The chat completion; with `stream`, server-sent events that end with `data: [DONE]`.",
        "headers": _answer_headers(),
        "content": _json(_reference("ChatCompletion")) | {"text/event-stream": {"schema": _STRING}},
    }
    return {
        **_surface_paths(),
        **_stored_response_paths(),
        "/api/v1/chat": {"post": {**chat, "operationId": "chat"}},
        "/api/v1/chat/completions": {"post": {**chat, "operationId": "createChatCompletion"}},
        "/api/v1/models": {"get": _get_operation("listModels", "List models", _list(_object(id=_STRING)))},
        "/api/v1/models/{id}": {
            "get": _get_operation("getModel", "Retrieve a model", _object(id=_STRING), path=("id",))
        },
        "/api/v1/key": {
            "get": _get_operation(
                "getKey",
                "Retrieve the API key, its limits and its requests today",
                _object(
                    id=_STRING,
                    name={"type": ["string", "null"]},
                    plan={"type": ["string", "null"]},
                    models={"type": "array", "items": _STRING},
                    expires_at={"type": ["string", "null"], "format": "date-time"},
                    deduplicate_retries={
                        "type": "boolean",
                        "description": "Whether an automatic retry of an SDK gets the answer of the request that it "
                        "retries, and is not charged.",
                    },
                    limits={"type": "array", "items": _object(**_LIMIT)},
                    limit=_INTEGER,
                    used=_INTEGER,
                    held=_INTEGER,
                    remaining=_INTEGER,
                    resets_at={"type": "string", "format": "date-time"},
                    reset_in_seconds=_INTEGER,
                ),
            )
        },
        "/api/v1/limits": {
            "get": _get_operation(
                "listLimits",
                "List all limits of the API key and its account, and what is used of them",
                _list(
                    _object(
                        object={"const": "limit"},
                        **_LIMIT,
                        used=_INTEGER,
                        held=_INTEGER,
                        remaining=_INTEGER,
                        resets_at={"type": ["string", "null"], "format": "date-time"},
                        reset_in_seconds={"type": ["integer", "null"]},
                    )
                ),
            )
        },
        "/api/v1/webhooks/plan": {"post": _plan_webhook()},
        "/api/v1/usage": {
            "get": _get_operation(
                "listUsage",
                "List requests and tokens by day and model",
                _list(_reference("DayUsage")),
                query={"from": _DAY, "to": _DAY, "key_id": _STRING},
            )
        },
        "/api/v1/usage/webhook": _usage_webhook(),
        "/api/v1/usage/export": {"get": _usage_export()},
        "/api/v1/usage/{request_id}": {
            "get": _get_operation(
                "getUsage",
                "Retrieve the receipt of a request",
                _reference("Receipt"),
                path=("request_id",),
            )
        },
        "/api/v1/usage/{request_id}/jws": {"get": _signed_receipt()},
        "/.well-known/jwks.json": {"get": _receipt_keys()},
    }


def _usage_webhook() -> dict[str, Any]:
    note = "404 unless the operator has a receipt key"
    schema = _object(
        object={"const": "usage.webhook"},
        id=_STRING,
        url=_STRING,
        status={"enum": ["active", "failing", "disabled"]},
        next_day=_DAY,
        next_attempt_at={"type": ["string", "null"], "format": "date-time"},
        failures=_INTEGER,
        last_error={"type": ["string", "null"]},
    )
    created = {**schema, "properties": {**schema["properties"], "secret": _STRING}}
    get = _get_operation("getUsageWebhook", f"Retrieve the usage webhook; {note}", schema)
    post = _get_operation("setUsageWebhook", f"Set the usage webhook; {note}", created)
    post["requestBody"] = {"required": True, "content": _json(_object(url={**_STRING, "maxLength": 2_000}))}
    deletion = _object(object={"const": "usage.webhook"}, deleted={"type": "boolean"})
    delete = _get_operation("deleteUsageWebhook", "Delete the usage webhook", deletion)
    statuses = {id(get): ["404"], id(post): ["400", "404", "408", "413", "415"], id(delete): []}
    for operation in (get, post, delete):
        more = _operation("", statuses[id(operation)])["responses"]
        operation["responses"] |= more
    return {"get": get, "post": post, "delete": delete}


def _usage_export() -> dict[str, Any]:
    query = {
        "from": _DAY,
        "to": _DAY,
        "key_id": _STRING,
        "format": {"enum": ["jsonl", "csv"], "default": "jsonl"},
        "before": {**_STRING, "description": "Only requests that are older than this one, to continue an export."},
    }
    operation = _get_operation("exportUsage", "Export the receipts of the account, newest first", {}, query=query)
    operation["responses"]["200"]["content"] = {
        "application/jsonl": {"schema": _STRING},
        "text/csv": {"schema": _STRING},
    }
    return operation


def _signed_receipt() -> dict[str, Any]:
    operation = _get_operation("getSignedUsage", "Retrieve the signed receipt of a request", {}, path=("request_id",))
    operation["description"] = (
        "A JWS in compact serialization, signed with EdDSA. Its payload is the receipt and `signed_at`. 404 unless the "
        "operator signs receipts."
    )
    operation["responses"]["200"]["content"] = {"application/jose": {"schema": _STRING}}
    return operation


def _receipt_keys() -> dict[str, Any]:
    operation = _operation(
        "List the public keys of signed receipts (404 unless the operator signs receipts)", ["404", "500", "503"]
    )
    operation["operationId"] = "listReceiptKeys"
    operation["security"] = []
    key = _object(kty={"const": "OKP"}, crv={"const": "Ed25519"}, x=_STRING, kid=_STRING)
    content = {"application/jwk-set+json": {"schema": _object(keys={"type": "array", "items": key})}}
    operation["responses"]["200"] = {"description": "OK", "content": content}
    return operation


def _plan_webhook() -> dict[str, Any]:
    operation = _operation(
        "Move an account to a plan (for payment providers; 404 unless the operator has enabled it)",
        ["400", "403", "404", "408", "413", "415", "500", "503"],
    )
    event = _object(
        type={"const": "account.plan_changed"},
        timestamp={"type": "string", "format": "date-time"},
        data=_object(account={**_STRING, "description": "E-mail address or id."}, plan=_STRING),
    )
    statuses = {"enum": ["applied", "duplicate", "stale", "ignored"]}
    answer = _object(object={"const": "plan_event"}, id=_STRING, status=statuses)
    operation["operationId"] = "receivePlanEvent"
    operation["security"] = []
    operation["description"] = "Signed as Standard Webhooks defines it."
    operation["parameters"] = [
        {"name": name, "in": "header", "required": True, "schema": _STRING}
        for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
    ]
    operation["requestBody"] = {"required": True, "content": _json(event)}
    operation["responses"]["403"]["description"] = "The signature or its time is invalid."
    operation["responses"]["200"] = {"description": "OK", "content": _json(answer)}
    return operation


def _usage_schemas() -> dict[str, Schema]:
    """Return the schemas of receipts and daily usage, from the classes that are encoded."""
    _, schemas = msgspec.json.schema_components((Receipt, DayUsage), ref_template=_REFERENCE)
    # Their names and docstrings are for readers of the code.
    texts = ("title", "description")
    return {name: {key: one for key, one in schema.items() if key not in texts} for name, schema in schemas.items()}


def _surface_paths() -> dict[str, Any]:
    surfaces = (
        ("/api/v1/completions", "Completion", "Create a legacy completion"),
        ("/api/v1/messages", "Message", "Create a message (Anthropic's Messages API)"),
        ("/api/v1/responses", "Response", "Create a response (OpenAI's Responses API)"),
    )
    paths = {path: {"post": _surface_operation(answer, summary)} for path, answer, summary in surfaces}
    paths["/api/v1/responses"]["post"]["description"] = _STORAGE
    count = _operation(
        "Count the tokens of a message request", [one for one in _ERRORS if one != "502"], error="MessagesError"
    )
    count["operationId"] = "countTokens"
    count["requestBody"] = {"required": True, "content": _json(_reference("CountTokensRequest"))}
    count["responses"]["200"] = {"description": "OK", "content": _json(_object(input_tokens=_INTEGER))}
    return {**paths, "/api/v1/messages/count_tokens": {"post": count}}


def _stored_response_paths() -> dict[str, Any]:
    one = {"id": _STRING, "object": {"const": "response"}}
    note = "404 unless the operator stores responses"
    deletion = _get_operation(
        "deleteResponse", f"Delete a stored response; {note}", _object(**one, deleted={"const": True}), path=("id",)
    )
    retrieval = _get_operation(
        "getResponse",
        f"Retrieve a stored response; {note}",
        _object(**one),
        path=("id",),
        query={"stream": {"enum": ["false"], "description": "Events are not stored."}},
    )
    items = _get_operation(
        "listInputItems",
        f"List the input items of a stored response; {note}",
        _list(_object(id=_STRING, type=_STRING)),
        path=("id",),
        query={
            "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
            "order": {"enum": ["desc", "asc"], "default": "desc"},
            "after": _STRING,
        },
    )
    return {
        "/api/v1/responses/{id}": {"get": retrieval, "delete": deletion},
        "/api/v1/responses/{id}/input_items": {"get": items},
    }


def _surface_operation(answer: str, summary: str) -> dict[str, Any]:
    operation = _model_operation(summary, error="MessagesError" if answer == "Message" else "Error")
    operation["operationId"] = f"create{answer}"
    operation["requestBody"] = {"required": True, "content": _json(_reference(f"{answer}Request"))}
    operation["responses"]["200"] = {
        "description": "The answer; with `stream`, server-sent events.",
        "headers": _answer_headers(),
        "content": _json(_reference(answer)) | {"text/event-stream": {}},
    }
    return operation


def _model_operation(summary: str, *, error: str = "Error") -> dict[str, Any]:
    """Return an operation that calls a model, and may have an idempotency key."""
    operation = _operation(summary, sorted([*_ERRORS, *_KEY_ERRORS]), error=error)
    return {**operation, "parameters": [_IDEMPOTENCY_KEY, _RETRY_COUNT]}


def _answer_headers() -> dict[str, Any]:
    headers = _RATE_LIMIT_HEADERS | _IDEMPOTENT_REPLAYED
    return {name: {"schema": _STRING, "description": text} for name, text in headers.items()}


def _get_operation(
    name: str, summary: str, schema: Schema, *, path: tuple[str, ...] = (), query: dict[str, Schema] | None = None
) -> dict[str, Any]:
    statuses = ["401", "429", "500", "502", "503", "504"] + (["404"] if path else []) + (["400"] if query else [])
    operation = _operation(summary, sorted(statuses))
    operation["operationId"] = name
    operation["responses"]["200"] = {"description": "OK", "content": _json(schema)}
    operation["parameters"] = [
        {"name": one, "in": "path", "required": True, "schema": _STRING, "allowReserved": True} for one in path
    ] + [{"name": one, "in": "query", "schema": schema} for one, schema in (query or {}).items()]
    return operation


def _operation(summary: str, statuses: tuple[str, ...] | list[str], *, error: str = "Error") -> dict[str, Any]:
    responses = {
        status: {"description": (_ERRORS | _KEY_ERRORS)[status], "content": _json(_reference(error))}
        for status in statuses
    }
    return {"summary": summary, "responses": responses}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _reference(name: str) -> Schema:
    return {"$ref": _REFERENCE.format(name=name)}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(item: Schema) -> Schema:
    return _object(object={"const": "list"}, data={"type": "array", "items": item})


_CHAT_COMPLETION = _object(
    id=_STRING,
    object={"const": "chat.completion"},
    created=_INTEGER,
    model=_STRING,
    choices={"type": "array", "items": _object(index=_INTEGER, message={"type": "object"})},
)
_CHAT_COMPLETION["properties"]["usage"] = {
    **_object(prompt_tokens=_INTEGER, completion_tokens=_INTEGER, total_tokens=_INTEGER),
    "description": "Absent if the model provider did not report it.",
}
_COMPLETION = _object(
    id=_STRING,
    object={"const": "text_completion"},
    created=_INTEGER,
    model=_STRING,
    choices={
        "type": "array",
        "items": _object(
            text=_STRING,
            index=_INTEGER,
            logprobs={"type": "null"},
            finish_reason={"enum": ["stop", "length", "content_filter"]},
        ),
    },
    usage=nullable(_object(prompt_tokens=_INTEGER, completion_tokens=_INTEGER, total_tokens=_INTEGER)),
)
_MESSAGE = _object(
    id=_STRING,
    type={"const": "message"},
    role={"const": "assistant"},
    model=_STRING,
    content={"type": "array", "items": _object(type={"enum": ["text", "thinking", "tool_use"]})},
    stop_reason={"enum": ["end_turn", "max_tokens", "tool_use", "refusal"]},
    stop_sequence={"type": "null"},
    usage=_object(input_tokens=_INTEGER, cache_read_input_tokens=_INTEGER, output_tokens=_INTEGER),
)
_RESPONSE = _object(
    id=_STRING,
    object={"const": "response"},
    created_at=_INTEGER,
    status={"enum": ["completed", "incomplete"]},
    error={"type": "null"},
    incomplete_details=nullable(_object(reason=_STRING)),
    model=_STRING,
    output={"type": "array", "items": _object(id=_STRING, type=_STRING)},
    store={"type": "boolean"},
    usage=nullable(_object(input_tokens=_INTEGER, output_tokens=_INTEGER, total_tokens=_INTEGER)),
)
_ERROR = _object(
    error=_object(message=_STRING, type=_STRING, param={"type": ["string", "null"]}, code={"type": ["string", "null"]})
)
_MESSAGES_ERROR = _object(type={"const": "error"}, error=_object(type=_STRING, message=_STRING), request_id=_STRING)
