"""What a person sees when everything runs."""

import json
from collections.abc import Sequence

from services.local.first_key import EMAIL, FILE, FirstKey
from services.local.settings import LocalSettings

_LINK = "chooses the account's password; works once, for an hour"
_HELLO = json.dumps({"messages": [{"role": "user", "content": "Hello, who are you?"}]})


def banner(settings: LocalSettings, key: FirstKey, *, log_in_link: str = "", problems: Sequence[str] = ()) -> str:
    """Return what to know at the start.

    Args:
        settings: Where everything is.
        key: The first key.
        log_in_link: Link to choose the first account's password; empty shows none.
        problems: What is wrong with what is needed; lines to paste are left out while something is.
    """
    api = f"{settings.url}/api/v1"
    lines = [
        "",
        "Stack 3.0 API is ready." if not problems else "Stack 3.0 API is running, but cannot answer chats:",
        *(f"  {problem}" for problem in problems),
        "",
        f"  API       {api}",
        f"  Key       {_shown(settings, key)}",
        f"  Account   {EMAIL}, 1,000 requests a day for each key",
        f"  Model     {_upstream(settings)}",
        *([f"  Console   {settings.url}"] if settings.console else []),
        *([f"  Log in    {log_in_link}", f"            {_LINK}"] if log_in_link else []),
        f"  Metrics   {', '.join(f'http://{one}/metrics' for one in settings.metrics.values() if one) or 'none'}",
        f"  Data      {settings.data_dir.resolve()}, logs in its folder logs",
        "",
    ]
    if not key.denial and not problems:
        lines += ["Try it:", "", curl(api, key.secret), ""]
        lines += ["The examples of README.md and of the console's docs read the key from here:", ""]
        lines += [f"export STACK_API_KEY={key.secret}", ""]
    return "\n".join([*lines, "Ctrl-C stops everything.", ""])


def curl(api: str, secret: str) -> str:
    """Return a command that asks a first question."""
    return f'curl {api}/chat -H "Authorization: Bearer {secret}" -H "Content-Type: application/json" -d \'{_HELLO}\''


def _shown(settings: LocalSettings, key: FirstKey) -> str:
    match key.denial:
        case "":
            return key.secret
        case "unknown":
            return f"unknown to this database; for another, remove {settings.data_dir / FILE} and start again"
        case denial:
            return f"{denial}; make another: stackctl keys create --email {EMAIL} --name NAME"


def _upstream(settings: LocalSettings) -> str:
    if settings.has_groq_key:
        return "Groq"
    return "a local stand-in answers in place of Groq; set GROQ_API_KEY to talk to Groq"
