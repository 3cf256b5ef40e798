"""llmprobe, an independent tool that checks chat completions, `/v1/responses` and `/v1/messages`."""

import json

from tests.clients.agents.program import FOLDER, Home
from tests.clients.node import npm

_PROGRAM = FOLDER / "node_modules" / "llmprobe" / "bin" / "dist" / "llmprobe.mjs"
_OPTIONS = ("--quick", "--no-bench", "--no-save", "--json")
_KNOWN = [("messages-stream-chunk-schema", "delta: Invalid input")]
"""Its schema of `content_block_delta` has no `signature_delta`, with which Anthropic ends each thinking block."""


async def test_every_surface_conforms_but_for_an_event_that_the_tool_does_not_know(agent_home: Home) -> None:
    where = (f"{agent_home.stack.base_url}/v1", "-k", agent_home.key.secret, "-m", "openai/gpt-oss-20b")
    done = await agent_home.run("llmprobe", [npm.node(), str(_PROGRAM), *where, *_OPTIONS], {})
    results = json.loads(done.output)["conformance"]["results"]
    checked = [each for each in results if each["outcome"] in ("pass", "fail")]
    failures = [(each["id"], each["message"]) for result in checked for each in result["failures"]]
    assert failures == _KNOWN
    assert {each["surface"] for each in checked} == {"models", "chat", "responses", "messages"}
    assert not [status for status in done.statuses if status >= 500]
