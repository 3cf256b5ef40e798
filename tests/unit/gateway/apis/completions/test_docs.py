"""docs/completions.md says what the code does."""

import re
from pathlib import Path

from services.gateway.apis.completions.parameters import PARAMETERS

_DOCS = Path(__file__).parents[5] / "docs" / "completions.md"


def test_the_page_has_every_parameter() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (passed|translated|dropped|refused) \| (.*) \|$", _DOCS.read_text(), flags=re.MULTILINE
    )
    documented = {name: (policy, why) for name, policy, why in rows}
    assert documented == {name: (one.policy.value, one.why) for name, one in PARAMETERS.items()}
