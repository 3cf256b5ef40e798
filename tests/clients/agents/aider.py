"""aider, which speaks `/v1/chat/completions` through LiteLLM."""

from pathlib import Path

from tests.clients.agents.program import Done, Home

MODEL = "openai/openai/gpt-oss-120b"
WEAK_MODEL = "openai/openai/gpt-oss-20b"
PROGRAM = Path(__file__).parents[3] / ".venv-clients" / "aider" / "bin" / "aider"
# Without these, it asks PyPI for updates and GitHub for prices, and sends statistics.
_OFFLINE = ("--no-check-update", "--no-show-model-warnings", "--analytics-disable", "--no-show-release-notes")


async def aider(home: Home, prompt: str, *options: str, model: str = MODEL, posts: int | None = None) -> Done:
    """Run `aider --message` in a Git repository."""
    models = ("--model", model, "--weak-model", WEAK_MODEL)
    command = [str(PROGRAM), *models, *_OFFLINE, "--yes-always", *options, "--message", prompt]
    environment = {
        "OPENAI_API_BASE": f"{home.stack.base_url}/v1",
        "OPENAI_API_KEY": home.key.secret,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "COLUMNS": "400",
    }
    return await home.run("aider", command, environment, posts=posts)
