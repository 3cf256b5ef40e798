"""`stackctl keys show`, `find` and `rename`, suspension and sessions, against a real auth service."""

import os
import pty
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from services.cli.main import main
from tests.integration.auth_process import ADMIN_TOKEN, AuthProcess, environment
from tests.integration.cli.conftest import Stackctl
from tests.integration.cli.test_cli_accounts import asked


@pytest.fixture
def key(stackctl: Stackctl, request: pytest.FixtureRequest) -> dict[str, Any]:
    """A key of an account of its own."""
    email = f"{abs(hash(request.node.name))}@example.com"
    asked(stackctl, "accounts", "create", "--email", email)
    return asked(stackctl, "keys", "create", "--email", email, "--name", f"Laptop 50% {email[:6]}") | {"email": email}


def found(stackctl: Stackctl, *arguments: str) -> list[str]:
    """Return the ids of the keys that `find` shows."""
    return [one["id"] for one in asked(stackctl, "keys", "find", *arguments)["keys"]]


def test_a_key_is_found_by_its_id_its_name_and_the_visible_part_of_its_secret(
    stackctl: Stackctl, key: dict[str, Any]
) -> None:
    shown = asked(stackctl, "keys", "show", key["id"])

    for text in (key["id"], key["name"].lower(), shown["prefix"], f"{shown['prefix']}…", f"{shown['prefix']}..."):
        assert key["id"] in found(stackctl, text), text
    assert found(stackctl, "lap%top") == [], "a name has no wildcards"
    assert found(stackctl, "no key has this name") == []
    asked(stackctl, "keys", "revoke", "--yes", key["id"])
    assert found(stackctl, key["name"]) == [key["id"]], "revoked keys are found too"


def test_a_key_is_found_by_its_secret_on_standard_input_only(
    stackctl: Stackctl, service: AuthProcess, key: dict[str, Any]
) -> None:
    settings = {"AUTH_TARGET": service.target, "STACK_ADMIN_TOKEN": ADMIN_TOKEN}
    read = CliRunner().invoke(main, ["keys", "find", "--secret"], input=f"{key['key']}\n", env=settings)
    assert key["id"] in read.stdout
    assert key["key"] not in read.output

    refused = stackctl("keys", "find", key["key"])
    assert refused.exit_code == 2
    assert "standard input only" in refused.stderr
    assert key["key"] not in refused.output
    empty = CliRunner().invoke(main, ["keys", "find", "--secret"], input="\n", env=settings)
    assert (empty.exit_code, "no secret on standard input" in empty.stderr) == (1, True)
    assert not any(key["key"] in line for line in service.log)
    assert stackctl("keys", "find").exit_code == 2


def test_a_key_is_renamed_with_an_audit_event(stackctl: Stackctl, key: dict[str, Any]) -> None:
    for _ in range(2):
        assert asked(stackctl, "keys", "rename", key["id"], "server")["name"] == "server"

    events = asked(stackctl, "audit", "--account", key["email"])["events"]
    renames = [event for event in events if event["action"] == "key.renamed"]
    assert [(event["actor"], event["details"]) for event in renames] == [("operator:grace", {"name": "server"})]
    assert stackctl("keys", "rename", key["id"], "a\x07b").exit_code == 2


def test_an_account_is_suspended_and_resumed(stackctl: Stackctl, key: dict[str, Any]) -> None:
    suspended = asked(stackctl, "accounts", "suspend", key["email"], "--reason", "unpaid")
    assert suspended["suspended_at"]
    listing = stackctl("accounts", "list", "--limit", "1000").stdout
    assert next(line for line in listing.splitlines() if key["email"] in line).endswith(suspended["suspended_at"])

    assert "suspended_at" not in asked(stackctl, "accounts", "resume", key["email"])

    events = asked(stackctl, "audit", "--account", key["email"])["events"]
    assert [(event["action"], event["details"]) for event in events[:2]] == [
        ("account.resumed", {}),
        ("account.suspended", {"reason": "unpaid"}),
    ]
    assert stackctl("accounts", "suspend", key["email"], "--reason", "x" * 201).exit_code == 2


def test_sessions_are_listed_and_ended(stackctl: Stackctl, key: dict[str, Any]) -> None:
    assert asked(stackctl, "accounts", "sessions", "list", key["email"]) == {"sessions": []}
    assert asked(stackctl, "accounts", "sessions", "end", key["email"], "--all") == {"ended": 0}
    assert stackctl("accounts", "sessions", "end", key["email"]).exit_code == 2
    assert stackctl("accounts", "sessions", "list", "nobody@example.com").exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("accounts", "delete", "{email}"),
        ("accounts", "reset-totp", "{email}"),
        ("keys", "revoke", "{id}"),
        ("keys", "rotate", "{id}", "--grace", "0s"),
    ],
)
def test_without_a_terminal_what_cannot_be_undone_needs_yes(
    stackctl: Stackctl, key: dict[str, Any], arguments: tuple[str, ...]
) -> None:
    command = [argument.format(**key) for argument in arguments]

    refused = stackctl(*command)

    assert refused.exit_code == 1
    assert refused.stderr.endswith("Repeat with --yes.\n")
    assert asked(stackctl, "keys", "show", key["id"])["revoked_at"] is None
    assert stackctl(*command, "--yes", INFERENCE_TARGET="127.0.0.1:1").exit_code in (0, 3), "inference is not there"


@pytest.mark.parametrize(("answer", "is_revoked"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_on_a_terminal_a_command_asks_before_it_revokes(
    service: AuthProcess, stackctl: Stackctl, tmp_path: Path, key: dict[str, Any], answer: str, *, is_revoked: bool
) -> None:
    output, _ = on_terminal(service, tmp_path, "keys", "revoke", key["id"], answer=answer)

    assert "This cannot be undone. Continue? [y/N]" in output
    assert bool(asked(stackctl, "keys", "show", key["id"])["revoked_at"]) is is_revoked


def test_a_new_secret_is_followed_by_a_notice_on_a_line_of_its_own(stackctl: Stackctl, key: dict[str, Any]) -> None:
    made = stackctl("keys", "create", "--email", key["email"], "--name", "x").stdout
    assert made.endswith("\n\nSave the key now. It cannot be shown again.\n")


@pytest.mark.long
def test_states_have_colours_on_a_terminal_unless_no_color_is_set(
    service: AuthProcess, stackctl: Stackctl, tmp_path: Path, key: dict[str, Any]
) -> None:
    listing = ("keys", "list", "--email", key["email"])

    colored, _ = on_terminal(service, tmp_path, *listing)
    plain, _ = on_terminal(service, tmp_path, *listing, NO_COLOR="1")

    assert "\x1b[32mactive\x1b[0m" in colored
    assert "active" in plain
    assert "\x1b[" not in plain
    assert "\x1b[" not in stackctl(*listing).stdout


@pytest.mark.long
@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_without_open_streams_nothing_is_revoked_and_nothing_is_a_traceback(
    service: AuthProcess, stackctl: Stackctl, tmp_path: Path, key: dict[str, Any], closed: str
) -> None:
    done = _in_bash(service, tmp_path, f'"$@" {closed}', "keys", "revoke", key["id"])
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert not asked(stackctl, "keys", "show", key["id"])["revoked_at"]


@pytest.mark.long
@pytest.mark.parametrize("secret", [b"\xff\xfe\n", b"sk_stk_\x00\n", "sk_stk_é\n".encode()])
def test_a_secret_that_is_not_text_is_one_sentence(service: AuthProcess, tmp_path: Path, secret: bytes) -> None:
    done = _in_bash(service, tmp_path, '"$@"', "keys", "find", "--secret", standard_input=secret)
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        [b"stackctl: Standard input has characters that no secret has. Give the secret alone, in one line."],
    )


def _in_bash(
    service: AuthProcess, data_dir: Path, script: str, *arguments: str, standard_input: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    settings = {"AUTH_TARGET": service.target, "STACK_ADMIN_TOKEN": ADMIN_TOKEN}
    return subprocess.run(
        ["bash", "-c", script, "-", sys.executable, "-m", "services.cli", *arguments],
        env=environment(data_dir, settings),
        input=standard_input,
        capture_output=True,
        timeout=60,
        check=False,
    )


def on_terminal(
    service: AuthProcess, data_dir: Path, *arguments: str, answer: str = "", **variables: str
) -> tuple[str, int]:
    """Run a command on a pseudo-terminal, type an answer, and return what it printed and its exit code."""
    settings = {"AUTH_TARGET": service.target, "STACK_ADMIN_TOKEN": ADMIN_TOKEN, "TERM": "xterm", **variables}
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "services.cli", *arguments]
    with subprocess.Popen(
        command, env=environment(data_dir, settings), stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        os.write(controller, answer.encode())
        output = _read_all(controller)
    os.close(controller)
    return output, process.returncode


def _read_all(controller: int) -> str:
    output = b""
    while True:
        try:
            part = os.read(controller, 4_096)
        except OSError:  # Linux reports the end of a terminal as an error.
            return output.decode()
        if not part:
            return output.decode()
        output += part


@pytest.mark.long
@pytest.mark.parametrize(("shell", "line"), [("bash", "complete -o nosort"), ("zsh", "compdef"), ("fish", "complete ")])
def test_completion_scripts_complete_commands_and_options(
    stackctl: Stackctl, tmp_path: Path, shell: str, line: str
) -> None:
    script = stackctl("completion", shell).stdout
    assert line in script
    assert "\\n" not in script.replace("$'\\n'", ""), "the lines of a script are lines"

    words = {"COMP_WORDS": "stackctl keys re", "COMP_CWORD": "2", "_STACKCTL_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-c", "from services.cli.main import main; main(prog_name='stackctl')"],
        env=environment(tmp_path, words),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [one.partition(",")[2] for one in done.stdout.split()] == ["rename", "revoke"]


def test_the_version_is_that_of_the_package(stackctl: Stackctl) -> None:
    assert stackctl("--version").stdout == f"stackctl, version {version('stack-api')}\n"
