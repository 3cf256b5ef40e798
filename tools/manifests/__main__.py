"""`python -m tools.manifests`: render everything, check everything, print the findings; exit code 1 if there are
any.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tools.manifests import checkov, schemas
from tools.manifests.checks import CHECKS, findings
from tools.manifests.objects import Objects
from tools.manifests.render import combinations, overlays, render, render_combination

_THREADS = 2


def main() -> int:
    """Check all renderings and return the exit code."""
    started = time.monotonic()
    rendered = _rendered()
    wrong = [f"{name}: {problem}" for name, text in rendered.items() for problem in problems(Objects.parse(text))]
    wrong += _checkov(rendered)
    for line in wrong:
        print(line, file=sys.stderr)
    print(
        f"{len(rendered)} renderings, schemas of Kubernetes {' and '.join(schemas.VERSIONS)}, {len(CHECKS)} own checks,"
        f" checkov: {len(wrong)} findings in {time.monotonic() - started:.0f} s"
    )
    return 1 if wrong else 0


def problems(objects: Objects) -> list[str]:
    """Return the findings of the schemas and our own checks."""
    return [*schemas.violations(objects), *findings(objects)]


def _rendered() -> dict[str, str]:
    """Return the overlays and every combination of components, by name."""
    with ThreadPoolExecutor(_THREADS) as threads:
        found = {folder.name: threads.submit(render, folder) for folder in overlays()}
        for components in combinations():
            found["+".join(components) or "no-component"] = threads.submit(render_combination, components)
        return {name: one.result() for name, one in found.items()}


def _checkov(rendered: dict[str, str]) -> list[str]:
    """Check the overlays, and the combinations with the fewest and the most components, with checkov."""
    names = [folder.name for folder in overlays()] + ["no-component", next(reversed(rendered))]
    failed = checkov.failures({name: rendered[name] for name in names})
    return [f"checkov: {problem}" for problem in checkov.findings(failed, checkov.skips())]


if __name__ == "__main__":
    sys.exit(main())
