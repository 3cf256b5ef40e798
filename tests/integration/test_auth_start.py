"""How auth starts, and the one sentence that it prints when it cannot."""

import re
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from services.auth.keys.model import SECRET_PREFIX
from services.auth.keys.pepper import Pepper
from services.common import checksummed_token
from services.local.banner import banner
from services.local.first_account import EMAIL, FILE
from services.local.first_key import first_key
from services.local.settings import LocalSettings
from stack.auth.v1 import accounts_pb2, auth_pb2, keys_pb2
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, auth_client, run_auth, running_auth, shown

_OLD, _NEW = "an-old-pepper-of-tests", "a-new-pepper-of-tests"
POSTGRES = {"AUTH_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}


def refusal(data_dir: Path, settings: dict[str, str]) -> str:
    """Return the one sentence of a service that does not start."""
    done = run_auth(data_dir, settings)
    assert done.returncode == 1
    # The others are log lines; gRPC's core writes its own (`E1122 23:04:40…`) and may write none.
    sentences = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(sentences) == 1, done.stderr
    return sentences[0]


async def test_a_single_machine_creates_its_secrets_once_readable_only_by_their_owner(tmp_path: Path) -> None:
    secrets = [tmp_path / "admin-token", tmp_path / "key-pepper"]
    with running_auth(tmp_path) as service:
        made = [path.read_text() for path in secrets]
        async with auth_client(service.target) as client:
            request = accounts_pb2.CreateAccountRequest(email="ada@example.com")
            await client.accounts.CreateAccount(request, metadata=shown(made[0].strip()))
        assert service.terminate() == 0

    with running_auth(tmp_path):
        assert [path.read_text() for path in secrets] == made
    assert [stat.S_IMODE(path.stat().st_mode) for path in secrets] == [0o600, 0o600]


def test_a_second_process_on_the_same_file_is_refused(tmp_path: Path) -> None:
    with running_auth(tmp_path):
        assert "Another process is using" in refusal(tmp_path, {})


def test_a_file_that_is_no_database_is_reported_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "auth.db").write_bytes(b"half a backup" * 100)

    assert re.search(r"Cannot use .*/auth\.db: .*\. Restore it from a backup", refusal(tmp_path, {}))
    assert (tmp_path / "auth.db").read_bytes() == b"half a backup" * 100


@pytest.mark.parametrize(
    ("given", "missing"),
    [({"AUTH_KEY_PEPPER": PEPPER}, "STACK_ADMIN_TOKEN"), ({"STACK_ADMIN_TOKEN": ""}, "STACK_ADMIN_TOKEN")],
)
def test_postgres_requires_the_admin_token_by_name(tmp_path: Path, given: dict[str, str], missing: str) -> None:
    assert f"{missing} is not set" in refusal(tmp_path, {**POSTGRES, **given})
    assert not (tmp_path / "admin-token").exists()


def test_postgres_requires_the_pepper_by_name(tmp_path: Path, postgres_url: str) -> None:
    settings = {"AUTH_DATABASE_URL": postgres_url, "STACK_ADMIN_TOKEN": ADMIN_TOKEN}
    assert run_auth(tmp_path, settings, "migrate").returncode == 0

    assert "AUTH_KEY_PEPPER is not set" in refusal(tmp_path, settings)
    assert not (tmp_path / "key-pepper").exists()


async def test_keys_without_their_pepper_stop_the_start_instead_of_being_refused_one_by_one(tmp_path: Path) -> None:
    """A database restored without its pepper would refuse every key as unknown."""
    with running_auth(tmp_path, {"STACK_ADMIN_TOKEN": ADMIN_TOKEN}) as service:
        async with auth_client(service.target) as client:
            created = await client.new_key("ada@example.com")
        service.terminate()
    pepper = tmp_path / "key-pepper"
    kept = pepper.read_text()

    reported = refusal(tmp_path, {"AUTH_KEY_PEPPER": "another pepper of tests"})
    assert (
        "different pepper than AUTH_KEY_PEPPER. Restore that pepper, or add it to AUTH_KEY_PEPPERS_ACCEPTED."
        in reported
    )
    pepper.unlink()
    assert f"{pepper} is missing" in refusal(tmp_path, {})
    assert not pepper.exists(), "a new pepper would stand in the way of the right one"

    with running_auth(tmp_path, {"AUTH_KEY_PEPPER": kept}) as service:
        async with auth_client(service.target) as client:
            assert (await client.authenticate(created.secret)).principal.key_id == created.key.id


@pytest.mark.parametrize("pepper", ["é7", "fifteen letters"])
def test_a_guessable_pepper_stops_the_start(tmp_path: Path, pepper: str) -> None:
    reported = refusal(tmp_path, {"AUTH_KEY_PEPPER": pepper})
    assert "AUTH_KEY_PEPPER is too short" in reported
    assert "and name a short one that was in use in AUTH_KEY_PEPPERS_ACCEPTED" in reported
    assert pepper not in reported


def test_a_blank_pepper_is_not_treated_as_unset(tmp_path: Path) -> None:
    assert "Setting AUTH_KEY_PEPPER: expected text that is not blank" in refusal(tmp_path, {"AUTH_KEY_PEPPER": "   "})
    assert not (tmp_path / "key-pepper").exists()


async def test_an_unusable_first_key_is_reported_with_reason_and_remedy(tmp_path: Path) -> None:
    """One that its database does not contain is not revoked, and has no account that could get another."""
    settings = LocalSettings(data_dir=tmp_path).configuration()
    with running_auth(tmp_path, {"STACK_ADMIN_TOKEN": ADMIN_TOKEN}) as service:
        made = await first_key(tmp_path, auth_target=service.target, admin_token=ADMIN_TOKEN)
        assert f"Bearer {made.secret}" in banner(settings, made)
        async with auth_client(service.target) as client:
            listed = await client.keys.ListKeys(keys_pb2.ListKeysRequest(email=EMAIL), metadata=shown())
            await client.revoke(listed.keys[0].id)
        revoked = await first_key(tmp_path, auth_target=service.target, admin_token=ADMIN_TOKEN)
        assert "revoked; create another with: stackctl keys create" in banner(settings, revoked)
        (tmp_path / FILE).write_text(checksummed_token.mint(SECRET_PREFIX))
        unknown = await first_key(tmp_path, auth_target=service.target, admin_token=ADMIN_TOKEN)
        assert f"not in this database; to create a new key, remove {tmp_path / FILE}" in banner(settings, unknown)
        assert "curl" not in banner(settings, unknown)


@pytest.mark.long
async def test_a_pepper_is_rotated_without_losing_a_key_and_retired_when_no_key_needs_it(tmp_path: Path) -> None:
    base = {"STACK_ADMIN_TOKEN": ADMIN_TOKEN, "AUTH_KEY_PEPPER": _NEW}
    with running_auth(tmp_path, base | {"AUTH_KEY_PEPPER": _OLD, "AUTH_KEY_PEPPERS_ACCEPTED": _NEW}) as service:
        async with auth_client(service.target) as client:
            used = await client.new_key("ada@example.com")
            idle = await client.new_key("bob@example.com")
    assert "different pepper than AUTH_KEY_PEPPER" in refusal(tmp_path, base)

    with running_auth(tmp_path, base | {"AUTH_KEY_PEPPERS_ACCEPTED": f" {_OLD} , older,"}) as service:
        async with auth_client(service.target) as client:
            assert (await client.authenticate(used.secret)).principal.key_id == used.key.id
        assert any("rehashed when used" in line and '"keys":2' in line for line in service.log)
    assert "different pepper than AUTH_KEY_PEPPER" in refusal(tmp_path, base), "the idle key still needs the old one"

    with running_auth(tmp_path, base | {"AUTH_KEY_PEPPERS_ACCEPTED": _OLD}) as service:
        async with auth_client(service.target) as client:
            await client.revoke(idle.key.id)
    with running_auth(tmp_path, base) as service:
        async with auth_client(service.target) as client:
            assert (await client.authenticate(used.secret)).principal.key_id == used.key.id


async def test_a_key_that_cannot_be_rehashed_just_now_is_accepted_within_a_gateways_deadline(tmp_path: Path) -> None:
    """Gateways wait two seconds for auth; a database that another process writes to keeps a writer waiting for five."""
    base = {"STACK_ADMIN_TOKEN": ADMIN_TOKEN}
    with running_auth(tmp_path, base | {"AUTH_KEY_PEPPER": _OLD}) as service:
        async with auth_client(service.target) as client:
            created = await client.new_key("ada@example.com")
    rotated = base | {"AUTH_KEY_PEPPER": _NEW, "AUTH_KEY_PEPPERS_ACCEPTED": _OLD}
    with running_auth(tmp_path, rotated) as service, closing(sqlite3.connect(tmp_path / "auth.db")) as database:
        database.execute("BEGIN IMMEDIATE")
        request = auth_pb2.AuthenticateRequest(api_key=created.secret)
        async with auth_client(service.target) as client:
            assert (await client.auth.Authenticate(request, timeout=2)).principal.key_id == created.key.id
            database.rollback()
            while not _ids_of_peppers(database).isdisjoint({Pepper(_OLD.encode()).id}):
                assert (await client.auth.Authenticate(request, timeout=2)).principal.key_id == created.key.id
        assert any("could not be rehashed" in line for line in service.log)


def _ids_of_peppers(database: sqlite3.Connection) -> set[str]:
    return {row[0] for row in database.execute("SELECT pepper_id FROM api_keys")}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"AUTH_DATABASE_URL": "mysql://localhost/auth"},
            "Setting AUTH_DATABASE_URL: expected sqlite:///path or postgresql://user:password@host:5432/name",
        ),
        ({"AUTH_LISTEN": "unix:/nowhere/auth.sock"}, "Cannot listen on unix:/nowhere/auth.sock"),
        ({"STACK_ADMIN_TOKEN": "schlüssel"}, "STACK_ADMIN_TOKEN has characters"),
        (
            {"STACK_ADMIN_TOKEN": "fifteen-letters"},
            "it has 15 characters, and the minimum is 16. Generate one with `openssl rand -hex 32`.",
        ),
        ({"DRAIN_SECONDS": "-1"}, "Setting DRAIN_SECONDS"),
    ],
)
def test_an_invalid_setting_is_reported_in_one_sentence(
    tmp_path: Path, settings: dict[str, str], sentence: str
) -> None:
    assert sentence in refusal(tmp_path, settings)


def test_an_unknown_command_prints_the_usage(tmp_path: Path) -> None:
    done = run_auth(tmp_path, {}, "serve")

    assert (done.returncode, done.stderr) == (1, "usage: python -m services.auth [migrate]\n")
