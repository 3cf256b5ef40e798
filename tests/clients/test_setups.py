"""The set-ups of docs/clients.md, run as pasted except for the address."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.agents import aider, continue_cli
from tests.clients.agents.program import Home, packaged
from tests.clients.node import npm
from tests.e2e.stack import Key, Stack

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "clients.md").read_text()
_SECONDS = 60
_ENVIRONMENTS = {"LlamaIndex": "openai2"}
"""The set of packages of a section, if it is not `surfaces`."""


def _blocks(section: str, language: str) -> list[str]:
    text = _PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def _sections() -> Iterator[str]:
    return iter(re.findall(r"^## (.+)$", _PAGE, flags=re.MULTILINE))


def _cases(language: str) -> pytest.MarkDecorator:
    found = [
        pytest.param(section, block, id=f"{section}-{number}")
        for section in _sections()
        for number, block in enumerate(_blocks(section, language), 1)
    ]
    return pytest.mark.parametrize(("section", "block"), found)


def _exports(section: str) -> dict[str, str]:
    return dict(re.findall(r"^export (\w+)=(.*)$", "\n".join(_blocks(section, "sh")), flags=re.MULTILINE))


def _output(stack: Stack, key: Key, section: str, command: list[str], text: str, folder: Path) -> str:
    variables = {
        name: value.replace("$STACK_API_KEY", key.secret).replace("http://127.0.0.1:8080", stack.base_url)
        for name, value in _exports(section).items()
    }
    done = subprocess.run(
        command,
        input=text.replace("http://127.0.0.1:8080", stack.base_url),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "STACK_API_KEY": key.secret, **variables},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
async def key(clients_stack: Stack) -> Key:
    """Return a new key."""
    return await clients_stack.create_key()


def _assert_answered(stack: Stack, key: Key, output: str) -> None:
    assert "You said: Write a haiku about queues." in output
    assert [row["outcome"] for row in stack.ledger(key)] == ["answered"]


@_cases("python")
async def test_python(clients_stack: Stack, key: Key, tmp_path: Path, section: str, block: str) -> None:
    python = _ROOT / ".venv-clients" / _ENVIRONMENTS.get(section, "surfaces") / "bin" / "python"
    output = _output(clients_stack, key, section, [str(python), "-"], block, tmp_path)
    await clients_stack.until_settled(key)
    _assert_answered(clients_stack, key, output)


@_cases("javascript")
async def test_javascript(clients_stack: Stack, key: Key, section: str, block: str) -> None:
    if reason := npm.problem():
        pytest.skip(reason)
    # Packages are found from the working folder.
    command = [npm.node(), "--input-type=module", "-"]
    output = _output(clients_stack, key, section, command, block, npm.FOLDER)
    await clients_stack.until_settled(key)
    _assert_answered(clients_stack, key, output)


async def test_codex(agent_home: Home) -> None:
    (config,) = _blocks("Codex", "toml")
    settings = agent_home.folder / ".codex"
    settings.mkdir()
    (settings / "config.toml").write_text(config.replace("http://127.0.0.1:8080", agent_home.stack.base_url))
    command = [packaged("@openai/codex", "codex"), "exec", "--skip-git-repo-check", "Write a haiku about queues."]
    done = await agent_home.run("codex", command, {"STACK_API_KEY": agent_home.key.secret})
    assert (done.status, done.statuses) == (0, [200])
    assert "You said: Write a haiku about queues." in done.output


async def test_claude_code(agent_home: Home) -> None:
    (block,) = _blocks("Claude Code", "sh")
    script = block.replace("http://127.0.0.1:8080", agent_home.stack.base_url)
    assert script.endswith("\nclaude\n")
    program = packaged("@anthropic-ai/claude-code", "claude")
    script = script.removesuffix("claude\n") + f"{program} -p 'Write a haiku.'\n"
    done = await agent_home.run("claude", ["sh", "-c", script], {"STACK_API_KEY": agent_home.key.secret})
    assert (done.status, done.requests) == (0, [("POST", "/api/v1/messages", 200)])


async def test_aider(agent_home: Home) -> None:
    (block,) = _blocks("aider", "sh")
    script = block.replace("http://127.0.0.1:8080", agent_home.stack.base_url)
    run = " --yes-always --analytics-disable --no-show-model-warnings --message 'Write a haiku about queues.'\n"
    script = re.sub(r"^aider (.*)\n", lambda line: f"{aider.PROGRAM} {line[1]}{run}", script, flags=re.MULTILINE)
    done = await agent_home.run("aider", ["sh", "-c", script], {"STACK_API_KEY": agent_home.key.secret})
    assert (done.status, done.statuses) == (0, [200])
    assert "You said: Write a haiku about queues." in " ".join(done.output.split())


async def test_continue(agent_home: Home) -> None:
    (config,) = _blocks("Continue", "yaml")
    settings = agent_home.folder / ".continue"
    settings.mkdir()
    config = config.replace("http://127.0.0.1:8080", agent_home.stack.base_url)
    (settings / "config.yaml").write_text(config.replace("sk_stk_...", agent_home.key.secret))
    done = await agent_home.run("continue", [*continue_cli.command(), "-p", "Write a haiku about queues."], {})
    assert (done.status, done.statuses) == (0, [200])
    assert "You said: Write a haiku about queues." in done.output


def test_librechat() -> None:
    folder = npm.FOLDER.with_name("librechat")
    if reason := npm.problem(folder):
        pytest.skip(reason)
    (config,) = _blocks("LibreChat", "yaml")
    command = [npm.node(), str(folder / "configuration.js")]
    done = subprocess.run(command, input=config, capture_output=True, text=True, timeout=_SECONDS)
    assert done.returncode == 0, done.stderr
    ours, newest = json.loads(done.stdout)
    assert ours == newest
