"""`make run`: hosts, ports and sockets."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.make_run.runner import (
    Runner,
    secret_in,
    send_chat,
)
from tests.e2e.stack import bare_environment
from tests.ports import free_port


@pytest.mark.long
@pytest.mark.parametrize("setting", ["AUTH_LISTEN", "QUOTA_LISTEN", "INFERENCE_LISTEN"])
def test_a_unix_socket_for_two_workers_is_refused_in_one_sentence_with_the_remedy(
    refused: Callable[..., str], tmp_path: Path, setting: str
) -> None:
    output = refused(STACK_WORKERS="2", **{setting: f"unix:{tmp_path}/one.sock"})
    assert f"{setting}=unix:" in output
    assert "host:port, or set STACK_WORKERS to 1" in output


def test_a_port_in_use_for_the_second_workers_metrics_is_reported_in_one_sentence(
    refused: Callable[..., str], ports: dict[str, int]
) -> None:
    port = ports["GATEWAY_METRICS_LISTEN"] + 1
    with socket.create_server(("127.0.0.1", port)):
        output = refused(STACK_WORKERS="2")
    assert str(port) in output
    assert "GATEWAY_METRICS_LISTEN" in output


@pytest.mark.long
@pytest.mark.parametrize(
    ("setting", "workers"),
    [("GATEWAY_PORT", "1"), ("AUTH_LISTEN", "1"), ("QUOTA_LISTEN", "2"), ("QUOTA_METRICS_LISTEN", "0")],
)
def test_a_port_in_use_is_reported_in_one_sentence(
    refused: Callable[..., str], ports: dict[str, int], setting: str, workers: str
) -> None:
    with socket.create_server(("127.0.0.1", ports[setting])):
        output = refused(STACK_WORKERS=workers)
    assert str(ports[setting]) in output
    assert setting in output


@pytest.mark.long
@pytest.mark.parametrize(
    ("host", "workers", "answers"),
    [
        ("::", "1", ["127.0.0.1", "[::1]"]),
        pytest.param("localhost", "1", ["127.0.0.1", "localhost"], marks=pytest.mark.long),
        pytest.param("localhost", "2", ["127.0.0.1", "localhost"], marks=pytest.mark.long),
        pytest.param("::", "0", ["127.0.0.1", "[::1]"], marks=pytest.mark.long),
        pytest.param("::1", "1", ["[::1]"], marks=pytest.mark.long),
        pytest.param("127.0.0.2", "1", ["127.0.0.2"], marks=pytest.mark.long),
    ],
)
def test_it_starts_at_any_address_of_this_machine_and_prints_a_reachable_one(
    start: Callable[..., Runner], ports: dict[str, int], host: str, workers: str, answers: list[str]
) -> None:
    written = f"[{host}]" if ":" in host else host
    listens = {name: f"{written}:{port}" for name, port in ports.items() if name != "GATEWAY_PORT"}
    runner = start(GATEWAY_HOST=host, STACK_WORKERS=workers, PLAINTEXT_ALLOWED="true", **listens)
    text = runner.read_until("Ctrl-C")
    curl = next(line for line in text.splitlines() if line.startswith("curl "))
    done = subprocess.run(["sh", "-c", f"{curl} -s"], capture_output=True, text=True, timeout=20, check=True)
    assert '"choices"' in done.stdout, (text, done)
    for one in answers:
        assert httpx.get(f"http://{one}:{runner.port}/readyz", trust_env=False).status_code == 200
        port = ports["GATEWAY_METRICS_LISTEN"]
        assert "stack_http" in httpx.get(f"http://{one}:{port}/metrics", trust_env=False).text


@pytest.mark.long
@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("nowhere.invalid", "cannot be resolved"),
        ("192.0.2.1", "this machine does not have that address"),
        ("http://127.0.0.1", "expected an IP address or a name"),
    ],
)
def test_a_host_that_cannot_be_bound_is_reported_in_one_sentence_that_does_not_blame_the_port(
    refused: Callable[..., str], host: str, why: str
) -> None:
    output = refused(GATEWAY_HOST=host)
    assert "GATEWAY_HOST" in output
    assert why in output
    assert "in use" not in output


@pytest.mark.long
@pytest.mark.xdist_group("default-ports")  # Concurrent searches for free ports may find the same ones.
@pytest.mark.parametrize("workers", ["0", "1", "2"])
def test_default_internal_ports_in_use_are_replaced_and_stackctl_finds_them(tmp_path: Path, workers: str) -> None:
    """For a second copy, it is enough to set one port."""
    data_dir = tmp_path / "var"
    with contextlib.ExitStack() as stack:
        for port in (50_051, 50_052, 50_053, 8_280, 50_251, 50_252, 50_253):
            with contextlib.suppress(OSError):  # A port in use by another process works as well.
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        runner = Runner(data_dir, {"GATEWAY_PORT": free_port()}, output=subprocess.PIPE, STACK_WORKERS=workers)
        try:
            secret = secret_in(runner.read_until("Ctrl-C"))
            assert send_chat(runner, secret).status_code == 200
            listed = json.loads(_stackctl(data_dir, "keys", "list", "--email", "you@example.com", "--usage", "--json"))
            assert [key["used_today"] for key in listed["keys"]] == [1]
            assert "agree" in _stackctl(data_dir, "verify")
        finally:
            runner.stop()
            assert runner.process.stdout is not None
            runner.process.stdout.close()
    assert not (data_dir / "addresses.json").exists()


def _stackctl(data_dir: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "services.cli", *arguments]
    environment = {**bare_environment(), "DATA_DIR": str(data_dir)}
    return subprocess.check_output(command, env=environment, text=True, timeout=20)


@pytest.mark.long
@pytest.mark.parametrize("address", ["unix:/tmp/metrics.sock", "127.0.0.1:65535"])
def test_a_missing_port_for_the_metrics_of_two_workers_is_reported(refused: Callable[..., str], address: str) -> None:
    assert "GATEWAY_METRICS_LISTEN" in refused(STACK_WORKERS="2", GATEWAY_METRICS_LISTEN=address)
