"""docs/messages.md says what the code does."""

import re
from pathlib import Path

from services.gateway.apis.messages.blocks import DROPPED
from services.gateway.apis.messages.parameters import PARAMETERS

_PAGE = (Path(__file__).parents[5] / "docs" / "messages.md").read_text()


def test_the_page_has_every_parameter() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (passed|adapted|refused) \|", _PAGE, flags=re.MULTILINE))
    assert list(rows) == list(PARAMETERS)
    assert {name for name, policy in rows.items() if policy == "refused"} == {"mcp_servers", "safeguards"}


def test_the_page_has_every_block() -> None:
    blocks = _PAGE.partition("## Content blocks")[2].partition("## ")[0]
    for name in DROPPED:
        assert f"`{name}`" in blocks
