"""Rendering of the docs' Markdown, and what holds for the sources of all pages."""

import re
from html import unescape
from pathlib import Path

import pytest

from services.gateway.apis.surface import ModelFacts
from services.gateway.console.docs.library import Library
from services.gateway.console.docs.markdown import LANGUAGES, parse, to_html
from services.gateway.console.docs.outline import PAGES, path_of
from services.gateway.console.docs.values import BASE_URL, Values
from services.gateway.console.ports import Model
from tests.docs_examples import examples_in, source_of

_CONTENT = Path(__file__).parents[4] / "services" / "gateway" / "console" / "docs" / "content"
_HEAD = "# Title\n\nWhat it is about.\n\n"
_MODELS = (
    Model("old", "Groq", ModelFacts(id="able", reasons=True), True, ("tools", "structured_outputs", "reasoning")),
    Model("able", "Groq", ModelFacts(reasons=True), True, ("tools", "structured_outputs", "reasoning")),
    Model("sees", "Groq", ModelFacts(reads_images=True), True, ("tools",)),
)


def _values(**changes: object) -> Values:
    values: dict[str, object] = {
        "name": "Acme",
        "contact": "",
        "contact_link": "",
        "terms": "",
        "sign_up": "open",
        "daily_limit": 1234,
        "default_model": "old",
        "models": _MODELS,
        "body_megabytes": 4.0,
        "messages_max": 2048,
        "tools_max": 128,
        "nesting_max": 100,
        "invalid_requests_per_second": 5.0,
        "request_seconds": 300.0,
        "heartbeat_seconds": 10.0,
        "stall_seconds": 30.0,
        "message_aliases": (("claude-*", "able"),),
    }
    return Values(**{**values, **changes})  # type: ignore[arg-type]


_UNKNOWN = _values(daily_limit=None, default_model="", models=(), sign_up="", message_aliases=())
"""The values while all services are unavailable."""


def _html(text: str, language: str = "sh") -> str:
    return to_html(parse(_HEAD + text), language)


def test_adjacent_code_blocks_are_one_example_with_a_tab_for_each_language() -> None:
    html = _html("```sh\ncurl <x>\n```\n\n```python\nprint(1)\n```\n\nText.\n\n```json\n{}\n```\n", "python")
    assert html.count("<figure") == 2
    assert '<a href="?language=python#sample-1" data-language="python" aria-current=true>Python</a>' in html
    assert 'data-copy="sample-1-python" hidden>' in html
    assert re.search(r'data-language="sh" hidden><code id="sample-1-sh">curl.*&lt;', html)
    assert re.search(r'data-language="python"><code id="sample-1-python"><span class="nb">print<', html)


def test_an_example_without_the_chosen_language_shows_its_first_one() -> None:
    html = _html("```sh\ncurl\n```\n\n```python\n1\n```\n", "javascript")
    assert 'data-language="sh"><code' in html
    assert 'data-language="python" hidden><code' in html


@pytest.mark.parametrize("name", PAGES)
async def test_copied_code_is_that_of_the_markdown(name: str) -> None:
    """The copy button copies the text of the element."""
    edition = await Library().edition(_values())
    html = edition.html(name, language="sh", base_url="https://x")
    shown = [
        unescape(re.sub(r"<[^>]+>", "", one)) for one in re.findall(r"<code id=.*?>(.*?)</code></pre>", html, re.DOTALL)
    ]
    assert shown == [one.text.rstrip() for one in examples_in(name, edition.markdown(name, base_url="https://x"))]


def test_a_code_block_with_a_caption_stands_alone() -> None:
    assert _html("```sh Terminal\npip\n```\n\n```python\n1\n```\n").count("<figure") == 2
    assert _html("```sh\ncurl\n```\n\n```json\n{}\n```\n").count("<figure") == 2
    assert "<figcaption><span>Terminal</span>" in _html("```sh Terminal\nexport A=1\n```\n")


def test_links_to_pages_lead_to_their_html_and_others_stay() -> None:
    html = _html("[a](errors.md#idempotency) [b](index.md) [c](/keys) [d](https://example.com/x.md)")
    assert '<a href="/docs/errors#idempotency">' in html
    assert '<a href="/docs">' in html
    assert '<a href="/keys">' in html
    assert '<a href="https://example.com/x.md" rel="noopener">' in html


def test_headings_have_unique_ids_and_cells_the_titles_of_their_columns() -> None:
    html = _html("## A, b!\n\n| X | Y |\n|---|---|\n| `1` | 2 |\n\n## A b\n")
    assert '<h2 id="a-b"><a href="#a-b">A, b!</a></h2>' in html
    assert '<h2 id="a-b-2">' in html
    assert '<td data-label="Y"><div>2</div></td>' in html


def test_html_in_markdown_is_text() -> None:
    assert "&lt;script&gt;" in _html("<script>alert(1)</script>\n\ntext <b>bold</b>")
    assert "<b>" not in _html("text <b>bold</b>")


async def test_a_page_is_rendered_again_only_when_a_value_changes() -> None:
    library = Library()
    first = await library.edition(_values())
    assert await library.edition(_values()) is first
    second = await library.edition(_values(daily_limit=5))
    assert second is not first
    assert "5 requests a day" in second.markdown("index", base_url="https://x")
    assert "1,234 requests a day" in first.markdown("index", base_url="https://x")


async def test_the_address_of_the_service_is_escaped() -> None:
    edition = await Library().edition(_values())
    html = edition.html("index", language="sh", base_url='https://x"><script>')
    assert "<script>" not in html
    assert "https://x&quot;&gt;&lt;script&gt;/api/v1" in html


async def test_examples_name_a_model_that_can_do_what_they_show() -> None:
    edition = await Library().edition(_values())
    assert 'model="able"' in edition.markdown("tools", base_url="https://x")
    assert '"model": "sees"' in edition.markdown("images", base_url="https://x")


@pytest.mark.parametrize(
    "values", [pytest.param(_values(), marks=pytest.mark.long, id="known"), pytest.param(_UNKNOWN, id="unknown")]
)
@pytest.mark.parametrize("name", PAGES)
async def test_a_page_is_complete_with_any_values(name: str, values: Values) -> None:
    edition = await Library().edition(values)
    for language in LANGUAGES:
        html = edition.html(name, language=language, base_url="https://x")
        # The content security policy forbids inline styles and scripts.
        assert not re.search(r"<[^>]* (style|on\w+)=", html)
        assert html.count("<h1") == 1
    markdown = edition.markdown(name, base_url="https://x")
    assert markdown.count("None") == source_of(name).count("None")
    assert "\n\n\n\n" not in markdown


def test_the_outline_has_every_file() -> None:
    assert sorted(path.stem for path in _CONTENT.iterdir()) == sorted(PAGES)
    assert len(set(PAGES)) == len(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_nothing_that_settings_decide_is_written_into_a_page(name: str) -> None:
    source = source_of(name)
    for fixed in ("Stack 3.0", "127.0.0.1", "localhost", "llama-3.1-8b", "gpt-oss", BASE_URL):
        assert fixed not in source
    for url in re.findall(r"https?://[^\s)\"`]+", source):
        pytest.fail(f"{url} is not an address of this service")


@pytest.mark.parametrize("name", PAGES)
def test_code_blocks_have_a_language(name: str) -> None:
    known = {*LANGUAGES, "json", "toml", "http", "text"}
    assert {one.language for one in examples_in(name, source_of(name))} <= known


def test_paths_have_no_file_names() -> None:
    assert [path_of(name) for name in PAGES[:2]] == ["/docs", "/docs/quickstart"]
