"""Our own checks of rendered objects, for faults that no schema detects and a cluster reports too late."""

from collections.abc import Callable, Iterator

from tools.manifests.checks import (
    custom,
    in_flight,
    network,
    outside,
    pods,
    probes,
    references,
    scaling,
    security,
    services,
    settings,
    versions,
)
from tools.manifests.objects import Objects

Check = Callable[[Objects], Iterator[str]]

CHECKS: tuple[Check, ...] = (
    *pods.CHECKS,
    *probes.CHECKS,
    *security.CHECKS,
    *references.CHECKS,
    *services.CHECKS,
    *scaling.CHECKS,
    *in_flight.CHECKS,
    *network.CHECKS,
    *outside.CHECKS,
    *settings.CHECKS,
    *versions.CHECKS,
    *custom.CHECKS,
)


def findings(objects: Objects) -> list[str]:
    """Return the findings for a rendering, one per line."""
    return [finding for check in CHECKS for finding in check(objects)]
