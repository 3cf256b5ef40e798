"""The program starts, prints its address, and stops on request; its URLs and its documentation are right."""

import re
import signal
import subprocess
import time
from contextlib import closing
from urllib.parse import quote

import httpx
import pytest

import tools.groq_standin
from tests.integration.groq_standin.standin_process import CHAT, COMMAND, KEY, OSS, ROOT, StandIn, request, started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_a_second_even_with_open_streams(number: signal.Signals) -> None:
    with started() as (process, url), httpx.Client(base_url=url, timeout=10) as client:
        body = request("[[standin:hang_stream]]", stream=True)
        call = client.build_request("POST", CHAT, json=body, headers=KEY)
        with closing(client.send(call, stream=True)):
            began = time.monotonic()
            process.send_signal(number)
            assert process.wait(5) == 0
            assert time.monotonic() - began < 1


def test_a_port_in_use_is_one_sentence_and_status_1(standin: StandIn) -> None:
    port = standin.url.rpartition(":")[2]
    done = subprocess.run([*COMMAND, "--port", port], cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"groq stand-in: cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port\n"
    )


def test_delays_from_the_command_line_apply_to_every_stream() -> None:
    options = ("--token-delay-ms", "10", "--first-token-delay-ms", "50")
    with started(*options) as (_, url), httpx.Client(base_url=url) as client:
        slow = StandIn(url, client)
        slow.say("[[standin:tokens count=6]]", stream=True)
        entry = slow.entry("[[standin:tokens count=6]]")
        assert entry["ended_at"] - entry["received_at"] >= 0.1 - 0.005


def test_the_table_of_modes_and_the_registry_agree(standin: StandIn) -> None:
    listed = [mode["syntax"] for mode in standin.client.get("/modes").json()]
    documented = re.findall(r"^\| `(\[\[standin:[^`]+)` \|", tools.groq_standin.__doc__ or "", re.MULTILINE)
    assert sorted(documented) == sorted(listed)
    assert len(set(listed)) == len(listed)


def test_every_mode_accepts_its_own_documented_marker(standin: StandIn) -> None:
    """The modes that never answer are tested with clients that time out."""
    silent = {"hang", "hang_stream", "reset", "reset_stream", "cut", "finish_only", "bad_chunk"}
    for mode in standin.client.get("/modes").json():
        if mode["name"] not in silent:
            assert "see GET /modes" not in standin.say(mode["syntax"], stream=True).text


def test_the_models_have_groqs_wire_shape(standin: StandIn) -> None:
    body = standin.client.get("/openai/v1/models", headers=KEY).json()
    assert body["object"] == "list"
    [oss] = [model for model in body["data"] if model["id"] == OSS]
    assert list(oss.values())[:8] == [OSS, "model", 1754407957, "OpenAI", True, 131072, None, 65536]
    assert oss["supported_features"] == ["tools", "json_mode", "structured_outputs", "reasoning"]


@pytest.mark.parametrize("name", [OSS, quote(OSS, safe="")])
def test_a_model_is_found_with_its_slash_raw_or_escaped(standin: StandIn, name: str) -> None:
    assert standin.client.get(f"/openai/v1/models/{name}", headers=KEY).json()["id"] == OSS


def test_an_unknown_or_retired_model_is_not_found(standin: StandIn) -> None:
    response = standin.client.get("/openai/v1/models/llama-3.1-8b-instant", headers=KEY)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_models_need_a_key(standin: StandIn) -> None:
    assert standin.client.get("/openai/v1/models").status_code == 401


@pytest.mark.parametrize(("method", "path"), [("POST", "/openai/chat/completions"), ("GET", CHAT)])
def test_an_unknown_url_is_named_in_groqs_words(standin: StandIn, method: str, path: str) -> None:
    response = standin.client.request(method, path)
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": f"Unknown request URL: {method} {path}. Please check the URL for typos, or see the docs at "
        "https://console.groq.com/docs/",
        "type": "invalid_request_error",
        "code": "unknown_url",
    }


def test_it_is_healthy(standin: StandIn) -> None:
    assert standin.client.get("/healthz").status_code == 200
