"""Claude Code, which speaks `/v1/messages`."""

from tests.clients.agents.program import Done, Home, packaged

MODEL = "openai/gpt-oss-120b"


async def claude(home: Home, prompt: str, *options: str, bare: bool = True, **environment: str) -> Done:
    """Run `claude -p`. `bare` leaves out most of its tools; an empty value removes a variable."""
    given = {
        "ANTHROPIC_BASE_URL": home.stack.base_url,
        "ANTHROPIC_AUTH_TOKEN": home.key.secret,
        "ANTHROPIC_MODEL": MODEL,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "openai/gpt-oss-20b",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_MAX_RETRIES": "2",
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "131072",
        **environment,
    }
    command = [packaged("@anthropic-ai/claude-code", "claude"), *(["--bare"] if bare else []), *options, "-p", prompt]
    return await home.run("claude", command, {name: value for name, value in given.items() if value})
