"""Startup message of `make run`."""

import json
from collections.abc import Sequence

from services.local.configuration import Configuration
from services.local.first_account import EMAIL, FILE, FirstKey

_LINK_NOTE = "sets the account's password; valid once, for an hour"
_EXAMPLE_BODY = json.dumps({"messages": [{"role": "user", "content": "Hello, who are you?"}]})


def banner(settings: Configuration, key: FirstKey, *, log_in_link: str = "", problems: Sequence[str] = ()) -> str:
    """Return the startup message.

    Args:
        settings: Settings with the addresses and folders to show.
        key: The first key.
        log_in_link: Link to choose the first account's password; empty for none.
        problems: Messages about failed dependencies. If there are any, the example commands are left out.
    """
    api = f"{settings.url}/api/v1"
    lines = [
        "",
        "Stack 3.0 API is ready." if not problems else "Stack 3.0 API is running, but cannot serve chat requests:",
        *(f"  {problem}" for problem in problems),
        "",
        f"  API       {api}",
        f"  Key       {_key_line(settings, key)}",
        f"  Account   {EMAIL}, 1,000 requests per key and day",
        f"  Model     {_model_line(settings)}",
        *([f"  Console   {settings.url}"] if settings.console else []),
        *([f"  Operators {settings.operator_console_url}"] if settings.operator_console else []),
        *([f"  Log in    {log_in_link}", f"            {_LINK_NOTE}"] if log_in_link else []),
        f"  Metrics   {', '.join(f'http://{one}/metrics' for one in settings.metrics.values() if one) or 'none'}",
        f"  Data      {settings.data_dir.resolve()} (logs in the logs folder)",
        "",
    ]
    if not key.denial and not problems:
        lines += ["Try it:", "", curl(api, key.secret), ""]
        lines += ["The examples in README.md and in the console's docs use this variable:", ""]
        lines += [f"export STACK_API_KEY={key.secret}", ""]
    return "\n".join([*lines, "Press Ctrl-C to stop.", ""])


def curl(api: str, secret: str) -> str:
    """Return a curl command for an example chat request."""
    headers = f'-H "Authorization: Bearer {secret}" -H "Content-Type: application/json"'
    return f"curl {api}/chat {headers} -d '{_EXAMPLE_BODY}'"


def _key_line(settings: Configuration, key: FirstKey) -> str:
    match key.denial:
        case "":
            return key.secret
        case "unknown":
            return f"not in this database; to create a new key, remove {settings.data_dir / FILE} and restart"
        case denial:
            return f"{denial}; create another with: stackctl keys create --email {EMAIL} --name NAME"


def _model_line(settings: Configuration) -> str:
    if settings.has_groq_key:
        return "Groq"
    return "local stand-in for Groq; set GROQ_API_KEY to use Groq"
