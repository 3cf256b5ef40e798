"""Labels of states, rate limits and audit actions."""

from collections.abc import Mapping

ACTIONS = {
    "account": "Accounts",
    "identity": "Identities",
    "invite": "Invitations revoked",
    "key": "API keys",
    "operator": "Role of operators",
    "operator_session": "Log-ins of operators",
    "plan": "Plans",
    "session": "Sessions",
    "token": "Links and invitations",
    "totp": "Second factors",
}
"""Groups of audit actions to filter by."""
_LABELS = {
    "requests_per_minute": "Requests per minute",
    "requests_per_day": "Requests per day",
    "tokens_per_minute": "Tokens per minute",
    "tokens_per_day": "Tokens per day",
    "auth": "Auth",
    "quota": "Quota",
    "inference": "Inference",
    "gateway": "Gateway",
    "groq": "Groq",
    "redis": "Redis of the counters",
    "accounts": "Database of accounts",
    "ledger": "Database of the ledger",
}
_OPERATOR = "operator:"


def label(name: str) -> str:
    """Return the label of a state, a part of the service or a rate limit; other names get spaces for underscores."""
    return _LABELS.get(name, name.replace("_", " "))


def actor_label(name: str, operators: Mapping[str, str]) -> str:
    """Return who caused an audit event. `operators` has the addresses of operators by account id."""
    account_id = name.removeprefix(_OPERATOR)
    if account_id in operators:
        return f"operator {operators[account_id]}"
    return f"stackctl, {account_id}" if name.startswith(_OPERATOR) else name
