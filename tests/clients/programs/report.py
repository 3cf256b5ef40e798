"""Shared by the client programs: the order on stdin, the report on stdout.

The order is one JSON object: `{"base_url": "http://…", "keys": {"create": "sk_…", …}}`. So is the report, with the
observations of each ordered scenario under its name, and the version of the client. This file needs only Python: it
runs in each client's own environment.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

Seen = dict[str, Any]
"""The observations of a scenario, as JSON."""
Scenario = Callable[[str, str], Seen]
"""Takes the address of the gateway and the secret of a key."""

MODEL = "openai/gpt-oss-20b"
WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Return the weather.", "parameters": WEATHER_SCHEMA},
}
WEATHER_FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "weather", "schema": WEATHER_SCHEMA, "strict": True},
}
SEVEN_TOKENS = "Say hello [[standin:tokens count=7]]"
TOOL_CALL = "How is the weather? [[standin:tool_call]]"
CUT = "Count [[standin:tokens count=9]] [[standin:cut after=3]]"


def flaky(secret: str) -> str:
    """Return the text to which Groq answers 503 once, independent of other callers."""
    return f"Say hello [[standin:tokens count=7]] [[standin:flaky times=1 status=503 id={secret[-12:]}]]"


def user(text: str) -> dict[str, Any]:
    """Return a user's message."""
    return {"role": "user", "content": text}


def failure(call: Callable[[], object], kind: type[Exception]) -> Seen:
    """Return the client's own exception, `kind`, with which a call failed; no classes when it did not fail."""
    started = time.monotonic()
    try:
        call()
    except kind as exc:
        seen = {
            "classes": [each.__name__ for each in type(exc).__mro__],
            "message": str(exc),
            "status": getattr(exc, "status_code", None),
        }
    else:
        seen = {"classes": []}
    return {**seen, "seconds": time.monotonic() - started}


def run(package: str, scenarios: Mapping[str, Scenario]) -> None:
    """Run the order from stdin and print the report; a broken scenario prints the reason on stderr."""
    order = json.load(sys.stdin)
    report: Seen = {"version": version(package)}
    for name, secret in order["keys"].items():
        try:
            report[name] = scenarios[name](order["base_url"], secret)
        except Exception:
            logging.exception("scenario %s broke", name)
    print(json.dumps(report))
