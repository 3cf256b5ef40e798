"""The requirements of the `restricted` Pod Security level, which a cluster enforces and no schema checks, and a
little more.
"""

from collections.abc import Iterator

from tools.manifests.objects import Object, Objects

_VOLUMES = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret", "csi", "ephemeral"}


def namespaces(objects: Objects) -> Iterator[str]:
    """The namespace enforces the level that the pods comply with."""
    for one in objects.of("Namespace"):
        if one["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"Namespace/{one['metadata']['name']}: does not enforce the restricted Pod Security level"


def pods(objects: Objects) -> Iterator[str]:
    """No pod runs as root, shares a namespace with its node, or holds a token for the API server."""
    for workload in objects.workloads():
        pod, context = workload.pod, workload.pod.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield f"{workload.title}: may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{workload.title}: has no seccomp profile"
        if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{workload.title}: shares its node's network or processes"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{workload.title}: mounts a token for the API server"
        kinds = {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"}
        yield from (f"{workload.title}: volumes of kind {kind} are forbidden" for kind in sorted(kinds - _VOLUMES))


def owners(objects: Objects) -> Iterator[str]:
    """Certificates and claims belong to a group of the pod: by default a volume belongs to root, which no pod runs
    as.
    """
    for workload in objects.workloads():
        claims = workload.object["spec"].get("volumeClaimTemplates", ())
        if claims or any("secret" in volume for volume in workload.pod.get("volumes", ())):
            context = workload.pod.get("securityContext", {})
            if not context.get("fsGroup") or context["fsGroup"] != context.get("runAsGroup"):
                yield f"{workload.title}: cannot use its volumes, which are not its group's"


def containers(objects: Objects) -> Iterator[str]:
    """No container can gain privileges or write to its image."""
    for workload in objects.workloads():
        for container in workload.containers:
            yield from (f"{workload.title}: {container['name']} {problem}" for problem in _of_container(container))


def _of_container(container: Object) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield "may gain privileges"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context["capabilities"].get("add"):
        yield "keeps capabilities"
    if context.get("runAsUser", 1) == 0 or context.get("runAsNonRoot", True) is not True:
        yield "may be root where its pod may not"
    if context.get("seccompProfile", {"type": "RuntimeDefault"})["type"] != "RuntimeDefault":
        yield "has another seccomp profile than its pod"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "can write to its root"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield "takes a port of its node"


CHECKS = (namespaces, pods, owners, containers)
