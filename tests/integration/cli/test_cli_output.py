"""`stackctl` with unusable output, and what it never prints."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from services.cli.main import main
from services.common import checksummed_token
from tests.integration.auth_process import ADMIN_TOKEN, AuthProcess, environment
from tests.integration.cli.conftest import Stackctl


def _into(output: str, service: AuthProcess, data_dir: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command whose standard output the shell redirects."""
    settings = {"AUTH_TARGET": service.target, "STACK_ADMIN_TOKEN": ADMIN_TOKEN}
    command = ["bash", "-c", f'"$@" {output}', "-", sys.executable, "-m", "services.cli", *arguments]
    return subprocess.run(
        command, env=environment(data_dir, settings), stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )


@pytest.mark.long
@pytest.mark.parametrize("arguments", [("accounts", "list"), ("accounts", "list", "--json"), ("--help",)])
def test_output_that_cannot_be_written_is_one_sentence(
    service: AuthProcess, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = _into(">/dev/full", service, tmp_path, *arguments)
    assert done.stderr == "stackctl: the output could not be written: No space left on device\n"
    assert done.returncode == 1


def test_a_closed_reader_is_no_error(service: AuthProcess, tmp_path: Path) -> None:
    done = _into("| true; exit ${PIPESTATUS[0]}", service, tmp_path, "accounts", "list")
    assert (done.returncode, done.stderr) in ((0, ""), (1, ""))


@pytest.mark.long
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_key_whose_secret_could_not_be_printed_is_named_so_that_it_can_be_revoked(
    service: AuthProcess, stackctl: Stackctl, tmp_path: Path, options: tuple[str, ...]
) -> None:
    email = f"lost{len(options)}@example.com"
    stackctl("accounts", "create", "--email", email)
    made = _into(">/dev/full", service, tmp_path, "keys", "create", "--email", email, "--name", "x", *options)
    key_id = _named(made.stderr)
    rotated = _into(">/dev/full", service, tmp_path, "keys", "rotate", key_id, *options)
    assert (made.returncode, rotated.returncode) == (1, 1)
    for one in (_named(rotated.stderr), key_id):
        assert stackctl("keys", "revoke", "--yes", one).exit_code == 0


def _named(stderr: str) -> str:
    (line,) = stderr.splitlines()
    assert line.startswith("stackctl: the secret of the new key key_")
    assert "No space left on device" in line
    assert "sk_stk_" not in line
    return line.rpartition(" ")[2]


def test_without_an_output_no_key_is_created(service: AuthProcess, stackctl: Stackctl, tmp_path: Path) -> None:
    stackctl("accounts", "create", "--email", "closed@example.com")
    done = _into(">&-", service, tmp_path, "keys", "create", "--email", "closed@example.com", "--name", "x")
    assert (done.returncode, done.stderr) == (
        1,
        "stackctl: the output could not be written: standard output is closed\n",
    )
    assert "key_" not in stackctl("keys", "list", "--email", "closed@example.com").stdout


@pytest.mark.parametrize(
    "arguments", [("usage",), ("keys", "revoke"), ("accounts", "show"), ("keys", "list", "--email"), ()]
)
def test_a_secret_given_as_an_id_is_not_repeated(stackctl: Stackctl, arguments: tuple[str, ...]) -> None:
    secret = checksummed_token.mint("sk_stk_")
    result = stackctl(*arguments, secret)
    assert result.exit_code in (1, 2)
    assert secret[7:] not in result.stderr + result.stdout
    assert result.stderr.startswith("stackctl: ")


def test_a_token_name_or_path_that_no_call_can_carry_is_reported_and_shortened(stackctl: Stackctl) -> None:
    token = stackctl("accounts", "list", STACK_ADMIN_TOKEN="a" * 12_000)
    assert token.stderr == "stackctl: The admin token has over 1,024 characters. Check STACK_ADMIN_TOKEN.\n"
    assert stackctl("accounts", "list", STACK_OPERATOR="é" * 12_000).exit_code == 0
    path = stackctl("accounts", "list", TLS_CA_FILE="canary" * 2_000)
    assert path.stderr == "stackctl: setting TLS_CA_FILE: expected at most 1,024 characters\n"
    assert [path.exit_code, token.exit_code] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (("keys", "find", "laptop"), "AUTH_TARGET"),
        (("accounts", "suspend", "ada@example.com"), "AUTH_TARGET"),
        (("usage", "--all"), "INFERENCE_TARGET"),
        (("status",), "QUOTA_TARGET"),
    ],
)
def test_a_service_that_does_not_know_a_command_is_named_with_what_to_do(
    tmp_path: Path, arguments: tuple[str, ...], setting: str
) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    targets = {f"{name}_TARGET": target for name in ("AUTH", "QUOTA", "INFERENCE")}
    done = CliRunner().invoke(main, arguments, env={**targets, "STACK_ADMIN_TOKEN": ADMIN_TOKEN})
    server.stop(None)
    assert done.exit_code == 1
    assert f"The service at {target} does not know this command" in done.output
    assert f"or set {setting} to the address of" in done.output
