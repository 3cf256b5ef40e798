"""`stackctl operators`, and the suspension of accounts, against a real auth service."""

from tests.integration.cli.conftest import Stackctl
from tests.integration.cli.test_cli_accounts import asked


def test_the_role_is_given_listed_and_taken_away(stackctl: Stackctl) -> None:
    created = asked(stackctl, "accounts", "create", "--email", "op@example.com")

    added = asked(stackctl, "operators", "add", "op@example.com")
    assert (added["id"], bool(added["operator_since"])) == (created["id"], True)
    assert asked(stackctl, "operators", "list")["operators"] == [{**added, "second_factor": False}]
    heading, row = stackctl("operators", "list").stdout.splitlines()
    assert heading.split() == ["id", "email", "operator_since", "second_factor"]
    assert row.split()[-1] == "no"
    removed = asked(stackctl, "operators", "remove", created["id"])
    assert removed["operator_since"] is None
    assert asked(stackctl, "operators", "list")["operators"] == []
    events = asked(stackctl, "audit", "--account", "op@example.com")["events"]
    assert [(one["actor"], one["action"]) for one in events[:2]] == [
        ("operator:grace", "operator.removed"),
        ("operator:grace", "operator.added"),
    ]


def test_an_account_is_suspended_with_a_reason_and_resumed(stackctl: Stackctl) -> None:
    asked(stackctl, "accounts", "create", "--email", "bad@example.com")
    asked(stackctl, "operators", "add", "bad@example.com")
    refused = stackctl("accounts", "suspend", "bad@example.com")
    assert (refused.exit_code, "stackctl operators remove" in refused.stderr) == (1, True)
    asked(stackctl, "operators", "remove", "bad@example.com")

    suspended = asked(stackctl, "accounts", "suspend", "bad@example.com", "--reason", "sends spam")
    assert suspended["suspended_at"]
    assert "suspended_at" in stackctl("accounts", "show", "bad@example.com").stdout
    assert "suspended_at" not in asked(stackctl, "accounts", "resume", "bad@example.com")
    (event,) = [
        one
        for one in asked(stackctl, "audit", "--account", "bad@example.com")["events"]
        if one["action"] == "account.suspended"
    ]
    assert event["details"] == {"reason": "sends spam"}
    too_long = stackctl("accounts", "suspend", "bad@example.com", "--reason", "x" * 201)
    assert (too_long.exit_code, "at most 200 characters" in too_long.stderr) == (2, True)
