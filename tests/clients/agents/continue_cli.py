"""Continue's command line, which reads the same configuration as its extensions and speaks `/v1/chat/completions`."""

from tests.clients.agents.program import FOLDER, Done, Home
from tests.clients.node import npm

_CONFIG = """
name: Stack
version: 1.0.0
schema: v1
models:
  - name: gpt-oss-120b
    provider: openai
    model: openai/gpt-oss-120b
    apiBase: {base_url}/v1
    apiKey: {secret}
    roles: [chat, edit, apply]
"""


async def continue_cli(home: Home, prompt: str, *options: str, posts: int | None = None) -> Done:
    """Run `cn -p`."""
    settings = home.folder / ".continue"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "config.yaml").write_text(_CONFIG.format(base_url=home.stack.base_url, secret=home.key.secret))
    return await home.run("continue", [*command(), "-p", prompt, *options], {}, posts=posts)


def command() -> list[str]:
    """Return the command that runs `cn`."""
    return [npm.node(), str(FOLDER / "node_modules" / "@continuedev" / "cli" / "dist" / "cn.js")]
