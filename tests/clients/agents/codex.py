"""Codex, which speaks only `/v1/responses`."""

from tests.clients.agents.program import Done, Home, packaged

MODEL = "openai/gpt-oss-120b"
_CONFIG = """
model_provider = "stack"
model_context_window = 131072
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
[analytics]
enabled = false
[model_providers.stack]
name = "stack"
base_url = "{base_url}/v1"
env_key = "STACK_API_KEY"
wire_api = "responses"
stream_max_retries = 1
request_max_retries = 1
"""


async def codex(home: Home, prompt: str, *options: str, model: str = MODEL) -> Done:
    """Run `codex exec` with the tools that it offers by default."""
    settings = home.folder / "codex"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "config.toml").write_text(f'model = "{model}"' + _CONFIG.format(base_url=home.stack.base_url))
    environment = {"CODEX_HOME": str(settings), "STACK_API_KEY": home.key.secret}
    command = [packaged("@openai/codex", "codex"), "exec", "--skip-git-repo-check", *options, "--", prompt]
    return await home.run("codex", command, environment)
