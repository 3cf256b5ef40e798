"""Rendering of deploy/k8s: the overlays, and every combination of components."""

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy" / "k8s"
KUBECTL = Path(sys.executable).with_name("kubectl")
_SECONDS_MAX = 60

COMPONENTS = (
    "network-policy",
    "mtls",
    "autoscaling",
    "monitoring",
    "ingress",
    "external-redis",
    "external-postgres",
    "mail",
    "stored-responses",
)
"""All components, in the order in which an overlay names them: those that change policies come after them."""

REFINEMENTS = {
    "mtls": "mtls/operator-console",
    "autoscaling": "autoscaling/in-flight",
    "monitoring": "monitoring/tracing",
}
"""Components that each come after another one."""

Combination = tuple[str, ...]


def overlays() -> list[Path]:
    """Return the overlays' folders."""
    return sorted(path.parent for path in (K8S / "overlays").glob("*/kustomization.yaml"))


def combinations() -> Iterator[Combination]:
    """Yield every set of components, including the empty one; those with refinements also with all of them."""
    for size in range(len(COMPONENTS) + 1):
        for combination in itertools.combinations(COMPONENTS, size):
            yield combination
            if REFINEMENTS.keys() <= set(combination):
                yield refined(combination)


def refined(components: Combination) -> Combination:
    """Return the same components, each followed by its refinements."""
    return tuple(one for name in components for one in (name, REFINEMENTS.get(name)) if one)


def render(folder: Path) -> str:
    """Return the output of `kubectl kustomize` for a folder.

    Raises:
        RuntimeError: It does not render; the message is kubectl's.
    """
    done = subprocess.run(
        [str(KUBECTL), "kustomize", str(folder)], capture_output=True, text=True, timeout=_SECONDS_MAX, check=False
    )
    if done.returncode or done.stderr:
        raise RuntimeError(f"{folder.name} does not render cleanly: {done.stderr.strip()}")
    return done.stdout


def render_combination(components: Combination) -> str:
    """Return the production overlay rendered with other components."""
    overlay: dict[str, Any] = yaml.safe_load((K8S / "overlays" / "production" / "kustomization.yaml").read_text())
    with tempfile.TemporaryDirectory(prefix="combination-") as name:
        folder = Path(name)
        overlay["resources"] = [os.path.relpath(K8S / "base", folder.resolve())]
        overlay["components"] = [os.path.relpath(K8S / "components" / one, folder.resolve()) for one in components]
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        return render(folder)
