"""Checkov, and the list of its findings that we accept."""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tools.manifests.render import ROOT

PROGRAM = ROOT / ".venv-checkov" / "bin" / "checkov"
SKIPS = Path(__file__).with_name("checkov_skips.yaml")
_SECONDS_MAX = 300

Failure = tuple[str, str, str]
"""A check's id and name, and the object, as `Kind/name`."""


def failures(rendered: Mapping[str, str]) -> list[Failure]:
    """Return checkov's findings for some renderings, without exceptions.

    Raises:
        RuntimeError: It did not run.
    """
    with tempfile.TemporaryDirectory(prefix="checkov-") as folder:
        for name, text in rendered.items():
            (Path(folder) / f"{name.replace('/', '-')}.yaml").write_text(text)
        command = [str(PROGRAM), "-d", folder, "--framework", "kubernetes", "--skip-download", "-o", "json", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_MAX, check=False)
    if not done.stdout.lstrip().startswith("{"):
        raise RuntimeError(f"checkov did not run: {done.stderr.strip()[-500:]}")
    report = json.loads(done.stdout)
    if not report["summary"]["passed"] or report["summary"]["parsing_errors"]:
        raise RuntimeError(f"checkov read no objects, or not all: {report['summary']}")
    return sorted({_failure(one) for one in report["results"]["failed_checks"]})


def _failure(one: Mapping[str, Any]) -> Failure:
    kind, *_, name = one["resource"].split(".", 2)
    return one["check_id"], one["check_name"], f"{kind}/{name}"


def skips() -> dict[str, dict[str, Any]]:
    """Return the committed list."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(SKIPS.read_text())
    return found


def findings(failed: list[Failure], skipped: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield findings that are not on the list, and entries of the list without a finding."""
    for check, name, thing in failed:
        if check not in skipped or thing not in skipped[check].get("only", [thing]):
            yield f"{thing}: {check} {name}"
    reported = {(check, thing) for check, _, thing in failed}
    for check, skip in skipped.items():
        for thing in skip.get("only", ()):
            if (check, thing) not in reported:
                yield f"the skip of {check} for {thing} is not needed"
        if check not in {check for check, _ in reported}:
            yield f"the skip of {check} is not needed"
