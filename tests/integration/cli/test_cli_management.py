"""`stackctl` against a real auth service: what each command does and prints, and how it fails."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.auth_process import ADMIN_TOKEN, ROOT, environment
from tests.integration.cli.conftest import Stackctl

_NO_KEY = "key_01ARZ3NDEKTSV4RRFFQ69G5FAV"


def test_an_account_is_created_with_its_address_in_lower_case(stackctl: Stackctl) -> None:
    account = json.loads(stackctl("accounts", "create", "--email", "New@Example.com", "--json").stdout)

    assert set(account) == {"id", "email", "plan", "created_at"}
    assert (account["email"], account["plan"]) == ("new@example.com", "free")


def test_a_second_account_of_an_address_is_refused_with_1_and_a_sentence(stackctl: Stackctl) -> None:
    stackctl("accounts", "create", "--email", "twice@example.com")

    result = stackctl("accounts", "create", "--email", "twice@example.com")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "stackctl: twice@example.com already has an account. Log in, or use another e-mail address.\n"
    )


def test_a_created_key_is_printed_in_the_form_that_programs_need(stackctl: Stackctl) -> None:
    key = new_key(stackctl, "create@example.com")

    assert set(key) == {"id", "key", "name", "daily_limit"}
    assert str(key["key"]).startswith("sk_stk_")
    assert (key["name"], key["daily_limit"]) == ("laptop", 1000)


def test_a_created_key_is_printed_with_the_warning_that_it_is_shown_once(stackctl: Stackctl) -> None:
    stackctl("accounts", "create", "--email", "people@example.com")

    printed = stackctl("keys", "create", "--email", "people@example.com", "--name", "x", "--daily-limit", "0").stdout

    assert "key          sk_stk_" in printed
    assert "daily_limit  0\n" in printed
    assert "cannot be shown again" in printed


def test_listed_keys_are_aligned_and_show_which_are_revoked(stackctl: Stackctl) -> None:
    key = new_key(stackctl, "list@example.com")
    stackctl("keys", "create", "--email", "list@example.com", "--name", "a much longer name")
    stackctl("keys", "revoke", "--yes", str(key["id"]))

    heading, first, second = stackctl("keys", "list", "--email", "list@example.com").stdout.splitlines()

    assert heading.index("state") == first.index("revoked 20") == second.index("active")
    listed = json.loads(stackctl("keys", "list", "--email", "list@example.com", "--json").stdout)
    assert [one["id"] == key["id"] for one in listed["keys"]] == [True, False]
    assert str(key["key"]) not in json.dumps(listed)


def test_an_account_without_keys_lists_none(stackctl: Stackctl) -> None:
    stackctl("accounts", "create", "--email", "none@example.com")

    assert json.loads(stackctl("keys", "list", "--email", "none@example.com", "--json").stdout) == {"keys": []}
    assert stackctl("keys", "list", "--email", "none@example.com").stdout.startswith("id  name")


def test_revoking_twice_is_no_error(stackctl: Stackctl) -> None:
    key = new_key(stackctl, "revoke@example.com")

    first, second = (stackctl("keys", "revoke", "--yes", str(key["id"]), "--json") for _ in range(2))

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert json.loads(first.stdout) == json.loads(second.stdout)
    assert json.loads(first.stdout)["revoked_at"].endswith("Z")


def test_a_limit_is_set_and_reset_to_the_plans(stackctl: Stackctl) -> None:
    key = str(new_key(stackctl, "limit@example.com")["id"])

    assert json.loads(stackctl("keys", "set-limit", key, "5", "--json").stdout)["daily_limit"] == 5
    assert json.loads(stackctl("keys", "set-limit", key, "--plan", "--json").stdout)["daily_limit"] == 1000
    assert re.search(r"^daily_limit +7$", stackctl("keys", "set-limit", key, "7").stdout, re.MULTILINE)


def test_a_keys_deduplication_is_set_shown_and_kept_by_a_rotation(stackctl: Stackctl) -> None:
    def deduplicate_retries() -> list[bool]:
        listed = stackctl("keys", "list", "--email", "retries@example.com", "--json").stdout
        return [key["deduplicate_retries"] for key in json.loads(listed)["keys"]]

    key = str(new_key(stackctl, "retries@example.com")["id"])
    on = ("keys", "create", "--email", "retries@example.com", "--name", "x", "--deduplicate-retries")
    assert stackctl(*on).exit_code == 0
    assert deduplicate_retries() == [False, True]
    assert "deduplicate_retries  True" in stackctl("keys", "set-deduplication", key, "on").stdout
    assert stackctl("keys", "rotate", key).exit_code == 0
    assert deduplicate_retries() == [True, True, True]
    assert (
        json.loads(stackctl("keys", "set-deduplication", key, "off", "--json").stdout)["deduplicate_retries"] is False
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("accounts", "create"),
        ("keys", "set-limit", "key_1"),
        ("keys", "set-limit", "key_1", "5", "--plan"),
        ("keys", "set-limit", "key_1", "5", "--limit", "key:tokens:day=5"),
        ("keys", "set-limit", "key_1", "many"),
        ("keys", "set-deduplication", "key_1", "maybe"),
        ("keys", "create", "--email", "a@example.com", "--name", "x", "--daily-limit", "-1"),
        ("usage", "key_1", "--days", "0"),
        ("nonsense",),
        ("--nonsense",),
        ("accounts", "create", "--email", "nobody"),
        ("accounts", "show", "nobody"),
        ("accounts", "list", "--after", "key_1"),
        ("accounts", "create", "--email", "a@example.com", "--plan", "No Such"),
        ("keys", "create", "--email", "a@example.com", "--name", "x" * 101),
        ("keys", "create", "--email", "a@example.com", "--name", "caf\udce9"),
        ("keys", "create", "--email", "a@example.com", "--name", "x", "--expires", "9999-12-31T23:59:59-12:00"),
        ("keys", "create", "--email", "a@example.com", "--name", "x", "--expires", "0001-01-01T00:00:00+12:00"),
        ("keys", "rotate", "acc_01KBC000000000000000000000"),
        ("keys", "revoke", "laptop"),
        ("audit", "--before", "evt_1"),
        ("plans", "set", "gold"),
        ("plans", "set", "Gold!", "--daily-limit", "5"),
        ("mail", "test", "--to", "nobody"),
    ],
)
def test_a_usage_error_is_one_sentence_and_exits_with_2(stackctl: Stackctl, arguments: tuple[str, ...]) -> None:
    result = stackctl(*arguments)

    assert (result.exit_code, result.stdout) == (2, ""), result.stderr
    assert result.stderr.startswith("stackctl: ")
    assert result.stderr.count("\n") == 1


def test_a_usage_error_detected_by_the_service_exits_with_2_too(stackctl: Stackctl) -> None:
    key = new_key(stackctl, "mistakes@example.com")
    for arguments in (
        ("keys", "create", "--email", "mistakes@example.com", "--name", "x", "--expires", "2020-01-01"),
        ("keys", "create", "--email", "mistakes@example.com", "--name", "x\ny"),
        ("keys", "rotate", str(key["id"]), "--grace", "999999d"),
    ):
        result = stackctl(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), (arguments, result.stderr)


@pytest.mark.parametrize(
    "target", ["", " ", "127.0.0.1", "127.0.0.1:", ":50051", "127.0.0.1:port", "127.0.0.1:99999", "http://a:1", "a b:1"]
)
@pytest.mark.parametrize("name", ["auth", "quota", "inference"])
def test_an_invalid_address_is_one_sentence_and_exits_with_2(stackctl: Stackctl, name: str, target: str) -> None:
    """`--auth-target ""` used to print: internal call failed."""
    result = stackctl(f"--{name}-target", target, "keys", "list", "--email", "a@example.com")

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"'{target}' is not an address. Use host:port" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "target",
    ["auth:50051", "[::1]:50051", "dns:///auth.stack.svc:50051", "unix:/run/auth.sock", "unix:///run/auth.sock"],
)
def test_addresses_of_every_form_are_accepted(stackctl: Stackctl, target: str) -> None:
    result = stackctl("--quota-target", target, "accounts", "list")

    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("keys", "list", "--email", "nobody@example.com"), "No account nobody@example.com"),
        (("keys", "revoke", "--yes", _NO_KEY), f"No key {_NO_KEY}"),
        (("usage", _NO_KEY), f"No key {_NO_KEY}"),
    ],
)
def test_a_refusal_exits_with_1_and_names_the_object(
    stackctl: Stackctl, arguments: tuple[str, ...], sentence: str
) -> None:
    result = stackctl(*arguments)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"stackctl: {sentence}")
    assert result.stderr.count("\n") == 1


def test_a_wrong_admin_token_exits_with_1_and_names_the_setting(stackctl: Stackctl) -> None:
    result = stackctl("keys", "list", "--email", "a@example.com", STACK_ADMIN_TOKEN="wrong")

    assert result.exit_code == 1
    assert "STACK_ADMIN_TOKEN" in result.stderr


def test_the_admin_token_is_read_from_the_data_folder_when_it_is_not_set(stackctl: Stackctl, tmp_path: Path) -> None:
    (tmp_path / "admin-token").write_text(ADMIN_TOKEN + "\n")

    result = stackctl("accounts", "create", "--email", "file@example.com", STACK_ADMIN_TOKEN="")

    assert result.exit_code == 0


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_missing_admin_token_lists_where_it_was_looked_for(
    stackctl: Stackctl, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "admin-token").write_bytes(content)

    result = stackctl("keys", "list", "--email", "a@example.com", STACK_ADMIN_TOKEN="")

    assert result.exit_code == 1
    assert "STACK_ADMIN_TOKEN is not set" in result.stderr
    assert str(tmp_path / "admin-token") in result.stderr


@pytest.mark.parametrize("options", [("--auth-target", "127.0.0.1:1"), ()])
def test_a_service_that_does_not_answer_exits_with_3_and_names_target_and_setting(
    stackctl: Stackctl, options: tuple[str, ...]
) -> None:
    result = stackctl(*options, "keys", "list", "--email", "a@example.com", AUTH_TARGET="127.0.0.1:1")

    assert (result.exit_code, result.stdout) == (3, "")
    assert "The auth service does not respond at 127.0.0.1:1. Start it, or set AUTH_TARGET" in result.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("keys", "list", "--email", "a@example.com"), 3, "stackctl: The auth service does not respond"),
        (("--help",), 0, ""),
        (
            ("keys", "create", "--email", "a@b.c", "--name", b"caf\xe9"),
            2,
            "stackctl: An argument is not valid UTF-8: caf\\xe9.",
        ),
        ((b"\xff",), 2, "stackctl: An argument is not valid UTF-8"),
    ],
)
def test_the_module_can_be_run_as_the_command(
    tmp_path: Path, arguments: tuple[str | bytes, ...], code: int, sentence: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        env=environment(tmp_path, {"AUTH_TARGET": "127.0.0.1:1", "STACK_ADMIN_TOKEN": "x"}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
    )

    assert done.returncode == code
    assert done.stderr.startswith(sentence)
    assert "Traceback" not in done.stderr
    assert code != 0 or "Exit codes: 0 success, 1 rejected or failed, 2 invalid command line" in done.stdout


def new_key(stackctl: Stackctl, email: str) -> dict[str, object]:
    """Create an account and return what the creation of its first key printed."""
    stackctl("accounts", "create", "--email", email)
    created: dict[str, object] = json.loads(
        stackctl("keys", "create", "--email", email, "--name", "laptop", "--json").stdout
    )
    return created
