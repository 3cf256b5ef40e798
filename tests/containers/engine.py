"""Translates a manifest's container into a container engine's options."""

from typing import Any

from tools.manifests.checks.pods import quantity
from tools.manifests.objects import Object, Workload

DOMAIN = "stack.svc.cluster.local"
"""DNS domain of the containers, as in a cluster."""
SEARCH = [DOMAIN, "svc.cluster.local", "cluster.local"]
LABEL = {"stack-test": "containers"}
"""Label by which containers and networks of a killed run can be found and removed."""


def confined(workload: Workload, spec: Object) -> dict[str, Any]:
    """Return the engine's options for the pod's securityContext and limits."""
    pod, own = workload.pod["securityContext"], spec["securityContext"]
    assert own["allowPrivilegeEscalation"] is False
    return {
        "user": f"{pod['runAsUser']}:{pod['runAsGroup']}",
        "read_only": own["readOnlyRootFilesystem"],
        "cap_drop": own["capabilities"]["drop"],
        "security_opt": ["no-new-privileges"],
        "mem_limit": int(quantity(spec["resources"]["limits"]["memory"]) or 0),
        "labels": LABEL,
    }


def writable(workload: Workload, spec: Object) -> list[str]:
    """Return the mounts of the pod's own volumes: emptyDirs, and claims, which need not outlive these tests."""
    read_only = {one["name"] for one in workload.pod.get("volumes", ()) if "emptyDir" not in one}
    return [one["mountPath"] for one in spec.get("volumeMounts", ()) if one["name"] not in read_only]


def owner(workload: Workload) -> str:
    """Return a tmpfs' options equivalent to `fsGroup` for a volume."""
    context = workload.pod["securityContext"]
    return f"uid={context['runAsUser']},gid={context['runAsGroup']},mode=0770"


def names() -> dict[str, Any]:
    """Return the DNS options of a cluster: short names by search domains."""
    return {"dns_search": SEARCH, "dns_opt": ["ndots:5"]}
