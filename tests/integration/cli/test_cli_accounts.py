"""`stackctl` for accounts, plans, rotation and the audit log, against a real auth service."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.cli.conftest import Stackctl


def asked(stackctl: Stackctl, *arguments: str) -> dict[str, Any]:
    """Run a command with `--json` and return what it printed."""
    result = stackctl(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    printed: dict[str, Any] = json.loads(result.stdout)
    return printed


def test_an_account_is_found_by_its_email_and_by_its_id(stackctl: Stackctl) -> None:
    created = asked(stackctl, "accounts", "create", "--email", "find@example.com")

    assert asked(stackctl, "accounts", "show", "find@example.com") == created
    assert asked(stackctl, "accounts", "show", created["id"]) == created
    assert created in asked(stackctl, "accounts", "list", "--limit", "1000")["accounts"]


def test_accounts_are_listed_page_by_page_without_gaps(stackctl: Stackctl) -> None:
    for number in range(3):
        asked(stackctl, "accounts", "create", "--email", f"page{number}@example.com")
    everybody = asked(stackctl, "accounts", "list", "--limit", "1000")["accounts"]

    pages, after = [], ""
    while page := asked(stackctl, "accounts", "list", "--limit", "2", "--after", after)["accounts"]:
        pages += page
        after = page[-1]["id"]

    assert pages == everybody


def test_the_audit_log_can_be_paged_to_its_end_with_the_ids_of_its_table(stackctl: Stackctl) -> None:
    for number in range(3):
        asked(stackctl, "accounts", "create", "--email", f"audited{number}@example.com")
    whole = asked(stackctl, "audit", "--limit", "1000")["events"]

    pages, before = [], ""
    while page := asked(stackctl, "audit", "--limit", "2", "--before", before)["events"]:
        pages += page
        before = page[-1]["id"]

    assert pages == whole
    heading, *rows = stackctl("audit", "--limit", "3").stdout.splitlines()
    assert heading.startswith("id ")
    assert [row.split()[0] for row in rows] == [event["id"] for event in whole[:3]]


def test_a_plan_sets_the_limit_of_its_accounts_keys(stackctl: Stackctl) -> None:
    asked(stackctl, "plans", "set", "team", "--daily-limit", "20000", "--active-keys-max", "50")
    asked(stackctl, "accounts", "create", "--email", "team@example.com")
    asked(stackctl, "keys", "create", "--email", "team@example.com", "--name", "x")

    asked(stackctl, "accounts", "set-plan", "team@example.com", "team")
    assert asked(stackctl, "keys", "list", "--email", "team@example.com")["keys"][0]["daily_limit"] == 20_000

    asked(stackctl, "plans", "set", "team", "--daily-limit", "30000")
    assert asked(stackctl, "keys", "list", "--email", "team@example.com")["keys"][0]["daily_limit"] == 30_000
    team = {
        "name": "team",
        "daily_limit": 30_000,
        "account_daily_limit": None,
        "active_keys_max": 50,
        "new_keys_per_day_max": None,
        "weight": 1,
        "limits": [],
    }
    assert team in asked(stackctl, "plans", "list")["plans"]


def test_a_plan_has_a_limit_of_accounts_that_can_be_set_and_removed(stackctl: Stackctl) -> None:
    free = next(plan for plan in asked(stackctl, "plans", "list")["plans"] if plan["name"] == "free")
    assert free["account_daily_limit"] == 5_000

    new = asked(stackctl, "plans", "set", "shared", "--daily-limit", "5", "--account-daily-limit", "9")
    assert new["account_daily_limit"] == 9
    kept = asked(stackctl, "plans", "set", "shared", "--daily-limit", "6")
    assert (kept["daily_limit"], kept["account_daily_limit"]) == (6, 9)
    removed = asked(stackctl, "plans", "set", "shared", "--account-daily-limit", "none")
    assert (removed["daily_limit"], removed["account_daily_limit"]) == (6, None)


def test_omitted_values_of_a_plan_are_kept_and_a_bound_can_be_reset_to_the_setting(
    stackctl: Stackctl,
) -> None:
    """A new limit once removed the key bounds of everyone on the plan."""
    new = asked(stackctl, "plans", "set", "kept", "--daily-limit", "5", "--new-keys-per-day-max", "7")
    more = {"weight": 1, "limits": []}
    bounds = {"account_daily_limit": None, "active_keys_max": None, "new_keys_per_day_max": 7, **more}
    assert new == {"name": "kept", "daily_limit": 5, **bounds}
    assert asked(stackctl, "plans", "set", "kept", "--active-keys-max", "0") == {**new, "active_keys_max": 0}
    limited = asked(stackctl, "plans", "set", "kept", "--daily-limit", "6")
    assert limited == {**new, "active_keys_max": 0, "daily_limit": 6}
    back = asked(stackctl, "plans", "set", "kept", "--active-keys-max", "default", "--new-keys-per-day-max", "default")
    assert back == {"name": "kept", "daily_limit": 6, **bounds, "new_keys_per_day_max": None}
    assert back in asked(stackctl, "plans", "list")["plans"]
    events = asked(stackctl, "audit", "--limit", "2")["events"]
    assert events[1]["details"] == {"daily_limit": "6"}
    assert events[0]["details"].keys() == {"active_keys_max", "new_keys_per_day_max"}


def test_a_plans_limits_and_weight_are_set_one_by_one(stackctl: Stackctl) -> None:
    limits = ("--limit", "key:tokens:minute=6000", "--limit", "account:cost:month=$20")
    asked(stackctl, "plans", "set", "limited", "--daily-limit", "5", "--weight", "3", *limits)
    changed = asked(
        stackctl,
        *("plans", "set", "limited", "--limit", "key:tokens:minute=7000", "--no-limit", "account:cost:month"),
    )
    assert (changed["daily_limit"], changed["weight"], changed["limits"]) == (5, 3, ["key:tokens:minute=7000"])
    assert asked(stackctl, "plans", "show", "limited") == changed
    assert "limits                key:tokens:minute=7000\n" in stackctl("plans", "show", "limited").stdout
    assert "No plan unlimited was found" in stackctl("plans", "show", "unlimited").stderr

    asked(stackctl, "accounts", "create", "--email", "limited@example.com", "--plan", "limited")
    new = ("keys", "create", "--email", "limited@example.com", "--name", "x", "--limit", "key:cost:month=$5")
    key = asked(stackctl, *new)["id"]
    (listed,) = asked(stackctl, "keys", "list", "--email", "limited@example.com")["keys"]
    assert listed["limits"] == ["key:cost:month=5000000", "key:tokens:minute=7000"]
    own = asked(stackctl, "keys", "set-limit", key, "--limit", "key:tokens:minute=8", "--no-limit", "key:cost:month")
    assert own["limits"] == ["key:tokens:minute=8"]
    assert re.search(
        r"^limits +key:tokens:minute=8$", stackctl("keys", "set-limit", key, "--plan").stdout, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--limit", "key:tokens=5"), "Limits of tokens are per minute or day."),
        (("--limit", "key:requests:day=5"), "Set daily_limit instead."),
        (("--no-limit", "tokens"), "'tokens' is not the name of a limit."),
        (("--no-limit", "key:tokens:day"), "There is no limit key:tokens:day to remove."),
        (("--weight", "0"), "0 is not in the range 1<=x<=1000"),
    ],
)
def test_a_mistaken_limit_of_a_plan_is_a_usage_error(
    stackctl: Stackctl, options: tuple[str, ...], message: str
) -> None:
    result = stackctl("plans", "set", "free", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_new_plan_needs_a_daily_limit(stackctl: Stackctl) -> None:
    result = stackctl("plans", "set", "fresh", "--active-keys-max", "3")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "a new plan needs a daily limit" in result.stderr
    assert "fresh" not in {plan["name"] for plan in asked(stackctl, "plans", "list")["plans"]}


def test_an_unknown_plan_is_refused_and_named(stackctl: Stackctl) -> None:
    result = stackctl("accounts", "create", "--email", "plan@example.com", "--plan", "gold")

    assert (result.exit_code, result.stderr) == (
        1,
        "stackctl: No plan gold was found. List the plans with `stackctl plans list`.\n",
    )


def test_a_rotated_key_keeps_its_permissions_and_the_old_one_ends_after_its_grace(stackctl: Stackctl) -> None:
    asked(stackctl, "accounts", "create", "--email", "rotate@example.com")
    options = ("--daily-limit", "7", "--expires", "30d", "--model", "llama-*", "--model", "openai/gpt-oss-20b")
    old = asked(stackctl, "keys", "create", "--email", "rotate@example.com", "--name", "laptop", *options)

    new = asked(stackctl, "keys", "rotate", old["id"], "--grace", "2h")

    before, after = asked(stackctl, "keys", "list", "--email", "rotate@example.com")["keys"]
    assert (new["replaces"], new["id"], new["key"] != old["key"]) == (old["id"], after["id"], True)
    assert (after["name"], after["daily_limit"], after["models"]) == ("laptop", 7, ["llama-*", "openai/gpt-oss-20b"])
    assert before["replaced_by"] == after["id"]
    left = datetime.fromisoformat(before["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=1, minutes=59) < left <= timedelta(hours=2)
    assert stackctl("keys", "rotate", old["id"]).exit_code == 1


def test_a_deleted_account_has_no_name_and_no_working_key(stackctl: Stackctl) -> None:
    asked(stackctl, "accounts", "create", "--email", "gone@example.com")
    asked(stackctl, "keys", "create", "--email", "gone@example.com", "--name", "of gone")

    result = stackctl("accounts", "delete", "gone@example.com", "--yes", "--json", INFERENCE_TARGET="127.0.0.1:1")
    account = json.loads(result.stdout)

    assert result.exit_code == 3, "inference, which may have stored responses of the account, is not there"
    assert "The account is deleted, but its stored responses are not." in result.stderr
    assert f"`stackctl accounts delete {account['id']}` again" in result.stderr
    assert account["email"] == ""
    assert account["deleted_at"]
    (key,) = asked(stackctl, "keys", "list", "--email", account["id"])["keys"]
    assert (key["name"], bool(key["revoked_at"])) == ("deleted", True)
    again = asked(stackctl, "accounts", "create", "--email", "gone@example.com")
    assert again["id"] != account["id"], "the address must be available for a new account"


def test_deleting_an_account_asks_for_confirmation(stackctl: Stackctl) -> None:
    asked(stackctl, "accounts", "create", "--email", "kept@example.com")

    assert stackctl("accounts", "delete", "kept@example.com").exit_code == 1
    assert asked(stackctl, "accounts", "show", "kept@example.com")["email"] == "kept@example.com"


def test_the_second_factor_of_an_account_is_reset(stackctl: Stackctl) -> None:
    """Also where there is none, so that the command can be repeated."""
    asked(stackctl, "accounts", "create", "--email", "lost@example.com")

    assert asked(stackctl, "accounts", "reset-totp", "--yes", "lost@example.com")["email"] == "lost@example.com"
    assert stackctl("accounts", "reset-totp", "--yes", "unknown@example.com").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "page"),
    [(("accounts", "reset-password", "link@example.com"), "/reset?"), (("accounts", "invite"), "/signup?")],
    ids=["reset-password", "invite"],
)
def test_a_reset_link_is_printed_with_its_expiry(stackctl: Stackctl, arguments: tuple[str, ...], page: str) -> None:
    stackctl("accounts", "create", "--email", "link@example.com")

    link = asked(stackctl, *arguments)

    assert link["url"] == f"http://127.0.0.1:8080{page}token={link['token']}"
    assert datetime.fromisoformat(link["expires_at"]) > datetime.now(UTC)


@pytest.mark.parametrize(
    ("operator", "named"),
    [("gr\nace\t\x1b[31m", "operator:grace[31m"), ("gräce", "operator:gräce"), ("é%", "operator:é%")],
)
def test_an_operators_name_that_no_call_can_carry_is_transliterated(
    stackctl: Stackctl, operator: str, named: str
) -> None:
    email = f"named{len(operator)}@example.com"
    made = stackctl("accounts", "create", "--email", email, "--json", STACK_OPERATOR=operator)
    assert made.exit_code == 0, made.stderr
    assert [event["actor"] for event in asked(stackctl, "audit", "--account", email)["events"]] == [named]


def test_the_audit_log_names_the_operator_and_the_action(stackctl: Stackctl) -> None:
    account = asked(stackctl, "accounts", "create", "--email", "audit@example.com")
    key = asked(stackctl, "keys", "create", "--email", "audit@example.com", "--name", "x")
    asked(stackctl, "keys", "revoke", "--yes", key["id"])
    asked(stackctl, "keys", "revoke", "--yes", key["id"])

    events = asked(stackctl, "audit", "--account", "audit@example.com")["events"]

    assert [event["action"] for event in events] == ["key.revoked", "key.created", "account.created"]
    assert {event["actor"] for event in events} == {"operator:grace"}
    assert {event["account_id"] for event in events} == {account["id"]}
    assert events[0]["target"] == key["id"]
    assert key["key"] not in json.dumps(events)
    printed = stackctl("audit", "--account", "audit@example.com", "--limit", "1").stdout
    assert printed.splitlines()[1].split()[2:] == ["operator:grace", "key.revoked", account["id"], key["id"]]
    older = asked(stackctl, "audit", "--account", account["id"], "--before", events[1]["id"])["events"]
    assert older == events[2:]


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create", "--email", "a@example.com", "--name", "x", "--expires", "tomorrow"),
        ("keys", "rotate", "key_1", "--grace", "long"),
        ("plans", "set", "gold"),
        ("accounts", "set-plan", "a@example.com"),
    ],
)
def test_a_usage_error_exits_with_2(stackctl: Stackctl, arguments: tuple[str, ...]) -> None:
    result = stackctl(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
